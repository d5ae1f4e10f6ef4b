"""Merges of several files in processes that end at a chosen moment, and what they leave."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import factory

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

SHARD = 8_000
"""Bytes that make seven files of the tiny base."""

CHILD = """
import os, resource, signal, sys
from pathlib import Path
from adreg.cli.errors import guarded
from adreg.cli.options import App
from adreg.registry import Registry
from adreg.registry.merge import run, shards
from adreg.registry.merge.journal import Journal
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

moment, adapter, base, out = sys.argv[1:5]
name, count = moment.rsplit(" ", 1)
signals = {"Ctrl-C in": signal.SIGINT}
done = 0

def reached(what):
    if name.startswith(what) and done == int(count):
        os.kill(os.getpid(), signals.get(name, signal.SIGKILL))

write, record = shards._write, Journal.record

def write_and_stop(*arguments):
    result = write(*arguments)
    reached("in")
    reached("Ctrl-C in")
    return result

def record_and_stop(self, written):
    global done
    reached("before the line of")
    record(self, written)
    done += 1
    reached("after")
    if name == "too large after" and done == int(count):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

shards._write, Journal.record = write_and_stop, record_and_stop
recipe = Recipe((RecipeAdapter(adapter),), base=base, max_shard_size=8000)
merge = lambda: Registry().merge(recipe, output=Path(out), name="merged", threads=1) and None
sys.exit(guarded(merge, App(), as_json=False))
"""

Inputs: TypeAlias = tuple[Path, Path]
Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


def make_inputs(root: Path) -> Inputs:
    """Make a tiny base and an adapter for it."""
    base = factory.make_base(root / "base")
    return base, factory.make_adapter(base, root / "adapter")


def merge_whole(root: Path, inputs: Inputs) -> dict[str, str]:
    """Merge without being stopped; return the digests of the files."""
    Registry(root / "home").merge(recipe(inputs), output=root / "out", name="merged")
    return digests(root / "out")


def stop(
    inputs: Inputs, moment: str, out: Path, base: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Merge in a process that stops at a moment; "never 0" is none."""
    given = [moment, str(inputs[1]), str(base or inputs[0]), str(out)]
    return subprocess.run(
        [sys.executable, "-I", "-c", CHILD, *given],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def recipe(inputs: tuple[Path, Path], **more: Any) -> Recipe:
    """Return a recipe that makes several files."""
    base, adapter = inputs
    return Recipe((RecipeAdapter(str(adapter)),), str(base), **{"max_shard_size": SHARD, **more})


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def staged(parent: Path) -> Path:
    """Return the one staging folder."""
    (folder,) = (path for path in parent.glob(".*.adreg-*") if path.is_dir())
    return folder


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what changes of each weight file when it is made again."""
    stats = {path.name: path.stat() for path in folder.glob("*.safetensors")}
    return {name: (seen.st_ino, seen.st_mtime_ns) for name, seen in stats.items()}


def kept_files(before: dict[str, tuple[int, int]], folder: Path) -> int:
    """Return how many weight files are the very ones that were there before."""
    return len(before.items() & shards(folder).items())
