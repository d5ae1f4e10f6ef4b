"""Taking adapters out of a merged model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.registry import digest
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.bases.base import Base, read_base
from adreg.registry.catalog import show
from adreg.registry.catalog.records import ModelVersion
from adreg.registry.errors import AdapterRefused, BaseRefused, InputRefused, NotFound
from adreg.registry.merge.plan import Precision
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.names import Reference, suggest_name
from adreg.registry.ops import resolve
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.merge import Merged, merge
from adreg.registry.ops.specs import OpenedVersion, open_version
from adreg.registry.ops.verify_merge import read_model
from adreg.registry.trial.ulps import WeightDistance, rounding_bound, weight_distance

_ADDITIVE = frozenset(
    {"LORA", "ADALORA", "LOHA", "LOKR", "VERA", "VBLORA", "FOURIERFT", "RANDLORA", "C3A", "SHIRA"}
)
"""Kinds whose delta does not depend on W (peft 0.21.2, get_delta_weight of each layer)."""

_GONE = "the base's values are gone"

_TAKES_PLACE = {
    Part.FULL: f"replaces whole tensors: {_GONE}",
    Part.ROWS: f"replaces rows of the embedding: {_GONE}",
    Part.MAGNITUDE: "is DoRA's magnitude, by which the base's norm was divided out",
}

_MUTATING = ("pissa", "olora")
"""Beginnings of ``init_lora_weights`` whose delta is computed from W (peft 0.21.2), of those
that ``read_adapter`` takes."""


@dataclass(frozen=True, slots=True)
class Unmerged:
    """A model without an adapter that it was merged from, or the plan of one after a dry run.

    ``adapters`` are what was taken out and how many times, ``left`` what is still in it as
    far as is known. ``bound`` is the most that an element may be off from what it would be
    had the adapters never been merged; None after a dry run. ``distance`` is measured
    against ``base``, where the base is at hand and nothing else is left in.
    """

    model: str
    adapters: tuple[tuple[str, float], ...]
    left: tuple[tuple[str, float], ...]
    merged: Merged
    bound: float | None = None
    base: str | None = None
    distance: WeightDistance | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    base: Base
    record: ModelVersion | None


@dataclass(frozen=True, slots=True)
class _Taken:
    adapter: OpenedVersion
    weight: float


def unmerge(  # noqa: PLR0913  # one argument for each thing that can be asked
    context: Context,
    model: str,
    references: Sequence[str],
    *,
    output: Path | None = None,
    name: str | None = None,
    base: str | None = None,
    threads: int | None = None,
    dry_run: bool = False,
) -> Unmerged:
    """Subtract adapters' deltas from a merged model, in a new folder, and record the outcome.

    ``model`` is one in the catalog, or a checkpoint's folder. Without ``=WEIGHT`` an adapter
    is taken out as many times as is recorded, once for a folder. It is a merge with the
    model as base and the weights negated: exact but for the rounding that is told. ``base``
    is what to compare with, if not the recorded one.

    Raises AdapterRefused for an adapter whose delta cannot be subtracted, since it replaces
    or rescales what was there; InputRefused for one that was not merged into the model, or
    a model that is no weighted sum; and what ``merge`` raises.
    """
    opened = _open_model(context, model)
    taken = [_taken(context, opened, text) for text in references]
    for one in taken:
        check_subtractable(one.adapter.name, one.adapter.spec)
    left = _left(opened, taken)
    against = None if left else _base(context, opened, base)
    recipe = Recipe(
        tuple(RecipeAdapter(one.adapter.name, -one.weight) for one in taken),
        base=str(opened.base.folder),
        precision=_precision(opened.record),
    )
    stem = opened.record.key.name if opened.record else suggest_name(opened.base.folder.name)
    merged = merge(
        context,
        recipe,
        output=output,
        name=name or f"{stem}-unmerged",
        threads=threads,
        dry_run=dry_run,
    )
    adapters = tuple((one.adapter.name, one.weight) for one in taken)
    if dry_run:
        return Unmerged(opened.name, adapters, left, merged)
    touched = [tensor for tensor in merged.tensors if tensor.action == "merge"]
    names = [tensor.name for tensor in touched]
    result = read_base(merged.folder).layout
    passes = 1 if against is None else 2
    context.progress.start("Comparing", passes * sum(tensor.bytes for tensor in touched))
    try:
        bound = rounding_bound(opened.base.layout, result, names, progress=context.progress)
        if against is None:
            return Unmerged(opened.name, adapters, left, merged, bound)
        there = against.base.layout
        common = [name for name in names if name in there]
        distance = weight_distance(result, there, common, progress=context.progress)
    finally:
        context.progress.finish()
    return Unmerged(opened.name, adapters, left, merged, bound, against.name, distance)


def check_subtractable(name: str, spec: AdapterSpec) -> None:
    """Raise AdapterRefused, with all reasons, unless the adapter adds what W has no part in."""
    reasons = []
    if spec.peft_type not in _ADDITIVE:
        reasons.append(f"{spec.peft_type} changes weights by an amount that depends on them")
    for part, reason in _TAKES_PLACE.items():
        keys = [tensor.key for tensor in spec.tensors if tensor.part is part]
        if keys:
            reasons.append(f"{keys[0]!r} {reason}")
    is_lora = spec.peft_type == "LORA"
    if is_lora and any(tensor.part is Part.TUNER for tensor in spec.tensors):
        reasons.append("it is a variant of LoRA whose delta is not known to be a plain sum")
    start = spec.config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MUTATING):
        reasons.append(f"init_lora_weights is {start!r}: its delta is computed from the base")
    if reasons:
        advice = "Merge the other adapters into the base again, without this one."
        raise AdapterRefused(Path(name), tuple(reasons), advice)


def _open_model(context: Context, text: str) -> _Model:
    reference = Reference.parse(text)
    if reference.path is not None:
        folder = reference.path.absolute()
        return _Model(reference.text, read_base(folder), None)
    with context.catalog.read() as connection:
        record = show.model(connection, resolve.unweighted(connection, reference, "model"))
    if record.facts.method != "linear":
        reason = f"{record.key} was combined by {record.facts.method}, which is no sum of deltas"
        advice = "Merge the other adapters into the base again."
        raise InputRefused(record.facts.location, reason, advice)
    asked = record.facts.recipe
    if asked.get("weights") or any(one.get("weights") for one in asked["adapters"]):
        reason = f"{record.key} was merged with weights of their own for some modules"
        advice = "Merge the other adapters into the base again."
        raise InputRefused(record.facts.location, reason, advice)
    return _Model(str(record.key), read_model(record), record)


def _taken(context: Context, model: _Model, text: str) -> _Taken:
    reference = Reference.parse(text)
    adapter = open_version(context, text)
    if model.record is None:
        return _Taken(adapter, 1.0 if reference.weight is None else reference.weight)
    known = {one.digest: one.weight for one in model.record.inputs}
    recorded = known.get(_digest(adapter))
    if recorded is None:
        names = ", ".join(f"{one.name}@{one.number}" for one in model.record.inputs)
        raise InputRefused(
            model.base.folder,
            f"{adapter.name} was not merged into {model.name}; those that were: {names}",
            "To subtract it all the same: adreg merge REF=-1 --base FOLDER.",
        )
    return _Taken(adapter, recorded if reference.weight is None else reference.weight)


def _digest(adapter: OpenedVersion) -> str:
    if adapter.record is not None:
        return adapter.record.key.digest
    return digest.of_files(adapter.spec.files)


def _left(model: _Model, taken: Sequence[_Taken]) -> tuple[tuple[str, float], ...]:
    """Return what stays in a recorded model, with its weight; nothing is known of a folder."""
    if model.record is None:
        return ()
    out = {_digest(one.adapter): one.weight for one in taken}
    weights = [
        (f"{one.name}@{one.number}" if one.number else one.name, one.weight, one.digest)
        for one in model.record.inputs
    ]
    rest = [(name, weight - out.get(key, 0.0)) for name, weight, key in weights]
    return tuple((name, weight) for name, weight in rest if weight != 0)


def _base(context: Context, model: _Model, text: str | None) -> OpenedBase | None:
    """Return what to compare with; None where a recorded base is not at hand any more."""
    if text is not None:
        return open_base(context, text)
    if model.record is None or model.record.base is None:
        return None
    try:
        return open_record(model.record.base)
    except (NotFound, BaseRefused):
        return None


def _precision(record: ModelVersion | None) -> Precision:
    """Return what the model's own sums were computed in: the same delta comes out again."""
    recorded = None if record is None else record.facts.recipe.get("precision")
    return "float64" if recorded == "float64" else "float32"
