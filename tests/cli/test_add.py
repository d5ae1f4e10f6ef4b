"""``adreg add`` says what it did on stdout, and why not on stderr."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest

Adreg = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter of it that names no base."""
    root = tmp_path_factory.mktemp("made")
    factory.make_base(root / "llama")
    factory.make_adapter(root / "llama", root / "runs/support")
    factory.edit_config(root / "runs/support", "base_model_name_or_path")
    return root


def test_one_line_tells_what_was_added(adreg: Adreg, made: Path) -> None:
    """The line has the reference, what it is, and how it fits."""
    folder = made / "runs/support"
    base = str(made / "llama")

    ran = adreg("-q", "add", str(folder), "--name", "team/support", "--base", base, "--tag", "x")
    again = adreg("-q", "add", str(folder))

    size = sum(path.stat().st_size for path in folder.iterdir()) / 1000
    assert (0, "") == (ran.code, ran.err)
    assert (
        "added team/support@1: LORA rank 4, 1.5K parameters,"
        f" {size:.1f} kB, for llama (same-shapes)\n"
    ) == ran.out
    assert (0, f"{folder} is known already, as team/support@1\n") == (again.code, again.out)


def test_json_has_the_reference_and_the_verdict(adreg: Adreg, made: Path) -> None:
    """And a dry run has no key."""
    told = json.loads(adreg("add", str(made / "runs/support"), "--json", "--dry-run").out)

    assert ("support", None, True, None) == (
        told["reference"],
        told["key"],
        told["new"],
        told["verdict"],
    )
    assert 4 == told["rank"]


def test_a_refusal_is_two_lines_and_exit_1(adreg: Adreg, tmp_path: Path) -> None:
    """What is wrong with what, and nothing on stdout."""
    (tmp_path / "empty").mkdir()

    ran = adreg("add", str(tmp_path / "empty"))

    assert (1, "") == (ran.code, ran.out)
    error, hint = ran.err.splitlines()
    assert f"error: {tmp_path}/empty: the folder is empty" == error
    assert "hint: Name the folder that PEFT's save_pretrained wrote." == hint


def test_a_tree_ends_in_a_summary(adreg: Adreg, made: Path, tmp_path: Path) -> None:
    """One line for each that was added; the refused ones, with reasons, and the sums on stderr."""
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    shutil.copytree(runs / "support", runs / "lie")
    factory.edit_config(runs / "lie", r=16)

    ran = adreg("-q", "add", str(runs), "-r")
    loud = adreg("add", str(runs), "-r")
    told = adreg("add", str(runs), "-r", "--json")

    assert (1, 1) == (ran.code, ran.out.count("added support@1: "))
    assert f"refused {runs}/lie: 'model.layers.0" in loud.err
    assert "0 added, 1 known already, 1 refused" in loud.err
    assert (1, "support@1") == (told.code, json.loads(told.out)["known"][0]["reference"])
    assert ["error", "hint", "message", "path"] == sorted(json.loads(told.out)["refused"][0])
