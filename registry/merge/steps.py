"""From a placement of adapter tensors to the terms that carry it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adreg.registry.adapters.spec import Part
from adreg.registry.bases.placement import Kind, Placement
from adreg.registry.merge.terms import (
    Contribution,
    Decomposed,
    FactorView,
    Full,
    Hadamard,
    Kronecker,
    LowRank,
    Module,
    Normalised,
    Rows,
    Scaling,
    Term,
    Vector,
)

_PLAIN = frozenset({Kind.LINEAR, Kind.CONVOLUTION})
"""Layers whose W is (out, in), as B A is; the others hold its transpose."""


def contribution(adapter: int, weight: float, placements: Sequence[Placement]) -> Contribution:
    """Return what one adapter's placements at one target do to it.

    What replaces W comes first, DoRA's normalisation last.
    """
    terms: list[Term] = []
    for placement in placements:
        terms += _terms(placement)
    terms.sort(key=lambda term: (not isinstance(term, Full), isinstance(term, Normalised)))
    if terms and isinstance(terms[0], Full):
        # A matrix that is saved along is what was left: PEFT loads it after the decomposition.
        terms = [term for term in terms if not isinstance(term, Decomposed)]
    if len(terms) == 2 and isinstance(terms[0], Full) and isinstance(terms[1], Module):
        terms = [replace(terms[1], given=terms[0].key)]
    return Contribution(adapter, weight, tuple(terms))


def _terms(placement: Placement) -> list[Term]:  # noqa: PLR0911  # one line a kind
    kind = placement.kind
    if kind is Kind.FULL:
        return [Full((*placement.tensors, *placement.also)[0].key)]
    if kind is Kind.BIAS:
        return [Vector(placement.tensors[0].key, placement.scale)]
    if kind is Kind.ROWS:
        return [Rows(placement.tensors[0].key, placement.numbers)]
    if kind is Kind.SCALING:
        return [_scaling(placement)]
    if kind is Kind.MODULE:
        return [_module(placement)]
    if kind is Kind.EXPERTS:
        return _experts(placement)
    if own := placement.own():
        return [_other(placement, {name: tensor.key for name, tensor in own.items()})]
    return _lora(placement)


def _lora(placement: Placement) -> list[Term]:
    a = placement.part(Part.LORA_A, Part.EMBEDDING_A)
    b = placement.part(Part.LORA_B, Part.EMBEDDING_B)
    m = placement.part(Part.MAGNITUDE)
    if a is None or b is None:
        raise TypeError(f"a {placement.kind} without both factors")
    plain = placement.kind in _PLAIN
    rank = a.info.shape[0]
    terms: list[Term] = [_pair(a.key, b.key, rank, placement.scale, plain=plain)]
    if placement.taken is not None:
        terms.insert(0, Decomposed(placement.taken, rank, placement.scale))
    if m is not None:
        terms.append(Normalised(m.key, "rows" if plain else "columns"))
    return terms


def _pair(a: str, b: str, rank: int, scale: float, *, plain: bool) -> LowRank:
    """Return s B A of A (r, in) and B (out, r) for a W that is (out, in) if ``plain``."""
    out, columns = FactorView(b, transposed=False), FactorView(a, transposed=True)
    return LowRank(out, columns, rank, scale) if plain else LowRank(columns, out, rank, scale)


def _experts(placement: Placement) -> list[Term]:
    """Return a product for each expert that the target holds, of its share of the factors.

    Expert e has the rows [e r, (e + 1) r) of A and every E-th column of B from e on
    (peft 0.21.2, tuners/lora/layer.py, ``ParamWrapper.get_delta_weight``).
    """
    a, b = placement.part(Part.LORA_A), placement.part(Part.LORA_B)
    expert = placement.expert
    if a is None or b is None or expert is None:
        raise TypeError(f"{placement.target} is no stack of experts")
    rank, count = expert.rank, expert.count
    out, width = b.info.shape[0], a.info.shape[1]
    rows = width if expert.flipped else out
    skipped, height = (
        (0, rows) if expert.rows is None else (expert.rows[0], expert.rows[1] - expert.rows[0])
    )
    terms: list[Term] = []
    for index in range(count) if expert.index is None else (expert.index,):
        inputs = FactorView(a.key, transposed=True, inner_start=index * rank)
        outputs = FactorView(b.key, transposed=False, inner_start=index, inner_step=count)
        left, right = (inputs, outputs) if expert.flipped else (outputs, inputs)
        left = replace(left, outer_start=skipped)
        start = 0 if expert.index is not None else index * height
        terms.append(LowRank(left, right, rank, placement.scale, rows=(start, start + height)))
    return terms


def _scaling(placement: Placement) -> Scaling:
    vector = placement.own()["ia3_l"]
    outputs = vector.info.shape[0] != 1
    plain = placement.layer is not Kind.CONV1D
    return Scaling(vector.key, "rows" if outputs == plain else "columns")


def _module(placement: Placement) -> Module:
    if placement.layer is None:
        raise TypeError(f"{placement.target} is of no kind of layer")
    return Module(placement.module, placement.parameter, placement.layer, *placement.holds)


def _other(placement: Placement, keys: dict[str, str]) -> Term:
    """Return the delta of AdaLoRA, LoHa or LoKr (see ``adapters.products``)."""
    plain, scale = placement.kind in _PLAIN, placement.scale
    ranks = {t.parameter: t.info.shape for t in placement.tensors}
    if "lora_E" in keys:
        # Zhang et al., 2023, arXiv 2303.10512: W + s P diag(E) Q.
        rank = ranks["lora_A"][0]
        pair = _pair(keys["lora_A"], keys["lora_B"], rank, scale, plain=plain)
        return LowRank(pair.left, pair.right, rank, scale, middle=keys["lora_E"])
    if "hada_w1_a" in keys:
        # Hyeon-Woo et al., 2022, arXiv 2108.06098: W + s (B1 A1) * (B2 A2), elementwise.
        first, second = (
            _pair(keys[f"{w}_b"], keys[f"{w}_a"], ranks[f"{w}_b"][0], 1.0, plain=plain)
            for w in ("hada_w1", "hada_w2")
        )
        return Hadamard(first, second, scale)
    # Yeh et al., 2024, arXiv 2309.14859: W + s kron(W1, W2).
    sides = [
        tuple(keys[name] for name in (f"lokr_{w}", f"lokr_{w}_a", f"lokr_{w}_b") if name in keys)
        for w in ("w1", "w2")
    ]
    return Kronecker(sides[0], sides[1], scale, transposed=not plain)
