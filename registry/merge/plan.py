"""A merge decided to the last byte before the first is written, as pure data.

The plan is a ledger: every adapter tensor is used by just one job, every base tensor
has just one job, or planning refuses and names what is left over.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.bases.base import Base
from adreg.registry.bases.diskname import find_embedding, head_name
from adreg.registry.bases.fit import Kind, Placement, fit
from adreg.registry.errors import Incompatible, MergeRefused
from adreg.registry.merge.headed import headed_architecture
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.encode import Entry, encode_header, shard_names, spread

Action = Literal["copy", "cast", "merge", "replace", "add"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True)
class LowRank:
    """s * L R on the 2-D view of a tensor: L (rows, r) and R (r, columns).

    ``left`` and ``right`` are adapter keys; a transposed one is stored the other way
    round. With ``magnitude`` it is DoRA: the sum of W and the product is then scaled so
    that the norm of each row ("rows") or column ("columns") is the stored magnitude
    (Liu et al., 2024, arXiv 2402.09353; peft 0.21.2, tuners/lora/variants.py).
    """

    left: str
    left_transposed: bool
    right: str
    right_transposed: bool
    rank: int
    scale: float
    magnitude: str | None = None
    norm_of: Literal["rows", "columns"] = "rows"


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one adapter does to one tensor: its delta is taken ``weight`` times.

    The delta is y - W with y = ``full`` (or W), plus the low-rank products, plus the
    scaled ``biases`` (adapter key, scale).
    """

    adapter: int
    weight: float
    full: str | None = None
    low_rank: tuple[LowRank, ...] = ()
    biases: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor: its place in the checkpoint, where W comes from, what is added.

    ``source`` is the base tensor that W is read from, None for "add".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    action: Action
    source: str | None
    contributions: tuple[Contribution, ...] = ()

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
    """The whole merge: files, jobs, the precision of the sums, and what config.json must say."""

    shards: tuple[Shard, ...]
    precision: Precision
    untie: bool
    dtype: str | None
    architecture: str | None
    labels: int | None

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
    """An adapter with its weight and the name it goes by in messages."""

    name: str
    spec: AdapterSpec
    weight: float = 1.0


def make_plan(
    base: Base,
    inputs: Sequence[Input],
    *,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    precision: Precision = "float32",
) -> Plan:
    """Plan the weighted sum of the inputs' deltas on a base; no weight is read.

    ``dtype`` ("bfloat16", ...) is that of all float tensors written, the base's own by
    default; ``max_shard_size`` is in bytes, the base's own shards by default.

    Raises Incompatible when an adapter does not fit, MergeRefused when the result would
    be wrong or nothing would change.
    """
    if not inputs:
        raise MergeRefused(("no adapter was named",), "Name at least one adapter.")
    by_target: dict[str, dict[int, list[Placement]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(inputs):
        result = fit(item.spec, base)
        if result.faults:
            raise Incompatible(item.name, base.hub_repo or str(base.folder), result.faults)
        for placement in result.placements:
            by_target[placement.target][number].append(placement)
    _check_ledger(inputs, by_target)
    changes = {
        target: _change(target, base, inputs, groups, dtype) for target, groups in by_target.items()
    }
    untie = _untie(base, inputs, changes, dtype)
    added = [changes[name] for name in changes if name not in base.layout]
    architecture, labels = headed_architecture(base, [i.spec for i in inputs], added)
    shards = _shards(base, changes, added, dtype, max_shard_size)
    return Plan(shards, precision, untie, dtype, architecture, labels)


def _check_ledger(
    inputs: Sequence[Input], by_target: dict[str, dict[int, list[Placement]]]
) -> None:
    """Hold that every adapter tensor is used just once (design contract 1)."""
    for number, item in enumerate(inputs):
        used = Counter(
            tensor.key
            for groups in by_target.values()
            for placement in groups.get(number, ())
            for tensor in placement.tensors
        )
        if left := sorted(t.key for t in item.spec.tensors if used[t.key] != 1):
            raise MergeRefused(tuple(f"{item.name}: {key!r} is not used just once" for key in left))
        if item.weight == 0:
            raise MergeRefused(
                (f"{item.name} has the weight 0",), "Leave it out, or give it another weight."
            )


def _change(
    target: str,
    base: Base,
    inputs: Sequence[Input],
    groups: dict[int, list[Placement]],
    dtype: str | None,
) -> Job:
    contributions = tuple(
        _contribution(number, inputs[number].weight, placements)
        for number, placements in sorted(groups.items())
    )
    first = next(iter(groups.values()))[0]
    if first.source is not None:
        info = base.layout[first.source]
        out = _out_dtype(info.dtype, dtype)
        only = contributions[0]
        alone = len(contributions) == 1 and only.weight == 1 and only.full is not None
        action: Action = "replace" if alone and not only.low_rank else "merge"
        return Job(target, out, info.shape, action, first.source, contributions)
    if len(contributions) > 1 or contributions[0].weight != 1:
        raise MergeRefused(
            (f"{target!r} is new to the base and cannot be weighted or come from two adapters",),
            "Merge the adapter that brings it alone, with weight 1.",
        )
    tensor = first.tensors[0]
    out = _out_dtype(base.dtype, dtype)
    return Job(target, out, tensor.info.shape, "add", None, contributions)


def _contribution(number: int, weight: float, placements: list[Placement]) -> Contribution:
    full: str | None = None
    terms: list[LowRank] = []
    biases: list[tuple[str, float]] = []
    for placement in placements:
        if placement.kind is Kind.FULL:
            full = placement.tensors[0].key
        elif placement.kind is Kind.BIAS:
            biases.append((placement.tensors[0].key, placement.scale))
        else:
            terms.append(_low_rank(placement))
    return Contribution(number, weight, full, tuple(terms), tuple(biases))


def _low_rank(placement: Placement) -> LowRank:
    a = placement.part(Part.LORA_A, Part.EMBEDDING_A)
    b = placement.part(Part.LORA_B, Part.EMBEDDING_B)
    m = placement.part(Part.MAGNITUDE)
    if a is None or b is None:
        raise TypeError(f"a {placement.kind} without both factors")
    plain = placement.kind in {Kind.LINEAR, Kind.CONVOLUTION}  # B A, and not its transpose
    left, right = (b, a) if plain else (a, b)
    return LowRank(
        left=left.key,
        left_transposed=not plain,
        right=right.key,
        right_transposed=not plain,
        rank=a.info.shape[0],
        scale=placement.scale,
        magnitude=None if m is None else m.key,
        norm_of="rows" if plain else "columns",
    )


def _out_dtype(dtype: str, wanted: str | None) -> str:
    return dtypes.OUTPUTS[wanted] if wanted and dtype in dtypes.FLOATS else dtype


def _untie(base: Base, inputs: Sequence[Input], changes: dict[str, Job], dtype: str | None) -> bool:
    """Give a tied model a head of its own when only one side of the tie changes.

    In PEFT an adapter on the embedding does not change what a tied head multiplies by,
    nor the other way round: the head keeps the base's embedding. A checkpoint that
    stays tied would share the change (peft#2018, #2777).
    """
    head, embedding = head_name(base.architecture), find_embedding(base.layout)
    if not base.tied or head is None or embedding is None:
        return False
    if head not in changes and embedding not in changes:
        return False
    if any(item.spec.config.get("ensure_weight_tying") for item in inputs):
        # Trained with the head following the embedding. Only a replaced embedding says
        # clearly what both are; for LoRA on both sides peft 0.21.2 adds the delta twice.
        if len(inputs) > 1 or head in changes or changes[embedding].action != "replace":
            raise MergeRefused(
                (f"ensure_weight_tying with a delta on {embedding!r} or {head!r}",),
                "Train without ensure_weight_tying, or with the embedding in modules_to_save.",
            )
        return False
    if head not in changes and head not in base.layout:
        info = base.layout[embedding]
        out = _out_dtype(info.dtype, dtype)
        action: Action = "copy" if out == info.dtype else "cast"
        changes[head] = Job(head, out, info.shape, action, embedding)
    return True


def _shards(
    base: Base,
    changes: dict[str, Job],
    added: list[Job],
    dtype: str | None,
    max_shard_size: int | None,
) -> tuple[Shard, ...]:
    new = added + [
        job for name, job in changes.items() if name not in base.layout and job not in added
    ]
    groups: list[list[Job]] = []
    for file in base.layout.files:
        jobs = []
        for info in file.tensors:
            out = _out_dtype(info.dtype, dtype)
            action: Action = "copy" if out == info.dtype else "cast"
            jobs.append(
                changes.get(info.name) or Job(info.name, out, info.shape, action, info.name)
            )
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
