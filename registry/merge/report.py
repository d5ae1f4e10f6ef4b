"""What a merge did to each tensor, in numbers that tell whether it did what it should."""

from __future__ import annotations

import math
from dataclasses import dataclass

REPORT = "merge_report.json"
"""The report's name in a merged checkpoint's folder."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What happened to one tensor.

    ``changed``: elements that are not the base's (in the output's dtype). ``lost``:
    elements whose delta is not zero and that rounding left as they were. ``delta_norm``
    and ``base_norm``: L2 norms of the delta before rounding, and of W. ``worst_ulps``:
    the largest distance of a sampled element from the same sum in float64, in units in
    the last place of the output at the larger of W and the sum; 0.5 is what correct
    rounding allows. None where no row was computed again, for the reason in ``unmeasured``,
    and for a tensor of no elements.
    """

    name: str
    action: str
    elements: int
    changed: int
    lost: int
    delta_norm: float
    base_norm: float
    worst_ulps: float | None
    unmeasured: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The same over all tensors that inputs touch."""

    tensors: int
    elements: int
    changed: int
    lost: int
    delta_norm: float
    base_norm: float
    worst_ulps: float | None


def total(reports: tuple[TensorReport, ...]) -> Totals:
    """Add up the reports of tensors."""
    ulps = [one.worst_ulps for one in reports if one.worst_ulps is not None]
    return Totals(
        tensors=len(reports),
        elements=sum(one.elements for one in reports),
        changed=sum(one.changed for one in reports),
        lost=sum(one.lost for one in reports),
        delta_norm=math.sqrt(sum(one.delta_norm**2 for one in reports)),
        base_norm=math.sqrt(sum(one.base_norm**2 for one in reports)),
        worst_ulps=max(ulps, default=None),
    )
