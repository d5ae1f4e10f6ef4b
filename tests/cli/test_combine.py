"""`adreg combine`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Adreg
from workshop import Workshop, make_workshop

from adreg.cli.main import cli
from adreg.registry import Registry
from adreg.registry.merge.algebra.combine import METHODS

BOTH = ("team/one=0.5", "team/two")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return folders that no test changes."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def registry(home: Path, shop: Workshop) -> Registry:
    """Return a registry with the base ``tiny`` and the adapters ``team/one`` and ``team/two``."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="tiny")
    registry.add(shop.one, name="team/one", base="tiny")
    registry.add(shop.two, name="team/two", base="tiny")
    return registry


def test_into_the_catalog(adreg: Adreg) -> None:
    """One line says what was made, of which ranks, and what it misses."""
    ran = adreg("combine", *BOTH, "--name", "team/both")

    assert (0, "") == (ran.code, ran.err)
    assert ran.out.startswith("made team/both@1: 6 modules of rank 6, 2.3K parameters, ")
    assert "; error 0 %, at worst 0 % in model.layers." in ran.out
    assert 1 == len(ran.out.splitlines())


def test_the_same_again(adreg: Adreg) -> None:
    """The same bytes again are known already."""
    adreg("combine", *BOTH, "--name", "team/both")

    ran = adreg("combine", *BOTH, "--name", "other")

    assert ran.out.startswith("team/both@1 holds these very bytes already: 6 modules")


def test_a_dry_run(adreg: Adreg) -> None:
    """A dry run needs no place, and prints a line for each module."""
    ran = adreg("combine", *BOTH, "--method", "svd", "--rank", "2", "--dry-run")

    lines = ran.out.splitlines()
    assert 0 == ran.code
    assert "module\trank\tnorm\terror" == lines[0]
    assert ["model.layers.0.mlp.down_proj", "2"] == lines[1].split("\t")[:2]
    assert lines[-1].startswith("would make an adapter: 6 modules of rank 2, ")
    assert 8 == len(lines)


def test_json(adreg: Adreg, tmp_path: Path) -> None:
    """As JSON all is told: modules with their errors, files with digests, the key."""
    out = tmp_path / "out"
    arguments = ("--method", "svd", "--energy", "0.8", "-o", str(out), "--name", "b", "--json")
    told = json.loads(adreg("combine", *BOTH, *arguments).out)

    assert (str(out), "b", 1) == (told["folder"], told["key"]["name"], told["key"]["number"])
    assert {"name", "rank", "norm", "error", "reached"} == set(told["modules"][0])
    assert told["worst"] in {one["name"] for one in told["modules"]}
    assert {file["name"] for file in told["files"]} == {path.name for path in out.iterdir()}
    assert 0 < told["error"] < 1


def test_the_methods_are_all_of_them() -> None:
    """The command offers every method that there is."""
    command = cli.commands.get("combine") or cli.get_command(None, "combine")  # type: ignore[arg-type]
    assert command is not None
    method = next(one for one in command.params if one.name == "method")

    assert METHODS == tuple(method.type.choices)  # type: ignore[attr-defined]


WRONG: dict[str, tuple[list[str], int, str]] = {
    "nowhere to": (["team/one"], 2, "say where it goes"),
    "nothing": (["-o", "out"], 2, "missing argument"),
    "a bad method": (["team/one", "--method", "mean", "-o", "out"], 2, "'mean' is not one of"),
    "no density": (["team/one", "--method", "factors_ties", "-o", "out"], 1, "needs a density"),
    "a bad energy": (["team/one", "--energy", "0", "-o", "out"], 2, "not in the range"),
    "nobody": (["team/oen", "-o", "out"], 1, "there is no adapter or model 'team/oen'"),
    "twice": (["team/one", "team/one@1", "-o", "out"], 1, "team/one@1 is named twice"),
    "a rank for cat": (["team/one", "--rank", "2", "-o", "out"], 1, "cat cuts to no rank"),
    "the weight 0": (["team/one=0", "-o", "out"], 1, "team/one@1 has the weight 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(
    adreg: Adreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Each mistake ends in one line that names it and a hint, and no folder is made."""
    monkeypatch.chdir(tmp_path)
    arguments, code, words = WRONG[case]

    ran = adreg("-q", "combine", *arguments)

    assert (code, "") == (ran.code, ran.out)
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert not (tmp_path / "out").exists()
