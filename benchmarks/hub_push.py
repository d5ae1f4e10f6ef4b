"""Pushes of 200 MB that are killed at random moments, and what the next push sends.

    python benchmarks/hub_push.py [KILLS] [MEGABYTES]

Each push goes to a Hub of its own on loopback (tests/hubserver) by LFS, is killed with
SIGKILL at a seeded random moment of its life, and is then pushed to its end. A file whose
upload had ended before the kill must not be sent again, there must be one commit, and
every file on the Hub must have the bytes that are here. Exits with 1 if not.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from factory import make_adapter, make_base
from hubserver import Hub

from adreg.registry import Registry

TOKEN = "hf_benchmark"  # noqa: S105  # of a Hub that lives for one push
REPO = "alice/big"
FILES = 20


def fill(home: Path, folder: Path, megabytes: int) -> Registry:
    """Record an adapter with that many random bytes in twenty files beside it."""
    adapter = make_adapter(make_base(folder / "base"), folder / "big")
    bytes_of = np.random.default_rng(1).bytes
    for number in range(FILES):
        data = b"\0" + bytes_of((megabytes << 20) // FILES - 1)
        (adapter / f"tokenizer-{number:02}.json").write_bytes(data)
    registry = Registry(home)
    registry.add(adapter, name="big", licence="mit")
    return registry


def start(home: Path, hub: Hub) -> subprocess.Popen[bytes]:
    """Start a push in a process of its own."""
    environment = os.environ | {
        "ADREG_HOME": str(home),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "adreg.cli", "push", "big", REPO, "--base-model", "org/base"]
    pipe = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.PIPE, cwd="/")


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a push that must succeed."""
    _, err = process.communicate()
    if process.returncode:
        sys.exit(err.decode())


def trial(
    home: Path, root: Path, wanted: dict[str, str], moment: float | None
) -> tuple[list[object], float]:
    """Kill one push at a moment, finish it; return a line of the table and the seconds it took."""
    with Hub(root) as hub:
        hub.add_user("alice", TOKEN)
        began = time.monotonic()
        if moment is not None:
            process = start(home, hub)
            time.sleep(moment)
            process.kill()
            process.communicate()
        puts = [one for one in hub.requests if one.method == "PUT"]
        before = sum(one.bytes_received for one in puts if one.status == 200)
        finish(start(home, hub))
        took = time.monotonic() - began
        puts = [one for one in hub.requests if one.method == "PUT"]
        sent = sum(one.bytes_received for one in puts)
        twice = [p for p, n in Counter(p.path for p in puts if p.status == 200).items() if n > 1]
        there = hub.files(REPO)
        right = all(_sha(there[name]) == digest for name, digest in wanted.items())
        fine = right and not twice and len(hub.commits(REPO)) == 2
    shutil.rmtree(root)
    return [moment, before / 1e6, sent / 1e6, len(twice), fine], took


def _sha(file: bytes | Path) -> str:
    data = file if isinstance(file, bytes) else file.read_bytes()
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Run as many trials as are asked for, and print a line each."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    moments = random.Random(5)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = fill(folder / "home", folder, megabytes)
        files = registry.show("big").version.content.files
        wanted = {one.name: one.sha256 for one in files if one.name != "README.md"}
        _, whole = trial(folder / "home", folder / "hub", wanted, None)
        print(f"{megabytes} MB in {len(files)} files; a push that nobody kills takes {whole:.1f} s")
        print("killed at s\tuploaded MB\tsent in all MB\tfiles sent twice\tright")
        good = True
        for _ in range(kills):
            row, _ = trial(folder / "home", folder / "hub", wanted, moments.uniform(0, whole))
            good = good and row[4] is True
            print("\t".join(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
