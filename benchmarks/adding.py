"""How fast adapters come in: a thousand small ones, and the bytes of a large one.

    python benchmarks/adding.py [ADAPTERS]

The large adapter is taken in durably; ``sha256sum`` only reads it, and ``cp`` with ``sync``
only copies it. Both are run in turn with it, on the same file.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from processes import run, table
from safetensors.numpy import save_file

_LAYERS = 4
_LARGE = 512 << 20
_RUNS = 5


def write(folder: Path, seed: int, width: int = 64) -> None:
    """Write an adapter of rank 4 on ``width`` columns of four layers."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    config["base_model_name_or_path"] = "nobody/nothing"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(seed)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": (
            draw.standard_normal((4, width) if side == "A" else (width, 4), dtype=np.float32)
        )
        for layer in range(_LAYERS)
        for side in "AB"
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def median(values: list[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]


def main(adapters: int) -> None:
    """Print the tables."""
    adreg = shutil.which("adreg") or sys.exit("adreg is not on the PATH")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(adapters):
            write(folder / f"many/a{number}", number)
        seconds = []
        for number in range(3):
            home = {"ADREG_HOME": str(folder / f"home{number}")}
            run([adreg, "list"], home)
            seconds.append(run([adreg, "-q", "add", "-r", str(folder / "many")], home).seconds)
        rate = adapters / median(seconds)
        rows = [(f"{adapters:,}", f"{median(seconds):.1f}", f"{rate:.0f}")]
        table("Adding small adapters", ["adapters", "process s", "a second"], rows)

        write(folder / "large", 0, _LARGE // (2 * 4 * 4 * _LAYERS))
        weights = folder / "large/adapter_model.safetensors"
        size = weights.stat().st_size / 1e6
        times: dict[str, list[float]] = {"sha256sum": [], "cp + sync": [], "adreg add": []}
        for number in range(_RUNS + 1):
            copy = folder / f"copy{number}"
            home = {"ADREG_HOME": str(folder / f"large{number}")}
            commands = {
                "sha256sum": ["sha256sum", str(weights)],
                "cp + sync": ["sh", "-c", f"cp '{weights}' '{copy}' && sync '{copy}'"],
                "adreg add": [adreg, "-q", "add", str(folder / "large")],
            }
            for name, command in commands.items():
                done = run(command, home)
                if number:
                    times[name].append(done.seconds)
            copy.unlink()
            shutil.rmtree(home["ADREG_HOME"])
        rows = [
            (name, f"{median(each):.2f}", f"{size / median(each):,.0f}")
            for name, each in times.items()
        ]
        table(f"An adapter of {size:,.0f} MB", ["what", "process s", "MB a second"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
