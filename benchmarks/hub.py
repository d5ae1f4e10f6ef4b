"""Pulls from a Hub on loopback: kills, faults, throughput beside `hf download`, and requests.

    python benchmarks/hub.py throughput   200 MB, adreg pull and hf download by turns
    python benchmarks/hub.py kills        kill -9 at 20 random moments of a pull of 200 MB
    python benchmarks/hub.py faults       500 pulls under injected faults

The server and its storage are tests/hubserver's; every number is of this machine's loopback.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hubserver import Fault, Hub
from pulling import (
    TOKEN,
    environment,
    large_adapter,
    moments,
    part_size,
    put,
    sent,
    start,
    stored_digests,
)

from adreg.registry import Registry
from adreg.registry.digest import of_file
from adreg.registry.errors import AdregError
from adreg.registry.hub.client import Backoff, HubClient
from adreg.registry.ops.add import Wishes
from adreg.registry.ops.hub_places import Choice
from adreg.registry.ops.pull import pull

Kind = Literal["cut", "corrupt", "short", "etag", "status", "drop"]
SIZE = 200 * 10**6
WEIGHTS = "adapter_model.safetensors"


def throughput(hub: Hub, folder: Path, work: Path, rounds: int = 7) -> None:
    """Time whole processes by turns, each into an empty place, and a repeat of adreg's."""
    repo = put(hub, folder)
    times: dict[str, list[float]] = {"adreg pull": [], "hf download": []}
    for number in range(rounds):
        for name, seconds in times.items():
            home = work / f"{name[:2]}-{number}" / "home"
            home.mkdir(parents=True)
            env = environment(hub, home)
            command = [sys.executable, "-m", "adreg.cli", "pull", repo]
            if name != "adreg pull":
                command = ["hf", "download", repo]
            began = time.perf_counter()
            subprocess.run(command, env=env, cwd="/", check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
            shutil.rmtree(home.parent)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        spread = ", ".join(f"{one:.2f}" for one in sorted(seconds))
        print(f"{name}: {medians[name]:.2f} s, {SIZE / medians[name] / 1e6:.0f} MB/s ({spread})")
    print(f"adreg's throughput is {medians['hf download'] / medians['adreg pull']:.2f} of hf's")
    home = work / "repeat" / "home"
    for _ in range(2):
        hub.requests.clear()
        process = start(hub, home, "pull", repo)
        process.communicate()
        print(f"requests: {len(hub.requests)}, bytes: {sum(r.bytes_sent for r in hub.requests):,}")


def kills(hub: Hub, folder: Path, work: Path, count: int = 20) -> None:
    """Kill a pull at random moments, each in a new home, and let the next one finish."""
    repo = put(hub, folder)
    size = (folder / WEIGHTS).stat().st_size
    wanted = {of_file(path) for path in folder.iterdir()}
    wrong = again = 0
    for number, part in enumerate(moments(count, seed=1)):
        home = work / f"kill-{number}" / "home"
        process = start(hub, home, "pull", repo)
        while part_size(home) < part * size and process.poll() is None:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = part_size(home)
        hub.requests.clear()
        process = start(hub, home, "pull", repo)
        process.communicate()
        wrong += process.returncode != 0 or stored_digests(home) != wanted
        again += max(0, sent(hub) - (size - kept))
        shutil.rmtree(home.parent)
    print(f"{count} kills of a pull of {size:,} bytes: {wrong} wrong ends, {again:,} bytes twice")


def faults(hub: Hub, folder: Path, work: Path, count: int = 500) -> None:
    """Pull under faults at random, each into a new registry, and read every stored byte."""
    repo = put(hub, folder)
    wanted = {of_file(path) for path in folder.iterdir()}
    chance = random.Random(500)  # noqa: S311  # to be repeatable
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    wrong = 0
    for number in range(count):
        hub.faults.clear()
        for _ in range(chance.randrange(1, 6)):
            kind = chance.choice(get_args(Kind))
            match = chance.choice(["GET /api", "GET .*/resolve/", "GET /cdn/"])
            at, skip, times = (
                chance.randrange(1, SMALL),
                chance.randrange(3),
                chance.randrange(1, 5),
            )
            status = chance.choice([429, 500, 503])
            hub.faults.append(Fault(match, kind, at=at, times=times, skip=skip, status=status))
        home = work / f"faults-{number}"
        registry = Registry(home)
        hub.requests.clear()
        client = HubClient(
            hub.endpoint, TOKEN, offline=False, backoff=Backoff(), sleep=lambda _: None
        )
        try:
            pull(registry._context, client, [repo], Wishes(), Choice())  # noqa: SLF001
        except AdregError as error:
            ends[type(error).__name__] += 1
            wrong += bool(registry.list().rows) or bool(stored_digests(home))
        else:
            ends["pulled"] += 1
            wrong += stored_digests(home) != wanted
        kinds.update(kind for one in hub.requests for kind in one.faults)
        shutil.rmtree(home, ignore_errors=True)
    print(f"{count} pulls: {dict(ends)}; faults that struck: {dict(kinds)}; {wrong} wrong")


SMALL = 2 * 10**6


def main() -> None:
    """Run what the first argument names, else everything."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    jobs = {"throughput": throughput, "kills": kills, "faults": faults}
    for name in sys.argv[1:] or jobs:
        with (
            tempfile.TemporaryDirectory(prefix="adreg-hub-") as made,
            Hub(Path(made, "hub")) as hub,
        ):
            folder = large_adapter(Path(made, "lora"), SMALL if name == "faults" else SIZE)
            jobs[name](hub, folder, Path(made, "work"))


if __name__ == "__main__":
    main()
