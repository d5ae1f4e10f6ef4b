"""Adapters that PEFT saves are read with their meaning; broken ones are refused with reasons."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from factory import edit_config
from safetensors.torch import load_file, save_file

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.errors import (
    AdapterRefused,
    InputRefused,
    JsonBroken,
    TensorFileBroken,
)
from adreg.registry.progress import Progress

Maker = Callable[..., Path]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def parts(spec: AdapterSpec) -> Counter[Part]:
    """Count an adapter's tensors by what they are."""
    return Counter(tensor.part for tensor in spec.tensors)


def full(spec: AdapterSpec) -> set[str]:
    """Return the names of the parameters that an adapter brings whole."""
    return {f"{t.module}.{t.parameter}" for t in spec.tensors if t.part is Part.FULL}


def test_plain_lora(make: Maker) -> None:
    """A LoRA's settings, modules, tensors and files are what PEFT wrote."""
    folder = make(lora_dropout=0.1, task_type="CAUSAL_LM")

    spec = read_adapter(folder)

    assert Counter({Part.LORA_A: 6, Part.LORA_B: 6}) == parts(spec)
    assert ("LORA", "CAUSAL_LM") == (spec.peft_type, spec.task_type)
    assert (4, 8.0, 0.1) == (spec.lora.rank, spec.lora.alpha, spec.lora.dropout)
    assert ("down_proj", "q_proj", "v_proj") == spec.targets
    assert str(folder.parent / "llama") == spec.base_hint
    assert set(load_file(folder / "adapter_model.safetensors")) == {t.key for t in spec.tensors}
    assert (folder / "adapter_config.json").read_text() == spec.config_text
    digests = {file.name: file.sha256 for file in spec.files}
    assert {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("README.md", "adapter_config.json", "adapter_model.safetensors")
    } == digests


@pytest.mark.parametrize("kind", ["llama-tied", "qwen2", "qwen3", "gemma3", "gpt2", "bert"])
def test_every_kind(make: Maker, kind: str) -> None:
    """Adapters of all text models here are read without a fault."""
    assert set(parts(read_adapter(make(kind)))) == {Part.LORA_A, Part.LORA_B}


def test_dora(make: Maker) -> None:
    """DoRA brings one magnitude a module: of linear layers, embeddings and convolutions."""
    spec = read_adapter(make(use_dora=True, target_modules=["q_proj", "embed_tokens"]))

    assert spec.lora.use_dora
    assert Counter({Part.LORA_A: 2, Part.LORA_B: 2, Part.EMBEDDING_A: 1, Part.EMBEDDING_B: 1}) + (
        Counter({Part.MAGNITUDE: 3, Part.FULL: 1})
    ) == parts(spec)
    assert parts(read_adapter(make("resnet", use_dora=True)))[Part.MAGNITUDE] == 6


def test_trained_biases_have_one_spelling(make: Maker) -> None:
    """PEFT writes biases of wrapped modules behind base_layer, others plainly."""
    spec = read_adapter(make("qwen2", bias="all", target_modules=["q_proj"]))

    assert {
        f"model.layers.{layer}.self_attn.{leaf}.bias"
        for layer in range(2)
        for leaf in ("q_proj", "k_proj", "v_proj")
    } == full(spec)


def test_lora_bias(make: Maker) -> None:
    """A bias of B is its own part, and belongs to the module's bias."""
    spec = read_adapter(make("qwen2", lora_bias=True, target_modules=["q_proj"]))

    biases = [tensor for tensor in spec.tensors if tensor.part is Part.LORA_BIAS]
    assert len(biases) == 2
    assert {"bias"} == {tensor.parameter for tensor in biases}


def test_embeddings_bring_the_base_matrix(make: Maker) -> None:
    """Where an embedding is targeted, PEFT saves the base's matrices along."""
    spec = read_adapter(make(target_modules=["embed_tokens", "lm_head"]))

    assert {"model.embed_tokens.weight", "lm_head.weight"} == full(spec)
    assert {4} == {t.info.shape[0] for t in spec.tensors if t.part is Part.EMBEDDING_A}


def test_modules_to_save(make: Maker) -> None:
    """A classifier's head comes whole, named or not; a name that stands twice counts once."""
    folder = make("bert", task_type="SEQ_CLS", modules_to_save=["classifier"])

    spec = read_adapter(folder)

    assert {"classifier.weight", "classifier.bias"} == full(spec)
    assert tuple(dict.fromkeys(spec.modules_to_save)) == spec.modules_to_save
    assert "classifier" in spec.modules_to_save


def test_sparse_configuration(adapter: Path) -> None:
    """PEFT's docs call peft_type and target_modules enough: r and alpha are 8 then."""
    folder = adapter
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": []}')

    with pytest.raises(AdapterRefused, match="has rank 4 in its tensors and 8 in the config"):
        read_adapter(folder)


def test_old_configuration(adapter: Path) -> None:
    """Null stands for the default, and unknown fields are let be."""
    edit_config(adapter, bias=None, use_dora=None, merge_weights=False, enable_lora=None, new=3)

    assert read_adapter(adapter).lora.bias == "none"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.", ""),
        (".weight", ".default.weight"),
    ],
)
def test_other_spellings(adapter: Path, old: str, new: str) -> None:
    """Without the prefix, or with the adapter's name, the tensors mean the same."""
    before = read_adapter(adapter)
    path = adapter / "adapter_model.safetensors"
    save_file({key.replace(old, new): value for key, value in load_file(path).items()}, path)

    after = read_adapter(adapter)

    assert {(t.module, t.part) for t in before.tensors} == {
        (t.module, t.part) for t in after.tensors
    }


def test_raw_dump_of_dora_and_saved_modules(adapter: Path) -> None:
    """The spellings of parameters in memory are understood too."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    prefix = "base_model.model."
    for key in [key for key in tensors if "lora_B" in key]:
        module = key.removesuffix(".lora_B.weight")
        rows = tensors[key].shape[0]
        tensors[f"{module}.lora_magnitude_vector.default.weight"] = torch.ones(rows)
    tensors[f"{prefix}score.modules_to_save.default.weight"] = torch.ones(3, 32)
    save_file(tensors, path)
    edit_config(adapter, use_dora=True)

    spec = read_adapter(adapter)

    assert parts(spec)[Part.MAGNITUDE] == 6
    assert {"score.weight"} == full(spec)


def test_values_are_read_only_when_asked(adapter: Path) -> None:
    """Without check_values the weights' headers are enough."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path)

    assert read_adapter(adapter, check_values=False).parameters == 1536
    with pytest.raises(AdapterRefused, match="not finite"):
        read_adapter(adapter)


def test_progress_reaches_its_total(adapter: Path) -> None:
    """What is announced is what is done, and the task is closed."""

    class Listener(Progress):
        total = done = 0
        open = False

        def start(self, title: str, total: int, unit: str = "bytes") -> None:
            assert (title, unit) == ("Reading adapter", "bytes")
            self.total, self.open = total, True

        def advance(self, amount: int = 1) -> None:
            self.done += amount

        def finish(self) -> None:
            self.open = False

    listener = Listener()

    read_adapter(adapter, progress=listener)

    assert listener.total == listener.done > 0
    assert not listener.open


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"peft_type": "LORA", "peft_type": "IA3"}', "'peft_type' stands twice"),
        (b'\xff\xfe{"peft_type"', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (LFS, "a git-lfs pointer"),
    ],
)
def test_broken_configuration(adapter: Path, content: bytes, words: str) -> None:
    """A configuration that is no strict JSON object is refused before anything else."""
    (adapter / "adapter_config.json").write_bytes(content)

    with pytest.raises(JsonBroken, match=words):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "has no peft_type"), (7, "has the peft_type 7"), (["LORA"], "has the peft_type")],
)
def test_no_peft_type(adapter: Path, value: object, words: str) -> None:
    """Without a peft_type nothing else can be understood."""
    edit_config(adapter, peft_type=value)

    with pytest.raises(AdapterRefused, match=words):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("peft_type", "words"),
    [
        ("PROMPT_TUNING", "nothing to merge into weights"),
        ("PREFIX_TUNING", "nothing to merge into weights"),
        ("XLORA", "chooses between adapters"),
        ("BONE", "makes a MISS adapter of one"),
        ("FROD", "decomposition is not saved"),
        ("UNILORA", "save_indices=True"),
        ("TINYLORA", "weight_tying=1"),
        ("LOHA", "not understood: it is no tensor that PEFT saves for this kind"),
    ],
)
def test_other_peft_types(adapter: Path, peft_type: str, words: str) -> None:
    """Kinds that cannot be merged, and tensors of another kind than is said, are refused."""
    edit_config(adapter, peft_type=peft_type)

    with pytest.raises(AdapterRefused, match=words):
        read_adapter(adapter)


def test_broken_weights(adapter: Path) -> None:
    """Weights cut short, empty, lying or missing by git-lfs are refused by their header."""
    path = adapter / "adapter_model.safetensors"
    good = path.read_bytes()
    broken = {
        "cut short": good[:-1],
        "followed by unknown bytes": good + b"\0",
        "header claims": good[:40],
        "has only 0 bytes": b"",
        "git-lfs pointer": LFS,
        "claims 1,000,000,000 bytes": (10**9).to_bytes(8, "little") + good[8:],
    }
    for words, data in broken.items():
        path.write_bytes(data)
        with pytest.raises(TensorFileBroken, match=words):
            read_adapter(adapter)


def test_all_faults_at_once(adapter: Path) -> None:
    """Configuration, tensors, values and files: one refusal names all that is wrong."""
    edit_config(adapter, r="4", use_qalora=True)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    del tensors[names[0]]
    tensors[names[2]][0, 0] = float("inf")
    save_file(tensors, path)
    (adapter / "tokenizer.json").symlink_to("/etc/hostname")

    with pytest.raises(AdapterRefused) as caught:
        read_adapter(adapter)

    text = "\n".join(caught.value.reasons)
    for words in ("r is '4'", "use_qalora", "but no lora_A", "not finite", "out of its folder"):
        assert words in text


def test_refusals_print_no_control_characters(adapter: Path) -> None:
    """What an adapter says of itself cannot steer the terminal."""
    edit_config(adapter, peft_type="\x1b[2J", base_model_name_or_path="a\x07")

    with pytest.raises(AdapterRefused) as caught:
        read_adapter(adapter)
    assert str(caught.value).isprintable()
    edit_config(adapter, peft_type="LORA")
    with pytest.raises(AdapterRefused, match="not printable text") as caught:
        read_adapter(adapter)
    assert str(caught.value).isprintable()


def test_facts_are_plain(adapter: Path) -> None:
    """A refusal's facts can be printed as JSON."""
    edit_config(adapter, r=0)

    with pytest.raises(AdapterRefused) as caught:
        read_adapter(adapter)
    assert json.loads(json.dumps(caught.value.facts()))["path"] == str(adapter)
    assert not isinstance(caught.value, InputRefused)
