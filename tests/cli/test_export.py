"""`adreg export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adreg.registry import Registry

Run = Callable[..., Any]


def test_adapter(adreg: Run, filled: Registry, tmp_path: Path) -> None:
    """One line says what was exported and where to."""
    del filled
    out = tmp_path / "out"
    ran = adreg("-q", "export", "team/support@1", "-o", str(out))

    assert (0, f"exported team/support@1 to {out} (2 files, 23 B)\n") == (ran.code, ran.out)
    assert {"adapter_config.json", "adapter_model.safetensors"} == {p.name for p in out.iterdir()}


def test_json(adreg: Run, filled: Registry, tmp_path: Path) -> None:
    """As JSON each file comes with its digest."""
    del filled
    ran = adreg("-q", "export", "team/support@1", "-o", str(tmp_path / "out"), "--json")
    told = json.loads(ran.out)

    assert "team/support@1" == told["reference"]
    assert {"name", "sha256", "size"} == set(told["files"][0])


def test_unknown_licence(adreg: Run, filled: Registry, tmp_path: Path) -> None:
    """A model with a part without licence is refused with both ways to go on."""
    del filled
    ran = adreg("export", "merged", "-o", str(tmp_path / "out"))

    assert 1 == ran.code
    assert "error: no licence is known for the base smollm2\n" in ran.err
    assert "--license" in ran.err
    assert "--allow-unknown-license" in ran.err


def test_folder_is_needed(adreg: Run, filled: Registry) -> None:
    """Without -o it is a wrong use."""
    del filled

    assert 2 == adreg("export", "merged").code
