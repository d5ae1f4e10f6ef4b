"""A quantised base is refused with ways out, or described as what it decodes to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import ml_dtypes
import numpy as np
import pytest
import quantising
import torch
from safetensors.torch import load_file, save_file

from adreg.registry.bases import quantised
from adreg.registry.bases.base import read_base
from adreg.registry.errors import AdregError, BaseRefused
from adreg.registry.tensors.arrays import NUMPY, TensorReader

NAMES = {
    "LLM.int8": "bitsandbytes 8-bit",
    "bitsandbytes 4-bit": "bitsandbytes 4-bit",
    "FP8, blocks": "FP8",
    "FP8, rows": "FBGEMM FP8",
    "FP8, one scale": "ModelOpt",
    "MXFP8": "MXFP8",
    "packed 4-bit": "compressed-tensors",
    "GPTQ 4-bit": "GPTQ",
    "AWQ": "AWQ",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base of 16 bits that nobody may change."""
    return factory.make_base(tmp_path_factory.mktemp("plain") / "base")


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(plain, tmp_path / "base"))


def refusal(folder: Path, *, dequantize: bool = False) -> BaseRefused:
    """Return the error that refuses a base."""
    with pytest.raises(BaseRefused) as caught:
        read_base(folder, dequantize=dequantize)
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_refused_by_name(base: Path, name: str) -> None:
    """Without --dequantize the refusal names the scheme, the 16-bit base and the flag."""
    quantising.quantise(base, name)
    factory.edit_config(base, _name_or_path="acme/llama-1b")

    error = refusal(base)

    assert f"its weights are quantised ({NAMES[name]})" in str(error)
    assert "--dequantize" in error.hint
    assert "16-bit" in error.hint
    published = name in {"FP8, blocks", "packed 4-bit"}
    assert ("acme/llama-1b" in error.hint) != published


@pytest.mark.parametrize("name", quantising.MAKERS)
def test_described_as_16_bits(plain: Path, base: Path, name: str) -> None:
    """With it the base has the layout of the 16-bit one, and the weights of the formula."""
    expected = quantising.quantise(base, name)

    sixteen, result = read_base(plain), read_base(base, dequantize=True)

    assert sixteen.layout_digest == result.layout_digest
    assert (sixteen.parameters, sixteen.nbytes) == (result.parameters, result.nbytes)
    assert "quantization_config" not in result.config
    assert expected.keys() == result.decoders.keys()
    with TensorReader() as reader:
        for info in result.layout:
            got = result.read(reader, info.name, 0, info.count).reshape(info.shape)
            if info.name in expected:
                close = expected[info.name].astype(np.float32).astype(ml_dtypes.bfloat16)
                # Two roundings of the reference may differ from one in the last bit.
                np.testing.assert_allclose(got, close.astype(np.float32), rtol=2**-8, atol=1e-9)
            else:
                start = sixteen.layout[info.name]
                want = sixteen.read(reader, info.name, 0, start.count).reshape(start.shape)
                np.testing.assert_array_equal(want, got)


@pytest.mark.parametrize("name", ["bitsandbytes 4-bit, nested", "GPTQ 4-bit", "FP8, blocks"])
def test_loads_as_saved(base: Path, tmp_path: Path, name: str) -> None:
    """What a base decodes to is, saved as layout and configuration say, one transformers loads."""
    quantising.quantise(base, name)
    result = read_base(base, dequantize=True)
    decoded = {}
    with TensorReader() as reader:
        for info in result.layout:
            array = result.read(reader, info.name, 0, info.count).astype(NUMPY[info.dtype])
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            decoded[info.name] = tensor.reshape(info.shape)
    folder = tmp_path / "decoded"
    folder.mkdir()
    save_file(decoded, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(result.config))

    loaded = factory.load_base(folder).state_dict()

    assert decoded.keys() <= loaded.keys()
    assert all(torch.equal(decoded[key], loaded[key]) for key in decoded)


def test_shards(plain: Path, tmp_path: Path) -> None:
    """A state in another shard than its weight is found; a shard of states alone is no shard."""
    base = Path(shutil.copytree(plain, tmp_path / "base"))
    quantising.quantise(base, "packed 4-bit")
    tensors = load_file(base / "model.safetensors")
    states = {name: t for name, t in tensors.items() if name.endswith(("_scale", "_shape"))}
    rest = {name: t for name, t in tensors.items() if name not in states}
    (base / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": rest, "model-00002-of-00002.safetensors": states}
    for file, part in shards.items():
        save_file(part, base / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))

    result = read_base(base, dequantize=True)

    assert ["model-00001-of-00002.safetensors"] == [f.path.name for f in result.layout.files]
    assert read_base(plain).layout_digest == result.layout_digest


def test_not_quantised(plain: Path) -> None:
    """--dequantize changes nothing about a base of 16 bits."""
    assert read_base(plain) == read_base(plain, dequantize=True)


@pytest.mark.parametrize(
    ("dtype", "code"), [("float16", "F16"), ("float32", "F32"), (None, "BF16")]
)
def test_dtype_of_the_configuration(base: Path, dtype: str | None, code: str) -> None:
    """Weights are decoded into the type that the configuration names, else bfloat16."""
    quantising.quantise(base, "AWQ")
    factory.edit_config(base, "dtype", **({"torch_dtype": dtype} if dtype else {}))

    result = read_base(base, dequantize=True)

    assert {code} == {decoder.info.dtype for decoder in result.decoders.values()}
    assert dtype == result.config.get("torch_dtype")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "hqq"}, "does not decode HQQ"),
        ({"quant_method": "torchao"}, "does not decode torchao"),
        ({"quant_method": "acme"}, "does not decode acme"),
        ({"quant_method": ["awq"]}, "does not decode ['awq']"),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "rotated"),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse"}},
            "are sparse",
        ),
    ],
)
def test_not_decoded_by_configuration(base: Path, config: dict[str, object], words: str) -> None:
    """What only the configuration tells is refused with and without the flag, and why."""
    quantising.quantise(base, "packed 4-bit")
    factory.edit_config(base, quantization_config=config)

    error = refusal(base, dequantize=True)

    assert words in str(error)
    assert "16-bit" in error.hint
    assert "--dequantize" not in refusal(base).hint


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("GPTQ 4-bit", {"quant_method": "gptq", "checkpoint_format": "marlin"}),
        ("AWQ", {"quant_method": "awq", "version": "gemv"}),
        ("AWQ", {"quant_method": "awq", "version": ["gemm"]}),
        ("GPTQ 4-bit", {"quant_method": "auto-round", "packing_format": "auto_round:awq_x"}),
    ],
)
def test_other_packing(base: Path, name: str, config: dict[str, object]) -> None:
    """A packing that only the configuration tells apart is not decoded as another."""
    quantising.quantise(base, name)
    factory.edit_config(base, quantization_config=config)

    assert "does not decode" in str(refusal(base, dequantize=True))


@pytest.mark.parametrize(
    ("name", "tensor", "scheme"),
    [
        ("self_attn.q_proj.W_q", torch.zeros(8, dtype=torch.uint8), "HQQ"),
        ("self_attn.q_proj.weight._data", torch.zeros(8, dtype=torch.int8), "Quanto"),
        ("self_attn.q_proj.codebooks", torch.zeros(8), "AQLM"),
        ("self_attn.q_proj.weight_global_scale", torch.ones(1), "NVFP4"),
        ("self_attn.q_proj.pre_quant_scale", torch.ones(8), "ModelOpt"),
        ("mlp.act.scales", torch.ones(8), "AWQ"),
        ("self_attn.q_proj.weight_scales", torch.ones(8), "EETQ"),
    ],
)
def test_known_by_its_tensors(base: Path, name: str, tensor: torch.Tensor, scheme: str) -> None:
    """Other schemes are known by their tensors, and a tensor without a decoder is named."""
    full = "model.layers.0." + name
    factory.edit_tensors(base, lambda tensors: tensors.update({full: tensor}), "model.safetensors")

    assert f"quantised ({scheme})" in str(refusal(base))
    assert repr(full) in str(refusal(base, dequantize=True))


def test_file_of_autogptq(base: Path) -> None:
    """What only quantize_config.json says counts, and the file is not taken over."""
    expected = quantising.quantise(base, "GPTQ v2")
    factory.edit_config(base, "quantization_config")
    said = {"bits": 4, "group_size": 8, "checkpoint_format": "gptq_v2"}
    (base / "quantize_config.json").write_text(json.dumps(said))

    assert "quantised (GPTQ or AWQ)" in str(refusal(base))
    result = read_base(base, dequantize=True)

    assert "tokenizer.json" in result.side_files
    assert "quantize_config.json" not in result.side_files
    name = "model.layers.0.self_attn.q_proj.weight"
    with TensorReader() as reader:
        got = result.decoders[name].read(reader, 0, 1024).reshape(32, 32)
    np.testing.assert_allclose(got, expected[name], rtol=2**-8)

    (base / "quantize_config.json").write_text(json.dumps({"checkpoint_format": "marlin"}))
    assert "does not decode" in str(refusal(base, dequantize=True))


def test_scales_of_activations(plain: Path, base: Path) -> None:
    """Numbers that only serve to quantise activations are left out of the decoded base."""
    quantising.quantise(base, "FP8, one scale")
    extra = {
        f"model.layers.0.self_attn.{name}": torch.tensor(0.5)
        for name in ("q_proj.input_scale", "k_proj.k_scale", "v_proj.v_scale")
    }
    factory.edit_tensors(base, lambda tensors: tensors.update(extra), "model.safetensors")

    assert read_base(plain).layout_digest == read_base(base, dequantize=True).layout_digest


def test_weight_twice(base: Path) -> None:
    """A checkpoint that has a weight both quantised and not is refused."""
    quantising.quantise(base, "GPTQ 4-bit")
    name = "model.layers.0.self_attn.q_proj.weight"
    factory.edit_tensors(
        base, lambda tensors: tensors.update({name: torch.ones(32, 32)}), "model.safetensors"
    )

    assert f"holds {name!r} twice" in str(refusal(base, dequantize=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("neuralmagic/Meta-Llama-3-8B-FP8-dynamic", "neuralmagic/Meta-Llama-3-8B"),
        ("RedHatAI/Llama-3-8B-quantized.w4a16", "RedHatAI/Llama-3-8B"),
        ("TheBloke/Mistral-7B-v0.1-AWQ", "TheBloke/Mistral-7B-v0.1"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/models/mine", None),
        ("", None),
        (None, None),
    ],
)
def test_name_of_the_original(name: str | None, expected: str | None) -> None:
    """The 16-bit model's name is what is left without the marks of quantisation."""
    assert expected == quantised.original("GPTQ", name, None)


def test_name_of_a_model_published_quantised() -> None:
    """A name without such a mark is no hint where models are trained or published so."""
    assert quantised.original("MXFP4", "openai/gpt-oss-20b", None) is None
    assert quantised.original("GPTQ", "acme/x", "acme/x") is None


def test_looking_writes_nothing(base: Path) -> None:
    """Reading a base with --dequantize leaves its folder as it was."""
    quantising.quantise(base, "bitsandbytes 4-bit")
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in base.iterdir()}

    read_base(base, dequantize=True)

    assert before == {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in base.iterdir()}


def test_fp4_in_bytes(base: Path) -> None:
    """Two E2M1 in a byte of I8 with weight_scale_inv are not taken for integers."""
    name = "model.layers.0.self_attn.q_proj.weight"

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.ones(32, 16, dtype=torch.int8)
        tensors[name + "_scale_inv"] = torch.ones(32, 1)

    factory.edit_tensors(base, edit, "model.safetensors")

    with pytest.raises(AdregError, match="does not decode"):
        read_base(base, dequantize=True)
