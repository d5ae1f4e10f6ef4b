"""How much memory a merge takes: no more for a large base than for a small one, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from adreg.registry.tensors.encode import Entry, encode_header

_LARGE = (36_864, 4096)
"""302 MB in bfloat16."""

_MERGE = """
import json, resource, sys
from pathlib import Path
from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe
base, adapter, home, out = sys.argv[1:]
recipe = Recipe.from_dict({"base": base, "adapters": [adapter]})
merged = Registry(Path(home)).merge(recipe, output=Path(out), name="m", threads=4)
print(json.dumps({
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "modules": sorted({"torch", "transformers", "peft"} & set(sys.modules)),
    "changed": merged.totals.changed,
}))
"""


def write(path: Path, entries: list[Entry], seed: int) -> None:
    """Write tensors of seeded values, a few rows drawn once and repeated."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(encode_header(entries, {"format": "pt"}))
        for entry in entries:
            dtype = np.float32 if entry.dtype == "F32" else ml_dtypes.bfloat16
            piece = random.standard_normal(min(1 << 20, int(np.prod(entry.shape)))).astype(dtype)
            whole, rest = divmod(entry.nbytes, piece.nbytes)
            for _ in range(whole):
                file.write(piece.tobytes())
            file.write(piece.tobytes()[:rest])


def make(root: Path, shape: tuple[int, int], *, dora: bool) -> tuple[Path, Path]:
    """Write a base with one linear tensor of a shape, and an adapter on it."""
    base, adapter = root / "base", root / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    module = "model.layers.0.mlp.up_proj"
    write(base / "model.safetensors", [Entry(f"{module}.weight", "BF16", shape)], 0)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (base / "config.json").write_text(json.dumps(config))
    stem = f"base_model.model.{module}"
    entries = [
        Entry(f"{stem}.lora_A.weight", "F32", (8, shape[1])),
        Entry(f"{stem}.lora_B.weight", "F32", (shape[0], 8)),
    ]
    if dora:
        entries.append(Entry(f"{stem}.lora_magnitude_vector", "F32", (shape[0],)))
    write(adapter / "adapter_model.safetensors", entries, 1)
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": dora}
    settings |= {"target_modules": ["up_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return base, adapter


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_large_tensor(tmp_path: Path, dora: bool) -> None:
    """One tensor of 300 MB takes at most 150 MB more than a tiny one, and torch is not imported."""
    peaks = []
    for name, shape in (("small", (64, 64)), ("large", _LARGE)):
        base, adapter = make(tmp_path / name, shape, dora=dora)
        told = subprocess.run(
            [
                *(sys.executable, "-c", _MERGE, str(base), str(adapter)),
                *(str(tmp_path / name / "home"), str(tmp_path / name / "out")),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        answer = json.loads(told.stdout)
        peaks.append(answer["peak"] / 1024)

        assert [] == answer["modules"]
        assert answer["changed"] > 0.5 * shape[0] * shape[1]

    assert peaks[1] - peaks[0] < 150
