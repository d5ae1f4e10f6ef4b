"""Tiny bases, and a check that a foreign adapter merges to what its formula says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.add import Added

Arrays = dict[str, NDArray[Any]]
Check = Callable[..., Added]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of float32 bases by kind, each made once."""
    root = tmp_path_factory.mktemp("foreign-bases")

    def make(kind: str) -> Path:
        if not (root / kind).exists():
            factory.make_base(root / kind, kind, torch.float32)
        return root / kind

    return make


@pytest.fixture
def random() -> Callable[..., NDArray[np.float32]]:
    """Return a maker of seeded float32 arrays by shape."""
    generator = np.random.default_rng(5)
    return lambda *shape: (generator.standard_normal(shape) * 0.2).astype(np.float32)


@pytest.fixture
def check(home: Path, tmp_path: Path) -> Check:
    """Return a check: add a path, merge it, and compare each tensor with W plus its delta.

    ``deltas`` are float64, by the names of the base's file; what they do not name must
    stay the same bits. ``replaced`` are whole results instead.
    """
    del home

    def run(
        path: Path,
        base: Path,
        deltas: Mapping[str, NDArray[np.float64]],
        replaced: Mapping[str, NDArray[np.float64]] | None = None,
        **wishes: Any,
    ) -> Added:
        registry = Registry()
        wishes = {"base": str(base), "name": "it", **wishes}
        added = registry.add(path, **wishes)
        recipe = Recipe((RecipeAdapter(added.name),), base=str(base))
        registry.merge(recipe, output=tmp_path / "merged")
        before = load_file(base / "model.safetensors")
        after = load_file(tmp_path / "merged/model.safetensors")
        results = {name: before[name].astype(np.float64) + delta for name, delta in deltas.items()}
        results |= replaced or {}
        assert results.keys() <= before.keys()
        assert before.keys() == after.keys()
        for name, old in before.items():
            if name in results:
                assert not np.array_equal(old, after[name]), name
                np.testing.assert_allclose(after[name], results[name], rtol=1e-6, atol=1e-6)
            else:
                assert np.array_equal(old, after[name]), name
        return added

    return run
