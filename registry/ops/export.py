"""A version in a folder for others: an adapter as it was, a model as a release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.catalog import bases, show
from adreg.registry.catalog.records import (
    AdapterVersion,
    BaseFile,
    Kind,
    ModelVersion,
    VersionRecord,
)
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, require_space, sweep
from adreg.registry.errors import NameRefused, NotFound
from adreg.registry.ops import base_files, history, locking, resolve
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.places import check_output
from adreg.registry.ops.specs import read_stored
from adreg.registry.release.card import CARD, model_card
from adreg.registry.release.checksums import SUMS, sums
from adreg.registry.release.licences import release_licence
from adreg.registry.release.lock import LOCK, card_facts
from adreg.registry.release.pack import copy_verified, of_text, write_text

_ROOM_FOR_TEXTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported and where to, or would be.

    ``files`` are those of the folder; before they are made (``dry_run``) the texts of a
    release (card, lock, checksums) are missing in it. ``licence`` is None where none is known.
    """

    reference: str
    kind: Kind
    folder: Path
    files: tuple[FileDigest, ...]
    licence: str | None
    dry_run: bool

    @property
    def bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def export(  # noqa: PLR0913  # one choice each
    context: Context,
    reference: str,
    output: Path,
    *,
    licence: str | None = None,
    allow_unknown_licence: bool = False,
    dry_run: bool = False,
) -> Exported:
    """Write a version into a new folder, every file held against what was recorded.

    An adapter becomes the PEFT folder that it was, bit for bit. A model becomes a release:
    the checkpoint, the card, adreg.lock.json and SHA256SUMS. ``licence`` is what the
    release goes out under; without it, that of all its parts, ``other`` if they differ.

    All or nothing. Raises NotFound, OutputRefused, Damaged, BaseRefused, WriteFailed,
    DiskFull; for a model LicenceUnknown, unless ``allow_unknown_licence``.
    """
    output = output.absolute()
    record = _find(context, reference)
    folder = _folder(context, record)
    check_output(output, [(f"the folder of {record.key}", folder)])
    if isinstance(record, AdapterVersion):
        if licence is not None:
            reason = f"{record.key} is an adapter, which is exported as it is"
            raise NameRefused("the licence", licence, reason, "Leave out --license.")
        return _export_adapter(context, record, output, dry_run=dry_run)
    parts = locking.gather(context, record)
    licence = release_licence(parts.licensed(), licence, allow_unknown=allow_unknown_licence)
    base = _open_base(context, record)
    check_output(output, [("the base", base.base.folder)])
    locking.check_nameable(record)
    if dry_run:
        locking.check_present(record)
        return _exported(record, output, record.content.files, licence, dry_run=True)
    return _export_model(context, parts, base, output, licence)


def _find(context: Context, reference: str) -> AdapterVersion | ModelVersion:
    with context.catalog.read() as connection:
        key = resolve.unweighted(connection, reference)
        if key.kind == "adapter":
            return show.adapter(connection, key)
        return show.model(connection, key)


def _folder(context: Context, record: AdapterVersion | ModelVersion) -> Path:
    if isinstance(record, AdapterVersion):
        return context.store.folder(record.key.digest)
    return record.facts.location


def _export_adapter(
    context: Context, record: AdapterVersion, output: Path, *, dry_run: bool
) -> Exported:
    source, files = _folder(context, record), record.content.files
    if dry_run:
        read_stored(context, record)
    else:
        sweep(output.parent)
        require_space(output.parent, record.content.bytes)
        with Staging(output) as staging:
            _copy(context, record, source, files, staging.folder)
            staging.publish()
        _record(context, record, output, None)
    return _exported(record, output, files, record.content.licence, dry_run=dry_run)


def _export_model(
    context: Context,
    parts: locking.Parts,
    base: OpenedBase,
    output: Path,
    licence: str | None,
) -> Exported:
    record = parts.model
    sweep(output.parent)
    require_space(output.parent, record.content.bytes + _ROOM_FOR_TEXTS)
    known: tuple[BaseFile, ...] = ()
    if base.record is not None:
        with context.catalog.read() as connection:
            known = bases.files(connection, base.record.id)
    hashed = base_files.hash_files(base.base, known, context.progress)
    kept = tuple(file for file in record.content.files if file.name != CARD)
    with Staging(output) as staging:
        _copy(context, record, record.facts.location, kept, staging.folder)
        lock = locking.make_lock(parts, base, base_files.as_digests(hashed), kept, licence)
        card = model_card(card_facts(lock))
        lock = locking.with_file(lock, of_text(CARD, card))
        written = [
            write_text(staging.folder, CARD, card),
            write_text(staging.folder, LOCK, lock.to_json()),
        ]
        files = (*kept, *written)
        files = (*files, write_text(staging.folder, SUMS, sums(files)))
        staging.publish()
    _record(context, record, output, licence, base, hashed)
    return _exported(record, output, tuple(sorted(files)), licence, dry_run=False)


def _open_base(context: Context, record: ModelVersion) -> OpenedBase:
    if record.base is not None:
        return open_record(record.base)
    recorded = record.facts.recipe.get("base")
    if not isinstance(recorded, str):
        raise NotFound("base known for", str(record.key), advice="Record it: adreg base add FOLDER")
    return open_base(context, recorded)


def _copy(
    context: Context,
    record: VersionRecord,
    source: Path,
    files: tuple[FileDigest, ...],
    target: Path,
) -> None:
    context.progress.start(f"Exporting {record.key}", sum(file.size for file in files))
    try:
        copy_verified(source, files, target, str(record.key), context.progress)
    finally:
        context.progress.finish()


def _record(  # noqa: PLR0913, PLR0917  # what happened, and what was learned meanwhile
    context: Context,
    record: VersionRecord,
    output: Path,
    licence: str | None,
    base: OpenedBase | None = None,
    hashed: tuple[BaseFile, ...] = (),
) -> None:
    with context.catalog.write() as connection:
        if base is not None and base.record is not None:
            bases.set_files(connection, base.record.id, hashed)
        history.write(
            connection,
            history.now(),
            "export",
            str(record.key),
            folder=str(output),
            licence=licence,
            digest=record.key.digest,
        )
        connection.commit()


def _exported(
    record: AdapterVersion | ModelVersion,
    output: Path,
    files: tuple[FileDigest, ...],
    licence: str | None,
    *,
    dry_run: bool,
) -> Exported:
    return Exported(str(record.key), record.key.kind, output, files, licence, dry_run)
