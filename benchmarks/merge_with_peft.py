"""Merge as PEFT's documentation does it: load, merge_and_unload, save_pretrained.

    python benchmarks/merge_with_peft.py BASE ADAPTER OUTPUT

One adapter, or several with commas between: those are merged one after the other.
"""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(base: str, adapters: list[str], output: str) -> None:
    """Merge adapters into a base, in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.save_pretrained(output)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), sys.argv[3])
