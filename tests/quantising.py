"""Quantised weights made from the published formulas: what is stored, and what it means.

Nothing here is shared with the decoders: codes, scales and zeros are drawn by a seeded
generator, the weight is computed from them element by element, and they are packed with
plain loops.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from factory import edit_config, edit_tensors
from numpy.typing import NDArray
from safetensors.torch import save_file

Array = NDArray[Any]
Made = tuple[dict[str, torch.Tensor], Array]
"""Stored tensors, by what follows the module's name, and the weight (out, in) in float64."""

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
"""OCP Microscaling Formats v1.0, section 5.3.3."""

GROUP = 8
"""Inputs that share a scale."""


def _scales(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(rng.uniform(0.004, 0.03, shape)).to(dtype)


def _exact(tensor: torch.Tensor) -> Array:
    return tensor.to(torch.float64).numpy()


def _words(codes: Array, bits: int) -> torch.Tensor:
    """Pack each row of unsigned codes into int32, first code in the lowest bits."""
    rows, columns = codes.shape
    words = np.zeros((rows, -(-columns * bits // 32)), np.uint64)
    for row in range(rows):
        for column in range(columns):
            words[row, column * bits // 32] |= np.uint64(int(codes[row, column])) << np.uint64(
                column * bits % 32
            )
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def llm_int8(shape: tuple[int, int], rng: np.random.Generator) -> Made:
    """W = q * SCB / 127, one SCB a row."""
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    scb = _scales(rng, (shape[0],), torch.float32)
    stored = {
        "weight": torch.from_numpy(codes),
        "SCB": scb,
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return stored, codes * _exact(scb)[:, None] / 127


def four_bit(shape: tuple[int, int], rng: np.random.Generator, *, nested: bool = False) -> Made:
    """W[i] = map[code] * absmax[i // 64], with absmax itself in 8 bits if nested."""
    count, size, outer = shape[0] * shape[1], 64, 4  # 4: so that small weights have several
    levels = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    codes = rng.integers(0, 16, count)
    blocks = -(-count // size)
    state = {"quant_type": "nf4", "blocksize": size, "dtype": "bfloat16", "shape": list(shape)}
    stored = {
        "weight": torch.from_numpy((codes[0::2] << 4 | codes[1::2]).astype(np.uint8))[:, None],
        "weight.quant_map": torch.from_numpy(levels),
    }
    if nested:
        state |= {"nested_blocksize": outer, "nested_dtype": "float32", "nested_offset": 0.7}
        inner = rng.uniform(-1, 1, 256).astype(np.float32)
        which = rng.integers(0, 256, blocks)
        maxima = rng.uniform(0.1, 0.3, -(-blocks // outer)).astype(np.float32)
        stored |= {
            "weight.absmax": torch.from_numpy(which.astype(np.uint8)),
            "weight.nested_absmax": torch.from_numpy(maxima),
            "weight.nested_quant_map": torch.from_numpy(inner),
        }
        absmax = [float(inner[which[j]]) * float(maxima[j // outer]) + 0.7 for j in range(blocks)]
    else:
        plain = rng.uniform(0.1, 0.3, blocks).astype(np.float32)
        stored["weight.absmax"] = torch.from_numpy(plain)
        absmax = [float(value) for value in plain]
    text = json.dumps(state).encode()
    stored["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    weight = [float(levels[codes[i]]) * absmax[i // size] for i in range(count)]
    return stored, np.array(weight).reshape(shape)


def fp8(shape: tuple[int, int], rng: np.random.Generator, block: tuple[int, int], end: str) -> Made:
    """W = q * s, one s for a block; the last blocks may be smaller."""
    codes = torch.tensor(rng.normal(0, 20, shape)).to(torch.float8_e4m3fn)
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    scale = _scales(rng, grid, torch.float32 if end == "_scale_inv" else torch.bfloat16)
    exact = _exact(scale)
    weight = _exact(codes)
    for row in range(shape[0]):
        for column in range(shape[1]):
            weight[row, column] *= exact[row // block[0], column // block[1]]
    return {"weight": codes, f"weight{end}": scale}, weight


def mxfp8(shape: tuple[int, int], rng: np.random.Generator) -> Made:
    """W = q * 2^(e - 127), one byte e for 8 inputs."""
    codes = torch.tensor(rng.normal(0, 20, shape)).to(torch.float8_e4m3fn)
    exponents = rng.integers(118, 124, (shape[0], shape[1] // GROUP))
    stored = {"weight": codes, "weight_scale": torch.from_numpy(exponents.astype(np.uint8))}
    return stored, _exact(codes) * np.repeat(2.0 ** (exponents - 127), GROUP, axis=1)


def int8_zero(shape: tuple[int, int], rng: np.random.Generator) -> Made:
    """W = (q - z) * s, one s and z a row."""
    codes = rng.integers(-128, 128, shape).astype(np.int8)
    zero = rng.integers(-20, 20, (shape[0], 1)).astype(np.int8)
    scale = _scales(rng, (shape[0], 1), torch.bfloat16)
    stored = {
        "weight": torch.from_numpy(codes),
        "weight_scale": scale,
        "weight_zero_point": torch.from_numpy(zero),
    }
    return stored, (codes.astype(int) - zero) * _exact(scale)


def packed_integers(
    shape: tuple[int, int],
    rng: np.random.Generator,
    bits: int,
    *,
    zeros: bool = False,
    ordered: bool = False,
) -> Made:
    """W = (q - z) * s, q and z stored plus 2^(bits - 1), one s and z for 8 inputs of a row."""
    half = 1 << (bits - 1)
    codes = rng.integers(-half, half, shape)
    groups = np.arange(shape[1]) // GROUP
    if ordered:
        groups = rng.permutation(groups)
    scale = _scales(rng, (shape[0], shape[1] // GROUP), torch.bfloat16)
    stored = {
        "weight_packed": _words(codes + half, bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(shape),
    }
    zero = np.zeros(scale.shape, int)
    if zeros:
        zero = rng.integers(-half, half, scale.shape)
        stored["weight_zero_point"] = _words((zero + half).T, bits).T.contiguous()
    if ordered:
        stored["weight_g_idx"] = torch.from_numpy(groups.astype(np.int32))
    return stored, (codes - zero[:, groups]) * _exact(scale)[:, groups]


def gptq(
    shape: tuple[int, int],
    rng: np.random.Generator,
    bits: int,
    *,
    kept: bool = False,
    ordered: bool = False,
) -> Made:
    """W = s * (q - z); zeros are stored minus one unless ``kept``; g_idx gives the groups."""
    outputs, inputs = shape
    codes = rng.integers(0, 1 << bits, (inputs, outputs))
    zero = rng.integers(0, 1 << bits, (inputs // GROUP, outputs))
    zero[0, 0] = 0  # stored as all ones where one is taken off
    groups = np.arange(inputs) // GROUP
    if ordered:
        groups = rng.permutation(groups)
    scale = _scales(rng, zero.shape, torch.float16)
    stored = {
        "qweight": _words(codes.T, bits).T.contiguous(),
        "qzeros": _words((zero - (0 if kept else 1)) % (1 << bits), bits),
        "scales": scale,
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    return stored, ((codes - zero[groups]) * _exact(scale)[groups]).T


def awq(shape: tuple[int, int], rng: np.random.Generator) -> Made:
    """W = s * (q - z) of 4 bits; nibble k of a word holds column (0 2 4 6 1 3 5 7)[k]."""
    outputs, inputs = shape
    codes = rng.integers(0, 16, (inputs, outputs))
    zero = rng.integers(0, 16, (inputs // GROUP, outputs))
    scale = _scales(rng, zero.shape, torch.float16)
    order = [word * 8 + k for word in range(outputs // 8) for k in (0, 2, 4, 6, 1, 3, 5, 7)]
    stored = {
        "qweight": _words(codes[:, order], 4),
        "qzeros": _words(zero[:, order], 4),
        "scales": scale,
    }
    groups = np.arange(inputs) // GROUP
    return stored, ((codes - zero[groups]) * _exact(scale)[groups]).T


def mxfp4(experts: int, outputs: int, inputs: int, rng: np.random.Generator) -> Made:
    """W[e, i, o] = E2M1[code] * 2^(s - 127), one s for 32 inputs; returned (e, in, out)."""
    codes = rng.integers(0, 16, (experts, outputs, inputs))
    exponents = rng.integers(117, 125, (experts, outputs, inputs // 32))
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    stored = {
        "_blocks": torch.from_numpy(blocks.reshape(experts, outputs, inputs // 32, 16)),
        "_scales": torch.from_numpy(exponents.astype(np.uint8)),
    }
    weight = np.array(E2M1)[codes] * np.repeat(2.0 ** (exponents - 127), 32, axis=2)
    return stored, weight.transpose(0, 2, 1)


Maker = Callable[[tuple[int, int], np.random.Generator], Made]

MAKERS: dict[str, Maker] = {
    "LLM.int8": llm_int8,
    "bitsandbytes 4-bit": four_bit,
    "bitsandbytes 4-bit, nested": lambda s, r: four_bit(s, r, nested=True),
    "FP8, blocks": lambda s, r: fp8(s, r, (16, 16), "_scale_inv"),
    "FP8, hanging blocks": lambda s, r: fp8(s, r, (20, 24), "_scale_inv"),
    "FP8, rows": lambda s, r: fp8(s, r, (1, s[1]), "_scale"),
    "FP8, one scale": lambda s, r: fp8(s, r, s, "_scale"),
    "MXFP8": mxfp8,
    "int8 with zeros": int8_zero,
    "packed 4-bit": lambda s, r: packed_integers(s, r, 4),
    "packed 4-bit with zeros": lambda s, r: packed_integers(s, r, 4, zeros=True),
    "packed 4-bit, ordered": lambda s, r: packed_integers(s, r, 4, ordered=True),
    "packed 8-bit": lambda s, r: packed_integers(s, r, 8, zeros=True),
    "packed 2-bit": lambda s, r: packed_integers(s, r, 2),
    "GPTQ 4-bit": lambda s, r: gptq(s, r, 4),
    "GPTQ 4-bit, ordered": lambda s, r: gptq(s, r, 4, ordered=True),
    "GPTQ 8-bit": lambda s, r: gptq(s, r, 8),
    "GPTQ 2-bit": lambda s, r: gptq(s, r, 2),
    "GPTQ v2": lambda s, r: gptq(s, r, 4, kept=True),
    "AWQ": awq,
}
"""Each layout that has one weight a module."""

_SAID: dict[str, dict[str, Any]] = {
    "LLM.int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "bitsandbytes 4-bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "FP8, blocks": {"quant_method": "fp8", "weight_block_size": [16, 16]},
    "FP8, hanging blocks": {"quant_method": "fp8", "weight_block_size": [20, 24]},
    "FP8, rows": {"quant_method": "fbgemm_fp8"},
    "FP8, one scale": {"quant_method": "modelopt"},
    "MXFP8": {"quant_method": "mxfp8"},
    "GPTQ": {"quant_method": "gptq"},
    "GPTQ v2": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
    "AWQ": {"quant_method": "awq", "version": "gemm"},
    "": {"quant_method": "compressed-tensors"},
}

CONFIGS: dict[str, dict[str, Any]] = {
    name: _SAID[max((start for start in _SAID if name.startswith(start)), key=len)]
    for name in MAKERS
}
"""What the configuration of each says."""


def quantise(folder: Path, name: str, seed: int = 0) -> dict[str, Array]:
    """Put a quantised weight in the place of every ``*_proj.weight`` of a saved base.

    Returns the weights that they mean, in float64, by name.
    """
    rng = np.random.default_rng(seed)
    expected: dict[str, Array] = {}

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for weight in sorted(n for n in tensors if n.endswith("_proj.weight")):
            rows, columns = tensors.pop(weight).shape
            stored, expected[weight] = MAKERS[name]((rows, columns), rng)
            module = weight.removesuffix("weight")
            tensors.update({module + end: tensor for end, tensor in stored.items()})

    edit_tensors(folder, edit, "model.safetensors")
    edit_config(folder, quantization_config=CONFIGS[name])
    return expected


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Save tensors as a checkpoint's only file; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder
