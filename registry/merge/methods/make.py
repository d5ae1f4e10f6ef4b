"""From a method's name to what carries it out on one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from adreg.registry.merge.methods.combination import Combination
from adreg.registry.merge.methods.draws import Draws
from adreg.registry.merge.methods.masks import Chance, Everything, Magnitude, Mask, RankedChance
from adreg.registry.merge.methods.method import Method
from adreg.registry.merge.methods.sce import Sce
from adreg.registry.merge.methods.span import InSpan
from adreg.registry.merge.methods.sparse import MergekitSum, PeftSum

_MaskOf = Callable[[int], Mask]
"""From a delta's place in the recipe to its mask."""


def make_combination(  # noqa: PLR0913, PLR0917  # the method, the tensor, the recipe's weights
    method: Method,
    tensor: str,
    rows: int,
    columns: int,
    weights: Sequence[float],
    dtype: np.dtype[Any] | type[np.floating[Any]],
) -> Combination:
    """Return the method at work on one (rows, columns) tensor, one weight for each delta.

    ``dtype`` is that of all blocks, float32 or float64. ``tensor`` is the tensor's name,
    which random choices depend on. Raises ValueError when the method cannot combine so many.
    """
    method.check_inputs(len(weights))
    dtype = np.dtype(dtype)
    density = 1.0 if method.density is None else method.density
    if method.name == "sce":
        return Sce(density, method.sign or "total", weights, rows, columns, dtype)
    if method.name in {"slerp", "nuslerp", "model_stock", "karcher"}:
        return InSpan(method, weights)
    mask_of = _mask_of(method, tensor, rows, columns, dtype)
    masks = [mask_of(position) for position in range(len(weights))]
    if not method.name.startswith("peft_"):
        return MergekitSum(method, masks, weights, columns, sign=method.sign)
    by_chance = method.name in {"peft_dare_linear", "peft_dare_ties"}
    return PeftSum(masks, weights, columns, sign=method.sign, divisor=density if by_chance else 1.0)


def _mask_of(method: Method, tensor: str, rows: int, columns: int, dtype: np.dtype[Any]) -> _MaskOf:
    density = method.density
    if density is None or density == 1:
        return lambda _: Everything()
    seed = method.seed or 0
    elements = rows * columns
    if method.epsilon is not None:
        epsilon = method.epsilon
        return lambda place: RankedChance(
            density, epsilon, Draws(seed, tensor, place), rows, columns
        )
    if method.seed is not None:
        return lambda place: Chance(density, Draws(seed, tensor, place), columns)
    kept, dropped = int(density * elements), 0
    if method.gamma is not None:
        # mergekit 0.1.5, sparsify.magnitude_outliers: fewer large ones go where density asks.
        dropped = min(int(method.gamma * elements), elements - kept)
    elif method.name == "ties":
        kept = max(1, kept)  # mergekit keeps one at least, PEFT may keep none
    magnitude = partial(Magnitude, kept, dropped, rows, columns, dtype)
    return lambda _: magnitude()
