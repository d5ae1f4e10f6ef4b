"""`adreg extract`."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import pytest
import torch
from running import Adreg


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A base, and a fine-tune with one changed weight and one changed norm."""
    root = tmp_path_factory.mktemp("extract")
    base = factory.make_base(root / "base", dtype=torch.float32)
    full = factory.make_base(root / "full", dtype=torch.float32)

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.weight"] += torch.eye(32) * 0.5
        tensors["model.norm.weight"] += 1

    factory.edit_tensors(full, edit, "model.safetensors")
    return str(base), str(full)


def test_a_lora(adreg: Adreg, folders: tuple[str, str], tmp_path: Path) -> None:
    """The line says what was made; what is lost is on stderr, with how much it changed."""
    base, full = folders
    ran = adreg("extract", full, "--base", base, "--rank", "16", "-o", str(tmp_path / "out"))

    assert 0 == ran.code
    assert ran.out.startswith(f"made {tmp_path / 'out'}: 1 module of rank 16, ")
    # The identity has 32 equal singular values, of which 16 are missed.
    assert "; error 70.7 %, at worst 70.7 % in model.layers.0.self_attn.q_proj\n" in ran.out
    assert ran.err == (
        "not in the adapter: model.norm.weight, a change of 5.66:"
        " it is a norm or a bias; --with-norms stores such whole\n"
    )


def test_with_norms_as_json(adreg: Adreg, folders: tuple[str, str], tmp_path: Path) -> None:
    """With --with-norms nothing is lost."""
    base, full = folders
    more = ("--energy", "1", "--rank", "32", "--with-norms", "-o", str(tmp_path / "out"), "--json")
    told = json.loads(adreg("extract", full, "--base", base, *more).out)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())

    assert [] == told["lost"]
    assert 32 == told["rank"]
    assert told["error"] < 1e-6
    assert ["model.norm"] == config["modules_to_save"]


def test_lost_as_json(adreg: Adreg, folders: tuple[str, str]) -> None:
    """As JSON each loss has its name, reason and norm."""
    base, full = folders
    told = json.loads(
        adreg("extract", full, "--base", base, "--rank", "1", "--dry-run", "--json").out
    )

    assert ["model.norm.weight"] == [one["name"] for one in told["lost"]]
    assert 32**0.5 == pytest.approx(told["lost"][0]["norm"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rank", "2"], 2, "say where it goes"),
        (["-o", "out"], 2, "say how large"),
        (["--rank", "2", "-o", "out", "--target", "("], 1, "'(' is no regular expression"),
        (["--rank", "2", "-o", "out", "--target", "xyz"], 1, "nothing of what differs fits"),
    ],
)
def test_what_is_wrong(
    adreg: Adreg, folders: tuple[str, str], arguments: list[str], code: int, words: str
) -> None:
    """Each mistake is one line that names it."""
    base, full = folders
    ran = adreg("-q", "extract", full, "--base", base, *arguments)

    assert (code, "") == (ran.code, ran.out)
    assert words in ran.err
    assert len(ran.err.splitlines()) <= 2
