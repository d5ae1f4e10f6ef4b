"""Random numbers that belong to a name: the same whatever the order, threads and machine."""

from __future__ import annotations

import numpy as np

from adreg.registry import digest


def generator(*names: str | int) -> np.random.Generator:
    """Return a generator seeded by these names alone (Philox: Salmon et al., 2011)."""
    seed = int(digest.of_value(list(names)), 16)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
