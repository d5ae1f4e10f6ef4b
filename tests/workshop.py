"""A tiny base with two adapters, and a registry that merged them: for tests of releases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from factory import make_adapter, make_base

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folders of a sharded tiny Llama and two adapters for it."""

    base: Path
    one: Path
    two: Path


def make_workshop(root: Path) -> Workshop:
    """Make the folders below ``root``."""
    base = make_base(root / "tiny", shard_size=20_000)
    one = make_adapter(base, root / "one", seed=1)
    return Workshop(base, one, make_adapter(base, root / "two", seed=2, r=2))


def fill(registry: Registry, shop: Workshop, licence: str | None = "apache-2.0") -> Registry:
    """Record the base as ``tiny``, the adapters as ``team/one`` and ``team/two``, merge ``bot``."""
    registry.add_base(str(shop.base), name="tiny", licence="apache-2.0")
    for name in ("one", "two"):
        folder = getattr(shop, name)
        registry.add(folder, name=f"team/{name}", base="tiny", licence=licence)
    adapters = (RecipeAdapter("team/one", 0.5), RecipeAdapter("team/two"))
    registry.merge(Recipe(adapters, base="tiny"), name="bot")
    return registry
