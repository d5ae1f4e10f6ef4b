"""Adapters that adreg made: where they go, the card that they carry, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adreg.registry import digest
from adreg.registry.adapters.card import CARD
from adreg.registry.adapters.files import CONFIG, WEIGHTS
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.catalog import series
from adreg.registry.catalog.records import VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, copy_file
from adreg.registry.errors import AdapterNotMade, AlreadyExists, InputRefused
from adreg.registry.merge.algebra.combine import CombinedAdapter, ModuleMade
from adreg.registry.merge.algebra.fine_tune import Lost
from adreg.registry.merge.algebra.low_rank import Target
from adreg.registry.names import check_name, suggest_name
from adreg.registry.ops import history
from adreg.registry.ops.add import add
from adreg.registry.ops.context import Context
from adreg.registry.ops.places import check_output
from adreg.registry.ops.specs import OpenedVersion
from adreg.registry.release.card import hub_id
from adreg.registry.release.licences import LicensedPart, release_licence


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where an adapter goes: into the folder ``output``, into the catalog as ``name``, or both.

    With ``dry_run`` all is computed and nothing written.
    """

    output: Path | None = None
    name: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Making:
    """What is told of an adapter that is being made: in its card, and in the history.

    ``action`` is the command, ``recipe`` plain JSON that says how; ``base`` is what
    ``open_base`` takes, None to look for the one that the adapter names.
    """

    action: str
    title: str
    recipe: dict[str, Any]
    licence: str | None = None
    base: str | None = None
    base_repo: str | None = None
    inputs: tuple[tuple[str, Path], ...] = ()
    sides: tuple[tuple[str, Path], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MadeAdapter:
    """An adapter that was made, or would be after a dry run.

    ``error`` is what it misses of the delta that was asked for, as a share of that delta's
    Frobenius norm, over all modules; None where the method defines no such delta. ``lost``
    are changes of a fine-tune that are not in it. ``key`` is its version in the catalog,
    ``new`` false when these very bytes were there already.
    """

    folder: Path | None
    key: VersionKey | None
    new: bool
    dry_run: bool
    rank: int
    rank_min: int
    error: float | None
    modules: tuple[ModuleMade, ...]
    parameters: int
    bytes: int
    files: tuple[FileDigest, ...] = ()
    remarks: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def worst(self) -> ModuleMade | None:
        """The module that misses most, as a share of its own delta."""
        known = [one for one in self.modules if one.relative is not None]
        return max(known, key=lambda one: one.relative or 0.0, default=None)


def target(rank: int | None, energy: float | None) -> Target | None:
    """Return what to cut to, None when nothing was said; raise AdapterNotMade."""
    if rank is None and energy is None:
        return None
    if rank is not None and rank < 1:
        raise AdapterNotMade((f"the rank {rank} is not 1 or more",), "Pass --rank 16, say.")
    if energy is not None and not 0 < energy <= 1:
        reason = f"the energy {energy:g} is not above 0 and at most 1"
        raise AdapterNotMade((reason,), "Pass --energy 0.95, say.")
    return Target(rank, energy)


def make(
    context: Context,
    wanted: Wanted,
    making: Making,
    write: Callable[[Path | None, str], CombinedAdapter],
) -> MadeAdapter:
    """Let ``write`` make an adapter in a staging folder, and put it where it is wanted.

    ``write`` gets the folder, None for a dry run, and the card's text. The folder appears
    whole, and the catalog knows of it then; or neither. Raises AdapterNotMade,
    NameRefused, AlreadyExists for a model's name, OutputRefused, what ``add`` raises.
    """
    _check(context, wanted, making)
    if wanted.dry_run:
        return _told(write(None, ""), wanted, making)
    folder = wanted.output
    if folder is None:
        folder = context.settings.home / "made" / suggest_name(wanted.name or making.action)
    with Staging(folder.absolute()) as staging:
        made = write(staging.folder, _card(making))
        files = [*made.files, *_copy(making.sides, staging.folder)]
        if wanted.output is None:
            key, new = _add(context, staging.folder, wanted, making)
        else:
            staging.publish(held=True)
            try:
                named = wanted.name is not None
                key, new = _add(context, staging.target, wanted, making) if named else (None, True)
            except BaseException:
                staging.take_back()
                raise
            staging.keep()
    return _told(made, wanted, making, key=key, new=new, files=tuple(sorted(files)))


def describe(adapters: Sequence[tuple[OpenedVersion, float]]) -> list[dict[str, Any]]:
    """Return the adapters as a recipe names them: never by a path, always by digest."""
    return [
        {
            "ref": one.name if one.record else one.spec.folder.name,
            "digest": digest.of_files(one.spec.files),
            "weight": weight,
        }
        for one, weight in adapters
    ]


def base_of(adapters: Sequence[OpenedVersion]) -> str | None:
    """Return the name of the one base that is recorded for all adapters and is at hand."""
    records = {
        one.record.base.id: one.record.base for one in adapters if one.record and one.record.base
    }
    if len(records) != 1:
        return None
    _, base = records.popitem()
    return base.name if base.facts.location.is_dir() else None


def licence_of(adapters: Sequence[OpenedVersion]) -> str | None:
    """Return the licence that all adapters share, ``other`` for several, None if one is unknown."""
    parts = [
        LicensedPart(one.name, one.record.content.licence if one.record else one.spec.licence)
        for one in adapters
    ]
    return release_licence(parts, allow_unknown=True)


def side_files(
    specs: Sequence[AdapterSpec],
) -> tuple[tuple[tuple[str, Path], ...], tuple[str, ...]]:
    """Return the tokenizers and the like that are taken over, and remarks on those that differ."""
    found: dict[str, dict[str, Path]] = {}
    for spec in specs:
        for file in spec.files:
            if file.name not in {CONFIG, WEIGHTS, CARD}:
                found.setdefault(file.name, {}).setdefault(file.sha256, spec.folder / file.name)
    kept = [(name, next(iter(those.values()))) for name, those in found.items() if len(those) == 1]
    differ = [name for name, those in found.items() if len(those) > 1]
    remarks = [f"{name} is left out: each adapter has its own" for name in sorted(differ)]
    return tuple(sorted(kept)), tuple(remarks)


def _check(context: Context, wanted: Wanted, making: Making) -> None:
    if wanted.name is not None:
        check_name(wanted.name)
        with context.catalog.read() as connection:
            found = series.find(connection, wanted.name)
        if found is not None and found.kind != "adapter":
            raise AlreadyExists("model", wanted.name, "Give the adapter another name with --name.")
    elif wanted.output is None and not wanted.dry_run:
        raise AdapterNotMade(
            ("it was not said where it goes",), "Pass -o with a folder, --name, or both."
        )
    if wanted.output is not None:
        check_output(wanted.output.absolute(), making.inputs)


def _add(
    context: Context, folder: Path, wanted: Wanted, making: Making
) -> tuple[VersionKey | None, bool]:
    added = add(context, folder, name=wanted.name, base=making.base)
    if added.key is not None:
        with context.catalog.write() as connection:
            history.write(connection, history.now(), making.action, str(added.key), **making.recipe)
            connection.commit()
    return added.key, added.new


def _copy(sides: Sequence[tuple[str, Path]], folder: Path) -> list[FileDigest]:
    files = []
    for name, path in sides:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            files.append(copy_file(path, place, name))
        except OSError as error:
            raise InputRefused(path, error.strerror or str(error)) from error
    return files


def _card(making: Making) -> str:
    """Return README.md; no date, path or machine stands in it, so the same adapter is the same."""
    front: dict[str, Any] = {}
    if repo := hub_id(making.base_repo):
        front["base_model"] = repo
    front["library_name"] = "peft"
    if making.licence is not None:
        front["license"] = making.licence
    front["tags"] = ["lora", "adreg"]
    recipe = json.dumps({"action": making.action, **making.recipe}, indent=2)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {making.title}\n\n"
        f"Made by `adreg {making.action}`:\n\n```json\n{recipe}\n```\n"
    )


def _told(  # noqa: PLR0913  # what a command tells
    made: CombinedAdapter,
    wanted: Wanted,
    making: Making,
    *,
    key: VersionKey | None = None,
    new: bool = True,
    files: tuple[FileDigest, ...] = (),
) -> MadeAdapter:
    ranks = [one.rank for one in made.modules] or [0]
    short = [one.name for one in made.modules if not one.reached]
    remarks = [*making.remarks, *made.remarks]
    if short:
        several = f" and {len(short) - 1} more" if len(short) > 1 else ""
        remarks.append(f"the energy is not reached at the rank allowed in {short[0]}{several}")
    return MadeAdapter(
        folder=None if wanted.output is None else wanted.output.absolute(),
        key=key,
        new=new,
        dry_run=wanted.dry_run,
        rank=max(ranks),
        rank_min=min(ranks),
        error=made.relative,
        modules=made.modules,
        parameters=made.parameters,
        bytes=sum(file.size for file in files) or made.nbytes,
        files=files,
        remarks=tuple(remarks),
        lost=made.lost,
    )
