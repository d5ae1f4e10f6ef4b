"""Which modules keep their weight as (in, out): transformers' Conv1D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adreg.registry.bases.renames import architecture, parts

CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
CONV1D_LEAVES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})
"""Model types, and names of modules in them, that are Conv1D: transformers 5.23."""


def is_conv1d(model_type: object, module: str) -> bool:
    """Whether a module of a model type is a Conv1D, by its name."""
    return model_type in CONV1D_TYPES and module.rpartition(".")[2] in CONV1D_LEAVES


class Conv1ds:
    """Which modules of one model are Conv1D, by the model inside it that they belong to."""

    def __init__(
        self, architecture_name: str | None, model_type: str | None, config: Mapping[str, Any]
    ) -> None:
        """Find the models inside; ``known`` is false for a class that transformers has not."""
        self.known = architecture(architecture_name) is not None
        self._parts = parts(architecture_name, model_type, config)

    def __contains__(self, module: object) -> bool:
        """Whether the module, by its name in memory, is a Conv1D."""
        name = str(module)
        inside = [one for one in self._parts if not one[0] or name.startswith(f"{one[0]}.")]
        return is_conv1d(max(inside, key=lambda one: len(one[0]))[1], name)
