"""What a push puts on the Hub: a version's files, and what its card says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.registry.adapters.card import CARD
from adreg.registry.catalog import bases, history, models, remotes, show
from adreg.registry.catalog.engine import Connection
from adreg.registry.catalog.records import (
    AdapterVersion,
    BaseFile,
    BaseRecord,
    ModelVersion,
    VersionKey,
)
from adreg.registry.digest import FileDigest
from adreg.registry.errors import CardRefused, NameRefused, NotFound
from adreg.registry.hub.upload import LocalFile
from adreg.registry.ops import base_files, locking, resolve
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.release.adapter_card import AdapterCardFacts, adapter_part
from adreg.registry.release.card import CardBase, hub_id, model_card, model_part
from adreg.registry.release.checksums import SUMS, sums
from adreg.registry.release.licences import LicensedPart, release_licence
from adreg.registry.release.lock import LOCK, Lock, card_facts
from adreg.registry.release.pack import of_text
from adreg.registry.release.readme import Part

_NAME = re.compile(r"[A-Za-z0-9][\w.@+-]*(/[\w.@+-]+)?")

MOST_README = 1 << 20
"""Bytes of the largest README that is renewed."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What a user said of the licence: one of their own, or that an unknown one is no matter."""

    given: str | None = None
    allow_unknown: bool = False


@dataclass(frozen=True, slots=True)
class BaseName:
    """What the Hub calls the base: ``repo``, or ``guesses`` that only the Hub can confirm."""

    repo: str | None
    revision: str | None = None
    guesses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """What a card is written for: the repository, the base's name, and the licence to state.

    ``firm`` says that the licence takes the place of one that the card has.
    """

    repo: str
    base: BaseName
    licence: str | None
    firm: bool


@dataclass(frozen=True, slots=True)
class PushParts:
    """A version as a push sees it; ``content`` is without the card.

    ``readme`` is the card that the version brings along. ``finish`` gives the files that
    tell of the base, and adreg's part of the card, for a place.
    """

    record: AdapterVersion | ModelVersion
    content: tuple[LocalFile, ...]
    readme: str | None
    licence: str | None
    base: BaseName
    finish: Callable[[Place], tuple[tuple[LocalFile, ...], Part]]
    hashed: tuple[BaseFile, ...] = ()

    @property
    def key(self) -> VersionKey:
        """Which version it is."""
        return self.record.key


def find(
    context: Context, reference: str
) -> tuple[AdapterVersion | ModelVersion, tuple[tuple[str, str], ...]]:
    """Return a version and how adreg made it, if it did; raise NotFound or NameRefused."""
    with context.catalog.read() as connection:
        key = resolve.unweighted(connection, reference)
        return show.either(connection, key), _made(connection, key)


def gather(context: Context, reference: str, base_model: str | None, licence: Licence) -> PushParts:
    """Return all of a push that needs no network.

    Raises NotFound, NameRefused, LicenceUnknown, CardRefused, and for a model
    BaseRefused and InputRefused.
    """
    if base_model is not None and hub_id(base_model) is None:
        raise NameRefused("the base model", base_model, "it is not OWNER/NAME on the Hub")
    record, made = find(context, reference)
    given = None if base_model is None else BaseName(base_model)
    with context.catalog.read() as connection:
        base = given or _base_name(connection, record)
    if isinstance(record, AdapterVersion):
        return _of_adapter(context, record, base, licence, made)
    return _of_model(context, record, base, licence)


def _of_adapter(
    context: Context,
    record: AdapterVersion,
    base: BaseName,
    licence: Licence,
    made: tuple[tuple[str, str], ...],
) -> PushParts:
    folder = context.store.folder(record.key.digest)
    part = LicensedPart(f"the adapter {record.key}", record.content.licence)
    said = release_licence([part], licence.given, allow_unknown=licence.allow_unknown)
    facts, known = record.facts, None if record.base is None else record.base.facts
    rank = (
        facts.rank if facts.rank_min in {None, facts.rank} else f"{facts.rank_min} to {facts.rank}"
    )
    variants = [name for name, on in (("rsLoRA", facts.use_rslora), ("DoRA", facts.use_dora)) if on]
    shape = [
        ("variant", " ".join(variants)),
        ("rank", "" if rank is None else str(rank)),
        ("alpha", "" if facts.alpha is None else f"{facts.alpha:g}"),
        ("targets", f"{' '.join(facts.targets)} ({facts.target_count} modules)"),
        ("parameters", f"{record.content.parameters:,}"),
        ("dtype", record.content.dtype),
    ]
    files = tuple(file for file in record.content.files if file.name != CARD)

    def finish(place: Place) -> tuple[tuple[LocalFile, ...], Part]:
        named = place.base
        said_base = CardBase(
            named.repo or "",
            "" if known is None else known.layout_digest,
            named.repo,
            named.revision,
            None if known is None else known.licence,
        )
        card = AdapterCardFacts(
            reference=str(record.key),
            repo=place.repo,
            digest=record.key.digest,
            base=said_base,
            peft_type=facts.peft_type,
            shape=tuple((name, value) for name, value in shape if value),
            files=files,
            architecture=None if known is None else known.architecture,
            model_type=None if known is None else known.model_type,
            licence=place.licence,
            made=made,
        )
        return (), adapter_part(card, licence_given=place.firm)

    content = tuple(LocalFile(file, folder / file.name) for file in files)
    return PushParts(record, content, _own_readme(folder), said, base, finish)


def _of_model(
    context: Context, record: ModelVersion, base: BaseName, licence: Licence
) -> PushParts:
    parts = locking.gather(context, record)
    said = release_licence(parts.licensed(), licence.given, allow_unknown=licence.allow_unknown)
    locking.check_nameable(record)
    locking.check_present(record)
    opened = _open_base_of(context, record)
    known: tuple[BaseFile, ...] = ()
    if opened.record is not None:
        with context.catalog.read() as connection:
            known = bases.files(connection, opened.record.id)
    hashed = base_files.hash_files(opened.base, known, context.progress)
    folder = record.facts.location
    files = tuple(file for file in record.content.files if file.name != CARD)

    def finish(place: Place) -> tuple[tuple[LocalFile, ...], Part]:
        named, digests = place.base, base_files.as_digests(hashed)
        lock = locking.make_lock(parts, opened, digests, files, place.licence)
        if lock.base.repo != named.repo:
            lock = replace(lock, base=replace(lock.base, repo=named.repo, revision=named.revision))
        # The lock is that of an export: what `adreg rebuild` makes has the plain card.
        plain = of_text(CARD, model_card(card_facts(lock)))
        texts = _texts(locking.with_file(lock, plain), files)
        title = place.repo.rpartition("/")[2]
        return texts, model_part(card_facts(lock), title, licence_given=place.firm)

    content = tuple(LocalFile(file, folder / file.name) for file in files)
    return PushParts(record, content, None, said, base, finish, hashed)


def _texts(lock: Lock, files: tuple[FileDigest, ...]) -> tuple[LocalFile, ...]:
    """Return the lock file and the checksums; the card is not in these: others may write in it."""
    text = lock.to_json()
    locked = of_text(LOCK, text)
    checks = sums((*files, locked))
    return (LocalFile(locked, text.encode()), LocalFile(of_text(SUMS, checks), checks.encode()))


def _open_base_of(context: Context, record: ModelVersion) -> OpenedBase:
    if record.base is not None:
        return open_record(record.base)
    recorded = record.facts.recipe.get("base")
    if not isinstance(recorded, str):
        raise NotFound("base known for", str(record.key), advice="Record it: adreg base add FOLDER")
    return open_base(context, recorded)


def _base_name(connection: Connection, record: AdapterVersion | ModelVersion) -> BaseName:
    """Return the recorded Hub id; else the names that look like one, which may be paths."""
    base = record.base
    guesses: list[str] = []
    if base is not None:
        if repo := hub_id(base.facts.hub_repo):
            return BaseName(repo, base.facts.revision)
        if pushed := _pushed(connection, base):
            return pushed
        guesses += base.aliases
    if isinstance(record, AdapterVersion) and record.facts.base_hint is not None:
        guesses.append(record.facts.base_hint)
    return BaseName(None, None, tuple(dict.fromkeys(one for one in guesses if hub_id(one))))


def _pushed(connection: Connection, base: BaseRecord) -> BaseName | None:
    """Return where the model that serves as this base was pushed to."""
    model = models.at_location(connection, base.facts.location)
    known = () if model is None else remotes.of(connection, model)
    return BaseName(known[-1].repo, known[-1].commit) if known else None


def _own_readme(folder: Path) -> str | None:
    path = folder / CARD
    if not path.is_file():
        return None
    if path.stat().st_size > MOST_README:
        raise CardRefused(f"the adapter's own {CARD} is larger than {MOST_README:,} bytes", "")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CardRefused(f"the adapter's own {CARD} is not UTF-8", "") from error


def _made(connection: Connection, key: VersionKey) -> tuple[tuple[str, str], ...]:
    """Return what the history tells of how adreg itself made an adapter."""
    for entry in history.entries(connection, subject=str(key)):
        if entry.action in {"combine", "resize", "extract", "unmerge"}:
            told = ((name, str(value)) for name, value in entry.detail.items() if _public(value))
            return (("command", f"adreg {entry.action}"), *told)
    return ()


def _public(value: object) -> bool:
    """Tell whether a recorded particular may stand on a card: numbers and names, no paths."""
    if isinstance(value, str):
        return _NAME.fullmatch(value) is not None
    return isinstance(value, int | float)
