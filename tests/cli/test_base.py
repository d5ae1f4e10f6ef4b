"""``adreg base`` adds, lists and shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return factory.make_base(tmp_path_factory.mktemp("bases") / "llama")


def test_a_base_is_added_listed_and_shown(adreg: Callable[..., Any], llama: Path) -> None:
    """Each tells the same of it."""
    added = adreg("base", "add", str(llama), "--name", "tiny", "--alias", "some/Tiny")
    again = adreg("base", "add", str(llama))
    listed = adreg("base", "list")
    shown = adreg("base", "show", "some/tiny")

    assert added.out.startswith("added tiny: LlamaForCausalLM, ")
    assert f"{llama} is known already, as tiny\n" == again.out
    header, line = (one.split("\t") for one in listed.out.splitlines())
    assert ["name", "architecture", "parameters", "size", "dtype", "from", "added"] == header
    assert ["tiny", "LlamaForCausalLM", "BF16", str(llama)] == [line[i] for i in (0, 1, 4, 5)]
    assert "other names   some/Tiny\n" in shown.out
    assert json.loads(adreg("base", "list", "--json").out)[0]["name"] == "tiny"
    assert json.loads(adreg("base", "show", "tiny", "--json").out)["present"] is True


def test_an_unknown_base_is_told(adreg: Callable[..., Any]) -> None:
    """With what to do."""
    ran = adreg("base", "show", "nothing")

    assert (1, "") == (ran.code, ran.out)
    assert "error: there is no base 'nothing'\nhint: `adreg base list`" in ran.err
