"""The models of a diffusion pipeline, of which an adapter can be for several at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adreg.registry.errors import AdapterRefused


def choose(path: Path, there: Sequence[str], wanted: str | None, what: str) -> str:
    """Return the one component that is there, or the one that is wanted of several.

    Raises AdapterRefused that lists them.
    """
    listed = ", ".join(there)
    if wanted is not None:
        if wanted in there:
            return wanted
        reason = f"{what} of {listed}, and has no component {wanted!r}"
        raise AdapterRefused(path, (reason,), "Name one of those with --component.")
    if len(there) > 1:
        reason = f"{what} of several models: {listed}"
        raise AdapterRefused(path, (reason,), f"Pick one: --component {there[0]}")
    return there[0]
