"""The vote on the sign of each element (TIES; Yadav et al., arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adreg.registry.merge.methods.method import Sign
from adreg.registry.tensors.arrays import Array


def agreeing(deltas: Sequence[Array], sign: Sign) -> list[Array]:
    """Return for each delta a mask of the elements that have the elected sign.

    Elected is the sign of the sum ("total") or of the sum of the signs ("frequency"); a
    sum of zero elects plus, and an element of zero agrees with neither. So both peft
    0.21.2 (merge_utils.calculate_majority_sign_mask) and mergekit 0.1.5 (get_mask; it
    calls the two "sum" and "count").
    """
    total = np.zeros_like(deltas[0])
    for delta in deltas:
        total += np.sign(delta) if sign == "frequency" else delta
    plus = total >= 0
    return [np.where(plus, delta > 0, delta < 0) for delta in deltas]
