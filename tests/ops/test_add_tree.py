"""A tree of adapters is taken in one by one, and what is refused is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.registry import Registry
from adreg.registry.errors import NameRefused, NotAnAdapter
from adreg.registry.ops.add_tree import tree_names


def write(folder: Path, seed: int, rank: int = 4) -> Path:
    """Write a tiny adapter whose configuration says rank 4."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.layers.0.q_proj.lora_"
    values = np.random.default_rng(seed).standard_normal((2, rank, 8), dtype=np.float32)
    tensors = {f"{name}A.weight": values[0], f"{name}B.weight": values[1].T.copy()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two good adapters, a copy of one, one with a lie, and an empty folder."""
    root = tmp_path / "runs"
    write(root / "support/de", 1)
    write(root / "support/fr", 2)
    write(root / "copies/de", 1)
    write(root / "broken/lie", 3, rank=8)
    (root / "nothing").mkdir()
    return root


def test_good_ones_are_added_and_the_rest_is_told(home: Path, tree: Path) -> None:
    """Added, known and refused are kept apart; names come from the paths."""
    del home
    registry = Registry()

    done = registry.add_tree(tree, tags=["imported"])

    assert ["copies/de@1", "support/fr@1"] == [one.reference for one in done.added]
    assert ["copies/de@1"] == [one.reference for one in done.known]
    (refused,) = done.refused
    assert (tree / "broken/lie", "AdapterRefused") == (refused.path, refused.error)
    assert "has rank 8 in its tensors and 4 in the configuration" in refused.message
    assert ["imported"] == [str(tag) for tag in registry.list().rows[0].tags]


def test_the_same_tree_again_adds_nothing(home: Path, tree: Path) -> None:
    """All good ones are known then."""
    del home
    registry = Registry()
    registry.add_tree(tree)

    again = registry.add_tree(tree)

    assert (0, 3, 1) == (len(again.added), len(again.known), len(again.refused))
    assert 2 == registry.list().total


def test_a_dry_run_of_a_tree_writes_nothing(home: Path, tree: Path) -> None:
    """It says what would be added."""
    done = Registry().add_tree(tree, dry_run=True)

    assert (3, 1) == (len(done.added), len(done.refused))
    assert [] == list(home.iterdir())


def test_a_tree_without_adapters_is_refused(home: Path, tmp_path: Path) -> None:
    """As is one that does not exist, and a team that is two parts."""
    del home
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotAnAdapter, match="no folder in it holds"):
        Registry().add_tree(tmp_path / "empty")
    with pytest.raises(NotAnAdapter, match="there is no such folder"):
        Registry().add_tree(tmp_path / "gone")
    with pytest.raises(NameRefused):
        Registry().add_tree(tmp_path, name="a/b")


@pytest.mark.parametrize(
    ("team", "expected"),
    [
        (None, ["runs", "My-run", "My-run-2", "a/b", "a/b-c-d", "x-checkpoint-50", "A/B-2"]),
        (
            "t",
            [
                "t/runs",
                "t/My-run",
                "t/My-run-2",
                "t/a-b",
                "t/a-b-c-d",
                "t/x-checkpoint-50",
                "t/A-B-2",
            ],
        ),
    ],
)
def test_names_come_from_paths_and_differ(
    tmp_path: Path, team: str | None, expected: list[str]
) -> None:
    """Deep paths become two parts, a checkpoint keeps its run, and case makes no difference."""
    root = tmp_path / "runs"
    paths = ["", "My run", "My-run", "a/b", "a/b/c/d", "x/checkpoint-50", "A/B"]

    assert expected == list(tree_names(root, [root / path for path in paths], team))
