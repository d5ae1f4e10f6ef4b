"""Does this adapter belong on that base? One of three verdicts, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.bases.fit import fit


class Grade(Enum):
    """How well an adapter and a base go together."""

    EXACT = "exact"
    """It fits, and it is known to be the base that the adapter was made for."""
    SAME_SHAPES = "same-shapes"
    """It fits; whether it is that base cannot be known from what is recorded."""
    INCOMPATIBLE = "incompatible"
    """Some of its tensors have no place there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grade and why; for ``incompatible`` the reasons name the offending tensors."""

    grade: Grade
    reasons: tuple[str, ...]
    matched: int
    """Adapter tensors that found their place."""
    total: int
    """All adapter tensors."""


def judge(
    spec: AdapterSpec, base: Base, known_names: frozenset[str], made_for: str | None = None
) -> Verdict:
    """Judge an adapter against a base, from headers alone.

    ``known_names`` are the names under which the base goes (its Hub id, its name in the
    catalog); ``made_for`` is the layout digest of the base that the user recorded for
    the adapter, if any.
    """
    result = fit(spec, base)
    total = len(spec.tensors)
    matched = sum(len(placement.tensors) for placement in result.placements)
    if result.faults:
        return Verdict(Grade.INCOMPATIBLE, result.faults, matched, total)
    if made_for is not None and made_for == base.layout_digest:
        return Verdict(Grade.EXACT, ("it is the base recorded for the adapter",), matched, total)
    if made_for is not None:
        reason = "it fits, but another base is recorded for the adapter"
    elif spec.base_hint is None:
        reason = "the adapter does not name its base"
    elif spec.base_hint not in known_names:
        reason = f"the adapter names its base {spec.base_hint!r}, this one goes by other names"
    elif spec.base_revision and base.revision and spec.base_revision != base.revision:
        reason = f"the adapter wants revision {spec.base_revision}, this is {base.revision}"
    else:
        reason = f"the adapter names its base {spec.base_hint!r}, and this is it"
        return Verdict(Grade.EXACT, (reason,), matched, total)
    return Verdict(Grade.SAME_SHAPES, (reason,), matched, total)
