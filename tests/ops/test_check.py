"""The verdict on an adapter and a base knows what the catalog knows."""

from __future__ import annotations

from pathlib import Path

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.errors import Damaged, NotFound


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama, another of the same shape, a GPT-2, and an adapter that names no base."""
    root = tmp_path_factory.mktemp("made")
    factory.make_base(root / "llama")
    factory.make_base(root / "other", seed=3)
    factory.make_base(root / "gpt2", "gpt2")
    factory.make_adapter(root / "llama", root / "adapter")
    factory.edit_config(root / "adapter", "base_model_name_or_path")
    return root


@pytest.fixture
def registry(home: Path) -> Registry:
    """An empty registry."""
    del home
    return Registry()


def test_a_folder_fits_a_folder(registry: Registry, made: Path) -> None:
    """Neither need be in the catalog, and a look creates none."""
    checked = registry.check(str(made / "adapter"), str(made / "llama"))

    assert "same-shapes" == checked.verdict.grade.value
    assert checked.verdict.matched == checked.verdict.total > 0
    assert [] == list(registry.settings.home.iterdir())


def test_the_recorded_base_is_exact(registry: Registry, made: Path) -> None:
    """Without a base, the one that add recorded is meant."""
    registry.add(made / "adapter", base=str(made / "llama"))

    checked = registry.check("adapter")

    assert ("adapter@1", "llama", "exact") == (
        checked.adapter,
        checked.base,
        checked.verdict.grade.value,
    )


def test_the_wrong_base_is_incompatible_with_reasons(registry: Registry, made: Path) -> None:
    """Every tensor without a place is named."""
    registry.add(made / "adapter")

    verdict = registry.check("adapter", str(made / "gpt2")).verdict

    assert ("incompatible", 0) == (verdict.grade.value, verdict.matched)
    assert "model.layers.0" in verdict.reasons[0]


def test_an_adapter_without_a_base_needs_one(registry: Registry, made: Path) -> None:
    """The error says how to name it."""
    registry.add(made / "adapter")

    with pytest.raises(NotFound, match="there is no base known for 'adapter@1'") as caught:
        registry.check("adapter")

    assert "--base" in caught.value.hint


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["gone", "cut", "changed"])
def test_a_damaged_version_is_not_judged(
    registry: Registry, made: Path, name: str, kind: str
) -> None:
    """What the store lost or changed is named instead."""
    added = registry.add(made / "adapter")
    blob = (registry._context.store.folder(added.digest) / name).resolve()
    blob.chmod(0o644)
    data = blob.read_bytes()
    if kind == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data[:-9] if kind == "cut" else data[:-1] + b"?")

    with pytest.raises(Damaged, match=f"adapter@1: {name} is (missing|truncated|damaged)"):
        registry.check("adapter", str(made / "llama"))
