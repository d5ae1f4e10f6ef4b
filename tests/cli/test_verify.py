"""``adreg verify`` names damage and ends with 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory

from adreg.registry import Registry


def test_damage_is_printed_and_the_exit_code_is_1(
    adreg: Callable[..., Any], tmp_path: Path
) -> None:
    """What is whole is counted; each fault is a line, and all of them are in the JSON."""
    base = factory.make_base(tmp_path / "llama")
    factory.make_adapter(base, tmp_path / "one")
    adreg("add", str(tmp_path / "one"))

    whole = adreg("-q", "verify", "--all")
    folder = Registry().verify("one").versions[0].folder
    (folder / "adapter_model.safetensors").resolve().unlink()
    broken = adreg("-q", "verify", "one")
    told = adreg("-q", "verify", "--all", "--json")

    assert (0, True) == (whole.code, whole.out.endswith(": all as recorded\n"))
    assert 1 == broken.code
    assert broken.out.startswith("one@1: adapter_model.safetensors is missing\n")
    assert "error: damage found: one@1: adapter_model.safetensors is missing\nhint: " in broken.err
    assert (1, "missing") == (
        told.code,
        json.loads(told.out)["versions"][0]["faults"][0]["kind"],
    )


def test_it_wants_one_version_or_all(adreg: Callable[..., Any]) -> None:
    """Neither and both are wrong uses."""
    assert 2 == adreg("verify").code
    assert 2 == adreg("verify", "one", "--all").code
