"""Taking adapters out of merged models again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from peft import IA3Config, LoHaConfig, get_peft_model
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.errors import AdapterRefused, InputRefused, NotFound, OutputRefused
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "DoRA's magnitude"),
    "head": ({"modules_to_save": ["lm_head"]}, "replaces whole tensors"),
    "bias": ({"bias": "all"}, "replaces whole tensors"),
}


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """Return a registry with a tiny Qwen2 as "tiny" and the adapters "one" and "two"."""
    registry = Registry(home)
    base = factory.make_base(tmp_path / "base", "qwen2")
    registry.add_base(str(base), name="tiny")
    bias: dict[str, Any] = {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}
    for seed, name, settings in ((1, "one", {}), (2, "two", bias)):
        factory.make_adapter(base, tmp_path / name, seed=seed, **settings)
        factory.edit_tensors(tmp_path / name, lambda t: [t[k].mul_(0.05) for k in t if "_B" in k])
        registry.add(tmp_path / name, name=name, base="tiny")
    return registry


def merge(registry: Registry, *adapters: tuple[str, float], **more: Any) -> Path:
    """Merge as "bot" and return the folder."""
    parts = tuple(RecipeAdapter(ref, weight) for ref, weight in adapters)
    return registry.merge(Recipe(parts, base="tiny", **more), name="bot").folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint in float64."""
    return {n: t.double() for n, t in load_file(folder / "model.safetensors").items()}


def steps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return how many bfloat16 values lie between the elements, by counting their bits."""
    bits = [t.bfloat16().view(torch.int16).long() for t in (one, other)]
    ordered = [torch.where(b < 0, -(b & 0x7FFF), b) for b in bits]
    return (ordered[0] - ordered[1]).abs()


@pytest.mark.parametrize("adapters", [[("one", 1.0)], [("one", 0.5), ("two", -2.0)]])
def test_the_base_comes_back(
    registry: Registry, tmp_path: Path, adapters: list[tuple[str, float]]
) -> None:
    """With all adapters out the base is there again, and what is told of the rest is so."""
    merge(registry, *adapters)
    found = registry.unmerge("bot", [ref for ref, _ in adapters], output=tmp_path / "out")
    base, out = weights(tmp_path / "base"), weights(tmp_path / "out")
    touched = [t.name for t in found.merged.tensors if t.action == "merge"]
    apart = torch.cat([steps(out[name], base[name]).flatten() for name in touched])
    worst = max(float((out[name] - base[name]).abs().max()) for name in touched)

    assert [(f"{ref}@1", weight) for ref, weight in adapters] == list(found.adapters)
    assert ("tiny", ()) == (found.base, found.left)
    assert found.distance is not None
    assert found.distance.elements == apart.numel()
    assert found.distance.identical == int((apart == 0).sum())
    assert found.distance.near == int((apart <= 1).sum())
    assert found.distance.ulps == int(apart.max())
    assert found.distance.largest == worst
    assert 0.3 * apart.numel() < found.distance.near
    assert found.bound is not None
    assert 0 < worst <= found.bound * (1 + 2**-8)
    assert all(torch.equal(out[n], base[n]) for n in base if n not in touched)


def test_one_of_two(registry: Registry, tmp_path: Path) -> None:
    """What stays is the base with the other adapter, within the bound that is told."""
    merge(registry, ("one", 0.5), ("two", 2.0))
    found = registry.unmerge("bot", ["one"], output=tmp_path / "out")
    merge(registry, ("two", 2.0), dtype="float64", precision="float64")
    facts: Any = registry.show("bot").version.facts
    wanted, out = weights(facts.location), weights(tmp_path / "out")
    worst = max(float((out[name] - wanted[name]).abs().max()) for name in wanted)

    assert (("two@1", 2.0),) == found.left
    assert (None, None) == (found.base, found.distance)
    assert found.bound is not None
    assert 0 < worst <= found.bound * (1 + 2**-8)


def test_part_of_a_weight(registry: Registry) -> None:
    """A weight of one's own takes out that much, and the rest is named."""
    merge(registry, ("one", 0.75))
    found = registry.unmerge("bot", ["one=0.5"])

    assert ((("one@1", 0.5),), (("one@1", 0.25),)) == (found.adapters, found.left)


def test_float32_is_nearly_exact(registry: Registry, tmp_path: Path) -> None:
    """A model kept in float32 gives the base back to float32's last bits, cast to its dtype."""
    merge(registry, ("one", 1.0), dtype="float32")
    found = registry.unmerge("bot", ["one"], output=tmp_path / "out")
    base, out = weights(tmp_path / "base"), weights(tmp_path / "out")

    assert found.bound is not None
    assert found.bound < 1e-6
    assert max(float((out[n] - base[n]).abs().max()) for n in base) < 1e-7


def test_lineage(registry: Registry, home: Path) -> None:
    """The outcome is a model whose base is the merged one and whose weight is negative."""
    folder = merge(registry, ("one", 1.0))
    found = registry.unmerge("bot", ["one"])
    shown: Any = registry.show("bot-unmerged").version

    assert shown.key == found.merged.key
    assert folder == shown.base.facts.location
    assert [("one", -1.0)] == [(one.name, one.weight) for one in shown.inputs]
    assert "same" == registry.verify_merge("bot-unmerged").verdict
    assert home in found.merged.folder.parents


def test_a_folder(registry: Registry, tmp_path: Path) -> None:
    """A checkpoint that the catalog does not know gives back what is asked of it."""
    folder = merge(registry, ("one", 0.5))
    folder.rename(tmp_path / "found")
    found = registry.unmerge(str(tmp_path / "found"), ["one=0.5"], base="tiny")

    assert ("tiny", ()) == (found.base, found.left)
    assert found.distance is not None
    assert found.distance.largest < 0.01
    assert "found-unmerged" == found.merged.name


@pytest.mark.parametrize("kind", REFUSED)
def test_what_took_the_place_of_the_base(registry: Registry, tmp_path: Path, kind: str) -> None:
    """An adapter that replaces or rescales is refused with the reason, and nothing is written."""
    settings, reason = REFUSED[kind]
    factory.make_adapter(tmp_path / "base", tmp_path / kind, seed=3, **settings)
    merge(registry, (str(tmp_path / kind), 1.0))
    with pytest.raises(AdapterRefused, match=reason):
        registry.unmerge("bot", [str(tmp_path / kind)], output=tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "additive"),
    [
        (LoHaConfig(r=4, target_modules=["q_proj", "v_proj"]), True),
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), False),
    ],
    ids=["loha", "ia3"],
)
def test_other_kinds(registry: Registry, tmp_path: Path, config: Any, additive: bool) -> None:
    """A kind whose delta is a plain sum comes out; one that multiplies what is there does not."""
    wrapped: Any = get_peft_model(factory.load_base(tmp_path / "base"), config)
    factory.fill_adapter(wrapped, 1)
    wrapped.save_pretrained(str(tmp_path / "odd"))
    merge(registry, (str(tmp_path / "odd"), 0.5))
    if additive:
        found = registry.unmerge("bot", [str(tmp_path / "odd")])
        assert found.distance is not None
        assert found.bound is not None
        assert found.distance.largest <= found.bound * (1 + 2**-8)
    else:
        with pytest.raises(AdapterRefused, match="by an amount that depends on them"):
            registry.unmerge("bot", [str(tmp_path / "odd")])


def test_an_adapter_that_is_not_in_it(registry: Registry) -> None:
    """Only what went into a model comes out of it; the inputs are named."""
    merge(registry, ("one", 1.0))
    with pytest.raises(InputRefused, match="two@1 was not merged into bot@1; those that were: one"):
        registry.unmerge("bot", ["two"])
    with pytest.raises(NotFound):
        registry.unmerge("one", ["one"])


def test_an_output_that_is_taken(registry: Registry, tmp_path: Path) -> None:
    """The merged model is never written over."""
    folder = merge(registry, ("one", 1.0))
    with pytest.raises(OutputRefused):
        registry.unmerge("bot", ["one"], output=folder)
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    with pytest.raises(OutputRefused):
        registry.unmerge("bot", ["one"], output=tmp_path / "base")

    assert before == (tmp_path / "base" / "model.safetensors").read_bytes()


def test_dry_run(registry: Registry, home: Path) -> None:
    """A dry run writes nothing and tells no rounding."""
    merge(registry, ("one", 1.0))
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    found = registry.unmerge("bot", ["one"], dry_run=True)

    assert (None, None) == (found.bound, found.distance)
    assert found.merged.dry_run
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_a_tied_head(home: Path, tmp_path: Path) -> None:
    """An embedding comes back, and the head that the merge gave it stays as it was."""
    base = factory.make_base(tmp_path / "base", "llama-tied")
    one = factory.make_adapter(base, tmp_path / "one", target_modules=["embed_tokens"])
    # PEFT saves the base's embedding along, unless save_embedding_layers=False.
    factory.edit_tensors(one, lambda t: [t.pop(key) for key in list(t) if "base_layer" in key])
    registry = Registry(home)
    registry.add_base(str(base), name="tiny")
    merge(registry, (str(one), 1.0))
    found = registry.unmerge("bot", [str(one)], output=tmp_path / "out")
    out, plain = weights(tmp_path / "out"), weights(base)["model.embed_tokens.weight"]

    assert torch.equal(out["lm_head.weight"], plain)
    assert found.bound is not None
    assert float((out["model.embed_tokens.weight"] - plain).abs().max()) <= found.bound
