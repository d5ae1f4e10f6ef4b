"""Trying adapters and models from the catalog and from folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from factory import make_adapter, make_base

from adreg.registry import Registry
from adreg.registry.errors import Incompatible, InputRefused, NotFound


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base and two adapters for it."""
    root = tmp_path_factory.mktemp("root")
    make_base(root / "base")
    make_adapter(root / "base", root / "one", seed=1)
    make_adapter(root / "base", root / "two", seed=2)
    return root


@pytest.fixture
def registry(home: Path, root: Path) -> Registry:
    """Return a registry that knows the base and the first adapter."""
    registry = Registry(home)
    registry.add_base(str(root / "base"), name="tiny")
    registry.add(root / "one", name="one", base="tiny")
    return registry


def test_side_by_side(registry: Registry, root: Path) -> None:
    """The base comes once, then its adapters from catalog and folder, then models."""
    trial = registry.try_out(
        ["one", str(root / "two"), str(root / "base")], "the cat", max_new_tokens=4
    )

    assert ["base", "adapter", "adapter", "model"] == [one.kind for one in trial.answers]
    assert "tiny" == trial.answers[0].label
    assert trial.answers[0].text == trial.answers[3].text


def test_nothing_is_written(registry: Registry, home: Path) -> None:
    """To try is to look."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    registry.try_out(["one"], "the cat", max_new_tokens=1)

    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_wrong_base(registry: Registry, tmp_path: Path) -> None:
    """An adapter is not put on a base that it does not fit."""
    make_base(tmp_path / "gpt2", "gpt2")
    with pytest.raises(Incompatible):
        registry.try_out(["one"], "the cat", base=str(tmp_path / "gpt2"))


def test_no_text_model(registry: Registry, tmp_path: Path) -> None:
    """A classifier answers no prompt, and is told so before anything is loaded."""
    make_base(tmp_path / "bert", "bert")
    with pytest.raises(InputRefused, match="answers no prompt"):
        registry.try_out([str(tmp_path / "bert")], "the cat")


def test_unknown(registry: Registry) -> None:
    """A name that is not there is NotFound."""
    with pytest.raises(NotFound):
        registry.try_out(["nobody"], "the cat")
