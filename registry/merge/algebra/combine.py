"""One adapter out of several: their sum, the sum cut to a rank, or PEFT's ways to combine.

    cat          [B_i] [w_i s_i A_i]: exact, of the sum of the ranks
    svd          the same, cut to a rank (low_rank.compress)
    factors_X    PEFT's X on A and on B apart, each weighted with sqrt(|w_i s_i|); the sign of
                 w_i goes to A. The product has cross terms B_i A_j: it is no sum of deltas.
    peft_X_svd   PEFT's X on the deltas s_i B_i A_i, cut to a rank

after peft 0.21.2, tuners/lora/model.py, ``add_weighted_adapter``. Where that is wrong this
is not: it scales rsLoRA adapters twice, and forgets the ranks of single modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.files import WEIGHTS
from adreg.registry.adapters.keys import PREFIX
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.digest import FileDigest
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra import low_rank, mixing, svd
from adreg.registry.merge.algebra.adapter_config import combined_config
from adreg.registry.merge.algebra.adapter_writer import AdapterWriter
from adreg.registry.merge.algebra.fine_tune import Lost
from adreg.registry.merge.algebra.inputs import Inputs, Module, copy_whole, read_inputs
from adreg.registry.merge.algebra.low_rank import Factors, Target
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.arrays import LARGEST, NUMPY, Array, TensorReader, single_threaded_blas

METHODS = (
    "cat",
    "svd",
    *(f"factors_{name}" for name in mixing.MIXES),
    *(f"peft_{name}_svd" for name in mixing.MIXES if name != "linear"),
)
"""Ways to combine; PEFT's own ``linear_svd`` is ``svd``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to combine.

    ``target`` is for methods that cut to a rank, ``density`` and ``seed`` for those that
    prune, ``majority`` for those that elect signs; ``dtype`` is a code (``BF16``).
    """

    method: str = "cat"
    target: Target | None = None
    density: float | None = None
    seed: int = 0
    majority: mixing.Majority = "total"
    dtype: str | None = None


def settings_of(method: str, parameters: Mapping[str, Any]) -> Settings:
    """Return the settings that a recipe's parameters are; raise ValueError that names one."""
    known = {"rank", "energy", "density", "seed", "sign"}
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{name}: {method} takes {', '.join(sorted(known))}")
        if name == "sign":
            fits = value in {"total", "frequency"}
        elif name in {"rank", "seed"}:
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        if not fits:
            raise ValueError(f"{name}: {value!r} is none that {method} can take")
    rank, energy = parameters.get("rank"), parameters.get("energy")
    settings = Settings(
        method,
        Target(rank, energy) if rank or energy else None,
        parameters.get("density"),
        parameters.get("seed", 0),
        parameters.get("sign", "total"),
        "F32",
    )
    try:
        _check(settings)
    except AdapterNotMade as error:
        raise ValueError(f"method: {error.reasons[0]}") from None
    return settings


@dataclass(frozen=True, slots=True)
class ModuleMade:
    """A module of the outcome, with what it cost.

    ``norm`` is the Frobenius norm of the delta that was asked for, ``error`` of what the
    outcome misses of it, rounding included; None where the method defines no delta.
    ``reached`` is false when the energy asked for was not.
    """

    name: str
    rank: int
    norm: float
    error: float | None
    reached: bool = True

    @property
    def relative(self) -> float | None:
        """The error as a share of the norm."""
        if self.error is None:
            return None
        return self.error / self.norm if self.norm else 0.0


@dataclass(frozen=True, slots=True)
class CombinedAdapter:
    """An adapter that was made: its modules, its configuration and its files with digests.

    ``lost`` are changes of a fine-tune that it does not hold.
    """

    modules: tuple[ModuleMade, ...]
    config: dict[str, Any]
    parameters: int
    nbytes: int
    files: tuple[FileDigest, ...]
    remarks: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def relative(self) -> float | None:
        """The error of all modules together, as a share of the norm of all their deltas."""
        errors = [one.error for one in self.modules if one.error is not None]
        if len(errors) < len(self.modules) or not errors:
            return None
        whole = math.hypot(*(one.norm for one in self.modules))
        return math.hypot(*errors) / whole if whole else 0.0


def combine_specs(  # noqa: PLR0913  # the two ends, and how to tell of it
    adapters: Sequence[tuple[AdapterSpec, float]],
    settings: Settings,
    folder: Path | None,
    *,
    names: Sequence[str] = (),
    card: str = "",
    progress: Progress = SILENT,
) -> CombinedAdapter:
    """Combine adapters, each taken ``weight`` times, into a PEFT folder.

    ``folder`` is a staging folder, which the caller publishes; without one all is computed
    and nothing written. ``names`` are what the adapters are called in reasons. The sums
    are in float32 (factorisations in float64) and rounded once. Raises AdapterNotMade
    when the inputs do not add up to one adapter, or cancel out.
    """
    names = list(names) or [spec.folder.name for spec, _ in adapters]
    _check(settings)
    inputs = read_inputs(adapters, names)
    ranks = [term.rank for module in inputs.modules for term in module.terms]
    maker = _Maker(settings, inputs, max(ranks, default=1))
    maker.check_ranks()
    progress.start("Combining", len(inputs.modules), "items")
    made = []
    try:
        with single_threaded_blas(), TensorReader() as reader, AdapterWriter(folder) as writer:
            for module in inputs.modules:
                factors, one = maker.make(module, reader)
                made.append(one)
                writer.put_lora(module.name, module.parts, *module.shaped(factors))
                if (bias := maker.bias(module, reader)) is not None:
                    writer.put(f"{PREFIX}{module.name}.{Part.LORA_BIAS.value}", bias)
                progress.advance()
            if made and not any(one.norm for one in made):
                reason = "the adapters cancel out: nothing would change"
                raise AdapterNotMade((reason,), "Give them other weights: REF=0.5.")
            for whole in inputs.wholes:
                copy_whole(whole, reader, writer)
            config = combined_config([spec for spec, _ in adapters], writer.ranks, inputs.wholes)
            files = writer.finish(config, card)
    finally:
        progress.finish()
    return CombinedAdapter(
        tuple(made), config, writer.parameters, writer.nbytes, files, tuple(inputs.remarks)
    )


def _check(settings: Settings) -> None:
    if settings.method not in METHODS:
        raise AdapterNotMade(
            (f"there is no method {settings.method!r}",), f"Choose one of {', '.join(METHODS)}."
        )
    pruning = _mix(settings.method).pruning != "none"
    if pruning and settings.density is None:
        raise AdapterNotMade(
            (f"{settings.method} needs a density",), "Pass --density, the share to keep: 0.5."
        )
    if not pruning and settings.density is not None:
        reason = f"{settings.method} prunes nothing, so a density means nothing"
        raise AdapterNotMade((reason,), "Leave --density out.")
    if settings.target is not None and not _cuts(settings.method):
        raise AdapterNotMade(
            (f"{settings.method} cuts to no rank",), "Leave --rank and --energy out, or use svd."
        )


def _cuts(method: str) -> bool:
    return method.endswith("svd")


def _mix(method: str) -> mixing.Mix:
    name = method.removeprefix("factors_").removeprefix("peft_").removesuffix("_svd")
    return mixing.MIXES.get(name, mixing.MIXES["linear"])


@dataclass(frozen=True, slots=True)
class _Maker:
    settings: Settings
    inputs: Inputs
    largest_rank: int

    @property
    def _dtype(self) -> np.dtype[Any]:
        return NUMPY[self.settings.dtype or self.inputs.dtype]

    def _target(self) -> Target:
        return self.settings.target or Target(self.largest_rank)

    def check_ranks(self) -> None:
        method = self.settings.method
        reasons = []
        if method.startswith(("factors_", "peft_")):
            for module in self.inputs.modules:
                ranks = sorted({term.rank for term in module.terms})
                if len(ranks) > 1 and not _cuts(method):
                    said = " and ".join(map(str, ranks))
                    reasons.append(f"{method} needs one rank, but {module.name!r} has {said}")
                if any(term.bias is not None for term in module.terms):
                    reasons.append(f"{method} has no meaning for the lora_bias of {module.name!r}")
        has = [m.name for m in self.inputs.modules for t in m.terms if t.bias is not None]
        lacks = [
            m.name
            for m in self.inputs.modules
            if all(t.bias is None for t in m.terms) and Part.LORA_B in m.parts
        ]
        if has and lacks:
            reasons.append(f"{has[0]!r} has a lora_bias and {lacks[0]!r} has none")
        if reasons:
            raise AdapterNotMade(tuple(reasons), "Use cat or svd, which add up deltas.")

    def make(self, module: Module, reader: TensorReader) -> tuple[Factors, ModuleMade]:
        wide = np.dtype(np.float64 if self._dtype == np.float64 else np.float32)
        terms = [(t.factors(reader, wide), t.weight * t.scale) for t in module.terms]
        method = self.settings.method
        if method in {"cat", "svd"}:
            exact = low_rank.stack(terms)
            wanted = low_rank.norm(exact)
            factors = exact if method == "cat" else low_rank.compress(exact, self._target())
            factors = self._rounded(module, factors)
            error = low_rank.distance(exact, factors)
            return factors, ModuleMade(module.name, factors.rank, wanted, error)
        if _cuts(method):
            mixed = _MixedDelta(module, [f for f, _ in terms], self.settings)
            near = svd.approximate(mixed, self._target(), module.name, self._dtype)
            self._rounded(module, near.factors)
            made = ModuleMade(module.name, near.factors.rank, near.norm, near.error, near.reached)
            return near.factors, made
        factors = self._rounded(module, self._mixed_factors(module, terms))
        return factors, ModuleMade(module.name, factors.rank, low_rank.norm(factors), None)

    def _mixed_factors(self, module: Module, terms: Sequence[tuple[Factors, float]]) -> Factors:
        roots = [math.sqrt(abs(c)) for _, c in terms]
        signed = [math.copysign(root, c) for root, (_, c) in zip(roots, terms, strict=True)]
        how, settings = _mix(self.settings.method), self.settings
        mixed = []
        for part, weights in (("b", roots), ("a", signed)):
            tensors = [getattr(factors, part) for factors, _ in terms]
            pruned = [
                _prune(one, how.pruning, settings, (_identity(term.spec), module.name, part))
                for one, term in zip(tensors, module.terms, strict=True)
            ]
            mixed.append(mixing.mix(pruned, weights, how, settings.majority))
        return Factors(*mixed)

    def bias(self, module: Module, reader: TensorReader) -> Array | None:
        """Return the sum of w s bias, which is exact: it counts once, as the scale is 1."""
        total: Array | None = None
        for term in module.terms:
            if term.bias is not None:
                one = reader.read(term.spec.weights.path, term.bias.info).astype(np.float64)
                one *= term.weight * term.scale
                total = one if total is None else total + one
        return None if total is None else total.astype(self._dtype)

    def _rounded(self, module: Module, factors: Factors) -> Factors:
        code = self.settings.dtype or self.inputs.dtype
        with np.errstate(over="ignore"):
            rounded = factors.astype(self._dtype)
        for array in (rounded.b, rounded.a):
            if not np.isfinite(array.astype(np.float64)).all():
                reason = f"{module.name!r} has values over {LARGEST[code]:g}, the most of {code}"
                raise AdapterNotMade((reason,), "Pass --dtype float32 or bfloat16.")
        return rounded


class _MixedDelta:
    """PEFT's element-wise combination of the deltas s B A of one module, block by block."""

    def __init__(self, module: Module, factors: Sequence[Factors], settings: Settings) -> None:
        self._factors = factors
        self._terms = module.terms
        self._settings = settings
        self._name = module.name
        self._how = _mix(settings.method)
        self._density = 1.0 if settings.density is None else settings.density
        self._cuts: list[mixing.Cut | None] = [None] * len(factors)
        if self._how.pruning == "magnitude" and self._density < 1:
            keep = mixing.keep_count(self._density, self.shape[0] * self.shape[1])
            self._cuts = [
                mixing.find_cut(lambda n=n: self._deltas(n), keep)  # type: ignore[misc]
                for n in range(len(factors))
            ]

    @property
    def shape(self) -> tuple[int, int]:
        first = self._factors[0]
        return int(first.b.shape[0]), int(first.a.shape[1])

    def rows(self, start: int, stop: int) -> Array:
        pruned = []
        for number, term in enumerate(self._terms):
            block = self._delta(number, start, stop)
            cut = self._cuts[number]
            if cut is not None:
                block = block * cut.keeps(block, start * self.shape[1])
            elif self._how.pruning == "random" and self._density < 1:
                keys = (self._settings.seed, _identity(term.spec), self._name, "delta", start)
                block = mixing.prune_randomly(block, self._density, *keys)
            pruned.append(block)
        weights = [term.weight for term in self._terms]
        return mixing.mix(pruned, weights, self._how, self._settings.majority)

    def _deltas(self, number: int) -> Iterator[Array]:
        return (self._delta(number, *block) for block in svd.blocks(self.shape))

    def _delta(self, number: int, start: int, stop: int) -> Array:
        one = self._factors[number]
        scale = np.float32(self._terms[number].scale)
        block: Array = (one.b[start:stop].astype(np.float32) @ one.a.astype(np.float32)) * scale
        return block


def _prune(
    tensor: Array, pruning: mixing.Pruning, settings: Settings, keys: tuple[str, ...]
) -> Array:
    density = settings.density
    if density is None or density >= 1 or pruning == "none":
        return tensor
    if pruning == "random":
        return mixing.prune_randomly(tensor, density, settings.seed, *keys)
    cut = mixing.find_cut(lambda: (tensor,), mixing.keep_count(density, tensor.size))
    return tensor * cut.keeps(tensor, 0)


def _identity(spec: AdapterSpec) -> str:
    """Return the digest of an adapter's weights, so that its draws are its own in any order."""
    return next(file.sha256 for file in spec.files if file.name == WEIGHTS)
