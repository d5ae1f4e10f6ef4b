"""Real shells complete commands, options, names, versions, aliases and bases."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from adreg.registry.catalog import bases as catalog_bases
from adreg.registry.catalog import beginnings, series
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import BaseFacts
from adreg.registry.settings import Settings

_PATIENCE = 30.0

_SCRIPT = "source <(adreg completion zsh)"
_STARTS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'PS1=; bind "set completion-query-items 0"; source <(adreg completion bash)',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1=; unsetopt prompt_cr prompt_sp; autoload -Uz compinit; compinit -u -D; " + _SCRIPT,
    ),
}

_CASES = [
    ("adreg rena", "adreg rename"),
    ("adreg show team/su", "adreg show team/support"),
    ("adreg show team/support@pr", "adreg show team/support@prod"),
    ("adreg --quiet show summ", "adreg --quiet show summary"),
    ("adreg list --ba", "adreg list --base"),
    ("adreg list --base smo", "adreg list --base smollm2"),
    ("adreg show --conf", "adreg show --config"),
    ("adreg base show smo", "adreg base show smollm2"),
]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PATH on which `adreg` is this checkout's, wherever the tests run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "adreg"
    script.write_text(f"#!{sys.executable} -I\nfrom adreg.cli.main import main\nmain()\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(folder)


def completed(shell: str, line: str) -> str:
    """Type a line and TAB into a real shell on a terminal; return the line that came of it.

    Ctrl-A, `echo ` and Return then let the shell itself say what it has in its line.
    """
    command, setup = _STARTS[shell]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)  # noqa: S606  # a shell is what is tested
    try:
        os.write(terminal, f"{setup}; echo REA''DY\n".encode())
        _read_until(terminal, "READY")
        os.write(terminal, f"{line}\t".encode())
        _read_until(terminal, line)
        time.sleep(0.1)
        os.write(terminal, b"\x01echo '<'\x05'>'\n")
        told = _read_until(terminal, r"\n<[^\n]*>")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return str(re.findall(r"\n< ?([^\n]*?) ?>", told)[-1])


def _read_until(terminal: int, wanted: str) -> str:
    """Read what the shell writes until this pattern stands in it."""
    told, end = "", time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                told += os.read(terminal, 65536).decode(errors="replace").replace("\r", "")
            except OSError:
                break
        if re.search(wanted, told):
            return told
    raise AssertionError(f"{wanted!r} did not come: {told!r}")


@pytest.mark.parametrize(("line", "expected"), _CASES)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.usefixtures("filled", "path")
def test_a_shell_completes(shell: str, line: str, expected: str) -> None:
    """TAB makes of a begun word the only one that it can become."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")

    assert expected == completed(shell, line)


@pytest.mark.usefixtures("filled", "path")
def test_bash_completes_behind_an_equals_sign() -> None:
    """Where bash cuts a word, only its last piece is replaced."""
    assert "adreg list --base=smollm2" == completed("bash", "adreg list --base=smo")


@pytest.mark.parametrize(("line", "expected"), _CASES)
@pytest.mark.usefixtures("filled", "path")
def test_fish_completes(line: str, expected: str) -> None:
    """Fish's own engine offers what the word can become."""
    if shutil.which("fish") is None:
        pytest.skip("there is no fish here")

    told = subprocess.run(
        ["fish", "--no-config", "-c", f'adreg completion fish | source; complete -C "{line}"'],
        capture_output=True,
        text=True,
        check=True,
    )

    words = [one.partition("\t")[0] for one in told.stdout.splitlines()]
    assert [expected.rpartition(" ")[2]] == [one for one in words if one]


def test_names_that_are_too_many_have_in_common_what_all_have(tmp_path: Path) -> None:
    """A shell inserts what all offered names begin with: the last name is among them."""
    at = datetime(2026, 11, 24, tzinfo=timezone.utc)
    settings = Settings.at(tmp_path)
    with Catalog(settings).write() as connection:
        names = [f"team/a{number:04}" for number in range(300)] + ["team/b"]
        series.claim_all(connection, names, "adapter", at)
        connection.commit()

    found = beginnings.references(settings, "te")

    assert names[: beginnings.MOST] == found[:-1]
    assert "team/b" == found[-1]
    assert found[0][:5] == found[-1][:5] != found[0][:6]
    assert ["team/b"] == beginnings.references(settings, "team/b")
    assert [] == beginnings.references(settings, "TE")


def test_a_catalog_elsewhere_is_asked_too(tmp_path: Path) -> None:
    """ADREG_DATABASE_URL counts; no catalog has no names, and none is made."""
    at = datetime(2026, 11, 24, tzinfo=timezone.utc)
    settings = Settings.at(tmp_path / "home", f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert [] == beginnings.references(Settings.at(tmp_path / "none"), "t")
    with Catalog(settings).write() as connection:
        series.claim(connection, "team/Größe", "adapter", at)
        catalog_bases.add(connection, "Base-1", _FACTS, aliases=["org/base"], files=(), at=at)
        connection.commit()

    assert ["team/Größe"] == beginnings.references(settings, "team/Gr")
    assert (["Base-1"], ["org/base"]) == (
        beginnings.bases(settings, "Ba"),
        beginnings.bases(settings, "org"),
    )
    assert not (tmp_path / "none").exists()


_FACTS = BaseFacts("path", Path("/b"), "Llama", "llama", "BF16", 1, 2, "1" * 64, "2" * 64)
