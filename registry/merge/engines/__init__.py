"""Where the weight files of a plan are written: one file an engine that needs more than ``run``.

An engine takes a ``Work`` and gives a ``WrittenShard`` a file; all give the same bytes.
"""

from __future__ import annotations

from typing import Literal

from adreg.registry.merge.run import Engine, local

EngineName = Literal["local", "ray"]


def choose(name: EngineName, *, ray_address: str | None = None) -> Engine:
    """Return an engine by its name; ``ray_address`` is that of ``ray_engine``."""
    if name == "local":
        return local
    from adreg.registry.merge.engines.ray import ray_engine  # noqa: PLC0415  # few ask for it

    return ray_engine(ray_address)
