"""Peak memory and time of a merge against the size of the base.

    python benchmarks/memory.py FOLDER [SIZE ...]

Writes synthetic bases below FOLDER (0.8 GB and 6.4 GB, and as much again for the
output), and prints a table. ``cp`` of the base, made durable, runs in the same rounds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from processes import Run, run, table
from synthetic import SIZES, make

_IMPORTS = "import numpy, ml_dtypes, click, sqlalchemy"


def rounds(folder: Path, name: str, times: int) -> tuple[list[Run], list[Run]]:
    """Merge an adapter and copy its base in turn; return the runs of each."""
    merges, copies = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            home, out = f"{scratch}/home", f"{scratch}/out"
            arguments = ["--home", home, "-q", "merge", str(folder / name)]
            arguments += ["--base", str(folder / "base"), "-o", out]
            merges.append(run([sys.executable, "-I", "-m", "adreg.cli", *arguments]))
            shutil.rmtree(out)
            copy = 'cp -r "$1" "$2" && sync -f "$2"'
            copies.append(run(["sh", "-c", copy, "sh", str(folder / "base"), f"{scratch}/copy"]))
    return merges, copies


def main(folder: Path, sizes: list[str]) -> None:
    """Print the table."""
    imports = run([sys.executable, "-I", "-c", _IMPORTS])
    torch = run([sys.executable, "-I", "-c", "import torch"])
    rows: list[list[object]] = []
    for size in sizes:
        place = folder / size
        make(size, place)
        for name in ("r16", "dora"):
            merges, copies = rounds(place, name, 3)
            fastest = min(copy.seconds for copy in copies)
            seconds = sorted(merge.seconds for merge in merges)[1]
            peak = max(merge.peak for merge in merges)
            rows.append(
                [
                    size,
                    name,
                    f"{peak:.0f}",
                    f"{peak - imports.peak:.0f}",
                    f"{peak - torch.peak:+.0f}",
                    f"{seconds:.1f}",
                    f"{fastest:.1f}",
                    f"{seconds / fastest:.2f}",
                ]
            )
    header = ["base", "adapter", "peak MiB", "over own imports", "over import torch", "merge s"]
    table(
        "Merging: peak memory and time (median of 3, durable)",
        [*header, "fastest cp+sync s", "ratio"],
        rows,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SIZES))
