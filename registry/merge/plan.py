"""A merge decided to the last byte before the first is written, as pure data.

The plan is a ledger: every adapter tensor is used by just one job, every base tensor
has just one job, or planning refuses and names what is left over.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from adreg.registry.adapters.config import matching
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.bases.diskname import find_embedding, find_head, head_name
from adreg.registry.bases.fit import fit
from adreg.registry.bases.fit_full import fit_full
from adreg.registry.bases.placement import Kind, Placement
from adreg.registry.bases.replicated import deepened
from adreg.registry.errors import Incompatible, MergeRefused
from adreg.registry.merge.headed import headed
from adreg.registry.merge.methods.method import Method
from adreg.registry.merge.steps import contribution
from adreg.registry.merge.terms import Contribution, LowRank
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.encode import Entry, encode_header, shard_names, spread

Action = Literal["copy", "cast", "merge", "replace", "add"]
Precision = Literal["float32", "float64"]


LINEAR = Method("linear")
"""The weighted sum of the deltas: what the engine adds up without asking a method."""


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor: its place in the checkpoint, where W comes from, what is added.

    ``source`` is the base tensor that W is read from, None for "add". ``weights`` are all
    inputs' weights at this tensor, for methods that are no plain sum.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    action: Action
    source: str | None
    contributions: tuple[Contribution, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def matrix(self) -> tuple[int, int]:
        """The 2-D view (rows, columns) that it is worked on in.

        A vector is one column, a kernel is flattened, a stack of experts' matrices has the
        rows of all.
        """
        stacked = len(self.shape) == 3 and any(
            isinstance(term, LowRank) and term.rows is not None
            for one in self.contributions
            for term in one.terms
        )
        if stacked:
            return self.shape[0] * self.shape[1], self.shape[2]
        return (self.shape[0] if self.shape else 1), math.prod(self.shape[1:])

    @property
    def entry(self) -> Entry:
        """The tensor as a header describes it."""
        return Entry(self.name, self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file and its tensors in the order of their bytes."""

    file: str
    jobs: tuple[Job, ...]

    def header(self) -> bytes:
        """Return the bytes in front of the tensors' data."""
        return encode_header((job.entry for job in self.jobs), {"format": "pt"})

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return len(self.header()) + sum(job.entry.nbytes for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole merge: files, jobs, how deltas are combined, and what config.json must say.

    ``dropped`` are the base's tensors that the class of the result does not have.
    """

    shards: tuple[Shard, ...]
    method: Method
    precision: Precision
    untie: bool
    dtype: str | None
    architecture: str | None
    labels: int | None
    dropped: tuple[str, ...] = ()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in the order of the files."""
        return tuple(job for shard in self.shards for job in shard.jobs)

    @property
    def nbytes(self) -> int:
        """The bytes of all weight files."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def tensor_bytes(self) -> int:
        """The bytes of all tensors, as the index's total_size counts them."""
        return sum(job.entry.nbytes for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Input:
    """An adapter, or a whole checkpoint, with its weight and the name it goes by in messages.

    ``weights`` are factors on the weight for modules by pattern, the first match counts.
    """

    name: str
    spec: AdapterSpec | Base
    weight: float = 1.0
    weights: tuple[tuple[str, float], ...] = ()

    def weight_at(self, target: str) -> float:
        """Return the weight of its delta on a tensor, by the name of its module on disk."""
        module = module_of(target)
        found = (factor for pattern, factor in self.weights if matching((pattern,), module))
        return self.weight * next(found, 1.0)


def module_of(tensor: str) -> str:
    """Return the name on disk of the module that a tensor belongs to."""
    return tensor.rpartition(".")[0] or tensor


def make_plan(  # noqa: PLR0913  # the inputs, and what can be asked of a merge
    base: Base,
    inputs: Sequence[Input],
    *,
    method: Method = LINEAR,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    precision: Precision = "float32",
) -> Plan:
    """Plan how the inputs' deltas are combined on a base; no weight is read.

    ``dtype`` ("bfloat16", ...) is that of all float tensors written, the base's own by
    default; ``max_shard_size`` is in bytes, the base's own shards by default.

    Raises Incompatible when an input does not fit, MergeRefused when the result would
    be wrong or nothing would change.
    """
    if not inputs:
        raise MergeRefused(("no adapter was named",), "Name at least one adapter.")
    for item in inputs:
        if item.weight == 0:
            raise MergeRefused(
                (f"{item.name} has the weight 0",), "Leave it out, or give it another weight."
            )
    base = deepened(base, [item.spec for item in inputs])
    by_target: dict[str, dict[int, list[Placement]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(inputs):
        result = fit_full(item.spec, base) if isinstance(item.spec, Base) else fit(item.spec, base)
        if result.faults:
            raise Incompatible(item.name, base.hub_repo or str(base.folder), result.faults)
        for placement in result.placements:
            by_target[placement.target][number].append(placement)
    _check_ledger(inputs, by_target)
    _check_patterns(inputs, by_target)
    changes: dict[str, Job] = {}
    for target, groups in by_target.items():
        if (job := _change(target, base, inputs, groups, method, dtype)) is not None:
            changes[target] = job
    if not changes:
        raise MergeRefused(
            ("the weights of all modules that the adapters touch are 0",),
            "Look at the patterns of --weight.",
        )
    specs = [item.spec for item in inputs if not isinstance(item.spec, Base)]
    head = headed(base, specs, changes)
    untie = head.architecture is None and _untie(base, inputs, changes, dtype)
    shards = _shards(base, changes, head.dropped, dtype, max_shard_size)
    return Plan(
        shards, method, precision, untie, dtype, head.architecture, head.labels, head.dropped
    )


def _check_ledger(
    inputs: Sequence[Input], by_target: dict[str, dict[int, list[Placement]]]
) -> None:
    """Hold that every adapter tensor is used just once (design contract 1)."""
    for number, item in enumerate(inputs):
        if isinstance(item.spec, Base):
            continue  # fit_full places each of its tensors by name
        used = Counter(
            tensor.key
            for groups in by_target.values()
            for placement in groups.get(number, ())
            for tensor in placement.tensors
        )
        if left := sorted(t.key for t in item.spec.tensors if used[t.key] != 1):
            raise MergeRefused(
                tuple(f"{item.name}: {key!r} is not used just once" for key in left),
                "It is a fault of adreg: use the adapter with PEFT, unmerged, and report it.",
            )


def _check_patterns(
    inputs: Sequence[Input], by_target: dict[str, dict[int, list[Placement]]]
) -> None:
    """Hold that each pattern matches a module that one of its inputs touches."""
    patterns = {pattern for item in inputs for pattern, _ in item.weights}
    for target, groups in by_target.items():
        for number in groups:
            its = tuple(p for p, _ in inputs[number].weights if p in patterns)
            patterns -= {p for p in its if matching((p,), module_of(target))}
    if patterns:
        raise MergeRefused(
            tuple(f"no module that is touched ends in the pattern {p!r}" for p in sorted(patterns)),
            "`adreg merge --dry-run` without it lists the tensors that are merged.",
        )


def _change(  # noqa: PLR0913, PLR0917  # one tensor of a plan, and what all of it shares
    target: str,
    base: Base,
    inputs: Sequence[Input],
    groups: dict[int, list[Placement]],
    method: Method,
    dtype: str | None,
) -> Job | None:
    """Return the job of a changed tensor; None when all its weights are 0."""
    weights = tuple(item.weight_at(target) for item in inputs)
    contributions = tuple(
        contribution(number, weights[number], placements)
        for number, placements in sorted(groups.items())
        if weights[number] != 0
    )
    all_of_it = [placement for number in sorted(groups) for placement in groups[number]]
    first, new = all_of_it[0], next((one for one in all_of_it if one.source is None), None)
    if not contributions and new is None:
        return None
    if first.source is not None and new is None:
        info = base.layout[first.source]
        out = _out_dtype(info.dtype, dtype)
        if method != LINEAR:
            return Job(target, out, info.shape, "merge", first.source, contributions, weights)
        only = contributions[0]
        alone = len(contributions) == 1 and only.weight == 1
        action: Action = "replace" if alone and only.replaces else "merge"
        return Job(target, out, info.shape, action, first.source, contributions)
    if [one.weight for one in contributions] != [1]:
        raise MergeRefused(
            (f"{target!r} is new or of another size and cannot be weighted or come from two",),
            "Merge the adapter that brings it alone, with weight 1.",
        )
    whole = next(one for one in all_of_it if one.kind is Kind.FULL)
    shape = (*whole.tensors, *whole.also)[0].info.shape
    there = target in base.layout
    out = _out_dtype(base.layout[target].dtype if there else base.dtype, dtype)
    return Job(target, out, shape, "replace" if there else "add", None, contributions)


def _out_dtype(dtype: str, wanted: str | None) -> str:
    return dtypes.OUTPUTS[wanted] if wanted and dtype in dtypes.FLOATS else dtype


def _untie(base: Base, inputs: Sequence[Input], changes: dict[str, Job], dtype: str | None) -> bool:
    """Give a tied model a head of its own when only one side of the tie changes.

    In PEFT an adapter on the embedding does not change what a tied head multiplies by,
    nor the other way round: the head keeps the base's embedding. A checkpoint that
    stays tied would share the change (peft#2018, #2777).
    """
    head = find_head(base.memory, base.architecture) or head_name(base.architecture)
    embedding = find_embedding(base.layout, base.memory)
    if not base.tied or head is None or embedding is None:
        return False
    if head not in changes and embedding not in changes:
        return False
    there = changes[embedding].contributions if embedding in changes else ()
    followed = tuple(c for c in there if _is_followed(c, inputs[c.adapter]))
    same = head in changes and changes[head].contributions == there
    if same or (head not in changes and len(followed) == len(there)):
        changes.pop(head, None)
        if head in base.layout:  # stored all the same: it must not stay behind
            changes[head] = replace(changes[embedding], name=head)
        return False
    if head in changes:
        _add_followed(inputs, changes, head, followed)
        return True
    if head not in base.layout:
        info = base.layout[embedding]
        out = _out_dtype(info.dtype, dtype)
        action: Action = "copy" if out == info.dtype else "cast"
        action = "merge" if followed else action
        weights = changes[embedding].weights if followed else ()
        changes[head] = Job(head, out, info.shape, action, embedding, followed, weights)
    return True


def _is_followed(part: Contribution, item: Input) -> bool:
    """Whether a tied head does as the embedding does, though the input does not name it.

    Single trained rows go to both sides of a tie (peft 0.21.2, utils/other.py), and so does
    all that was trained with ensure_weight_tying (tuners/tuners_utils.py). A whole
    checkpoint is tied as the base is: ``fit_full`` holds that.
    """
    if part.only_rows or isinstance(item.spec, Base):
        return True
    return bool(item.spec.config.get("ensure_weight_tying"))


def _add_followed(
    inputs: Sequence[Input],
    changes: dict[str, Job],
    head: str,
    followed: tuple[Contribution, ...],
) -> None:
    """Add to a head that one input changes what others do to the embedding and it follows."""
    job = changes[head]
    own = {part.adapter for part in job.contributions}
    for number in own - {part.adapter for part in followed}:
        spec = inputs[number].spec
        if isinstance(spec, AdapterSpec) and spec.config.get("ensure_weight_tying"):
            raise MergeRefused(
                (f"ensure_weight_tying with a delta on {head!r} and none on the embedding",),
                "Save the adapter with PEFT again: it saves both sides.",
            )
    # PEFT wraps the head's trained rows in its LoRA: the rows first, then the delta.
    rows = {part.adapter: part.terms for part in followed if part.only_rows}
    before = job.contributions
    mine = tuple(replace(one, terms=rows.get(one.adapter, ()) + one.terms) for one in before)
    more = tuple(part for part in followed if part.adapter not in own)
    if not more and mine == before:
        return
    if job.source is None:
        raise MergeRefused(
            (f"{head!r} is of another size, and another adapter changes what is tied to it",),
            "Merge the adapter that brings it alone, with weight 1.",
        )
    parts = tuple(sorted((*mine, *more), key=lambda part: part.adapter))
    changes[head] = replace(job, action="merge", contributions=parts)


def _shards(
    base: Base,
    changes: dict[str, Job],
    dropped: tuple[str, ...],
    dtype: str | None,
    max_shard_size: int | None,
) -> tuple[Shard, ...]:
    new = [job for name, job in changes.items() if name not in base.layout]
    left_out = set(dropped)
    groups: list[list[Job]] = []
    for file in base.layout.files:
        jobs = []
        for info in file.tensors:
            if info.name in left_out:
                continue
            out = _out_dtype(info.dtype, dtype)
            action: Action = "copy" if out == info.dtype else "cast"
            jobs.append(
                changes.get(info.name) or Job(info.name, out, info.shape, action, info.name)
            )
        if jobs:
            groups.append(jobs)
    if max_shard_size is not None:
        jobs = [job for group in groups for job in group] + new
        by_name = {job.name: job for job in jobs}
        spread_out = spread((job.entry for job in jobs), max_shard_size)
        groups = [[by_name[entry.name] for entry in shard] for shard in spread_out]
    elif new:
        groups[-1].extend(new)
    names = shard_names(len(groups))
    return tuple(Shard(name, tuple(jobs)) for name, jobs in zip(names, groups, strict=True))
