"""The three folders at the top become adreg.registry, adreg.cli and adreg.migrations."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import pytest

import adreg.cli.main
import adreg.registry.errors

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("registry", "cli", "migrations")


def build(source: Path, target: Path, *kinds: str) -> None:
    """Build ``source`` into ``target`` with the hatchling that is installed."""
    command = [sys.executable, "-I", "-m", "build", "--no-isolation", *kinds]
    done = subprocess.run(
        [*command, "--outdir", str(target), str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    """Read every file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this working tree."""
    target = tmp_path_factory.mktemp("sdist")
    build(ROOT, target, "--sdist")
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the wheel that is built from the source distribution, as an installer does."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    target = tmp_path_factory.mktemp("wheel")
    build(source, target, "--wheel")
    (path,) = target.iterdir()
    return contents(path)


def test_the_wheel_holds_the_three_folders_and_nothing_else(
    wheel_of_sdist: dict[str, bytes],
) -> None:
    """Every file of the three folders is in the wheel, under adreg/, and no other file is."""
    expected = {
        f"adreg/{path.relative_to(ROOT).as_posix()}": path.read_bytes()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    actual = {name: data for name, data in wheel_of_sdist.items() if ".dist-info/" not in name}

    assert expected == actual


def test_the_sdist_gives_the_same_wheel_as_the_tree(
    wheel_of_sdist: dict[str, bytes], tmp_path: Path
) -> None:
    """A wheel built from the source distribution equals one built from the working tree."""
    build(ROOT, tmp_path, "--wheel")
    (path,) = tmp_path.iterdir()

    assert contents(path) == wheel_of_sdist


def test_the_types_are_published(wheel_of_sdist: dict[str, bytes]) -> None:
    """Each of the three packages says that it is typed; adreg itself is a namespace."""
    assert {f"adreg/{folder}/py.typed" for folder in FOLDERS} <= wheel_of_sdist.keys()
    assert "adreg/__init__.py" not in wheel_of_sdist


def test_there_is_one_copy_of_each_module() -> None:
    """No file of ours is imported under a bare name as well."""
    ours = tuple(str(ROOT / folder) + os.sep for folder in FOLDERS)
    names = [
        name
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None)) and os.path.realpath(file).startswith(ours)
    ]

    assert "adreg.registry.errors" in names
    assert [] == [name for name in names if not name.startswith("adreg.")]


def test_alembic_finds_the_migrations() -> None:
    """The folder that Alembic is given is a plain path with its environment in it."""
    folder = Path(str(files("adreg.migrations")))

    assert folder.samefile(ROOT / "migrations")
    assert (folder / "env.py").is_file()
    assert (folder / "versions").is_dir()


def test_the_command_is_the_main_of_the_command_line() -> None:
    """Installing adreg gives one command, adreg, which runs adreg.cli.main.main."""
    (script,) = distribution("adreg").entry_points

    assert ("console_scripts", "adreg") == (script.group, script.name)
    assert script.load() is adreg.cli.main.main
