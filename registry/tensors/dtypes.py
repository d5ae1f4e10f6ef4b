"""The element types that a safetensors file may hold, and what they weigh.

Codes and sizes are those of the format (safetensors 0.8, ``Dtype`` in tensor.rs).
This module imports no numpy: listings must start fast.
"""

from __future__ import annotations

BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
}
"""Bits of one element, by the code that stands in the header."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""The types that a delta can be folded into and be read from."""

OUTPUTS: dict[str, str] = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
"""What ``--dtype`` and config.json call the float types, and their codes."""

NAMES: dict[str, str] = {code: name for name, code in OUTPUTS.items()}
"""The names of config.json by code."""


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor; raise ValueError if it does not fill whole bytes."""
    count = 1
    for length in shape:
        count *= length
    bits = count * BITS[dtype]
    if bits % 8:
        raise ValueError(f"{count} elements of {dtype} do not fill whole bytes")
    return bits // 8
