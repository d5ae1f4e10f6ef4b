"""Opening an adapter to work with: a version from the store, or a folder."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry import digest
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base, read_base
from adreg.registry.catalog import series, show, versions
from adreg.registry.catalog.records import AdapterVersion, VersionKey
from adreg.registry.errors import AdapterRefused, Damaged, InputRefused
from adreg.registry.names import FULL, Reference, suggest_name
from adreg.registry.ops import base_files, resolve
from adreg.registry.ops.bases import open_base
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

    @property
    def content(self) -> AdapterSpec:
        """What is merged."""
        return self.spec

    @property
    def digest(self) -> str:
        """Its version's digest, whether it is recorded or not."""
        return self.record.key.digest if self.record else digest.of_files(self.spec.files)

    @property
    def key(self) -> VersionKey | None:
        """Its key in the catalog."""
        return self.record.key if self.record else None

    @property
    def licence(self) -> str | None:
        """What was said of it, else what its card says."""
        return self.record.content.licence if self.record else self.spec.licence

    @property
    def stem(self) -> str:
        """A name to call an outcome after."""
        return self.record.key.name if self.record else suggest_name(self.spec.folder.name)


@dataclass(frozen=True, slots=True)
class OpenedFull:
    """A whole checkpoint as an input of a merge, and its key if it is a recorded model."""

    content: Base
    key: VersionKey | None
    name: str
    licence: str | None

    @property
    def digest(self) -> str:
        """The model's digest; of another checkpoint, of its layout and its files as they look."""
        if self.key is not None:
            return self.key.digest
        seen = [base_files.look(self.content.folder, n) for n in base_files.names(self.content)]
        looks = [[file.path, file.size, file.mtime_ns] for file in seen]
        return digest.of_value([self.content.layout_digest, str(self.content.folder), looks])

    @property
    def stem(self) -> str:
        """A name to call an outcome after."""
        return self.key.name if self.key else suggest_name(self.content.folder.name)


OpenedInput = OpenedVersion | OpenedFull


def open_full(context: Context, text: str) -> OpenedFull:
    """Open a whole checkpoint: a recorded model, or what ``open_base`` takes.

    Raises NotFound, NameRefused, BaseRefused.
    """
    reference = Reference.parse(text)
    if reference.path is None and not reference.hub:
        with context.catalog.read() as connection:
            if series.find(connection, reference.name) is not None:
                key = versions.resolve(connection, reference)
                if key.kind == "model":
                    model = show.model(connection, key)
                    base = read_base(model.facts.location)
                    return OpenedFull(base, key, f"{FULL}{key}", model.content.licence)
    opened = open_base(context, text)
    licence = opened.record.facts.licence if opened.record else opened.base.licence
    return OpenedFull(opened.base, None, f"{FULL}{opened.name}", licence)


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
