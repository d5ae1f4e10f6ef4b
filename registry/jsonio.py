"""JSON as strict as trust asks for: no duplicate keys, bounded size, an object on top."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from adreg.registry.errors import JsonBroken
from adreg.registry.opening import open_regular

MAX_BYTES = 32 << 20
"""The index of a model of 140,000 tensors has about 15 MB; a config has kilobytes."""

MAX_VALUES = 500_000
"""Values of one file. Each can take 250 bytes of memory, so that no file takes 256 MiB."""

_MAX_WIDE = 16 << 20
"""Bytes beyond ASCII: as text they take up to four times as much memory, and once more."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; raise ValueError for a key that stands twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:200]!r} stands twice")
            seen.add(key)
    return result


def parse_object(data: bytes, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """Parse one JSON object strictly; raise ValueError with a short reason."""
    if sum(map(data.count, (b"{", b"[", b","))) > max_values:
        raise ValueError(f"it holds more than {max_values:,} values")
    if len(data) > _MAX_WIDE and not data.isascii():
        raise ValueError(f"it has {len(data):,} bytes and is not ASCII")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
        # Half of a pair of UTF-16 is no character: it fails where it is printed or stored.
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  # a fault of the data, not of a caller
    return value


def read_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a file that must hold one JSON object; raise JsonBroken.

    ``Infinity`` and ``NaN`` are allowed in values, since transformers writes them
    into real configs (``"time_step_limit": [0.0, Infinity]`` of Mamba-2).
    """
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise JsonBroken(path, error.strerror or str(error)) from error
    if len(data) > max_bytes:
        raise JsonBroken(path, f"it is larger than {max_bytes:,} bytes")
    if data.startswith(b"version https://git-lfs"):
        raise JsonBroken(
            path, "it is a git-lfs pointer, not the file itself", "Fetch it with `git lfs pull`."
        )
    try:
        return parse_object(data)
    except ValueError as error:
        raise JsonBroken(path, f"it is not valid JSON: {error}") from None
