"""The merged weights of the real model against PEFT's merge in float64, rounded once.

    python benchmarks/rounding.py BASE ADAPTER [ADAPTER ...]

Prints, for each adapter, the share of elements that are not the correctly rounded value,
and how far logits are apart, as the largest difference over their standard deviation:
merged from PEFT unmerged, in bfloat16 as they are served and in float32 (merged with
``--dtype float32``), and for scale PEFT in bfloat16 from itself in float32.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from processes import table
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

_PROMPT = "Tell me about the sea, and what lives in it."


def wrapped(base: Path, adapter: Path, dtype: torch.dtype) -> PeftModel:
    """Load the base with the adapter on it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, str(adapter)).eval().to(dtype)


def wrong(base: Path, adapter: Path, merged: Path) -> tuple[int, int]:
    """Count elements of touched tensors, and those that are not the rounded exact value."""
    exact = wrapped(base, adapter, torch.float64).merge_and_unload().state_dict()
    before = AutoModelForCausalLM.from_pretrained(base, dtype="auto").state_dict()
    elements = differ = 0
    for file in sorted(merged.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # safe_open is no mapping
                ours = tensors.get_tensor(name)
                if torch.equal(ours, before[name]):
                    continue
                elements += ours.numel()
                differ += int((ours != exact[name].to(ours.dtype)).sum())
    return elements, differ


def logits(model: torch.nn.Module, base: Path) -> torch.Tensor:
    """Return the logits of a prompt in float64: (tokens, vocabulary)."""
    tokens = AutoTokenizer.from_pretrained(base)(_PROMPT, return_tensors="pt")
    with torch.no_grad():
        result: torch.Tensor = model(**tokens).logits[0].double()
    return result


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference of logits over their spread."""
    return ((ours - theirs).abs().max() / theirs.std()).item()


def distances(base: Path, adapter: Path, merged: Path, precise: Path) -> tuple[float, ...]:
    """Return how far logits are apart: merged from PEFT in bf16 and f32, and PEFT from itself."""

    def of(folder: Path, dtype: torch.dtype) -> torch.Tensor:
        return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), base)

    served = logits(wrapped(base, adapter, torch.bfloat16), base)
    exact = logits(wrapped(base, adapter, torch.float32), base)
    return (
        distance(of(merged, torch.bfloat16), served),
        distance(served, exact),
        distance(of(precise, torch.float32), exact),
    )


def main(base: Path, adapters: list[Path]) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for adapter in adapters:
        with tempfile.TemporaryDirectory() as scratch:
            registry = Registry(Path(scratch) / "home")
            recipe = Recipe((RecipeAdapter(str(adapter.absolute())),), base=str(base.absolute()))
            merged, precise = Path(scratch) / "merged", Path(scratch) / "float32"
            registry.merge(recipe, output=merged, name="merged")
            in_float32 = Recipe(recipe.adapters, base=recipe.base, dtype="float32")
            registry.merge(in_float32, output=precise, name="precise")
            elements, differ = wrong(base, adapter, merged)
            rows.append(
                [
                    adapter.name,
                    f"{elements:,}",
                    differ,
                    f"{100 * differ / elements:.5f} %",
                    *(f"{far:.2g}" for far in distances(base, adapter, merged, precise)),
                ]
            )
    header = ["adapter", "elements touched", "not correctly rounded", "share"]
    header += ["merged from PEFT, bf16", "PEFT bf16 from PEFT f32", "merged from PEFT, f32"]
    table("Exactness against PEFT in float64", header, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
