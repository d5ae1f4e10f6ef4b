"""Merges against a plain copy, PEFT and mergekit: time, and peak memory.

    python benchmarks/merging.py FOLDER [--size SIZE ...] [--rounds N] [--only NAME ...]

Writes synthetic bases below FOLDER, and needs room for the base twice. All rows run in turn
in each round, every output is made durable within its time, and the base is read first, so
that no row pays for a cold cache. Ratios are given to the fastest of all copies and to their
median: a copy's time differs by a factor of 5 on virtual machines, by what ran before it.
``mergekit-yaml`` is taken from the PATH or from MERGEKIT, and left out where there is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from processes import Run, run, table
from synthetic import SIZES, make

HERE = Path(__file__).resolve().parent
PEFT_ROW = "PEFT r16"
_MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
_RECIPE = "merge_method: passthrough\ndtype: bfloat16\nmodels:\n  - model: {base}+{adapter}\n"

Command = Callable[[Path, Path], list[str]]
"""Takes the folder of a size and a scratch folder, gives what to run."""


def adreg(*adapters: str) -> Command:
    """Merge adapters by adreg."""

    def command(place: Path, scratch: Path) -> list[str]:
        refs = [str(place / name) for name in adapters]
        start = [sys.executable, "-I", "-m", "adreg.cli", "--home", f"{scratch}/home", "-q"]
        return [*start, "merge", *refs, "--base", f"{place}/base", "-o", f"{scratch}/out"]

    return command


def copy(place: Path, scratch: Path) -> list[str]:
    """Copy the base and make it durable."""
    return _durable(["cp", "-r", f"{place}/base", f"{scratch}/out"], scratch)


def peft(place: Path, scratch: Path) -> list[str]:
    """Merge by PEFT."""
    script = [sys.executable, str(HERE / "merge_with_peft.py")]
    return _durable([*script, f"{place}/base", f"{place}/r16", f"{scratch}/out"], scratch)


def mergekit(place: Path, scratch: Path) -> list[str]:
    """Merge by mergekit."""
    recipe = scratch / "recipe.yml"
    recipe.write_text(_RECIPE.format(base=place / "base", adapter=place / "r16"))
    cache = ["--lora-merge-cache", f"{scratch}/cache"]
    return _durable([str(_MERGEKIT), str(recipe), f"{scratch}/out", *cache], scratch)


def _durable(command: list[str], scratch: Path) -> list[str]:
    return ["sh", "-c", f'"$@" && sync -f {scratch}', "sh", *command]


ROWS: dict[str, Command] = {
    "cp -r + sync": copy,
    "adreg r16": adreg("r16"),
    "adreg attn64": adreg("attn64"),
    "adreg dora": adreg("dora"),
    "adreg 3 adapters": adreg("r16", "attn64", "second"),
    "adreg 8 adapters": adreg("r16", "attn64", *(f"more{n}" for n in range(6))),
    PEFT_ROW: peft,
    "mergekit r16": mergekit,
}
COPY = next(iter(ROWS))


def measure(place: Path, names: list[str], rounds: int) -> dict[str, list[Run]]:
    """Run all rows in turn, ``rounds`` times."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                # A registry is made once, not with each merge.
                shutil.copytree(place / "home", Path(folder, "home"))
                command = ROWS[name](place, Path(folder))
                _warm(place / "base")
                runs[name].append(run(command))
                sys.stderr.write(f"{place.name} {name}: {runs[name][-1]}\n")
    return runs


def _warm(base: Path) -> None:
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass


def main(place: Path, size: str, names: list[str], rounds: int) -> None:
    """Print the table of one size."""
    make(size, place)
    if not (place / "home").exists():
        start = [sys.executable, "-I", "-m", "adreg.cli", "--home", f"{place}/home", "-q"]
        run([*start, "base", "add", f"{place}/base"])
    runs = measure(place, names, rounds)
    seconds = {name: statistics.median(one.seconds for one in runs[name]) for name in names}
    copies = [one.seconds for one in runs[COPY]]
    rows = []
    for name in names:
        several = sorted(one.seconds for one in runs[name])
        times_peft = f"{seconds[PEFT_ROW] / seconds[name]:.1f}" if PEFT_ROW in runs else "-"
        rows.append(
            [
                name,
                f"{seconds[name]:.2f} ({several[0]:.2f}-{several[-1]:.2f})",
                f"{seconds[name] / min(copies):.2f}",
                f"{seconds[name] / statistics.median(copies):.2f}",
                times_peft,
                f"{max(one.cpu for one in runs[name]):.1f}",
                f"{max(one.peak for one in runs[name]):.0f}",
            ]
        )
    table(
        f"Merging into {size} (median of {rounds}, durable)",
        [
            "",
            "seconds (from-to)",
            "times the fastest cp",
            "times the median cp",
            "PEFT takes times as long",
            "CPU s",
            "peak MiB",
        ],
        rows,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=ROWS)
    asked = parser.parse_args()
    chosen = [one for one in ROWS if _MERGEKIT or ROWS[one] is not mergekit]
    if asked.only:
        chosen = [one for one in chosen if one == COPY or one in asked.only]
    for one in asked.size or ("0.8GB", "6.4GB"):
        main(asked.folder / one, one, chosen, asked.rounds)
