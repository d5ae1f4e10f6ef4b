"""Random draws that belong to an element, whoever asks for it and in whatever pieces.

Element i of the tensor's flat (row-major) view gets word i of numpy's Philox4x64 stream
whose 128-bit key is the start of SHA-256 over (seed, tensor, position), so the draws do not
depend on tiles, threads, or the order of tensors. Philox is counter-based (Salmon et al.,
SC 2011): block i // 4 of four words is computed without those before. Raw words are used
because numpy promises their stream for good (NEP 19), but not that of ``Generator``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from adreg.registry.tensors.arrays import Array

_WORDS = 4
"""Words in one block of Philox4x64."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one delta: ``seed`` of the method, name of the tensor, place in the recipe."""

    seed: int
    tensor: str
    position: int

    def uniform(self, start: int, count: int) -> Array:
        """Return the draws of flat elements [start, start + count): float64 in [0, 1)."""
        parts = json.dumps(["adreg draws", self.seed, self.tensor, self.position])
        key = np.frombuffer(hashlib.sha256(parts.encode()).digest()[:16], "<u8")
        block, skipped = divmod(start, _WORDS)
        words = np.random.Philox(key=key, counter=block).random_raw(skipped + count)[skipped:]
        uniform: Array = (words >> np.uint64(11)) * 2.0**-53  # 53 bits, as many as a float64 holds
        return uniform
