"""Each layout decodes to what its published formula says, by any range."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import quantising

from adreg.registry.bases.dequantised import dequantised
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import read_layout
from adreg.registry.tensors.quantised.decoder import Decoder

SHAPE = (48, 64)


def decoder_of(folder: Path, name: str, made: quantising.Made, dtype: str) -> Decoder:
    """Store a made weight and return its decoder."""
    module = "layer.up_proj."
    quantising.save(folder, {module + end: tensor for end, tensor in made[0].items()})
    config = {"quantization_config": quantising.CONFIGS[name]}
    layout, decoders, _ = dequantised(read_layout(folder), config, dtype)
    assert ["layer.up_proj.weight"] == [tensor.name for tensor in layout]
    return decoders["layer.up_proj.weight"]


@pytest.mark.parametrize("name", quantising.MAKERS)
def test_formula(tmp_path: Path, name: str) -> None:
    """In float32 a weight is what its codes and scales say, within float32's rounding."""
    made = quantising.MAKERS[name](SHAPE, np.random.default_rng(1))
    decoder = decoder_of(tmp_path, name, made, "float32")

    with TensorReader() as reader:
        got = decoder.read(reader, 0, decoder.info.count)

    assert SHAPE == decoder.info.shape
    assert np.float32 == got.dtype
    np.testing.assert_allclose(got.reshape(SHAPE), made[1], rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("name", quantising.MAKERS)
def test_rounded_once(tmp_path: Path, name: str) -> None:
    """In 16 bits the values are those of float32, rounded to the nearest."""
    made = quantising.MAKERS[name](SHAPE, np.random.default_rng(2))
    single = decoder_of(tmp_path / "single", name, made, "float32")
    for dtype, half in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        decoder = decoder_of(tmp_path / dtype, name, made, dtype)

        with TensorReader() as reader:
            expected = single.read(reader, 0, 3072).astype(half).astype(np.float32)
            got = decoder.read(reader, 0, 3072)

        assert {"bfloat16": "BF16", "float16": "F16"}[dtype] == decoder.info.dtype
        np.testing.assert_array_equal(expected, got)


@pytest.mark.parametrize("name", quantising.MAKERS)
def test_ranges(tmp_path: Path, name: str) -> None:
    """Any range has the same bits as the same part of the whole."""
    made = quantising.MAKERS[name](SHAPE, np.random.default_rng(3))
    decoder = decoder_of(tmp_path, name, made, "bfloat16")
    rng = np.random.default_rng(4)
    with TensorReader() as reader:
        whole = decoder.read(reader, 0, 3072)
        for _ in range(25):
            start, stop = sorted(int(n) for n in rng.integers(0, 3073, 2))
            np.testing.assert_array_equal(whole[start:stop], decoder.read(reader, start, stop))


def test_experts(tmp_path: Path) -> None:
    """MXFP4 experts come out as (experts, in, out), by ranges across experts too."""
    stored, weight = quantising.mxfp4(3, 24, 64, np.random.default_rng(5))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    folder = quantising.save(tmp_path, {name + end: tensor for end, tensor in stored.items()})
    _, decoders, _ = dequantised(read_layout(folder), {})
    decoder = decoders[name]

    assert (3, 64, 24) == decoder.info.shape
    assert "BF16" == decoder.info.dtype
    flat = weight.reshape(-1)
    with TensorReader() as reader:
        # Exact: two digits of mantissa times a power of two.
        for start, stop in ((0, flat.size), (1500, 3100), (1536, 1537), (7, 1600), (4600, 4608)):
            np.testing.assert_array_equal(flat[start:stop], decoder.read(reader, start, stop))


def test_long_rows(tmp_path: Path) -> None:
    """Columns of a matrix whose rows are long are read row by row, with the same outcome."""
    shape = (6400, 16)  # GPTQ keeps 6400 outputs in a row of 25600 bytes
    made = quantising.gptq(shape, np.random.default_rng(6), 4)
    decoder = decoder_of(tmp_path, "GPTQ 4-bit", made, "float32")

    with TensorReader() as reader:
        got = decoder.read(reader, 1000, 9000)

    np.testing.assert_allclose(got, made[1].reshape(-1)[1000:9000], rtol=3e-7)
