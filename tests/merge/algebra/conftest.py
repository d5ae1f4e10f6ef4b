"""What an adapter does to each module, by PEFT's own layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from peft import PeftModel

Deltas = dict[str, torch.Tensor]


def deltas_of(model: PeftModel, adapter: str = "default") -> Deltas:
    """Return the delta of each targeted module in float64, by the module's name."""
    found: Deltas = {}
    for name, module in model.named_modules():
        layer: Any = module
        if not hasattr(layer, "get_delta_weight"):
            continue
        if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
            delta = layer.get_delta_weight(adapter).detach().double()
            found[name.removeprefix("base_model.model.")] = delta
    return found


@pytest.fixture
def deltas() -> Callable[..., Deltas]:
    """Load an adapter with PEFT, or several combined by it, and return its deltas.

    Called with a base, a folder or a list of folders, and PEFT's own arguments of
    ``add_weighted_adapter`` for a list.
    """

    def load(base: Path, adapters: Path | list[Path], **combine: Any) -> Deltas:
        if isinstance(adapters, Path):
            with warnings.catch_warnings():
                # What PEFT does not find in the file, it only warns of.
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", FutureWarning)
                warnings.filterwarnings("ignore", "fan_in_fan_out")
                warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
                model = PeftModel.from_pretrained(factory.load_base(base), str(adapters))
            return deltas_of(model)
        model = factory.load_adapter(base, adapters[0])
        names = ["default"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, folder in enumerate(adapters[1:]):
                names.append(f"other{number}")
                model.load_adapter(str(folder), names[-1])
            tuner: Any = model
            tuner.add_weighted_adapter(names, adapter_name="mix", **combine)
        return deltas_of(model, "mix")

    return load
