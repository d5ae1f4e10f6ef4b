"""The same bytes again, from a lock file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from adreg.registry.catalog import bases
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, require_space, sweep
from adreg.registry.errors import (
    AdregError,
    BaseRefused,
    Damaged,
    LockBroken,
    NotFound,
    NotReproduced,
)
from adreg.registry.merge.recipe import Recipe
from adreg.registry.merge.run import Engine, local
from adreg.registry.ops import history, made_models, merge
from adreg.registry.ops.context import Context
from adreg.registry.ops.locked_parts import FoundBase, find_adapter, find_base
from adreg.registry.ops.places import check_output
from adreg.registry.ops.specs import OpenedVersion
from adreg.registry.release.card import model_card
from adreg.registry.release.checksums import SUMS, sums
from adreg.registry.release.lock import LOCK, Lock, card_facts, read_lock
from adreg.registry.release.pack import write_text

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Part:
    """A base or adapter of the lock file: what it is called here, or why it is missing."""

    what: str
    found: str | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A release that was built again, or could be if ``ready``.

    ``files`` are those of the folder, empty after a dry run.
    """

    name: str
    folder: Path
    parts: tuple[Part, ...]
    files: tuple[FileDigest, ...]
    dry_run: bool

    @property
    def ready(self) -> bool:
        """Whether every part is there."""
        return all(part.found is not None for part in self.parts)


def rebuild(  # noqa: PLR0913  # one argument for each thing that can be asked
    context: Context,
    lockfile: Path,
    output: Path,
    *,
    base: str | None = None,
    dry_run: bool = False,
    engine: Engine = local,
) -> Rebuilt:
    """Build the release of a lock file in a new folder; every file must be what the lock says.

    The base is found by its names, layout and Hub revision, or is what ``base`` names; its
    files must have the digests in the lock. Adapters are found by digest, whatever they
    are called here. All or nothing; with ``dry_run`` nothing is written, and what is
    missing is told, not raised.

    Raises LockBroken, OutputRefused, NotFound, BaseRefused, Damaged, NotReproduced,
    WriteFailed, DiskFull, and what the engine raises.
    """
    output = output.absolute()
    lock = read_lock(lockfile)
    recipe = _recipe(lockfile, lock)
    check_output(output, ())
    found_base = _attempt(
        partial(find_base, context, lock.base, base, dequantize=recipe.dequantize)
    )
    found = [_attempt(partial(find_adapter, context, one)) for one in lock.adapters]
    parts = _parts(lock, found_base, found)
    if dry_run:
        return Rebuilt(lock.model.name, output, parts, (), dry_run=True)
    the_base, adapters = _or_raise(found_base), [_or_raise(one) for one in found]
    files = _build(context, lock, recipe, the_base, adapters, output, engine)
    _record(context, lock, output, the_base)
    return Rebuilt(lock.model.name, output, parts, files, dry_run=False)


def _recipe(lockfile: Path, lock: Lock) -> Recipe:
    """Return the recipe with the lock's adapters in it; raise LockBroken if they disagree."""
    advice = "Take it again from the release."
    try:
        recipe = Recipe.from_dict(lock.recipe)
    except ValueError as error:
        raise LockBroken(lockfile, f"its recipe is wrong: {error}", advice) from None
    listed = [(one.reference, one.weight) for one in lock.adapters]
    if [(one.ref, one.weight) for one in recipe.adapters] != listed:
        raise LockBroken(lockfile, "its recipe names other adapters than it lists", advice)
    return recipe


def _build(  # noqa: PLR0913, PLR0917  # the lock, what was found for it, and the place
    context: Context,
    lock: Lock,
    recipe: Recipe,
    base: FoundBase,
    adapters: Sequence[OpenedVersion],
    output: Path,
    engine: Engine,
) -> tuple[FileDigest, ...]:
    """Build into a folder that is published only if every file is what the lock says."""
    ready = merge.plan_for(recipe, base.opened, adapters)
    check_output(output, [("the base", base.opened.base.folder)])
    require_space(output.parent, ready.output_bytes)
    sweep(output.parent)
    with ready.scratch, Staging(output) as staging:
        card = model_card(card_facts(lock))
        written = merge.build(ready, staging, card, None, context, engine=engine)
        _compare(lock, written.files)
        files = (*written.files, write_text(staging.folder, LOCK, lock.to_json()))
        files = (*files, write_text(staging.folder, SUMS, sums(files)))
        staging.publish()
    return tuple(sorted(files))


def _attempt(find: Callable[[], Found]) -> Found | AdregError:
    try:
        return find()
    except (NotFound, BaseRefused, Damaged) as error:
        return error


def _or_raise(found: Found | AdregError) -> Found:
    if isinstance(found, AdregError):
        raise found
    return found


def _parts(
    lock: Lock, base: FoundBase | AdregError, adapters: Sequence[OpenedVersion | AdregError]
) -> tuple[Part, ...]:
    parts = [
        Part(f"base {lock.base.names[0]}", None, str(base))
        if isinstance(base, AdregError)
        else Part(f"base {lock.base.names[0]}", base.opened.name)
    ]
    for locked, one in zip(lock.adapters, adapters, strict=True):
        what = f"adapter {locked.reference}"
        if isinstance(one, AdregError):
            parts.append(Part(what, None, str(one)))
        else:
            parts.append(Part(what, one.name))
    return tuple(parts)


def _compare(lock: Lock, built: Iterable[FileDigest]) -> None:
    """Raise NotReproduced unless the files are those of the lock, byte for byte."""
    wanted = {file.name: file for file in lock.files}
    made = {file.name: file for file in built}
    differing = sorted(n for n in wanted.keys() & made.keys() if wanted[n] != made[n])
    faults = [*differing, *(f"{name} (missing)" for name in sorted(wanted.keys() - made.keys()))]
    faults += [f"{name} (not in the lock file)" for name in sorted(made.keys() - wanted.keys())]
    if faults:
        raise NotReproduced(tuple(faults), _cause(lock))


def _cause(lock: Lock) -> str:
    """Say what most likely made a difference: other versions, else another CPU."""
    here = made_models.here_of(lock.engine)
    other = [
        f"{name} {there} (here {here[name]})"
        for name, there in lock.engine.items()
        if here[name] != there
    ]
    if other:
        return f"It was built with {', '.join(other)}: use the same and try again."
    return (
        "The versions are the same, so this CPU may round sums in another order"
        f" ({platform.processor() or platform.machine()}): rebuild on one like the first."
    )


def _record(context: Context, lock: Lock, output: Path, base: FoundBase) -> None:
    adapters = [one.reference for one in lock.adapters]
    with context.catalog.write() as connection:
        if base.opened.record is not None and base.files:
            bases.set_files(connection, base.opened.record.id, base.files)
        history.write(
            connection,
            history.now(),
            "rebuild",
            lock.model.name,
            location=str(output),
            adapters=adapters,
        )
        connection.commit()
