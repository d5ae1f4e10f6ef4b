"""Pulling in tests and benchmarks: a large adapter, and adreg in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from hubserver import Hub
from safetensors.numpy import save_file

TOKEN = "hf_alice"  # noqa: S105  # of a Hub that lives for one test


def large_adapter(folder: Path, size: int, seed: int = 0) -> Path:
    """Write a LoRA of one layer with about ``size`` random bytes; no base need fit it."""
    folder.mkdir(parents=True)
    rank, width = 64, size // (2 * 4 * 64)
    made = np.random.default_rng(seed)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{stem}.lora_A.weight": made.random((rank, width), np.float32),
        f"{stem}.lora_B.weight": made.random((width, rank), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def put(hub: Hub, folder: Path, repo: str = "alice/large") -> str:
    """Put a folder's files on a Hub."""
    hub.add_user("alice", TOKEN)
    hub.create_repo(repo)
    hub.commit(repo, {path.name: path for path in sorted(folder.iterdir())})
    hub.requests.clear()
    return repo


def start(hub: Hub, home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start adreg in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "adreg.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment(hub, home),
    )


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Return the environment of a program that speaks to this Hub and to nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "ADREG_HOME": str(home),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home.parent / "hf-home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "0",
        "NO_COLOR": "1",
    }


def part_size(home: Path) -> int:
    """Return how many bytes of large files lie in partial or whole downloads."""
    found = 0
    for path in home.glob("downloads/*/blobs/sha256-*"):
        if path.suffix != ".etag":
            found += path.stat().st_size
    return found


def sent(hub: Hub) -> int:
    """Return the bytes of large files that the Hub sent."""
    return sum(one.bytes_sent for one in hub.requests if one.path.startswith("/cdn/"))


def stored_digests(home: Path) -> set[str]:
    """Return the SHA-256 of every file in the store, read again; each must be called so."""
    found = set()
    for path in home.glob("store/models--adreg/blobs/*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == digest
        found.add(digest)
    return found


def moments(count: int, seed: int) -> list[float]:
    """Return parts of a whole, at random and in no order."""
    chance = random.Random(seed)  # noqa: S311  # for repeatable tests
    return [chance.uniform(0.02, 0.98) for _ in range(count)]
