"""What is printed, on a terminal and off it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
from running import Adreg

from adreg.cli.escape import escape
from adreg.cli.output import Output, count, plain, several, size
from adreg.cli.progress import Bar
from adreg.registry.names import Tag


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ümlaut, 模型", "plain, ümlaut, 模型"),
        ("\x1b[31m\x9b\x7f", "\\x1b[31m\\x9b\\x7f"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("left\u202eright", "left\\u202eright"),
        ("file\udcff", "file\\udcff"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    """What does not print is shown by its code; what prints stays."""
    assert escape(text) == expected


def test_escape_keeps_lines() -> None:
    """A text of several lines keeps its line ends."""
    assert escape("a\n\x1b", keep="\n") == "a\n\\x1b"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (6_400_000_000, "6.4 GB"),
    ],
)
def test_size(number: int, expected: str) -> None:
    """Sizes have one decimal and never show a thousand of a unit."""
    assert size(number) == expected


def test_count_and_several() -> None:
    """Numbers are shortened, and nouns follow them."""
    assert [count(5), count(134_515_008), several(1, "file"), several(2_000, "file")] == [
        "5",
        "134.5M",
        "1 file",
        "2,000 files",
    ]


@dataclass(frozen=True)
class _Result:
    when: datetime
    where: Path
    tags: tuple[Tag, ...]
    some: frozenset[str]


def test_plain() -> None:
    """A result becomes JSON all the way down."""
    result = _Result(
        datetime(2026, 1, 2, tzinfo=timezone.utc), Path("/x"), (Tag("a"),), frozenset({"b", "a"})
    )

    assert plain(result) == {
        "when": "2026-01-02T00:00:00+00:00",
        "where": "/x",
        "tags": [{"key": "a", "value": ""}],
        "some": ["a", "b"],
    }


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON on stdout holds no byte that a terminal could act on."""
    Output(as_json=True).json({"note": "\x1b\x7f\u202eü"})

    assert capsys.readouterr().out == '{\n  "note": "\\u001b\\u007f\\u202e\\u00fc"\n}\n'


def test_progress_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal each long task leaves one line on stderr when it is done; quiet, none."""
    for quiet in (False, True):
        bar = Bar(quiet=quiet, line_after=0)
        bar.start("Copying", 2_000_000)
        bar.advance(1_000_000)
        bar.advance(1_000_000)
        bar.finish()

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Copying: 2.0 MB in 0.0 s (")
    assert err.count("\n") == 1


def _on_a_terminal(code: str, tmp_path: Path) -> str:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=follower,
        stderr=follower,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(follower)
    seen = b""
    try:
        while piece := os.read(leader, 65536):
            seen += piece
    except OSError:  # Linux answers EIO once the other end is closed
        pass
    os.close(leader)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())


@pytest.mark.usefixtures("filled")
def test_table_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a table is aligned, and sizes and times are for people."""
    code = "from adreg.cli.main import main; main(['list', '--sort', 'size', '--reverse'])"

    lines = _on_a_terminal(code, tmp_path).splitlines()

    assert lines[0].split() == ["NAME", "TYPE", "RANK", "BASE", "SIZE", "ADDED", "ALIASES", "TAGS"]
    assert lines[1].split()[:5] == ["merged@1", "model", "smollm2", "5.0", "kB"]
    assert not any("\t" in line for line in lines)


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a bar with bytes and rate is drawn, and stays when it is full."""
    code = (
        "from adreg.cli.progress import Bar; bar = Bar(); bar.start('Copying [x]', 2_000_000);"
        "bar.advance(2_000_000); bar.finish()"
    )

    seen = _on_a_terminal(code, tmp_path)

    assert "Copying [x]" in seen
    assert "2.0/2.0 MB" in seen


def test_error_takes_the_bar_away(tmp_path: Path, adreg: Adreg) -> None:
    """After an error in the middle of a task the terminal's cursor is back."""
    del adreg
    code = (
        "from adreg.cli.errors import guarded; from adreg.cli.options import App; app = App()\n"
        "def work():\n"
        "    app.progress.start('Copying', 2)\n"
        "    raise OSError(5, 'Input/output error', 'x')\n"
        "assert guarded(work, app, as_json=False) == 1\n"
    )

    seen = _on_a_terminal(code, tmp_path)

    assert seen.rindex("\x1b[?25h") < seen.index("error: x: Input/output error")
