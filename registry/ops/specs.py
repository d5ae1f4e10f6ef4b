"""Opening an adapter to work with: a version from the store, or a folder."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.catalog import show
from adreg.registry.catalog.records import AdapterVersion
from adreg.registry.errors import AdapterRefused, Damaged, InputRefused
from adreg.registry.names import Reference
from adreg.registry.ops import resolve
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """An adapter's specification, and its record; None for a folder that was named by its path."""

    spec: AdapterSpec
    record: AdapterVersion | None
    reference: Reference

    @property
    def name(self) -> str:
        """What to call it: ``team/support@3``, or its folder."""
        return str(self.spec.folder) if self.record is None else str(self.record.key)


def open_version(context: Context, text: str) -> OpenedVersion:
    """Find an adapter by reference and read it, without its values but for their digests.

    Raises NotFound and NameRefused; Damaged when the stored bytes are not those that
    were recorded; for a folder what ``read_adapter`` raises.
    """
    reference = Reference.parse(text)
    if reference.path is not None:
        spec = read_adapter(reference.path.absolute(), progress=context.progress)
        return OpenedVersion(spec, None, reference)
    with context.catalog.read() as connection:
        record = show.adapter(connection, resolve.version(connection, reference, "adapter"))
    return OpenedVersion(read_stored(context, record), record, reference)


def read_stored(context: Context, record: AdapterVersion) -> AdapterSpec:
    """Read a version from the store; raise Damaged when it is not what was recorded."""
    folder = context.store.folder(record.key.digest)
    files = record.content.files
    if not context.store.holds(record.key.digest, files):
        raise Damaged(_faults(context, record))
    try:
        spec = read_adapter(folder, check_values=False)
    except (InputRefused, AdapterRefused) as error:
        raise Damaged(_faults(context, record) or (str(error),)) from error
    if sorted(spec.files) != sorted(files):
        raise Damaged(_faults(context, record) or (f"{record.key}: it has other files",))
    return spec


def _faults(context: Context, record: AdapterVersion) -> tuple[str, ...]:
    found = context.store.verify(record.key.digest, record.content.files)
    return tuple(f"{record.key}: {fault}" for fault in found)
