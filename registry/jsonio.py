"""JSON as strict as trust asks for: no duplicate keys, no NaN, bounded size, an object on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adreg.registry.errors import JsonBroken

MAX_BYTES = 64 << 20
"""A model index of a million tensors has about 100 MB; a config has kilobytes."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object strictly; raise ValueError with a short reason."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  # a fault of the data, not of a caller
    return value


def read_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a file that must hold one JSON object; raise JsonBroken.

    ``Infinity`` and ``NaN`` are allowed in values, since transformers writes them
    into real configs (``"time_step_limit": [0.0, Infinity]`` of Mamba-2).
    """
    try:
        with path.open("rb") as file:
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
