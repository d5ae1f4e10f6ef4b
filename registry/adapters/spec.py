"""What an adapter is, whatever file it came from: the one form that everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from adreg.registry.digest import FileDigest
from adreg.registry.tensors.header import TensorFile, TensorInfo


class Part(Enum):
    """What one adapter tensor does; the values are PEFT's parameter names."""

    LORA_A = "lora_A.weight"
    """(r, in), or (r, in, k...) of a convolution."""
    LORA_B = "lora_B.weight"
    """(out, r), or (out, r, 1...) of a convolution."""
    LORA_BIAS = "lora_B.bias"
    """(out,): added, scaled, to the module's bias."""
    EMBEDDING_A = "lora_embedding_A"
    """(r, vocabulary)."""
    EMBEDDING_B = "lora_embedding_B"
    """(dim, r)."""
    MAGNITUDE = "lora_magnitude_vector"
    """DoRA's m: (out,) of a linear layer, (dim,) of an embedding, (1, out, 1...) of a kernel."""
    FULL = "full"
    """A whole parameter that replaces the base's: modules_to_save, a trained bias, an embedding."""
    ROWS = "trainable_tokens_delta"
    """(n, dim): takes the place of n rows, which the configuration numbers."""
    TUNER = "tuner"
    """A parameter of another kind of adapter; of all modules together when ``module`` is empty."""


@dataclass(frozen=True, slots=True)
class AdapterTensor:
    """One tensor of an adapter, with what it means.

    ``module`` is the full name of the module in the model's memory, without
    ``base_model.model.`` (``model.layers.0.self_attn.q_proj``). For FULL,
    ``parameter`` is what it replaces there (``weight``, ``bias``); for TUNER its own
    name (``hada_w1_a``). ``depth`` counts PEFT's wrappers around wrappers: adapters of
    several parameters of one module nest, the first one innermost.
    """

    key: str
    module: str
    part: Part
    parameter: str
    info: TensorInfo
    depth: int = 0

    @property
    def owner(self) -> str:
        """The module whose rank and alpha count: its own, unless it is a part of a wrapped one.

        An nn.MultiheadAttention gives its out_proj its own r and alpha (peft 0.21.2,
        tuners/lora/layer.py, ``MultiheadAttention.__init__``).
        """
        whole, _, leaf = self.module.rpartition(".")
        return whole if f".base_layer.{leaf}." in self.key else self.module


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The hyperparameters of a configuration, with PEFT's defaults for LoRA filled in.

    ``rank`` is 0 for kinds of adapter that have none.
    """

    rank: int
    alpha: float
    dropout: float
    use_rslora: bool
    use_dora: bool
    bias: str
    lora_bias: bool
    fan_in_fan_out: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A checked adapter: its configuration, its tensors by meaning, and the files it is made of.

    ``base_hint`` is base_model_name_or_path: a hint at best, often a local path.
    ``rows`` are the numbers of single trained rows (see ``rows_of``).
    ``files`` are all files that are kept (relative name, digest, bytes), the weights
    included; ``left_out`` are the others of its folder, each with the reason;
    ``not_followed`` are keys of files that would choose code, by file.
    """

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    peft_type: str
    task_type: str | None
    lora: LoraSettings
    base_hint: str | None
    base_revision: str | None
    peft_version: str | None
    modules_to_save: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    tensors: tuple[AdapterTensor, ...]
    weights: TensorFile
    licence: str | None
    files: tuple[FileDigest, ...]
    left_out: tuple[tuple[str, str], ...]
    not_followed: tuple[tuple[str, str], ...] = ()

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors."""
        return sum(tensor.info.count for tensor in self.tensors)

    @property
    def targets(self) -> tuple[str, ...]:
        """The last names of the modules that carry an adapter, sorted: ``q_proj``, ``v_proj``."""
        return tuple(sorted({module.rpartition(".")[2] for module in self._modules}))

    @property
    def target_count(self) -> int:
        """The number of modules that carry an adapter."""
        return len(self._modules)

    @property
    def _modules(self) -> set[str]:
        return {t.module for t in self.tensors if t.part is not Part.FULL and t.module}

    @property
    def dtype(self) -> str:
        """The safetensors code of most of its elements."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.info.dtype] = counts.get(tensor.info.dtype, 0) + tensor.info.count
        return max(counts, key=lambda code: (counts[code], code))
