"""Run whole processes and measure them: seconds, and peak memory by the system's account."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, peak resident MiB, CPU seconds of it and its children."""

    seconds: float
    peak: float
    cpu: float


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; raise CalledProcessError if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Run(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def in_turn(
    commands: Mapping[str, Sequence[str]], times: int, env: Mapping[str, str] | None = None
) -> dict[str, Run]:
    """Run all commands in turn, ``times`` rounds after one to warm up; return the medians."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(times + 1):
        for name, command in commands.items():
            done = run(command, env)
            if number:
                runs[name].append(done)
    return {
        name: Run(
            statistics.median(one.seconds for one in several),
            max(one.peak for one in several),
            statistics.median(one.cpu for one in several),
        )
        for name, several in runs.items()
    }


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
