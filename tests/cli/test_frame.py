"""The group of commands: its help, its errors, its start-up, its completion."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from running import Adreg, Ran

from adreg.cli.errors import guarded
from adreg.cli.main import COMMANDS, cli
from adreg.cli.options import App

HEAVY = {"torch", "transformers", "peft", "numpy", "alembic", "huggingface_hub"}


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield from _leaves(one, f"{name} {inner}")
    else:
        yield name, command


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str) -> None:
    """Each command has the short help of the table, --json, and an example in its help."""
    module, attribute, text = COMMANDS[name]
    loaded = getattr(importlib.import_module(module), attribute)

    assert loaded.get_short_help_str(200) == text
    for path, command in _leaves(loaded, name):
        context = click.Context(command, info_name=f"adreg {path}")
        assert "--json" in {option for one in command.params for option in one.opts}
        assert f"adreg {path}" in command.get_help(context).partition("Examples:")[2]


def _python(code: str, *arguments: str, **environ: str) -> Ran:
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


_RUN = """
import sys
from adreg.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("\\n".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY | {"sqlalchemy", "rich", "filelock"}),
        (["list"], HEAVY | {"rich"}),
        (["show", "summary"], HEAVY | {"rich"}),
        (["list", "--help"], HEAVY | {"rich"}),
    ],
)
@pytest.mark.usefixtures("filled")
def test_start_up(arguments: list[str], unwanted: set[str]) -> None:
    """Looking imports none of the heavy packages, and --help nothing but click."""
    ran = _python(_RUN, *arguments)

    assert ran.code == 0
    assert set(ran.err.split()) & unwanted == set()


def test_unknown_command(adreg: Adreg) -> None:
    """A mistyped command is a wrong use, answered with the nearest one."""
    ran = adreg("lits")

    assert ran.code == 2
    assert (
        ran.err
        == "error: there is no command 'lits'. Did you mean 'list'?\nhint: See `adreg --help`.\n"
    )


@pytest.mark.usefixtures("home")
def test_usage_error_escapes(adreg: Adreg) -> None:
    """What a user typed cannot steer the terminal when it is repeated."""
    ran = adreg("list", "--sort", "a\x1b[31m")

    assert ran.code == 2
    assert "\x1b" not in ran.err


@pytest.mark.usefixtures("filled")
def test_error_as_json(adreg: Adreg) -> None:
    """With --json an error is one JSON object on stderr, with its facts."""
    ran = adreg("show", "sumary", "--json")

    assert ran.code == 1
    assert ran.out == ""
    assert json.loads(ran.err) == {
        "error": "NotFound",
        "message": "there is no adapter or model 'sumary'",
        "hint": "Did you mean 'summary'?",
        "facts": {"what": "adapter or model", "text": "sumary", "close": ["summary"], "advice": ""},
    }


def _raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/a\nb"),
            1,
            "error: /x/a\\nb: Permission denied\n",
        ),
        (KeyboardInterrupt(), 130, "stopped; nothing was recorded\n"),
        (click.Abort(), 130, "stopped; nothing was recorded\n"),
        (MemoryError(), 1, "error: there is not enough memory for this\n"),
    ],
)
def test_guarded(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    """What a system or a user does to a command is told in a line, without a traceback."""
    assert guarded(_raising(error), App(), as_json=False) == code
    assert capsys.readouterr().err == text


def test_own_faults_keep_their_traceback() -> None:
    """A fault of adreg itself is not dressed up."""
    with pytest.raises(ZeroDivisionError):
        guarded(_raising(ZeroDivisionError()), App(), as_json=False)


@pytest.mark.usefixtures("filled")
def test_reader_goes_away() -> None:
    """`adreg history | head -0` is quiet."""
    code = "import sys; from adreg.cli.main import main; main(['list'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)

    assert err == b""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.usefixtures("home")
def test_interrupt() -> None:
    """Ctrl-C says that nothing was recorded, and exits with 130."""
    code = (
        "import os, signal; from adreg.cli.main import main; import adreg.registry.api as api;"
        "api.Registry.list = lambda *_: os.kill(os.getpid(), signal.SIGINT);"
        "main(['list'])"
    )
    ran = _python(code)

    assert (ran.code, ran.err) == (130, "\nstopped; nothing was recorded\n")


def test_list_nowhere(adreg: Adreg, home: Path) -> None:
    """Without a catalog a listing is empty, and none is created."""
    assert len(adreg("list").out.splitlines()) == 1
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("filled")
def test_home_option(adreg: Adreg, tmp_path: Path) -> None:
    """--home takes the place of ADREG_HOME."""
    assert len(adreg("--home", str(tmp_path / "other"), "list").out.splitlines()) == 1
    assert not (tmp_path / "other").exists()


def _completed(words: str, word: int) -> list[str]:
    ran = _python(
        "from adreg.cli.main import main; main()",
        _ADREG_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(word),
    )
    assert ran.err == ""
    return [line.partition(",")[2] for line in ran.out.splitlines() if line]


@pytest.mark.usefixtures("filled")
def test_completion() -> None:
    """Commands, names, versions and aliases are completed."""
    assert _completed("adreg al", 1) == ["alias"]
    assert _completed("adreg show te", 2) == ["team/support"]
    assert _completed("adreg show team/support@", 2) == [
        "team/support@1",
        "team/support@2",
        "team/support@prod",
    ]
    assert "bash" in _completed("adreg completion ", 2)


def test_completion_is_quiet(home: Path) -> None:
    """A catalog that cannot be read completes nothing, and says nothing."""
    (home / "catalog.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 9)

    assert _completed("adreg show te", 2) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.usefixtures("home")
def test_completion_script(adreg: Adreg, shell: str) -> None:
    """The script asks adreg for completions."""
    assert "_ADREG_COMPLETE" in adreg("completion", shell).out


def test_group_lists_the_table() -> None:
    """The help lists the commands in the table's order."""
    assert cli.list_commands(click.Context(cli)) == list(COMMANDS)
