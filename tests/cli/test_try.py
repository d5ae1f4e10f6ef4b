"""`adreg try`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factory import make_adapter, make_base

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base and an adapter for it."""
    root = tmp_path_factory.mktemp("root")
    make_base(root / "base")
    make_adapter(root / "base", root / "one")
    return root


def test_answers(adreg: Run, root: Path) -> None:
    """Each answer stands under the name of who gave it, and nothing but them is on stdout."""
    arguments = ["--prompt", "the cat", "--max-new-tokens", "3", "--base", str(root / "base")]
    ran = adreg("-q", "try", str(root / "one"), *arguments)
    lines = ran.out.splitlines()

    assert 0 == ran.code
    assert "" == ran.err
    assert f"{root / 'base'} (base)" == lines[0]
    assert f"{root / 'one'} (adapter)" == lines[3]
    assert lines[1].startswith("  ")


def test_json(adreg: Run, root: Path) -> None:
    """As JSON the question comes along with the answers."""
    arguments = ["--prompt", "the cat", "--max-new-tokens", "2", "--no-chat", "--seed", "1"]
    ran = adreg("-q", "try", str(root / "one"), *arguments, "--base", str(root / "base"), "--json")
    told = json.loads(ran.out)

    assert {"prompt": "the cat", "max_new_tokens": 2, "seed": 1, "chat": False} == told["question"]
    assert ["base", "adapter"] == [answer["kind"] for answer in told["answers"]]


def test_nothing_to_try(adreg: Run, home: Path) -> None:
    """A name that is not there is a known error, found before anything is loaded."""
    del home
    ran = adreg("try", "nobody", "--prompt", "x")

    assert 1 == ran.code
    assert "nobody" in ran.err
