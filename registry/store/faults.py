"""What can be wrong with a stored file, found by reading it through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adreg.registry import digest
from adreg.registry.digest import FileDigest

FaultKind = Literal["missing", "truncated", "damaged", "extra", "unreadable"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One file that is not what was recorded; ``name`` is relative to its version."""

    kind: FaultKind
    name: str
    path: Path
    detail: str = ""

    def __str__(self) -> str:
        """One line: ``adapter_model.safetensors is damaged (…)``."""
        return f"{self.name} is {self.kind}" + (f" ({self.detail})" if self.detail else "")


def find_fault(
    path: Path, expected: FileDigest, advance: Callable[[int], None] | None = None
) -> Fault | None:
    """Read a file through and return how it differs from what was recorded, None if it does not.

    ``advance`` hears of ``expected.size`` bytes in all, whatever the file holds.
    """
    heard = 0

    def hear(count: int) -> None:
        nonlocal heard
        count = min(count, expected.size - heard)
        heard += count
        if advance is not None and count:
            advance(count)

    fault = _compare(path, expected, hear)
    hear(expected.size - heard)
    return fault


def _compare(path: Path, expected: FileDigest, hear: Callable[[int], None]) -> Fault | None:
    name = expected.name
    try:
        size = path.stat().st_size
        if size < expected.size:
            return Fault("truncated", name, path, f"{size:,} of {expected.size:,} bytes")
        if size > expected.size:
            return Fault("damaged", name, path, f"{size:,} bytes instead of {expected.size:,}")
        found = digest.of_file(path, hear)
    except FileNotFoundError:
        return Fault("missing", name, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        return Fault("unreadable", name, path, getattr(error, "strerror", None) or str(error))
    if found != expected.sha256:
        return Fault(
            "damaged", name, path, f"SHA-256 {found[:12]} instead of {expected.sha256[:12]}"
        )
    return None
