"""A decoded base has the very bits that the libraries' own dequantisation gives."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import quantising
import torch
import transformers

from adreg.registry.bases.base import Base, read_base
from adreg.registry.tensors.arrays import TensorReader


def assert_same(base: Base, expected: dict[str, torch.Tensor]) -> None:
    """Compare every decoded weight, element by element."""
    assert base.decoders
    with TensorReader() as reader:
        for name, decoder in base.decoders.items():
            want = expected[name].to(torch.bfloat16).float().numpy()
            got = decoder.read(reader, 0, decoder.info.count).reshape(decoder.info.shape)
            np.testing.assert_array_equal(want, got, err_msg=name)


def load(folder: Path, **settings: Any) -> Any:
    """Load a model in bfloat16, without the advice that quantisation brings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, **settings
        )


def test_fp8_blocks(tmp_path: Path) -> None:
    """Block scales: transformers, loading with dequantize=True."""
    folder = factory.make_base(tmp_path / "base")
    quantising.quantise(folder, "FP8, blocks")

    settings = transformers.FineGrainedFP8Config(dequantize=True, weight_block_size=(16, 16))
    model = load(folder, quantization_config=settings)

    assert_same(read_base(folder, dequantize=True), model.state_dict())


def test_mxfp4(tmp_path: Path) -> None:
    """gpt-oss: transformers, loading with dequantize=True."""
    config = transformers.GptOssConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=3,
        num_experts_per_tok=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = transformers.GptOssForCausalLM(config)
    torch.nn.Module.to(plain, torch.bfloat16)
    plain.save_pretrained(tmp_path)
    digest = read_base(tmp_path).layout_digest
    rng = np.random.default_rng(0)

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in sorted(n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))):
            experts, inputs, outputs = tensors.pop(name).shape
            stored, _ = quantising.mxfp4(experts, outputs, inputs, rng)
            tensors.update({name + end: tensor for end, tensor in stored.items()})

    factory.edit_tensors(tmp_path, edit, "model.safetensors")
    factory.edit_config(tmp_path, quantization_config={"quant_method": "mxfp4"})

    mxfp4: Any = import_module("transformers.utils.quantization_config").Mxfp4Config
    model = load(tmp_path, quantization_config=mxfp4(dequantize=True))
    base = read_base(tmp_path, dequantize=True)

    assert digest == base.layout_digest
    assert 2 == len(base.decoders)
    assert_same(base, model.state_dict())


BITSANDBYTES: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, twice": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "in another dtype": {"load_in_4bit": True, "bnb_4bit_quant_storage": torch.bfloat16},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", BITSANDBYTES)
def test_bitsandbytes(tmp_path: Path, kind: str, name: str) -> None:
    """Of bitsandbytes on a CPU: quantised, saved and dequantised by transformers, Conv1D too."""
    pytest.importorskip("bitsandbytes")
    plain = factory.make_base(tmp_path / "plain", kind)
    settings = transformers.BitsAndBytesConfig(**BITSANDBYTES[name])
    folder = tmp_path / "quantised"
    load(plain, quantization_config=settings).save_pretrained(folder)

    base = read_base(folder, dequantize=True)

    assert read_base(plain).layout_digest == base.layout_digest
    expected = load(folder).dequantize(dtype=torch.bfloat16).state_dict()
    # Dequantised, gpt2's Conv1D is left as a Linear, (out, in).
    if kind == "gpt2":
        expected |= {key: expected[key].T for key in base.decoders}
    assert_same(base, expected)


COMPRESSED: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "packed groups": ("pack", {"num_bits": 4, "strategy": "group", "group_size": 16}, (1, 16)),
    "packed groups with zeros": (
        "pack",
        {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
        (1, 16),
    ),
    "packed rows": ("pack", {"num_bits": 8, "strategy": "channel"}, (1, 1 << 20)),
    "integers": ("naive", {"num_bits": 8, "strategy": "channel"}, (1, 1 << 20)),
    "float rows": ("naive", {"num_bits": 8, "type": "float", "strategy": "channel"}, (1, 1 << 20)),
    "float": ("naive", {"num_bits": 8, "type": "float", "strategy": "tensor"}, (1 << 20, 1 << 20)),
    "float blocks": (
        "naive",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [20, 24]},
        (20, 24),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_tensors(tmp_path: Path, name: str) -> None:
    """Of compressed-tensors: compressed and decompressed by its own compressors."""
    pytest.importorskip("compressed_tensors")
    compressors: Any = import_module("compressed_tensors.compressors")
    quantization: Any = import_module("compressed_tensors.quantization")
    kind, settings, (tall, wide) = COMPRESSED[name]
    compressor: Any = {
        "pack": compressors.pack_quantized.PackedQuantizationCompressor,
        "naive": compressors.naive_quantized.NaiveQuantizationCompressor,
    }[kind]
    weights = quantization.QuantizationArgs(**settings)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    folder = factory.make_base(tmp_path / "base")
    expected: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for weight in sorted(n for n in tensors if n.endswith("_proj.weight")):
            rows, columns = tensors[weight].shape
            grid = (-(-rows // tall), -(-columns // wide))
            scale = torch.rand(grid, generator=generator) * 0.02 + 0.01
            state = {"weight": tensors.pop(weight), "weight_scale": scale.to(torch.bfloat16)}
            if settings.get("symmetric") is False:
                zeros = torch.randint(-8, 8, grid, generator=generator, dtype=torch.int8)
                state["weight_zero_point"] = zeros
            stored = compressor.compress(state, scheme)
            expected[weight] = compressor.decompress(stored, scheme)["weight"]
            module = weight.removesuffix("weight")
            tensors.update({module + end: t.contiguous() for end, t in stored.items()})

    factory.edit_tensors(folder, edit, "model.safetensors")
    groups = {"group_0": json.loads(scheme.model_dump_json())}
    said = {"quant_method": "compressed-tensors", "config_groups": groups}
    factory.edit_config(folder, quantization_config=said)

    assert_same(read_base(folder, dequantize=True), expected)


@pytest.mark.filterwarnings("ignore")
def test_awq_by_compressed_tensors(tmp_path: Path) -> None:
    """AWQ: the checkpoint that compressed-tensors makes of it decodes to the same bits."""
    pytest.importorskip("compressed_tensors")
    converters: Any = import_module("compressed_tensors.entrypoints.convert.converters")
    folder = factory.make_base(tmp_path / "base")
    quantising.quantise(folder, "AWQ")
    other = Path(shutil.copytree(folder, tmp_path / "converted"))
    said = {"quant_method": "awq", "bits": 4, "group_size": quantising.GROUP, "version": "gemm"}
    converter: Any = converters.AutoAWQConverter.from_autoawq_config(said, targets=("re:.*",))
    factory.edit_tensors(other, converter.process, "model.safetensors")
    factory.edit_config(other, quantization_config={"quant_method": "compressed-tensors"})

    ours, theirs = (read_base(path, dequantize=True) for path in (folder, other))

    assert ours.layout_digest == theirs.layout_digest
    with TensorReader() as reader:
        for name, decoder in ours.decoders.items():
            np.testing.assert_array_equal(
                theirs.decoders[name].read(reader, 0, decoder.info.count),
                decoder.read(reader, 0, decoder.info.count),
            )
