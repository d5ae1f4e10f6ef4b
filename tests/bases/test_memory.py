"""Names on disk against names in memory, without a model; real models are the judges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import architectures
import factory
import pytest
import torch
import transformers
import transformers_names
from safetensors.torch import load_file, save_file

from adreg.registry.bases import renames
from adreg.registry.bases.diskname import Naming, find_embedding, find_head, head_name, resolve
from adreg.registry.bases.memory import EXPERTS_IN_OUT, Memory, Piece, Pieces, memory_pieces
from adreg.registry.tensors.checkpoint import Layout, read_layout
from adreg.registry.tensors.header import TensorFile, TensorInfo

TABLE: dict[str, Any] = json.loads(Path(renames.__file__).with_name("names.json").read_text())
BASES = [kind for kind in architectures.KINDS if architectures.KINDS[kind].parameters is None]

same_version = pytest.mark.skipif(
    TABLE["transformers"] != transformers.__version__,
    reason=f"the table is that of transformers {TABLE['transformers']}",
)


def memory_of(folder: Path) -> Memory:
    """Map the names of a checkpoint folder."""
    config = json.loads((folder / "config.json").read_text())
    name = config.get("architectures", [None])[0]
    return memory_pieces(read_layout(folder), config["model_type"], config, name)


def naming_of(folder: Path, names: list[str]) -> Naming:
    """Resolve names in a checkpoint folder."""
    return resolve(names, memory_of(folder), read_layout(folder))


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Return a layout of float32 tensors that stand in no file."""
    infos = tuple(TensorInfo(name, "F32", shape, 0, 0) for name, shape in shapes.items())
    return Layout.of((TensorFile(Path("model.safetensors"), 8, infos, {}),))


def assembled(pieces: Pieces, disk: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Put a parameter together as Piece says; what no piece fills stays NaN."""
    whole = torch.full_like(like, torch.nan if like.is_floating_point() else -1)
    for piece in pieces:
        part = whole if piece.index is None else whole[piece.index]
        if piece.rows is not None:
            part = part.narrow(max(0, part.ndim - 2), piece.rows[0], piece.rows[1] - piece.rows[0])
        stored = disk[piece.name]
        part.copy_(stored.transpose(-1, -2) if piece.transposed else stored)
    return whole


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, by their names on disk."""
    return load_file(folder / "model.safetensors")


def check(folder: Path, model: torch.nn.Module) -> None:
    """Compare what is assembled from the disk with what transformers loaded from it."""
    memory, disk, loaded = memory_of(folder), tensors_of(folder), dict(model.state_dict())
    for name, pieces in memory.items():
        assert pieces is not None, name
        assert torch.equal(loaded[name], assembled(pieces, disk, loaded[name])), name
    shared = {loaded[name].data_ptr() for name in memory}
    assert {
        name for name in set(loaded) - set(memory) if loaded[name].data_ptr() not in shared
    } == set()
    used = Counter(piece.name for pieces in memory.values() for piece in pieces or ())
    assert dict.fromkeys(disk, 1) == dict(used)


@pytest.mark.parametrize("kind", BASES)
def test_parameters_are_put_together_as_transformers_does(tmp_path: Path, kind: str) -> None:
    """Pieces give each parameter in memory bit for bit, and use each tensor on disk once."""
    base = architectures.make_base(tmp_path, kind)

    check(base, architectures.load_base(base, kind))


@same_version
def test_the_table_of_conversions_is_the_installed_one() -> None:
    """All conversions of the installed transformers stand in the table, and no others."""
    assert TABLE["transforms"] == transformers_names.transforms()
    assert TABLE["base_classes"] == transformers_names.base_classes()


@same_version
def test_the_table_of_architectures_is_the_installed_one() -> None:
    """Classes that are built anew are as the table has them."""
    known = set(TABLE["transforms"])
    names = {kind.architecture for kind in architectures.KINDS.values()}
    names |= {"GPT2Model", "BertModel", "LlavaModel", "ViTModel", "T5EncoderModel"}

    expected = {name: transformers_names.architecture(name, known) for name in sorted(names)}

    assert expected == {name: TABLE["architectures"][name] for name in sorted(names)}


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("gpt2", "transformer."), ("bloom", "transformer."), ("bert_mlm", "bert."), ("opt", "model.")],
)
def test_old_files_without_the_prefix_get_it(tmp_path: Path, kind: str, prefix: str) -> None:
    """A checkpoint of the bare model is read under the names of the headed class."""
    base = architectures.make_base(tmp_path, kind)
    tensors = {name.removeprefix(prefix): t for name, t in tensors_of(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    check(base, architectures.load_base(base, kind))


def test_old_names_of_norms_are_known(tmp_path: Path) -> None:
    """LayerNorm.gamma and .beta of old BERT files are weight and bias in memory."""
    base = architectures.make_base(tmp_path, "bert")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = tensors_of(base)
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    check(base, architectures.load_base(base, "bert"))


def test_a_bare_class_drops_the_prefix(tmp_path: Path) -> None:
    """A headed checkpoint whose configuration says BertModel is read without ``bert.``."""
    base = architectures.make_base(tmp_path, "bert")
    factory.edit_config(base, architectures=["BertModel"])

    memory = memory_of(base)

    weight = "encoder.layer.0.attention.self.query.weight"
    assert (Piece(f"bert.{weight}"),) == memory[weight]


def test_buffers_keep_their_names(tmp_path: Path) -> None:
    """Mask buffers of old files are in the map, each once."""
    base = architectures.make_base(tmp_path, "gpt2")
    factory.edit_tensors(
        base, lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1)}), "model.safetensors"
    )

    assert (Piece("transformer.h.0.attn.bias"),) == memory_of(base)["transformer.h.0.attn.bias"]


def test_code_of_its_own_keeps_the_names_on_disk() -> None:
    """ChatGLM's remote class maps every name to itself, and nothing is imported for it."""
    name = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
    layout = layout_of({name: (4, 4)})
    config = {"auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"}}

    memory = memory_pieces(layout, "chatglm", config, "ChatGLMModel")

    assert {name: (Piece(name),)} == dict(memory)


def test_experts_are_numbered_by_their_number() -> None:
    """Expert 10 comes after expert 9, whatever the order of the names."""
    prefix = "model.layers.0.block_sparse_moe.experts"
    shapes = {f"{prefix}.{e}.{w}.weight": (3, 2) for e in range(12) for w in ("w1", "w3")}

    memory = memory_pieces(layout_of(shapes), "mixtral", {}, "MixtralForCausalLM")

    pieces = memory["model.layers.0.mlp.experts.gate_up_proj"]
    assert pieces is not None
    expected = [(e, rows) for e in range(12) for rows in ((0, 3), (3, 6))]
    assert expected == [(piece.index, piece.rows) for piece in pieces]
    assert f"{prefix}.10.w3.weight" == pieces[21].name


@pytest.mark.parametrize("missing", ["1.w1", "1.w3", "0.w1"])
def test_experts_with_a_gap_are_no_parameter(missing: str) -> None:
    """A parameter in memory of which a part is missing is None, not a guess."""
    prefix = "model.layers.0.block_sparse_moe.experts"
    shapes = {f"{prefix}.{e}.{w}.weight": (3, 2) for e in range(3) for w in ("w1", "w3")}
    del shapes[f"{prefix}.{missing}.weight"]

    memory = memory_pieces(layout_of(shapes), "mixtral", {}, "MixtralForCausalLM")

    assert {"model.layers.0.mlp.experts.gate_up_proj": None} == dict(memory)


def test_what_is_chunked_is_no_parameter() -> None:
    """Rows that transformers takes out of a fused tensor are named and have no pieces."""
    layout = layout_of({"encoder.layers.0.attn.Wqkv.weight": (6, 2)})

    memory = memory_pieces(layout, "nomic_bert", {}, "NomicBertModel")

    assert memory
    assert {None} == set(memory.values())
    assert {"q_proj", "k_proj", "v_proj"} == {name.split(".")[-2] for name in memory}


def test_the_part_of_another_type_brings_its_own_conversions() -> None:
    """A LLaVA whose text model is a Mixtral has Mixtral's experts, under its prefix."""
    disk = "language_model.model.layers.0.block_sparse_moe.experts.0.w2.weight"
    config = {"text_config": {"model_type": "mixtral"}}
    name = "LlavaForConditionalGeneration"

    memory = memory_pieces(layout_of({disk: (2, 3)}), "llava", config, name)

    expected = {"model.language_model.layers.0.mlp.experts.down_proj": (Piece(disk, 0),)}
    assert expected == dict(memory)


def adapter_names(base: Path, kind: str, tmp_path: Path) -> list[str]:
    """Return the names of the weights that PEFT's adapter of a kind changes."""
    folder = architectures.make_adapter(base, tmp_path / "adapter", kind)
    keys = load_file(folder / "adapter_model.safetensors")
    ends = [key.removeprefix("base_model.model.") for key in keys if "lora_A" in key]
    return [end.replace(".lora_A.weight", ".weight") for end in ends]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "vit", "llava", "qwen2_vl", "gemma3", "clip"])
def test_names_of_todays_adapters_are_found(tmp_path: Path, kind: str) -> None:
    """Every name in an adapter that PEFT writes leads to the tensor that holds its values."""
    base = architectures.make_base(tmp_path / "base", kind)
    names = adapter_names(base, kind, tmp_path)
    state, disk = architectures.load_base(base, kind).state_dict(), tensors_of(base)

    naming = naming_of(base, names)

    for name in names:
        pieces = naming(name)
        assert pieces is not None, name
        assert torch.equal(state[name], assembled(pieces, disk, state[name])), name


OLD = {
    "llava before 4.52": ("llava", "language_model.model.layers.0.self_attn.q_proj.weight"),
    "llava 4.52": ("llava", "model.language_model.layers.0.self_attn.q_proj.weight"),
    "llava's text model": ("llava", "model.layers.0.self_attn.q_proj.weight"),
    "qwen2-vl before 4.52": ("qwen2_vl", "model.layers.0.self_attn.q_proj.weight"),
    "qwen2-vl 4.52": ("qwen2_vl", "model.language_model.layers.0.self_attn.q_proj.weight"),
    "qwen2-vl bare": ("qwen2_vl", "language_model.layers.0.self_attn.q_proj.weight"),
    "gemma3 before 4.52": ("gemma3", "language_model.model.layers.0.self_attn.q_proj.weight"),
    "gemma3 text": ("gemma3", "model.layers.0.self_attn.q_proj.weight"),
    "mixtral per expert": ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w3.weight"),
    "qwen3-moe per expert": ("qwen3_moe", "model.layers.0.mlp.experts.2.up_proj.weight"),
    "vit before 5": ("vit", "vit.encoder.layer.0.attention.attention.query.weight"),
    "bare bert": ("bert", "encoder.layer.0.attention.self.query.weight"),
    "bare llama": ("llama", "layers.0.self_attn.q_proj.weight"),
    "text of a vision model": ("llama", "model.language_model.layers.0.self_attn.q_proj.weight"),
    "neox before 5": ("gpt_neox", "embed_out.weight"),
}


@pytest.mark.parametrize("case", OLD)
def test_older_names_are_found(tmp_path: Path, case: str) -> None:
    """Names that older versions gave lead to the one tensor of that layer and module."""
    kind, name = OLD[case]
    base = architectures.make_base(tmp_path, kind)

    pieces = naming_of(base, [name])(name)

    assert pieces is not None
    assert 1 == len(pieces)
    ending = ".".join(name.split(".")[-3:])
    assert pieces[0].name.endswith(ending)
    assert "vision" not in pieces[0].name


@pytest.mark.parametrize(
    "name", ["vit.layers.1.attention.q_proj.weight", "layers.1.attention.q_proj.weight"]
)
def test_a_headed_adapter_fits_a_bare_checkpoint(tmp_path: Path, name: str) -> None:
    """A classifier's adapter, or a bare one, fits the files of ViTModel with their old names."""
    base = architectures.make_base(tmp_path, "vit")
    tensors = {key.removeprefix("vit."): t for key, t in tensors_of(base).items() if "vit" in key}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    factory.edit_config(base, architectures=["ViTModel"])

    expected = (Piece("encoder.layer.1.attention.attention.query.weight"),)
    assert expected == naming_of(base, [name])(name)


def test_old_names_are_found_in_new_files(tmp_path: Path) -> None:
    """An adapter of transformers 4 fits a checkpoint that has the new names on disk."""
    base = architectures.make_base(tmp_path, "llava")
    state = architectures.load_base(base, "llava").state_dict()
    save_file({name: t.clone() for name, t in state.items()}, base / "model.safetensors")
    old = [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    ]

    naming = naming_of(base, old)

    new = [piece.name for name in old for piece in naming(name) or ()]
    assert "model.language_model.layers.0.self_attn.q_proj.weight" == new[0]
    assert new[1].endswith("encoder.layers.0.self_attn.q_proj.weight")
    assert set(new) <= set(state)


def test_one_rewriting_serves_all_names(tmp_path: Path) -> None:
    """A name that fits only by another reading than the rest of its adapter is not found."""
    base = architectures.make_base(tmp_path, "llama")
    names = [f"layers.{n}.self_attn.q_proj.weight" for n in range(2)]
    other = "language_model.layers.0.self_attn.k_proj.weight"

    naming = naming_of(base, [*names, other])

    assert [True, True, False] == [naming(name) is not None for name in [*names, other]]


def test_names_of_nobody_are_not_found(tmp_path: Path) -> None:
    """What is in no reading is None."""
    base = architectures.make_base(tmp_path, "llama")

    assert naming_of(base, ["nobody.weight"])("nobody.weight") is None


@pytest.mark.parametrize("kind", [kind for kind in architectures.KINDS if "experts" in kind])
def test_which_experts_are_turned_is_what_peft_sees(kind: str) -> None:
    """The model types with (E, in, out) experts are those whose module says so."""
    model = architectures.make_model(kind)
    said = [
        getattr(m, "is_transposed", False)
        for n, m in model.named_modules()
        if n.endswith("experts")
    ]

    assert {model.config.model_type in EXPERTS_IN_OUT} == set(said)


@pytest.mark.parametrize("kind", BASES)
def test_heads_and_embeddings_are_transformers_own(tmp_path: Path, kind: str) -> None:
    """The head and the embedding on disk hold the values that transformers gives for them."""
    base = architectures.make_base(tmp_path, kind)
    model: Any = architectures.load_base(base, kind)
    memory, disk = memory_of(base), tensors_of(base)
    architecture = architectures.KINDS[kind].architecture

    head, embedding = find_head(memory, architecture), find_embedding(read_layout(base), memory)

    for name, getter in ((head, "get_output_embeddings"), (embedding, "get_input_embeddings")):
        if name is not None:
            assert torch.equal(getattr(model, getter)().weight, disk[name])
    if head is None and (known := head_name(architecture)) is not None:
        assert (
            model.state_dict()[known].data_ptr() == model.get_input_embeddings().weight.data_ptr()
        )
