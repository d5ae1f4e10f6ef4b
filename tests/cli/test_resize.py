"""`adreg resize`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Adreg
from workshop import Workshop, make_workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return folders that no test changes."""
    return make_workshop(tmp_path_factory.mktemp("shop"))


def test_a_smaller_adapter(adreg: Adreg, shop: Workshop, tmp_path: Path) -> None:
    """The line says how small it is and what it misses; the numbers are those of --json."""
    ran = adreg("resize", str(shop.one), "--rank", "2", "-o", str(tmp_path / "out"))
    told = json.loads(adreg("resize", str(shop.one), "--rank", "2", "--dry-run", "--json").out)

    assert ran.out.startswith(f"made {tmp_path / 'out'}: 6 modules of rank 2, ")
    assert f"; error {100 * told['error']:.3g} %, at worst " in ran.out
    assert f" % in {told['worst']}\n" in ran.out
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (2, 2) == (config["r"], config["lora_alpha"])


def test_by_energy(adreg: Adreg, shop: Workshop) -> None:
    """Ranks that differ are told as a range."""
    ran = adreg("resize", str(shop.one), "--energy", "0.7", "--dry-run")

    ranks = [int(line.split("\t")[1]) for line in ran.out.splitlines()[1:-1]]
    assert min(ranks) < max(ranks)
    assert f"6 modules of rank {min(ranks)} to {max(ranks)}, " in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "out"], 2, "say how small"),
        (["--rank", "2"], 2, "say where it goes"),
        (["--rank", "0", "-o", "out"], 2, "not in the range"),
        (["--energy", "2", "-o", "out"], 2, "not in the range"),
    ],
)
def test_what_is_wrong(
    adreg: Adreg, shop: Workshop, arguments: list[str], code: int, words: str
) -> None:
    """Each mistake is one line."""
    ran = adreg("resize", str(shop.one), *arguments)

    assert (code, "") == (ran.code, ran.out)
    assert words in ran.err
