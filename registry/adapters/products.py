"""The shape of the delta that another kind of adapter than LoRA makes, from its tensors' shapes.

The formulas are those of PEFT 0.21.2's layers (tuners/{adalora,loha,lokr,ia3}/layer.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from adreg.registry.adapters.spec import AdapterTensor

Group = Mapping[str, AdapterTensor]
"""The tensors of one module by their own names: ``hada_w1_a``."""

_SETS: Mapping[str, tuple[frozenset[str], ...]] = {
    "ADALORA": (frozenset({"lora_A", "lora_B", "lora_E"}),),
    "LOHA": (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
    "LOKR": tuple(
        frozenset(first | second)
        for first in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
        for second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"})
    ),
    "IA3": (frozenset({"ia3_l"}),),
}


def is_native(peft_type: str, group: Group) -> bool:
    """Whether adreg computes the delta itself: the tensors are those of a linear layer."""
    return group.keys() in _SETS.get(peft_type, ()) and all(
        len(tensor.info.shape) == 2 for tensor in group.values()
    )


def delta_shape(peft_type: str, group: Group) -> tuple[int, int] | None:
    """Return (out, in) of the delta of a native group; None when its tensors disagree.

    IA3's vector has one side of length 1, which stands for any length.
    """
    shapes = {name: tensor.info.shape for name, tensor in group.items()}
    if peft_type == "ADALORA":
        a, b, e = (shapes[f"lora_{name}"] for name in "ABE")
        return (b[0], a[1]) if b[1] == a[0] == e[0] and e[1] == 1 else None
    if peft_type == "LOHA":
        pairs = [(shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"]) for n in (1, 2)]
        sizes = {(a[0], b[1]) for a, b in pairs if a[1] == b[0]}
        agree = len(sizes) == 1 and all(a[1] == b[0] for a, b in pairs)
        return sizes.pop() if agree else None
    if peft_type == "LOKR":
        first, second = _lokr_side(shapes, "w1"), _lokr_side(shapes, "w2")
        if first is None or second is None:
            return None
        return first[0] * second[0], first[1] * second[1]
    shape = shapes["ia3_l"]
    return (shape[0], shape[1]) if 1 in shape else None


def _lokr_side(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int] | None:
    whole = shapes.get(f"lokr_{name}")
    if whole is not None:
        return whole[0], whole[1]
    a, b = shapes[f"lokr_{name}_a"], shapes[f"lokr_{name}_b"]
    return (a[0], b[1]) if a[1] == b[0] else None
