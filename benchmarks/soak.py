"""Eight processes at one registry, some of them killed, and what must hold in the end.

    python benchmarks/soak.py MINUTES [PROCESSES]

Each works under names of its own, so that what must be there follows from what was
acknowledged; files are shared between them, so that removing and adding meet. It
prints a line of JSON with the counts, and ends with 1 if a promise did not hold.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adreg.registry import Registry

ADAPTERS = 12
"""Different adapters; all processes draw from them, under contents of their own config."""
KILL_EVERY = 2.0
"""Seconds between two kills."""
STUCK = 120.0
"""Seconds in which a process must come to its end once it was told to."""


def make_adapter(folder: Path, owner: int, seed: int) -> Path:
    """Write an adapter; its weights are those of every owner's with this seed."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": owner + 1,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = np.random.default_rng(seed).standard_normal((2, 4, 64), dtype=np.float32)
    name = "base_model.model.layers.0.q_proj.lora_"
    tensors = {f"{name}A.weight": values[0], f"{name}B.weight": values[1].T.copy()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def work(root: Path, owner: int, turn: int, end: float) -> None:
    """Add, alias, remove, sweep, verify and back up until it is time; note each before and after.

    The note after a command is its acknowledgement.
    """
    registry = Registry(root / "home")
    chance = random.Random(owner * 1000 + turn)  # noqa: S311  # what is drawn must come again
    log = (root / f"log-{owner}").open("a", buffering=1)

    def note(*words: object) -> None:
        log.write(json.dumps(words) + "\n")

    number = 0
    while time.time() < end:
        number += 1
        seed = chance.randrange(ADAPTERS)
        name = f"w{owner}/a{seed}"
        here = {str(row.key.name) for row in registry.list().rows if row.key.name == name}
        what = chance.choices(
            ("add", "remove", "alias", "gc", "verify", "backup"), (8, 5, 4, 2, 2, 1)
        )[0]
        note("begin", what, name)
        if what == "add":
            registry.add(root / f"made/{owner}-{seed}", name=name)
        elif what == "remove" and here:
            registry.remove(name)
        elif what == "alias" and here:
            registry.alias(name, "prod")
        elif what == "gc":
            registry.gc(0.0)
        elif what == "verify":
            # Files of nobody may be there for a moment, or since a kill: the sweep's work.
            note("fault", list(registry.verify().faults))
        elif what == "backup":
            target = root / f"backup-{owner}-{turn}-{number}.tar"
            registry.backup(target)
            target.unlink() if chance.random() < 0.7 else None
        note("end", what, name, bool(here))


def _all() -> Any:  # noqa: ANN401  # a query of the catalog's
    from adreg.registry.catalog.records import ListQuery  # noqa: PLC0415  # the worker's alone

    return ListQuery(all_versions=True)


def expected(log: Path) -> tuple[dict[str, bool | None], Counter[str], list[Any]]:
    """Return which names must be there (None: either, a command was killed), and the counts."""
    state: dict[str, bool | None] = {}
    counts: Counter[str] = Counter()
    faults: list[Any] = []
    begun: tuple[str, str] | None = None
    for line in log.read_text().splitlines():
        with suppress(ValueError):  # the last line of a killed one
            kind, *rest = json.loads(line)
            if begun is not None and kind == "begin":
                counts["killed"] += 1
                if begun[0] in {"add", "remove"}:
                    state[begun[1]] = None
            if kind == "fault":
                faults += rest[0]
            begun = (rest[0], rest[1]) if kind == "begin" else None if kind == "end" else begun
            if kind == "end":
                what, name, here = rest
                counts[what] += 1
                if what == "add":
                    state[name] = True
                elif what == "remove":
                    state[name] = False if here else state.get(name, False)
    if begun is not None and begun[0] in {"add", "remove"}:
        state[begun[1]] = None
    return state, counts, faults


def soak(root: Path, minutes: float, processes: int) -> dict[str, Any]:
    """Run it in an empty folder; return the counts and what did not hold."""
    for owner in range(processes):
        for seed in range(ADAPTERS):
            make_adapter(root / f"made/{owner}-{seed}", owner, seed)
    # A backup of what is not there yet is refused.
    Registry(root / "home").add(make_adapter(root / "first", processes, 0), name="first")
    end = time.time() + minutes * 60
    turns = Counter(range(processes))

    def start(owner: int) -> subprocess.Popen[bytes]:
        turns[owner] += 1
        command = [sys.executable, __file__, "--work", str(root), str(owner), str(turns[owner])]
        return subprocess.Popen([*command, str(end)], stderr=(root / f"err-{owner}").open("ab"))

    running = {owner: start(owner) for owner in range(processes)}
    chance, kills, wrong = random.Random(7), 0, []  # noqa: S311
    try:
        while time.time() < end:
            time.sleep(min(KILL_EVERY, max(0.0, end - time.time())))
            owner = chance.randrange(processes)
            if running[owner].poll() is None and time.time() < end:
                running[owner].send_signal(signal.SIGKILL)
                running[owner].wait()
                kills += 1
                running[owner] = start(owner)
        for owner, process in running.items():
            try:
                code = process.wait(timeout=STUCK)
            except subprocess.TimeoutExpired:
                wrong.append(f"process {owner} does not come to its end")
                continue
            if code:
                wrong.append(f"process {owner} ended with {code}: {last_line(root, owner)}")
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    counts, held = judge(root, processes)
    return {"kills": kills, **counts, "wrong": [*wrong, *held]}


def last_line(root: Path, owner: int) -> str:
    """Return the last that a process said."""
    lines = (root / f"err-{owner}").read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


def judge(root: Path, processes: int) -> tuple[Counter[str], Iterator[str]]:
    """Return what was done, and which promises did not hold."""
    counts: Counter[str] = Counter()
    registry = Registry(root / "home")
    registry.gc(0.0)
    there = {row.key.name for row in registry.list(_all()).rows}
    wrong = [] if "first" in there else ["first is lost"]
    for owner in range(processes):
        state, done, faults = expected(root / f"log-{owner}")
        counts += done
        wrong += [f"damage was seen: {one}" for one in faults]
        for name, must in state.items():
            if must is not None and must != (name in there):
                wrong.append(f"{name} is {'lost' if must else 'there again'}")
    found = registry.verify()
    wrong += [*found.faults, *(f"{path} is of nobody" for path in found.unknown)]
    staging = list((root / "home/store/models--adreg/staging").glob("*"))
    wrong += [f"{path} is left" for path in staging]
    with closing(sqlite3.connect(root / "home/catalog.sqlite")) as catalog:
        for pragma, good in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
            if (answer := catalog.execute(f"PRAGMA {pragma}").fetchall()) != good:
                wrong.append(f"{pragma}: {answer[:3]}")
    for number, saved in enumerate(sorted(root.glob("backup-*.tar"))[:5]):
        other = Registry(root / f"restored-{number}")
        other.restore(saved)
        counts["restored"] += 1
        wrong += [f"{saved.name}: {fault}" for fault in other.verify().faults]
    counts["versions"] = len(there)
    return counts, iter(wrong)


def main() -> None:
    """Run by hand, or as one of the processes."""
    if sys.argv[1] == "--work":
        _, _, root, owner, turn, end = sys.argv
        work(Path(root), int(owner), int(turn), float(end))
        return
    minutes = float(sys.argv[1])
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with tempfile.TemporaryDirectory(prefix="adreg-soak-") as folder:
        told = soak(Path(folder), minutes, processes)
    print(json.dumps(told, default=list))
    sys.exit(bool(told["wrong"]))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
