"""`adreg merge`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Adreg
from workshop import Workshop, make_workshop

from adreg.registry import Registry


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return folders that no test changes."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def registry(home: Path, shop: Workshop) -> Registry:
    """Return a registry with the base ``tiny`` and the adapters ``team/one`` and ``team/two``."""
    registry = Registry(home)
    registry.add_base(str(shop.base), name="tiny")
    registry.add(shop.one, name="team/one", base="tiny")
    registry.add(shop.two, name="team/two", base="tiny")
    return registry


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("registry")
def test_a_merge(adreg: Adreg, tmp_path: Path) -> None:
    """One line says what was made, where, how large it is, and how much changed."""
    out = tmp_path / "out"
    ran = adreg("-q", "merge", "team/one=0.5", "team/two", "-o", str(out), "--name", "bot")

    assert (0, "") == (ran.code, ran.err)
    assert ran.out.startswith(f"merged bot@1 into {out}: ")
    assert "% of 6,144 elements changed; |delta| is " in ran.out
    assert "lost to rounding; worst sampled error 0.5 ulp\n" in ran.out
    assert (out / "config.json").is_file()


@pytest.mark.usefixtures("registry")
def test_json(adreg: Adreg, tmp_path: Path) -> None:
    """As JSON the model comes with its inputs, files and tensors, and stdout holds nothing else."""
    out = tmp_path / "out"
    told = json.loads(adreg("merge", "team/one=0.5", "-o", str(out), "--json").out)

    assert ("team/one-merged", str(out), "tiny") == (told["name"], told["folder"], told["base"])
    assert [["team/one@1", 0.5]] == told["adapters"]
    assert {"name", "sha256", "size"} == set(told["files"][0])
    assert {"name", "action", "dtype", "shape", "bytes", "file"} == set(told["tensors"][0])
    assert told["new"]
    assert not told["dry_run"]
    assert 0 < told["totals"]["changed"] <= told["totals"]["elements"]
    assert {one["name"] for one in told["report"]} == {
        one["name"] for one in told["tensors"] if one["action"] == "merge"
    }


@pytest.mark.usefixtures("registry")
def test_a_recipe_file_and_flags(adreg: Adreg, tmp_path: Path) -> None:
    """A recipe file and the same flags make the same files; flags count more than the file."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "base: tiny\nadapters:\n  - {ref: team/one@1, weight: 0.5}\n  - team/two\n"
        "dtype: float32\nmax_shard_size: 20KB\nprecision: float64\n"
    )
    flags = ["--dtype", "float32", "--max-shard-size", "20KB", "--precision", "float64"]
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    said = ["team/one@1=0.5", "team/two", "--base", "tiny", *flags]

    assert 0 == adreg("merge", "--recipe", str(recipe), "-o", str(one), "--name", "bot").code
    ran = adreg("-q", "merge", *said, "-o", str(two), "--name", "bot")
    adreg("merge", "--recipe", str(recipe), "--dtype", "bfloat16", "-o", str(other))

    assert files(one) == files(two)
    assert f"bot@1 holds these very bytes already: {two}\n" == ran.out
    assert "bfloat16" == json.loads((other / "config.json").read_text())["dtype"]


@pytest.mark.usefixtures("registry")
def test_without_a_place(adreg: Adreg, home: Path) -> None:
    """Without -o a model lies in the registry, and the same again is found and not made anew."""
    first = json.loads(adreg("merge", "team/one", "--json").out)
    folder = Path(first["folder"])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = adreg("-q", "merge", "team/one")

    assert home / "models" == folder.parent
    assert f"team/one-merged@1 holds these very bytes already: {folder}\n" == again.out
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.usefixtures("registry")
def test_a_dry_run(adreg: Adreg, home: Path, tmp_path: Path) -> None:
    """The plan is a table with a line for each tensor and a sum, and nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    ran = adreg("merge", "team/one", "-o", str(tmp_path / "out"), "--dry-run")
    told = json.loads(adreg("merge", "team/one", "--dry-run", "--json").out)

    assert 0 == ran.code
    assert "model.layers.0.self_attn.q_proj.weight" in ran.out
    assert "6 merge" in ran.out
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert not (tmp_path / "out").exists()
    assert told["dry_run"]
    assert told["key"] is None
    assert [] == told["files"]


WRONG: dict[str, tuple[list[str], int, str]] = {
    "nothing": ([], 2, "name at least one adapter"),
    "a bad size": (["team/one", "--max-shard-size", "5XB"], 2, "'5XB' is not a size"),
    "no size at all": (["team/one", "--max-shard-size", "0"], 2, "'0' is not a size"),
    "a bad dtype": (["team/one", "--dtype", "int8"], 2, "'int8' is not one of"),
    "no threads": (["team/one", "--threads", "0"], 2, "not in the range"),
    "a bad weight": (["team/one=much"], 2, "'much' is not allowed"),
    "an endless weight": (["team/one=inf"], 2, "'inf' is not allowed"),
    "the weight 0": (["team/one=0"], 1, "team/one@1 has the weight 0"),
    "twice": (["team/one", "team/one@1=2"], 1, "team/one@1 is named twice"),
    "nobody": (["team/oen"], 1, "there is no adapter or model 'team/oen'"),
    "no such version": (["team/one@9"], 1, "team/one@9"),
    "no base": (["team/one", "--base", "tyni"], 1, "there is no base 'tyni'"),
    "an adapter's name": (["team/one", "--name", "team/two"], 1, "'team/two' exists already"),
    "a bad name": (["team/one", "--name", "../x"], 1, "'../x' is not allowed"),
    "no recipe": (["--recipe", "gone.yaml"], 1, "gone.yaml"),
}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(adreg: Adreg, home: Path, case: str) -> None:
    """Each mistake ends in one line that names it and a hint, and nothing is written."""
    arguments, code, words = WRONG[case]
    before = sorted(home.rglob("*"))
    ran = adreg("-q", "merge", *arguments)

    assert code == ran.code
    assert "" == ran.out
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert before == sorted(home.rglob("*"))


@pytest.mark.usefixtures("registry")
def test_an_error_as_json(adreg: Adreg) -> None:
    """With --json a refusal is one object on stderr, with its facts."""
    ran = adreg("merge", "team/one=0", "--json")
    told = json.loads(ran.err)

    assert (1, "") == (ran.code, ran.out)
    assert "MergeRefused" == told["error"]
    assert ["team/one@1 has the weight 0"] == told["facts"]["reasons"]
