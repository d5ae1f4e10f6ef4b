"""Tiny seeded real models of many architectures, with LoRA adapters on their linear layers.

Each is made by transformers' own classes with a few thousand parameters, and saved by
save_pretrained, so with the names on disk that its real checkpoints have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import factory
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

_TEXT: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 1, "head_dim": 8}
_MIXTURE = {
    **_GROUPED,
    "moe_intermediate_size": 12,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 20,
}
_OLD = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
_PAIR: dict[str, Any] = {
    "vocab_size": 48,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_LABELS: dict[str, Any] = {"id2label": {0: "bad", 1: "good", 2: "unsure"}}


@dataclass(frozen=True, slots=True)
class Kind:
    """A model class, the settings of its configuration, and what LoRA targets in it.

    Without ``targets`` they are all its linear layers but the output head.
    ``parameters`` are LoRA's target_parameters.
    """

    architecture: str
    settings: dict[str, Any]
    targets: list[str] | None = None
    parameters: list[str] | None = None


_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

KINDS: dict[str, Kind] = {
    "llama": Kind("LlamaForCausalLM", _GROUPED),
    "mistral": Kind("MistralForCausalLM", _GROUPED),
    "qwen2": Kind("Qwen2ForCausalLM", _TEXT | {"num_key_value_heads": 1}),
    "qwen3": Kind("Qwen3ForCausalLM", _GROUPED),
    "gemma2": Kind("Gemma2ForCausalLM", _GROUPED),
    "gemma3_text": Kind("Gemma3ForCausalLM", _GROUPED),
    "phi": Kind("PhiForCausalLM", _TEXT),
    "phi3": Kind("Phi3ForCausalLM", _TEXT | {"num_key_value_heads": 1}),
    "gpt2": Kind("GPT2LMHeadModel", _OLD, ["c_attn", "c_proj", "c_fc"]),
    "gpt_neox": Kind("GPTNeoXForCausalLM", _TEXT),
    "gptj": Kind("GPTJForCausalLM", _OLD | {"rotary_dim": 4}),
    "bloom": Kind(
        "BloomForCausalLM", {"vocab_size": 48, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    ),
    "falcon": Kind("FalconForCausalLM", _TEXT),
    "opt": Kind(
        "OPTForCausalLM",
        _TEXT | {"ffn_dim": 24, "word_embed_proj_dim": 16, "intermediate_size": None},
    ),
    "mamba": Kind(
        "MambaForCausalLM",
        {"vocab_size": 48, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
        ["in_proj", "x_proj", "dt_proj"],  # PEFT refuses out_proj
    ),
    "mixtral": Kind("MixtralForCausalLM", _MIXTURE | {"num_local_experts": 3}),
    "qwen2_moe": Kind("Qwen2MoeForCausalLM", _MIXTURE | {"num_experts": 3}),
    "qwen3_moe": Kind("Qwen3MoeForCausalLM", _MIXTURE | {"num_experts": 3}),
    "olmoe": Kind("OlmoeForCausalLM", _MIXTURE | {"num_experts": 3}),
    "gpt_oss": Kind("GptOssForCausalLM", _MIXTURE | {"num_local_experts": 3}),
    "granitemoe": Kind("GraniteMoeForCausalLM", _MIXTURE | {"num_local_experts": 3}),
    "deepseek_v3": Kind(
        "DeepseekV3ForCausalLM",
        _TEXT
        | {
            "moe_intermediate_size": 12,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 2,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    "t5": Kind(
        "T5ForConditionalGeneration",
        {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
    ),
    "bart": Kind("BartForConditionalGeneration", _PAIR),
    "whisper": Kind(
        "WhisperForConditionalGeneration",
        _PAIR | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
    ),
    "bert": Kind("BertForSequenceClassification", _TEXT | _LABELS),
    "bert_mlm": Kind("BertForMaskedLM", _TEXT),
    "roberta": Kind("RobertaForSequenceClassification", _TEXT | _LABELS),
    "distilbert": Kind(
        "DistilBertForSequenceClassification",
        {"vocab_size": 48, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2} | _LABELS,
    ),
    "deberta_v2": Kind("DebertaV2ForSequenceClassification", _TEXT | _LABELS),
    "vit": Kind("ViTForImageClassification", _VISION | _LABELS),
    "clip": Kind(
        "CLIPModel",
        {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 8},
    ),
    "wav2vec2": Kind(
        "Wav2Vec2ForCTC",
        {
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "conv_dim": (8, 8),
            "conv_stride": (2, 2),
            "conv_kernel": (3, 3),
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    "llava": Kind(
        "LlavaForConditionalGeneration",
        {
            "text_config": _GROUPED | {"model_type": "llama"},
            "vision_config": _VISION | {"model_type": "clip_vision_model"},
            "image_token_id": 7,
        },
    ),
    "paligemma": Kind(
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": _GROUPED | {"model_type": "gemma"},
            "vision_config": _VISION | {"model_type": "siglip_vision_model"},
            "projection_dim": 16,
            "image_token_id": 7,
        },
    ),
    "gemma3": Kind(
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _GROUPED | {"model_type": "gemma3_text"},
            "vision_config": _VISION | {"model_type": "siglip_vision_model"},
            "image_token_index": 7,
            "boi_token_index": 8,
            "eoi_token_index": 9,
        },
    ),
    "mistral3": Kind(
        "Mistral3ForConditionalGeneration",
        {
            "text_config": _GROUPED | {"model_type": "mistral"},
            "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
            "image_token_index": 7,
        },
    ),
    "qwen2_vl": Kind(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": _TEXT
            | {
                "num_key_value_heads": 1,
                "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
            },
            "vision_config": {
                "depth": 1,
                "embed_dim": 16,
                "hidden_size": 16,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 4,
            },
            "image_token_id": 7,
        },
    ),
    "qwen3_vl_moe": Kind(
        "Qwen3VLMoeForConditionalGeneration",
        {
            "text_config": _MIXTURE
            | {
                "num_experts": 3,
                "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "patch_size": 4,
                "out_hidden_size": 16,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            "image_token_id": 7,
        },
    ),
}

KINDS |= {
    f"{name} experts": Kind(
        KINDS[name].architecture, KINDS[name].settings, ["q_proj"], parameters=_EXPERTS
    )
    for name in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")
}


def make_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of a kind with seeded values in float32, in evaluation mode."""
    one = KINDS[kind]
    cls: Any = getattr(transformers, one.architecture)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = cls(cls.config_class(**one.settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.train(mode=False)
    return model


def make_base(folder: Path, kind: str, seed: int = 0) -> Path:
    """Save a checkpoint of a kind; return the folder."""
    make_model(kind, seed).save_pretrained(folder)
    return folder


def load_base(folder: Path, kind: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a checkpoint of a kind as its own class, in its own dtype unless told otherwise."""
    cls: Any = getattr(transformers, KINDS[kind].architecture)
    model: PreTrainedModel = cls.from_pretrained(folder, dtype=dtype or "auto")
    model.train(mode=False)
    return model


def make_adapter(base: Path, out: Path, kind: str, seed: int = 1) -> Path:
    """Save an r=4 LoRA on the linear layers of a kind, with seeded values; return the folder."""
    model = load_base(base, kind)
    one = KINDS[kind]
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=one.targets or sorted(_linears(model)),
            target_parameters=one.parameters,
        )
        wrapped = get_peft_model(model, config)
        factory.fill_adapter(wrapped, seed)
        # By itself PEFT asks Wav2Vec2 for an embedding, since its head is named lm_head.
        wrapped.save_pretrained(str(out), save_embedding_layers=False)
    return out


def merged_by_peft(base: Path, adapter: Path, kind: str, out: Path) -> Path:
    """Save PEFT's own merge in float64 as a checkpoint, with names on disk; return the folder."""
    model = load_base(base, kind, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped: PeftModel = PeftModel.from_pretrained(model, str(adapter))
        wrapped.double()  # PEFT loads the adapter in float32 whatever the base is
        merged: Any = wrapped.merge_and_unload()
    merged.save_pretrained(out)
    return out


def _linears(model: PreTrainedModel) -> Iterator[str]:
    """Give the names of all linear layers but the output head."""
    kinds: tuple[Callable[..., Any], ...] = (torch.nn.Linear,)
    try:
        head = model.get_output_embeddings()
    except NotImplementedError:
        head = None
    for name, module in model.named_modules():
        if isinstance(module, kinds) and module is not head:  # type: ignore[arg-type]
            yield name
