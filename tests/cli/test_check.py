"""``adreg check`` prints the verdict, and its exit code tells it too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory


def test_the_verdict_and_its_reasons_are_printed(adreg: Callable[..., Any], tmp_path: Path) -> None:
    """0 for what fits, 1 with the offending tensors for what does not."""
    factory.make_base(tmp_path / "llama")
    factory.make_base(tmp_path / "gpt2", "gpt2")
    adapter = factory.make_adapter(tmp_path / "llama", tmp_path / "adapter")

    good = adreg("-q", "check", str(adapter), "--base", str(tmp_path / "llama"))
    bad = adreg("-q", "check", str(adapter), "--base", str(tmp_path / "gpt2"))
    told = adreg("check", str(adapter), "--base", str(tmp_path / "gpt2"), "--json")

    assert (0, True) == (good.code, good.out.startswith(f"exact: {adapter} on {tmp_path}/llama, "))
    assert (1, True) == (bad.code, bad.out.startswith("incompatible: "))
    assert "  the base has no tensor 'model.layers.0" in bad.out
    assert (1, "incompatible") == (told.code, json.loads(told.out)["verdict"]["grade"])
