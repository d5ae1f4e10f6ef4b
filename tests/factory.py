"""Tiny real models and adapters, made by transformers and PEFT with seeded values.

Each takes well under a second after the imports. The same arguments give the same bytes.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 96
HIDDEN = 32
LAYERS = 2

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GROUPED: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}

_LABELS = {0: "bad", 1: "good", 2: "unsure"}

_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
_WORDS = "the a cat dog sat ran on under mat tree and is not user assistant system : . , ! ?"


def _llama(*, tied: bool) -> PreTrainedModel:
    config = transformers.LlamaConfig(**_GROUPED, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


def _qwen2() -> PreTrainedModel:
    # Untied, with biases on q, k and v.
    config = transformers.Qwen2Config(**_GROUPED, tie_word_embeddings=False)
    return transformers.Qwen2ForCausalLM(config)


def _qwen3() -> PreTrainedModel:
    config = transformers.Qwen3Config(**_GROUPED, tie_word_embeddings=True)
    return transformers.Qwen3ForCausalLM(config)


def _gemma3() -> PreTrainedModel:
    config = transformers.Gemma3TextConfig(**_GROUPED, sliding_window=16)
    return transformers.Gemma3ForCausalLM(config)


def _gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


def _bert() -> PreTrainedModel:
    config = transformers.BertConfig(**_TEXT, id2label=_LABELS)
    return transformers.BertForSequenceClassification(config)


def _resnet() -> PreTrainedModel:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=_LABELS
    )
    return transformers.ResNetForImageClassification(config)


KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: _llama(tied=False),
    "llama-tied": lambda: _llama(tied=True),
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "bert": _bert,
    "resnet": _resnet,
}
"""Untied and tied Llama, Qwen with biases, Qwen and Gemma with norms of heads, Conv1D, a
classifier, and 3x3 and 1x1 convolutions without groups."""

TARGETS: dict[str, list[str]] = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "llama-tied": ["q_proj", "v_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
    "qwen3": ["q_proj", "v_proj", "down_proj"],
    "gemma3": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value"],
    "resnet": ["convolution"],
}
"""What an adapter of each kind targets unless told otherwise."""

_LOADERS: dict[str, Any] = {
    "bert": transformers.AutoModelForSequenceClassification,
    "resnet": transformers.AutoModelForImageClassification,
}


def make_base(
    folder: Path,
    kind: str = "llama",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_size: int | None = None,
) -> Path:
    """Save a checkpoint of a kind with its tokenizer; return the folder.

    ``shard_size`` is the most bytes of a shard; without it there is one file.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KINDS[kind]()
        _fill(dict(model.named_parameters()), torch.Generator().manual_seed(seed), 0.1)
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder, max_shard_size="1GB" if shard_size is None else shard_size)
    if kind != "resnet":
        make_tokenizer(chat=kind.startswith("llama")).save_pretrained(folder)
    return folder


def make_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that fits every text model here."""
    names = ["<unk>", "<s>", "</s>", "<pad>", *_WORDS.split()]
    names += [f"w{number}" for number in range(VOCABULARY - len(names))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = PreTrainedTokenizerFast  # its __init__ has no types
    fast: PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    )
    if chat:
        fast.chat_template = _TEMPLATE
    return fast


def load_base(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a checkpoint of ``make_base``, in its own dtype unless told otherwise."""
    config = json.loads((folder / "config.json").read_text())
    loader = _LOADERS.get(config["model_type"], transformers.AutoModelForCausalLM)
    model: PreTrainedModel = loader.from_pretrained(folder, dtype=dtype or "auto")
    model.train(mode=False)
    return model


def make_adapter(
    base_folder: Path,
    out_folder: Path,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
    **lora_config: Any,  # LoraConfig's own arguments
) -> Path:
    """Wrap a base with PEFT, fill all that would be trained with values, and save it.

    ``lora_config`` goes to PEFT's LoraConfig; ``r`` is 4, ``lora_alpha`` 8 and
    ``target_modules`` those of TARGETS unless given. Returns the folder.
    """
    model = load_base(base_folder)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "init_lora_weights": True, **lora_config}
    if "target_modules" not in settings:
        settings["target_modules"] = _targets(model)
    with warnings.catch_warnings(), torch.random.fork_rng():
        # PEFT warns of tied embeddings, of embeddings saved along and of fan_in_fan_out.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(**settings))
        fill_adapter(wrapped, seed, dtype)
        wrapped.save_pretrained(str(out_folder))
    return out_folder


def fill_adapter(model: PeftModel, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Give seeded values to every trainable parameter: B is not zero, magnitudes are off."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _fill(trained, torch.Generator().manual_seed(seed), 0.2)
    for name, parameter in trained.items():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def load_adapter(base_folder: Path, folder: Path, dtype: torch.dtype | None = None) -> PeftModel:
    """Load a base with an adapter on it, as PEFT does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: PeftModel = PeftModel.from_pretrained(load_base(base_folder, dtype), str(folder))
    model.train(mode=False)
    return model


def edit_config(folder: Path, *drop: str, **change: object) -> None:
    """Change and drop fields of an adapter_config.json, or of a config.json without one."""
    path = folder / "adapter_config.json"
    path = path if path.exists() else folder / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: config[key] for key in config if key not in drop}))


def edit_tensors(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], name: str = ""
) -> None:
    """Let ``edit`` change the tensors of an adapter, or of the file ``name``, in place."""
    path = folder / (name or "adapter_model.safetensors")
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def example_inputs(kind: str, seed: int = 7) -> dict[str, torch.Tensor]:
    """Return a batch that a model of the kind takes."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "resnet":
        return {"pixel_values": torch.randn((2, 3, 32, 32), generator=generator)}
    return {"input_ids": torch.randint(4, VOCABULARY, (2, 12), generator=generator)}


def _targets(model: PreTrainedModel) -> list[str]:
    aliases = {"gemma3_text": "gemma3"}
    model_type = str(model.config.model_type)
    return TARGETS[aliases.get(model_type, model_type)]


def _fill(
    parameters: dict[str, torch.nn.Parameter], generator: torch.Generator, spread: float
) -> None:
    """Move each parameter by seeded noise, in the order of the names; weights start from none.

    Norms and magnitudes stay near what they were: a norm of noise would hide the rest.
    """
    with torch.no_grad():
        for name in sorted(parameters):
            parameter = parameters[name]
            noise = torch.randn(parameter.shape, generator=generator) * spread
            if not re.search(r"lora_[AB]|lora_embedding", name):
                noise += parameter.float()
            if "lora_magnitude_vector" in name:
                noise = noise.abs() + 0.01
            parameter.copy_(noise)


_logging: Any = transformers.utils.logging  # its functions have no types
_logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)
