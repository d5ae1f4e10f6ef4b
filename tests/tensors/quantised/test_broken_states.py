"""States of quantisation that lie are named, and never decoded to something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import quantising
import torch

from adreg.registry.bases.dequantised import dequantised
from adreg.registry.errors import AdregError
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import read_layout

Edit = Callable[[dict[str, torch.Tensor]], object]


def text(value: str) -> torch.Tensor:
    """Return text as a state's bytes."""
    return torch.tensor(list(value.encode()), dtype=torch.uint8)


STATE = "weight.quant_state.bitsandbytes__nf4"

EDITS: dict[str, tuple[str, Edit, str]] = {
    "no absmax": ("bitsandbytes 4-bit", lambda t: t.pop("weight.absmax"), "is missing"),
    "no JSON": ("bitsandbytes 4-bit", lambda t: t.update({STATE: text("{")}), "is not JSON"),
    "no shape": ("bitsandbytes 4-bit", lambda t: t.update({STATE: text("{}")}), "does not say"),
    "negative": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text('{"shape": [-4, 8], "blocksize": 64}')}),
        "does not say",
    ),
    "endless block": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text('{"shape": [48, 64], "blocksize": 1000000000000}')}),
        "does not say",
    ),
    "endless offset": (
        "bitsandbytes 4-bit, nested",
        lambda t: t.update({STATE: text('{"nested_offset": 1' + "0" * 400 + ', "shape": [8]}')}),
        "does not say",
    ),
    "other shape": (
        "bitsandbytes 4-bit",
        lambda t: t.update({STATE: text('{"shape": [4, 8], "blocksize": 64}')}),
        "does not fit the shape",
    ),
    "short SCB": ("LLM.int8", lambda t: t.update(SCB=torch.ones(3)), "does not fit"),
    "other format": (
        "LLM.int8",
        lambda t: t.update(weight_format=torch.tensor(1, dtype=torch.uint8)),
        "does not decode",
    ),
    "other scales": ("FP8, rows", lambda t: t.update(weight_scale=torch.ones(7)), "not decode"),
    "no scales": ("FP8, rows", lambda t: t.pop("weight_scale"), "not decode"),
    "strange shape": (
        "packed 4-bit",
        lambda t: t.update(weight_shape=torch.tensor([0, 4])),
        "is not the shape",
    ),
    "other packing": (
        "packed 4-bit",
        lambda t: t.update(weight_shape=torch.tensor([48, 72])),
        "not decode",
    ),
    "no zeros": ("GPTQ 4-bit", lambda t: t.pop("qzeros"), "not decode"),
    "three bits": (
        "GPTQ 4-bit",
        lambda t: t.update(qzeros=t["qzeros"][:, :3].contiguous()),
        "not decode",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_refused(tmp_path: Path, case: str) -> None:
    """What does not fit together is refused with the tensor's name."""
    name, edit, words = EDITS[case]
    stored, _ = quantising.MAKERS[name]((48, 64), np.random.default_rng(0))
    edit(stored)
    folder = quantising.save(tmp_path, {"a.up_proj." + end: t for end, t in stored.items()})
    layout = read_layout(folder)

    with pytest.raises(AdregError, match=words) as caught:
        dequantised(layout, {})
    assert "a.up_proj." in str(caught.value)


@pytest.mark.parametrize("number", [-1, 8])
def test_group_that_is_not_there(tmp_path: Path, number: int) -> None:
    """A g_idx beyond the groups is refused when it is read, not taken from the other end."""
    stored, _ = quantising.gptq((48, 64), np.random.default_rng(0), 4)
    stored["g_idx"][3] = number
    folder = quantising.save(tmp_path, {"a.up_proj." + end: t for end, t in stored.items()})
    _, decoders, _ = dequantised(read_layout(folder), {})

    with TensorReader() as reader, pytest.raises(AdregError, match="no scale"):
        decoders["a.up_proj.weight"].read(reader, 0, 100)


def test_half_experts(tmp_path: Path) -> None:
    """Blocks of MXFP4 without their scales are refused."""
    stored, _ = quantising.mxfp4(2, 8, 32, np.random.default_rng(0))
    folder = quantising.save(tmp_path, {"experts.down_proj_blocks": stored["_blocks"]})

    with pytest.raises(AdregError, match="is missing"):
        dequantised(read_layout(folder), {})
