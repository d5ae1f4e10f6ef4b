"""Exporting adapters: the folder that was added, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from factory import load_adapter, make_adapter, make_base

from adreg.registry import Registry
from adreg.registry.errors import Damaged, NameRefused, NotFound, OutputRefused


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tiny Llama and an adapter for it that brings a tokenizer's template folder."""
    root = tmp_path_factory.mktemp("folders")
    base = make_base(root / "base")
    adapter = make_adapter(base, root / "adapter", use_dora=True)
    (adapter / "additional_chat_templates").mkdir()
    (adapter / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")
    return base, adapter


@pytest.fixture
def registry(home: Path, folders: tuple[Path, Path]) -> Registry:
    """Return a registry with the adapter as ``team/a@1``."""
    registry = Registry(home)
    registry.add(folders[1], name="team/a")
    return registry


def test_bit_identical(registry: Registry, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Every file comes back with the same bytes, those in folders too."""
    out = tmp_path / "out"
    done = registry.export("team/a", out)

    assert "additional_chat_templates/tool.jinja" in {file.name for file in done.files}
    for path in folders[1].rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (out / path.relative_to(folders[1])).read_bytes()
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_peft_loads_it(registry: Registry, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """PeftModel.from_pretrained gives the same logits from the export as from the original."""
    registry.export("team/a", tmp_path / "out")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = [
            load_adapter(folders[0], folder)(ids).logits
            for folder in (folders[1], tmp_path / "out")
        ]

    assert torch.equal(*logits)


def test_history(registry: Registry, tmp_path: Path) -> None:
    """The export stands in the history."""
    registry.export("team/a", tmp_path / "out")
    entry = registry.history("team/a").entries[0]

    assert ("export", "team/a@1") == (entry.action, entry.subject)
    assert str(tmp_path / "out") == entry.detail["folder"]


def test_dry_run(registry: Registry, home: Path, tmp_path: Path) -> None:
    """A dry run writes neither a folder nor a line of history."""
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    done = registry.export("team/a", tmp_path / "out", dry_run=True)

    assert done.dry_run
    assert not (tmp_path / "out").exists()
    assert before == {p: p.stat().st_mtime_ns for p in home.rglob("*")}


def test_damage_is_not_published(registry: Registry, tmp_path: Path) -> None:
    """A stored file that changed is named, and nothing is left at the target."""
    digest = registry.show("team/a").version.key.digest
    blob = (registry._context.store.folder(digest) / "adapter_model.safetensors").resolve()
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(Damaged, match=r"team/a@1: adapter_model\.safetensors"):
        registry.export("team/a", tmp_path / "places" / "out")

    assert [] == list((tmp_path / "places").iterdir())


def test_places_that_are_taken(registry: Registry, tmp_path: Path) -> None:
    """A folder that is not empty is left alone."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputRefused):
        registry.export("team/a", tmp_path / "out")

    assert ["mine"] == [path.name for path in (tmp_path / "out").iterdir()]


def test_unknown(registry: Registry, tmp_path: Path) -> None:
    """A name that is not there is NotFound."""
    with pytest.raises(NotFound):
        registry.export("nobody", tmp_path / "out")


def test_licence_of_an_adapter(registry: Registry, tmp_path: Path) -> None:
    """An adapter goes out as it is: no licence can be given to it."""
    with pytest.raises(NameRefused):
        registry.export("team/a", tmp_path / "out", licence="mit")
