"""Which modules keep their weight as (in, out): transformers' Conv1D."""

from __future__ import annotations

CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
CONV1D_LEAVES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})
"""Model types, and names of modules in them, that are Conv1D: transformers 5.23."""


def is_conv1d(model_type: object, module: str) -> bool:
    """Whether a module of a model type is a Conv1D, by its name."""
    return model_type in CONV1D_TYPES and module.rpartition(".")[2] in CONV1D_LEAVES
