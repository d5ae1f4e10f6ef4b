"""Where the tensors of a whole fine-tuned checkpoint go in the base that it was tuned from."""

from __future__ import annotations

from adreg.registry.adapters.spec import AdapterTensor, Part
from adreg.registry.bases.base import Base
from adreg.registry.bases.placement import Fit, Kind, Placement, shape_text
from adreg.registry.tensors import dtypes


def fit_full(full: Base, base: Base) -> Fit:
    """Place every float tensor of a checkpoint on the base's tensor of the same name.

    What one of the two has and the other lacks is a fault.
    """
    placements, faults = [], []
    names = {tensor.name for tensor in base.layout}
    for info in full.layout:
        if info.name not in names:
            faults.append(f"the base has no tensor {info.name!r}, which the checkpoint has")
            continue
        mine = base.layout[info.name]
        if info.shape != mine.shape:
            faults.append(
                f"{info.name!r} is {shape_text(info.shape)} in the checkpoint"
                f" and {shape_text(mine.shape)} in the base"
            )
        elif info.dtype in dtypes.FLOATS and mine.dtype in dtypes.FLOATS:
            tensor = AdapterTensor(info.name, "", Part.FULL, info.name, info)
            placements.append(Placement(Kind.FULL, info.name, info.name, (tensor,)))
        elif info.dtype != mine.dtype:
            faults.append(f"{info.name!r} is {info.dtype} in the checkpoint, {mine.dtype} here")
    missing = sorted(names - {info.name for info in full.layout})
    faults += [f"the checkpoint has no tensor {name!r}, which the base has" for name in missing]
    if full.tied != base.tied:
        faults.append("one of the two ties its head to its embedding, the other does not")
    return Fit(tuple(placements), tuple(faults))
