"""The README against what is there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import factory
import pytest

from adreg.cli.main import COMMANDS, LazyGroup, cli

README = Path(__file__).parents[1] / "README.md"


def test_every_command_stands_in_the_readme() -> None:
    """Each command has its place in the README's table of commands."""
    cells = "\n".join(re.findall(r"^\|(.*?)\|[^|]*\|$", README.read_text(), re.MULTILINE))

    missing = {name for name in COMMANDS if not re.search(rf"\b{name}\b", cells)}

    assert missing == {"completion"}  # it stands in the line above the table


def test_every_option_in_the_readme_is_there() -> None:
    """Each option that the table shows behind a command is one that the command takes."""
    assert isinstance(cli, LazyGroup)
    rows = re.findall(r"^\| `adreg (\w+) ([^`]*)`(.*?)\|[^|]*\|$", README.read_text(), re.MULTILINE)
    shown = 0
    for name, usage, more in rows:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        taken = {option for one in command.params for option in one.opts}
        options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage + more))
        assert options <= taken, name
        shown += len(options)
    assert shown > 15


def test_the_python_example_runs(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's Python example, as it stands, adds an adapter and merges it."""
    monkeypatch.chdir(tmp_path)
    factory.make_base(tmp_path / "base")
    factory.make_adapter(tmp_path / "base", tmp_path / "runs" / "support")
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None

    from adreg.registry import Registry  # noqa: PLC0415  # after ``home`` is set

    Registry(home).add_base(str(tmp_path / "base"), name="smollm2")
    exec(code[1], {})  # noqa: S102

    assert (tmp_path / "merged" / "config.json").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
