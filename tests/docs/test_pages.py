"""What the pages in docs/ point to: tests, pages, commands and options."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import click
import pytest

from adreg.cli.main import COMMANDS, LazyGroup, cli

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
HELD = {"formats.md", "bases.md", "promises.md"}
"""Pages each of whose rows names its tests."""


@cache
def functions_in(file: str) -> frozenset[str]:
    """Return the names of the test functions in a file below tests/."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(one.name for one in tree.body if isinstance(one, ast.FunctionDef))


def rows(page: Path) -> list[str]:
    """Return the rows of a page's tables, without their heads."""
    lines = page.read_text().splitlines()
    bars = [
        number for number, line in enumerate(lines) if set(line) <= set("|- ") and "---" in line
    ]
    heads = {*bars, *(number - 1 for number in bars)}
    return [
        line for number, line in enumerate(lines) if line.startswith("|") and number not in heads
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    """Each ``file.py::test`` on a page is a test of the suite."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())

    assert [f"{file}::{name}" for file, name in named if name not in functions_in(file)] == []
    assert bool(named) == (page.name in HELD)


@pytest.mark.parametrize("name", sorted(HELD))
def test_every_row_names_a_test(name: str) -> None:
    """No row of these pages stands without a test that holds it."""
    found = rows(ROOT / "docs" / name)

    assert len(found) > 25
    assert [row for row in found if "::test_" not in row] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file is to one that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_options_that_are_named_exist(page: Path) -> None:
    """Each ``--option`` and each ``adreg command`` on a page is one that adreg has."""
    assert isinstance(cli, LazyGroup)
    taken = set()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        for one in (command, *inner):
            taken |= {option for parameter in one.params for option in parameter.opts}
    text = page.read_text()

    assert set(re.findall(r"(?<=[`\s\[])--[a-z][a-z-]+", text)) <= taken | {"--help"}
    assert set(re.findall(r"`adreg ([a-z-]+)", text)) <= set(COMMANDS)
