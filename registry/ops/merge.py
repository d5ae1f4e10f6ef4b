"""Folding adapters into a base: from a recipe to a recorded model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.bases.verdict import Grade, judge
from adreg.registry.catalog import series
from adreg.registry.catalog.records import VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, require_space
from adreg.registry.errors import AlreadyExists, MergeRefused, NotFound
from adreg.registry.merge.algebra.combine import combine_specs, settings_of
from adreg.registry.merge.journal import Journal
from adreg.registry.merge.output import SideFile, Written, check_model, side_files, write_model
from adreg.registry.merge.plan import Input, Plan, make_plan
from adreg.registry.merge.recipe import Fault, Recipe
from adreg.registry.merge.report import TensorReport, Totals, total
from adreg.registry.merge.run import Engine, local
from adreg.registry.names import check_name
from adreg.registry.ops import beside, going_on, made_models
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.merge_card import card_of
from adreg.registry.ops.places import check_output
from adreg.registry.ops.specs import OpenedInput, OpenedVersion, open_full, open_version


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What happens to one tensor: ``action`` is copy, cast, merge, replace or add."""

    name: str
    action: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model, or the plan of one after a dry run.

    ``key`` is None after a dry run. ``new`` is false when these very bytes were a model
    already. ``report`` says what happened to each tensor that the inputs touch, and
    ``totals`` to all; there are none after a dry run, and when nothing was made.
    """

    name: str
    folder: Path
    base: str
    adapters: tuple[tuple[str, float], ...]
    tensors: tuple[PlannedTensor, ...]
    bytes: int
    untied: bool
    remarks: tuple[str, ...]
    dry_run: bool
    key: VersionKey | None = None
    new: bool = True
    files: tuple[FileDigest, ...] = ()
    totals: Totals | None = None
    report: tuple[TensorReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """A recipe with everything that it names, opened and planned."""

    recipe: Recipe
    base: OpenedBase
    adapters: tuple[OpenedInput, ...]
    plan: Plan
    sides: tuple[SideFile, ...]
    remarks: tuple[str, ...]
    contents: tuple[AdapterSpec | Base, ...]
    scratch: ExitStack
    """Holds an adapter that is made of the others first, until it is closed."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The adapters' weights."""
        return tuple(one.weight for one in self.recipe.adapters)

    @property
    def output_bytes(self) -> int:
        """The bytes of all files that will be written, but for a few kilobytes of text."""
        return self.plan.nbytes + sum(side.path.stat().st_size for side in self.sides)


FindBase = Callable[[Context, Recipe, Sequence[OpenedInput]], OpenedBase]
"""Opens the base of a recipe, given its adapters; see ``base_of``."""


def merge(  # noqa: PLR0913  # one argument for each thing that can be asked
    context: Context,
    recipe: Recipe,
    *,
    output: Path | None = None,
    name: str | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    engine: Engine = local,
    find_base: FindBase | None = None,
) -> Merged:
    """Merge what a recipe names into a standalone checkpoint, and record it.

    Without ``output`` it is written below the registry's home; without ``name`` it is
    called after the first adapter. All or nothing: the folder appears whole, and the
    catalog knows it then. What was made of the same before is found, or copied to
    ``output``, and not made again unless with ``force``; a merge of several files that was
    stopped goes on where it was.

    Raises NotFound, Incompatible, MergeRefused, OutputRefused, AlreadyExists for a name
    that is an adapter's, WriteFailed, DiskFull.
    """
    ready = prepare(context, recipe, find_base)
    with ready.scratch:
        return _merge(
            context,
            ready,
            output,
            name,
            partial(build, threads=threads, engine=engine),
            dry_run=dry_run,
            force=force,
        )


def _merge(  # noqa: PLR0913  # what ``merge`` was asked
    context: Context,
    ready: Ready,
    output: Path | None,
    name: str | None,
    build_with: Callable[..., Written],
    *,
    dry_run: bool,
    force: bool,
) -> Merged:
    name = check_name(name or _default_name(ready))
    _check_series(context, name)
    keys = made_models.keys_of(context, ready)
    default = (context.settings.models / keys[0][:16]).absolute()
    folder = output.absolute() if output else _free(default) if force else default
    staging_key = going_on.key_of(ready.plan, keys[0])
    if not dry_run:
        made_models.withdraw_killed(context, folder, staging_key)
    made = None if force else made_models.find_made(context, keys, folder)
    if made and (output is None or made.folder == folder):
        return _merged(ready, made.key.name, made.folder, dry_run=dry_run, key=made.key)
    if output is not None:
        inputs = [("an input", one.content.folder) for one in ready.adapters]
        check_output(folder, [("the base", ready.base.base.folder), *inputs])
    stop = going_on.stopped_at(ready.plan, folder, staging_key)
    require_space(folder.parent, ready.output_bytes - stop.bytes)
    if dry_run:
        remarks = going_on.remarks_before(made, stop)
        check_model(ready.plan, ready.base.base, ready.contents)
        return _merged(ready, name, folder, dry_run=True, remarks=remarks)
    if output is None and not force and (known := made_models.clear(context, keys, folder)):
        return _merged(ready, known.name, folder, dry_run=False, key=known)
    card = card_of(ready, name)
    with going_on.staged(ready.plan, folder, staging_key) as (staging, journal):
        copied = made_models.copy_made(context, made, staging, card) if made else None
        written = copied or build_with(ready, staging, card, context=context, journal=journal)
        key, new = made_models.record(context, ready, name, folder, written, keys[0], staging)
    if output is None and folder != default:
        made_models.clear_moved(context, default)
    remarks = going_on.remarks_after(made if copied else None, written.report.found, stop.of)
    return _merged(
        ready, key.name, folder, dry_run=False, key=key, new=new, written=written, remarks=remarks
    )


def _free(default: Path) -> Path:
    """Return the registry's own place for a merge, or one beside it while a model lies there."""
    beside = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([default], beside) if not path.exists())


def prepare(context: Context, recipe: Recipe, find_base: FindBase | None = None) -> Ready:
    """Open what a recipe names and plan the merge; nothing is written."""
    adapters = tuple(
        open_version(context, one.ref) if one.full is None else open_full(context, one.full)
        for one in recipe.adapters
    )
    base = (find_base or base_of)(context, recipe, adapters)
    return plan_for(recipe, base, adapters)


def plan_for(recipe: Recipe, base: OpenedBase, adapters: Sequence[OpenedInput]) -> Ready:
    """Plan a merge of what is open already."""
    # A base that was recorded decoded is decoded; a rebuild elsewhere must know.
    recipe = replace(recipe, dequantize=bool(base.base.decoders))
    if recipe.allow_code:
        base = replace(base, base=base.base.with_code())
    times = Counter(one.digest for one in adapters)
    if twice := [one.name for one in adapters if times[one.digest] > 1]:
        raise MergeRefused(
            (f"{twice[0]} is named twice",), "Name it once, with the sum of the weights."
        )
    try:
        method = recipe.chosen()
    except Fault as error:
        raise MergeRefused((str(error),), "`adreg merge --help` names the methods.") from error
    specs = [one.spec for one in adapters if isinstance(one, OpenedVersion)]
    sides = side_files(base.base, specs, recipe.tokenizer)
    with ExitStack() as scratch:
        if recipe.on_factors:
            folder = Path(scratch.enter_context(TemporaryDirectory(prefix="adreg-")))
            inputs = [_combined(recipe, adapters, folder)]
        else:
            inputs = [
                Input(one.name, one.content, asked.weight, asked.weights + recipe.weights)
                for one, asked in zip(adapters, recipe.adapters, strict=True)
            ]
        plan = make_plan(
            base.base,
            inputs,
            method=method,
            dtype=recipe.dtype,
            max_shard_size=recipe.max_shard_size,
            precision=recipe.precision,
        )
        return Ready(
            recipe,
            base,
            tuple(adapters),
            plan,
            sides,
            _remarks(base, adapters, plan, sides),
            tuple(one.spec for one in inputs),
            scratch.pop_all(),
        )


def _combined(recipe: Recipe, adapters: Sequence[OpenedInput], folder: Path) -> Input:
    """Make one adapter of the adapters' factors, which is then merged like any other."""
    weighted = [
        (one.spec, asked.weight)
        for one, asked in zip(adapters, recipe.adapters, strict=True)
        if isinstance(one, OpenedVersion)
    ]
    names = [one.name for one in adapters]
    combine_specs(weighted, settings_of(recipe.method, recipe.parameters), folder, names=names)
    return Input("the combination", read_adapter(folder), weights=recipe.weights)


def build(  # noqa: PLR0913  # a merge, its place, and how to run it
    ready: Ready,
    staging: Staging,
    card: str,
    threads: int | None,
    context: Context,
    *,
    journal: Journal | None = None,
    engine: Engine = local,
) -> Written:
    """Write the checkpoint into a staging folder; go on where the journal says."""
    return write_model(
        ready.plan,
        ready.base.base,
        ready.contents,
        staging,
        method=(ready.recipe.method, ready.recipe.parameters),
        sides=ready.sides,
        card=card,
        threads=threads,
        progress=context.progress,
        journal=journal,
        engine=engine,
    )


def base_of(context: Context, recipe: Recipe, inputs: Sequence[OpenedInput]) -> OpenedBase:
    """Open the base that a recipe names, else that of its adapters.

    Raises NotFound, BaseRefused, and MergeRefused when they are for several.
    """
    if recipe.base:
        return open_base(context, recipe.base, dequantize=recipe.dequantize)
    adapters = [one for one in inputs if isinstance(one, OpenedVersion)]
    found = [one.record.base for one in adapters if one.record and one.record.base]
    records = {record.id: record for record in found}
    if len(records) == 1:
        return open_record(records.popitem()[1])
    if len(records) > 1:
        names = sorted(record.name for record in records.values())
        raise MergeRefused(
            (f"the adapters are for several bases: {', '.join(names)}",), "Pass --base."
        )
    hints = {one.spec.base_hint for one in adapters if one.spec.base_hint}
    advice = "Pass --base with a folder, or `adreg base add` it first."
    if len(hints) != 1:
        raise NotFound("recorded base for", inputs[0].name, (), advice)
    hint = hints.pop()
    try:
        return open_base(context, hint, dequantize=recipe.dequantize)
    except NotFound as error:
        raise NotFound("base", hint, error.close, advice) from error


def _remarks(
    base: OpenedBase, inputs: Sequence[OpenedInput], plan: Plan, sides: Sequence[SideFile]
) -> tuple[str, ...]:
    remarks = []
    for one in inputs:
        if not isinstance(one, OpenedVersion):
            continue
        made_for = one.record.base.facts.layout_digest if one.record and one.record.base else None
        verdict = judge(one.spec, base.base, base.known_names, made_for)
        if verdict.grade is Grade.SAME_SHAPES:
            remarks.append(f"{one.name} fits {base.name} by its shapes only: {verdict.reasons[0]}")
    if plan.untie:
        remarks.append("the head and the embedding were tied; the model gets a head of its own")
    if plan.dropped:
        remarks.append(f"{plan.architecture} has no use for {', '.join(plan.dropped)}: left out")
    layout = base.base.layout
    remarks += [
        f"{job.name} has {job.shape[0]:,} rows now, the base's {layout[job.name].shape[0]:,}"
        for job in plan.jobs
        if job.name in layout and job.shape != layout[job.name].shape
    ]
    remarks += beside.of_merge(base.base, sides)
    return tuple(remarks)


def _default_name(ready: Ready) -> str:
    return f"{ready.adapters[0].stem}-merged"


def _check_series(context: Context, name: str) -> None:
    with context.catalog.read() as connection:
        found = series.find(connection, name)
    if found is not None and found.kind != "model":
        raise AlreadyExists("adapter", name, "Give the model another name with --name.")


def _merged(  # noqa: PLR0913  # what a merge tells
    ready: Ready,
    name: str,
    folder: Path,
    *,
    dry_run: bool,
    key: VersionKey | None = None,
    new: bool = False,
    written: Written | None = None,
    remarks: Sequence[str] = (),
) -> Merged:
    tensors = tuple(
        PlannedTensor(job.name, job.action, job.dtype, job.shape, job.entry.nbytes, shard.file)
        for shard in ready.plan.shards
        for job in shard.jobs
    )
    return Merged(
        name=name,
        folder=folder,
        base=ready.base.name,
        adapters=tuple(
            (one.name, weight) for one, weight in zip(ready.adapters, ready.weights, strict=True)
        ),
        tensors=tensors,
        bytes=ready.output_bytes,
        untied=ready.plan.untie,
        remarks=(*ready.remarks, *remarks),
        dry_run=dry_run,
        key=key,
        new=new,
        files=written.files if written else (),
        totals=total(written.report.tensors) if written else None,
        report=written.report.tensors if written else (),
    )
