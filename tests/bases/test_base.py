"""Bases are read from headers and configuration; what is no usable base is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import pytest
import torch
import transformers
from factory import edit_config, edit_tensors
from transformers import CONFIG_MAPPING

from adreg.registry.bases.base import read_base
from adreg.registry.bases.tied import FORWARDED, TIED_BY_DEFAULT, is_tied
from adreg.registry.errors import AdregError, BaseRefused, JsonBroken, TensorFileBroken
from adreg.registry.tensors.checkpoint import Layout

NOTHING = Layout.of(())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama in one file, to be copied."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def base(llama: Path, tmp_path: Path) -> Path:
    """Return a copy of a Llama, to be broken."""
    return shutil.copytree(llama, tmp_path / "base")


@pytest.mark.parametrize("kind", factory.KINDS)
def test_what_a_base_is(tmp_path: Path, kind: str) -> None:
    """Architecture, sizes, dtype and tying are those of the model that was saved."""
    folder = factory.make_base(tmp_path / kind, kind, torch.float16)
    model = factory.load_base(folder)

    base = read_base(folder)

    assert type(model).__name__ == base.architecture
    assert model.config.model_type == base.model_type
    assert "F16" == base.dtype
    distinct = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    assert sum(tensor.numel() for tensor in distinct.values()) == base.parameters
    assert base.nbytes == sum(tensor.nbytes for tensor in base.layout)
    assert bool(getattr(model.config, "tie_word_embeddings", False)) == base.tied
    assert (None, None, None, ()) == (base.hub_repo, base.revision, base.licence, base.code_files)


def test_shards_do_not_change_the_layout(tmp_path: Path) -> None:
    """The layout digest is of the tensors, not of the files that they lie in."""
    one = read_base(factory.make_base(tmp_path / "one"))
    many = read_base(factory.make_base(tmp_path / "many", shard_size=8000))

    assert len(many.layout.files) > 2
    assert one.layout_digest == many.layout_digest
    assert one.parameters == many.parameters
    assert one.layout_digest != read_base(factory.make_base(tmp_path / "x", "qwen2")).layout_digest


def test_side_files(base: Path) -> None:
    """What a merged checkpoint needs besides weights is listed, weights and leftovers are not."""
    kept = ["LICENSE", "merges.txt", "preprocessor_config.json", "special_tokens_map.json"]
    left = ["README.md", "pytorch_model.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json"]
    left += ["training_args.bin", "model.gguf", "model.onnx", "tf_model.h5", "flax_model.msgpack"]
    left += ["consolidated.safetensors", ".gitattributes", "adapter_config.json", "loss.png"]
    for name in [*kept, *left, "modeling_x.py"]:
        (base / name).write_text("x")
    for name in ("additional_chat_templates/tool.jinja", "original/params.json"):
        (base / name).parent.mkdir()
        (base / name).write_text("x")

    read = read_base(base)

    assert read.side_files == tuple(
        sorted(
            [
                *kept,
                "additional_chat_templates/tool.jinja",
                "chat_template.jinja",
                "generation_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
            ]
        )
    )
    assert read.code_files == ("modeling_x.py",)


def test_licence(base: Path) -> None:
    """The licence is the card's."""
    (base / "README.md").write_text("---\nlicense: llama3.1\n---\n")

    assert read_base(base).licence == "llama3.1"


def refusal(folder: Path) -> BaseRefused:
    """Return the refusal of a folder that must be refused."""
    with pytest.raises(BaseRefused) as caught:
        read_base(folder)
    return caught.value


def test_folders_that_are_none(tmp_path: Path) -> None:
    """Nothing, a file and an empty folder."""
    assert refusal(tmp_path / "nothing").reason == "there is no such folder"
    assert refusal(tmp_path).reason == "the folder is empty"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "a file, not a folder" in refusal(tmp_path / "model.safetensors").reason


def test_adapter_as_base(base: Path, tmp_path: Path) -> None:
    """An adapter is called one."""
    adapter = factory.make_adapter(base, tmp_path / "adapter")

    assert "it is an adapter, not a base" in str(refusal(adapter))


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("pytorch_model-00001-of-00002.bin", "no pytorch_model.bin.index.json", "Fetch"),
        ("model.Q4_1.gguf", "its weights are GGUF", "safetensors"),
        ("consolidated.safetensors", "neither model.safetensors nor", "layout of transformers"),
        ("README.md", "neither model.safetensors nor", "a transformers model"),
        ("model_index.json", "a diffusers pipeline", "one of its parts"),
    ],
)
def test_other_weights(tmp_path: Path, name: str, words: str, hint: str) -> None:
    """Weights in another form are called by it, with what to do."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"x")

    error = refusal(tmp_path)

    assert words in str(error)
    assert hint in error.hint


def test_no_configuration(base: Path) -> None:
    """Weights without a configuration cannot become a model again."""
    (base / "config.json").unlink()

    assert "weights but no config.json" in str(refusal(base))


def test_file_and_index(base: Path, tmp_path: Path) -> None:
    """With one file and shards nobody knows which is the model: readers differ."""
    sharded = factory.make_base(tmp_path / "sharded", shard_size=8000)
    shutil.copy(base / "model.safetensors", sharded)

    assert "holds both" in str(refusal(sharded))


def test_missing_shard(tmp_path: Path) -> None:
    """An incomplete download is called one."""
    folder = factory.make_base(tmp_path / "base", shard_size=8000)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()

    error = refusal(folder)

    assert f"its file {shard.name} is missing" in str(error)
    assert "not complete" in error.hint


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "bitsandbytes 4-bit",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "mlx"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "AWQ"),
    ],
)
def test_quantised_by_configuration(base: Path, config: dict[str, object], scheme: str) -> None:
    """A quantised base is refused with its scheme and the way to the 16-bit one."""
    edit_config(base, **config)

    error = refusal(base)

    assert f"quantised ({scheme})" in str(error)
    assert "16-bit" in error.hint


@pytest.mark.parametrize(
    ("name", "dtype", "scheme"),
    [
        ("model.layers.0.mlp.down_proj.weight.absmax", torch.float32, "bitsandbytes 4-bit"),
        ("model.layers.0.mlp.down_proj.SCB", torch.float32, "bitsandbytes 8-bit"),
        ("model.layers.0.mlp.down_proj.qweight", torch.int32, "GPTQ or AWQ"),
        ("model.layers.0.mlp.down_proj.weight_scale_inv", torch.float32, "FP8"),
        ("model.layers.0.mlp.down_proj.weight_packed", torch.int32, "compressed-tensors"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", torch.uint8, "MXFP4"),
        ("model.layers.0.mlp.down_proj.extra", torch.float8_e4m3fn, "FP8"),
    ],
)
def test_quantised_by_tensors(base: Path, name: str, dtype: torch.dtype, scheme: str) -> None:
    """Where the configuration does not say, names and dtypes of the tensors do."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.ones(8).to(dtype)

    edit_tensors(base, edit, "model.safetensors")
    assert f"quantised ({scheme})" in str(refusal(base))


@pytest.mark.parametrize("value", [None, {}])
def test_not_quantised(base: Path, value: object) -> None:
    """An empty quantization_config means nothing."""
    edit_config(base, quantization_config=value)

    assert read_base(base).dtype == "BF16"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": "LlamaForCausalLM"}, "architectures in its config.json"),
        ({"architectures": [1]}, "architectures in its config.json"),
        ({"model_type": 3}, "model_type in its config.json is not text"),
    ],
)
def test_wrong_types(base: Path, change: dict[str, object], words: str) -> None:
    """A configuration with fields of the wrong type is refused."""
    edit_config(base, **change)

    assert words in str(refusal(base))


def test_configuration_without_names(base: Path) -> None:
    """Architecture and model type may be missing."""
    edit_config(base, "architectures", "model_type")

    assert (None, None) == (read_base(base).architecture, read_base(base).model_type)


def test_infinite_configuration(base: Path) -> None:
    """Infinity stands in real configurations (Mamba-2) and is no fault."""
    edit_config(base, time_step_limit=[0.0, float("inf")])

    assert len(read_base(base).config_digest) == 64


def test_broken_files(base: Path) -> None:
    """A broken configuration or header is that file's error."""
    good = (base / "config.json").read_bytes()
    (base / "config.json").write_text("[1]")
    with pytest.raises(JsonBroken, match="not a JSON object"):
        read_base(base)
    (base / "config.json").write_bytes(good)
    (base / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TensorFileBroken, match="git-lfs pointer"):
        read_base(base)


def test_no_weights(base: Path) -> None:
    """A header without tensors is no model."""
    edit_tensors(base, lambda tensors: tensors.clear(), "model.safetensors")

    assert "it has no weights" in str(refusal(base))


def test_links_out_of_the_folder(base: Path) -> None:
    """A tokenizer that is a link elsewhere would be copied into what is shared with others."""
    (base / "vocab.json").symlink_to("/etc/hostname")

    assert "'vocab.json' is a link out of its folder" in str(refusal(base))


def test_file_names(base: Path) -> None:
    """Side files with control characters in their names are refused."""
    (base / "x\x1b[2J").write_text("x")

    assert str(refusal(base)).isprintable()


def test_tied_by_default_is_what_transformers_does() -> None:
    """The tables equal the defaults of every configuration class of the version they name."""
    if not transformers.__version__.startswith("5.23."):
        pytest.skip("the tables were read from transformers 5.23")
    tied = set()
    for model_type in CONFIG_MAPPING:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # noqa: BLE001, S112  # classes that cannot be built without arguments
            continue
        if getattr(config, "tie_word_embeddings", False) is True:
            tied.add(model_type)

    assert tied - {"csm"} == TIED_BY_DEFAULT


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "gpt2", "phi3", "lfm2"])
@pytest.mark.parametrize("value", [True, False, None])
def test_tied_as_transformers_reads_it(model_type: str, value: object) -> None:
    """With and without the key, the answer is that of the class."""
    config: dict[str, object] = {} if value is None else {"tie_word_embeddings": value}
    expected = CONFIG_MAPPING[model_type].from_dict({**config}).tie_word_embeddings

    assert expected == is_tied({"model_type": model_type, **config}, NOTHING)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "qwen2_5_vl", "glm4v", "gemma3"])
@pytest.mark.parametrize("outer", [True, False, None])
@pytest.mark.parametrize("inner", [True, False, None])
def test_tied_text_config(model_type: str, outer: object, inner: object) -> None:
    """In models of several parts the text part's word counts where transformers lets it."""
    text = {"model_type": CONFIG_MAPPING[model_type]().text_config.model_type}
    text |= {} if inner is None else {"tie_word_embeddings": inner}
    config = {"text_config": text} | ({} if outer is None else {"tie_word_embeddings": outer})
    config_class = CONFIG_MAPPING[model_type]
    expected = config_class.from_dict(json.loads(json.dumps(config))).tie_word_embeddings

    assert bool(expected) == is_tied({"model_type": model_type, **config}, NOTHING)


def test_old_key_of_lfm2() -> None:
    """LFM2's own key wins."""
    config = {"model_type": "lfm2", "tie_embedding": False}

    assert CONFIG_MAPPING["lfm2"].from_dict(config).tie_word_embeddings is False
    assert not is_tied(config, NOTHING)


def test_code_of_their_own(base: Path) -> None:
    """Remote code that does not say is tied when its checkpoint has no head."""
    config = {"model_type": "own", "auto_map": {"AutoModel": "modeling_own.Own"}}

    assert not is_tied(config, read_base(base).layout)
    assert is_tied(config, NOTHING)
    assert not is_tied({"model_type": "own"}, NOTHING)
    assert not FORWARDED & TIED_BY_DEFAULT - {"hunyuan_vl", "paddleocr_vl"}


def test_refusals_are_adregs_own(base: Path) -> None:
    """Nothing else leaves read_base, whatever the configuration holds."""
    values: list[object] = [None, 1, [], {}, "x", [[]]]
    for value in values:
        for key in ("architectures", "model_type", "text_config", "quantization_config"):
            edit_config(base, **{key: value})
            try:
                read_base(base)
            except AdregError as error:
                assert error.sentence  # noqa: PT017  # either is right
