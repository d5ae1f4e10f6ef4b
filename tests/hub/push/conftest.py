"""A filled registry beside a Hub, for tests of pushes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hubserver import Hub
from pushing import TOKEN, Pusher
from workshop import Workshop, make_workshop

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A tiny base and two adapters, made once; nobody writes into them."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def pusher(
    home: Path,
    hub: Hub,
    shop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Pusher:
    """team/one and team/two on the base tiny; alice may write on the Hub."""
    hub.add_user("alice", TOKEN)
    registry = Registry()
    registry.add_base(str(shop.base), name="tiny", licence="apache-2.0")
    for name in ("one", "two"):
        registry.add(getattr(shop, name), name=f"team/{name}", base="tiny", licence="apache-2.0")
    return Pusher(home, hub, shop, registry, monkeypatch, capfd)


@pytest.fixture
def bot(pusher: Pusher) -> Pusher:
    """The model bot too, merged from both adapters."""
    adapters = (RecipeAdapter("team/one", 0.5), RecipeAdapter("team/two"))
    pusher.registry.merge(Recipe(adapters, base="tiny"), name="bot")
    return pusher
