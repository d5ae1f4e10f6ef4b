"""Where a command may write: never into what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adreg.registry.durable import check_target
from adreg.registry.errors import OutputRefused


def check_output(folder: Path, inputs: Iterable[tuple[str, Path]]) -> None:
    """Raise OutputRefused if ``folder`` is taken, or is or lies in one of the named inputs."""
    resolved = folder.resolve()
    for what, path in inputs:
        inside = path.resolve()
        if resolved == inside or inside in resolved.parents:
            raise OutputRefused(folder, f"it is {what}, or inside it")
    check_target(folder)
