"""How far the answers of two models are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adreg.registry.trial.loading import import_packages


@dataclass(frozen=True, slots=True)
class Distance:
    """How far outputs are from those of a reference, over all inputs and positions.

    ``largest``, ``mean`` and ``rms`` are of the absolute differences, as shares of the
    standard deviation of the reference's outputs. ``divergence`` is the mean over positions
    of the Kullback-Leibler divergence from the reference's softmax, in nats; ``agreement``
    the share of positions with the same largest output. Both are None for outputs that
    are no logits of two classes or more.
    """

    largest: float
    mean: float
    rms: float
    divergence: float | None
    agreement: float | None


def distance(
    reference: Sequence[Any],
    other: Sequence[Any],
    *,
    unit: float | None = None,
    logits: bool = True,
) -> Distance:
    """Return how far ``other`` is from ``reference``: torch tensors (positions, classes), pairwise.

    All must be finite. Computed in float64, a tensor at a time. ``logits`` is whether a
    softmax over the last dimension means something; ``unit`` is what distances are shares
    of, the reference's spread unless given.
    """
    torch, _, _ = import_packages()
    count, largest, total, squares = 0, 0.0, 0.0, 0.0
    positions, divergence, agreeing = 0, 0.0, 0
    for ours, theirs in zip(other, reference, strict=True):
        a, b = ours.double(), theirs.double()
        apart = (a - b).abs()
        count += apart.numel()
        largest = max(largest, float(apart.max()))
        total += float(apart.sum())
        squares += float((apart**2).sum())
        logits = logits and b.shape[-1] > 1
        if logits:
            log_p, log_q = torch.log_softmax(b, -1), torch.log_softmax(a, -1)
            divergence += float((log_p.exp() * (log_p - log_q)).sum())
            agreeing += int((a.argmax(-1) == b.argmax(-1)).sum())
            positions += b.shape[0]
    unit = unit or spread(reference) or 1.0
    return Distance(
        largest / unit,
        total / count / unit,
        math.sqrt(squares / count) / unit,
        # A sum of roundings of a divergence that is zero may come out below it.
        max(0.0, divergence / positions) if logits else None,
        agreeing / positions if logits else None,
    )


def spread(outputs: Sequence[Any]) -> float:
    """Return the standard deviation of all elements of torch tensors."""
    count = sum(one.numel() for one in outputs)
    mean = sum(float(one.double().sum()) for one in outputs) / count
    return math.sqrt(sum(float(((one.double() - mean) ** 2).sum()) for one in outputs) / count)
