"""What a model is given in order to see what it answers: prompts, else seeded noise that fits.

Each input is a batch of one, so that nothing is padded: a model that finds the end of a
text by its padding token needs none then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adreg.registry.errors import InputRefused
from adreg.registry.trial.loading import import_packages, load_tokenizer

LONGEST = 128
"""Tokens of a prompt that are looked at: four sets of logits are held, each with a
vocabulary's width a token."""

_DRAWN = 4
"""Inputs that are drawn where no prompt is given."""

_TOKENS = 16
_TARGETS = 8
_PIXELS = 64
"""The side of an image where the configuration names none, as of a ResNet."""
_SAMPLES = 8000
"""Half a second of sound at 16 kHz."""


def inputs_for(
    model: Any,  # noqa: ANN401
    folder: Path,
    prompts: Sequence[str],
    seed: int,
) -> tuple[Mapping[str, Any], ...]:
    """Return keyword arguments of ``model``, on the CPU: one a prompt, else a few drawn ones.

    Token ids are (1, tokens) int64, pixels (1, channels, height, width) float32, sound
    (1, samples) or (1, bands, frames). An encoder-decoder gets drawn decoder ids too.
    Raises InputRefused for a model that takes none of these, or no text where there are
    prompts; ``folder`` holds its tokenizer.
    """
    if prompts:
        if model.main_input_name != "input_ids":
            raise InputRefused(
                folder, f"it takes {model.main_input_name} and no text", "Leave out --prompt."
            )
        given = [{"input_ids": ids} for ids in _encoded(folder, prompts)]
    else:
        given = [_drawn(model, folder, seed + number) for number in range(_DRAWN)]
    if model.config.is_encoder_decoder:
        for number, one in enumerate(given):
            one["decoder_input_ids"] = _targets(model.config, seed + number)
    return tuple(given)


def _encoded(folder: Path, prompts: Sequence[str]) -> list[Any]:
    tokenizer = load_tokenizer(folder)
    encoded = [tokenizer(text, return_tensors="pt")["input_ids"][:, :LONGEST] for text in prompts]
    if any(not ids.shape[1] for ids in encoded):
        raise InputRefused(folder, "a prompt has no tokens", "Give it some text.")
    return [ids.long() for ids in encoded]


def _drawn(model: Any, folder: Path, seed: int) -> dict[str, Any]:  # noqa: ANN401
    """Draw what the model's main input is; a model of text and images is given both."""
    main, config = model.main_input_name, model.config
    if main == "input_ids":
        given = {"input_ids": _ids(config, seed, _TOKENS)}
        # CLIP and its like compare a text with an image; those that write text need none,
        # and take none without a token that stands for it (PaliGemma has a projection too).
        compares = hasattr(config, "projection_dim") and not hasattr(config, "image_token_id")
        if compares and hasattr(config, "vision_config"):
            given["pixel_values"] = _pixels(config, seed)
        return given
    if main == "pixel_values":
        return {main: _pixels(config, seed)}
    if main == "input_features":
        bands = _number(config, "num_mel_bins", "feature_size", default=80)
        frames = 2 * _number(config, "max_source_positions", default=50)
        return {main: _noise((1, bands, frames), seed)}
    if main == "input_values":
        # A spectrum of a fixed length for an AST, the sound itself for all others.
        bands, frames = (
            _number(config, name, default=0) for name in ("num_mel_bins", "max_length")
        )
        is_spectrum = bands > 0 and frames > 0
        return {main: _noise((1, frames, bands) if is_spectrum else (1, _SAMPLES), seed)}
    reason = f"nothing is known that fits its input {main}"
    advice = "Compare it in transformers: what it takes is not known here."
    raise InputRefused(folder, reason, advice)


def _ids(config: Any, seed: int, length: int) -> Any:  # noqa: ANN401
    """Return token ids (1, length) that are none of the special ones of the configuration."""
    torch, _, _ = import_packages()
    text = config.get_text_config()
    names = ("pad", "bos", "eos", "image", "video", "audio", "vision_start", "decoder_start")
    special: set[object] = set()
    for one in (config, text):
        for name in names:
            value = getattr(one, f"{name}_token_id", None)
            special.update(value if isinstance(value, list) else [value])
            special.add(getattr(one, f"{name}_token_index", None))
    allowed = torch.tensor([n for n in range(text.vocab_size) if n not in special])
    longest = _number(text, "max_position_embeddings", "n_positions", default=length)
    generator = torch.Generator().manual_seed(seed)
    # RoBERTa's positions begin behind its padding index: two fewer than the configuration says.
    count = max(1, min(length, longest - 2))
    return allowed[torch.randint(len(allowed), (1, count), generator=generator)]


def _targets(config: Any, seed: int) -> Any:  # noqa: ANN401
    torch, _, _ = import_packages()
    ids = _ids(config, seed + 1, _TARGETS)
    start = getattr(config, "decoder_start_token_id", None)
    return torch.cat([torch.tensor([[start]]), ids], 1) if isinstance(start, int) else ids


def _pixels(config: Any, seed: int) -> Any:  # noqa: ANN401
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or _PIXELS
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return _noise((1, _number(vision, "num_channels", default=3), height, width), seed)


def _noise(shape: tuple[int, ...], seed: int) -> Any:  # noqa: ANN401
    torch, _, _ = import_packages()
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _number(config: Any, *names: str, default: int) -> int:  # noqa: ANN401
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return default
