"""Whatever names, notes and files hold: what is printed cannot steer a terminal."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest

from adreg.cli.escape import escape
from adreg.cli.main import COMMANDS, main

EVIL = "x\x1b[2J\x1b]0;t\x07\x9b31m\u202e\r\b\x7f\u2028\u200fz"
"""Clears the screen, sets the title, colours, turns the order round, ends lines."""

RUNS: list[list[str]] = [
    ["add", "FOLDER", "--name", "team/a", "--note", EVIL],
    ["add", "FOLDER", "--name", EVIL],
    ["add", f"./{EVIL}"],
    ["add", "BROKEN"],
    ["add", "FOLDER", "--base", EVIL],
    ["add", "FOLDER", "--tag", f"k={EVIL}"],
    ["add", "FOLDER", "--alias", EVIL],
    ["add", "FOLDER", "--license", EVIL, "--dry-run"],
    ["list"],
    ["list", "--tag", EVIL],
    ["search", EVIL],
    ["search", f'tag:"{EVIL}"'],
    ["search", f"rank>={EVIL}"],
    ["show", "team/a"],
    ["show", EVIL],
    ["show", f"team/a@{EVIL}"],
    ["check", EVIL],
    ["check", "team/a", "--base", EVIL],
    ["merge", EVIL],
    ["merge", "team/a", "--base", EVIL],
    ["merge", "team/a", "--base", "BASE", "-o", EVIL, "--dry-run"],
    ["merge", "team/a", "--method", EVIL],
    ["merge", "--recipe", EVIL],
    ["combine", "team/a", EVIL, "--name", "c"],
    ["resize", "team/a", "--rank", EVIL],
    ["extract", EVIL, "--base", EVIL],
    ["export", "team/a", "-o", f"{EVIL}/out"],
    ["export", EVIL],
    ["rebuild", EVIL, "-o", "out"],
    ["verify", "--all"],
    ["verify", EVIL],
    ["verify-merge", EVIL],
    ["unmerge", EVIL, EVIL],
    ["try", EVIL],
    ["base", "add", "EVILBASE"],
    ["base", "add", EVIL],
    ["base", "list"],
    ["base", "show", EVIL],
    ["tag", "team/a", f"k={EVIL}"],
    ["alias", "team/a", EVIL],
    ["note", "team/a", EVIL],
    ["metric", "team/a", f"{EVIL}=1"],
    ["metric", "team/a", f"loss={EVIL}"],
    ["rename", "team/a", EVIL],
    ["remove", EVIL],
    ["history"],
    ["history", EVIL],
    ["completion", EVIL],
    [EVIL],
    [f"--{EVIL}"],
    ["--home", EVIL, "list"],
]


def test_every_command_is_tried() -> None:
    """A command that is new here is in the table too, but for those that need a network."""
    tried = {run[0] for run in RUNS}

    assert set(COMMANDS) - tried <= {
        "pull",
        "push",
        "remote",
        "outdated",
        "gc",
        "backup",
        "restore",
    }


def test_all_commands(
    adapter: Path,
    base: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Answers, remarks and errors of each command, for people and as JSON, hold no control."""
    del home
    where = adapter.parent / "here"
    where.mkdir()
    monkeypatch.chdir(where)
    (where / EVIL).mkdir()
    shutil.copytree(adapter, where / EVIL / "adapter")
    (where / EVIL / "adapter" / "left out.txt").touch()
    broken = shutil.copytree(adapter, where / f"{EVIL}2")
    factory.edit_config(
        broken, r=3, base_model_name_or_path=EVIL, bias=EVIL, rank_pattern={EVIL: 0}
    )
    (broken / f"LICENSE{EVIL}").touch()
    shutil.copytree(base, where / f"{EVIL}3")
    folders = {
        "FOLDER": str(where / EVIL / "adapter"),
        "BROKEN": str(broken),
        "BASE": str(base),
        "EVILBASE": str(where / f"{EVIL}3"),
    }

    codes = []
    for run in RUNS:
        for more in ([], ["--json"]):
            arguments = [folders.get(argument, argument) for argument in run] + more
            with pytest.raises(SystemExit) as exited:
                main(arguments)
            codes.append(int(exited.value.code or 0))
            for text in capfd.readouterr():
                assert escape(text, keep="\n\t") == text, arguments

    assert {0, 1, 2} == set(codes)
