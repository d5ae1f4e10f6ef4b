"""Names of tensors and what they mean."""

from __future__ import annotations

import pytest

from adreg.registry.adapters.keys import Meaning, read_key
from adreg.registry.adapters.spec import Part
from adreg.registry.adapters.tuners import tuner_of

LORA = tuner_of({"peft_type": "LORA"})
Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        (f"{Q}.lora_A.weight", Meaning(Q, Part.LORA_A, "weight")),
        (f"{Q}.lora_B.weight", Meaning(Q, Part.LORA_B, "weight")),
        (f"{Q}.lora_B.bias", Meaning(Q, Part.LORA_BIAS, "bias")),
        (f"{Q}.lora_A.default.weight", Meaning(Q, Part.LORA_A, "weight")),
        ("wte.lora_embedding_A", Meaning("wte", Part.EMBEDDING_A, "weight")),
        ("wte.lora_embedding_B.default", Meaning("wte", Part.EMBEDDING_B, "weight")),
        (f"{Q}.lora_magnitude_vector", Meaning(Q, Part.MAGNITUDE, "weight")),
        (f"{Q}.lora_magnitude_vector.default.weight", Meaning(Q, Part.MAGNITUDE, "weight")),
        ("score.weight", Meaning("score", Part.FULL, "weight")),
        ("score.modules_to_save.weight", Meaning("score", Part.FULL, "weight")),
        ("head.modules_to_save.default.out.bias", Meaning("head.out", Part.FULL, "bias")),
        (f"{Q}.bias", Meaning(Q, Part.FULL, "bias")),
        (f"{Q}.base_layer.bias", Meaning(Q, Part.FULL, "bias", wraps=True)),
        ("attn.base_layer.out_proj.lora_A.weight", Meaning("attn.out_proj", Part.LORA_A, "weight")),
        ("mlp.experts.lora_A.weight", Meaning("mlp.experts", Part.LORA_A, "weight")),
        (
            "mlp.experts.base_layer.lora_A.weight",
            Meaning("mlp.experts", Part.LORA_A, "weight", depth=1),
        ),
        ("embed.token_adapter.trainable_tokens_delta", Meaning("embed", Part.ROWS, "weight")),
        ("embed.trainable_tokens_delta", Meaning("embed", Part.ROWS, "weight")),
        ("norm.ln_tuning_layers.weight", Meaning("norm", Part.FULL, "weight")),
    ],
)
def test_spellings(key: str, meaning: Meaning) -> None:
    """Each spelling that PEFT writes or wrote means one thing, with or without the prefix."""
    assert meaning == read_key(key, LORA)
    assert meaning == read_key(f"base_model.model.{key}", LORA)


@pytest.mark.parametrize(
    ("peft_type", "key", "meaning"),
    [
        ("LOHA", f"base_model.model.{Q}.hada_w1_a", Meaning(Q, Part.TUNER, "hada_w1_a")),
        ("LOHA", f"{Q}.hada_w1_a.default", Meaning(Q, Part.TUNER, "hada_w1_a")),
        ("OFT", f"{Q}.oft_R.default.weight", Meaning(Q, Part.TUNER, "oft_R.weight")),
        ("VERA", f"{Q}.vera_lambda_b", Meaning(Q, Part.TUNER, "vera_lambda_b")),
        ("VERA", "base_model.vera_A", Meaning("", Part.TUNER, "vera_A")),
        ("BOFT", f"{Q}.base_layer.bias", Meaning(Q, Part.FULL, "bias", wraps=True)),
        ("LOHA", "base_model.model.score.weight", Meaning("score", Part.FULL, "weight")),
    ],
)
def test_other_kinds_of_adapter(peft_type: str, key: str, meaning: Meaning) -> None:
    """A kind's own parameters are told by its prefix, what modules share by having no module."""
    assert meaning == read_key(key, tuner_of({"peft_type": peft_type}))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("weight", "names no module"),
        ("base_model.model.weight", "names no module"),
        ("a..lora_A.weight", "an empty part"),
        ("", "an empty part"),
        (f"{Q}.lora_A", "loralib's spelling"),
        (f"{Q}.lora_A.bias", "a parameter that LoRA does not have"),
        (f"{Q}.lora_embedding_A.weight", "a parameter that LoRA does not have"),
        (f"{Q}.lora_C.weight", "no tensor that PEFT saves"),
        (f"{Q}.lora_A.other.weight", "no tensor that PEFT saves"),
        (f"{Q}.hada_w1_a", "no tensor that PEFT saves"),
        ("lora_unet_down.lora_down.weight", "kohya's spelling"),
        (f"{Q}.lora_a", "mlx-lm's spelling"),
        (f"{Q}.lora_E", "AdaLoRA"),
        ("score.original_module.weight", "a raw dump"),
    ],
)
def test_names_that_are_not_understood(key: str, words: str) -> None:
    """What PEFT's LoRA never writes is refused, with whose spelling it is where known."""
    with pytest.raises(ValueError, match=words):
        read_key(key, LORA)
