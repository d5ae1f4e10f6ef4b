"""Whole fine-tuned checkpoints as inputs of a merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry import Registry
from adreg.registry.catalog.records import ModelVersion
from adreg.registry.errors import AdregError, Incompatible, InputRefused, MergeRefused, NotFound
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

CHANGED = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.1.mlp.up_proj.weight",
)
Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Tensors:
    """Return all tensors of a checkpoint."""
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def tune(base: Path, folder: Path, *, shard_size: int | None = None) -> Path:
    """Save a fine-tune of a base: noise on some of its tensors."""
    model = factory.load_base(base)
    generator = torch.Generator().manual_seed(9)
    state = model.state_dict()
    for name in CHANGED:
        noise = torch.randn(state[name].shape, generator=generator) * 0.05
        state[name].add_(noise.to(state[name].dtype))
    model.save_pretrained(folder, max_shard_size=shard_size or "1GB")
    return folder


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def parts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A base, a fine-tune of it and an adapter for it, in float32 and in bfloat16."""
    root = tmp_path_factory.mktemp("full")
    base = factory.make_base(root / "base", dtype=request.param)
    return base, tune(base, root / "tuned"), factory.make_adapter(base, root / "adapter")


def merge(home: Path, base: Path, *inputs: tuple[str, float], **more: Any) -> Tensors:
    """Merge on a base; return the tensors."""
    adapters = tuple(RecipeAdapter(ref, weight) for ref, weight in inputs)
    recipe = Recipe(adapters, str(base), **more)
    return tensors_of(Registry(home).merge(recipe, name="mix").folder)


def adapters_delta(base: Path, adapter: Path) -> Tensors:
    """Return what PEFT makes of an adapter less the base, in float64."""
    before = tensors_of(base)
    alone = factory.load_adapter(base, adapter, dtype=torch.float64).double()
    state = alone.merge_and_unload().state_dict()
    return {name: state[name] - before[name].double() for name in before}


def delta(full: Path, base: Path) -> Tensors:
    """Return the difference of two checkpoints in float64."""
    before = tensors_of(base)
    return {name: tensor.double() - before[name] for name, tensor in tensors_of(full).items()}


def check(ours: Tensors, base: Path, deltas: Callable[[str], torch.Tensor]) -> None:
    """Compare with base + delta in float64, rounded once; untouched tensors bit for bit."""
    differ = 0
    before = tensors_of(base)
    assert sorted(before) == sorted(ours)
    for name, tensor in before.items():
        change = deltas(name)
        exact = (tensor.double() + change).to(tensor.dtype)
        differ += int((exact != ours[name]).sum())
        assert torch.allclose(exact.double(), ours[name].double(), rtol=1e-2, atol=1e-7), name
        assert change.any() or torch.equal(tensor, ours[name]), name
    # Sums in float64 are exact but for their last bit, and rounded once.
    assert differ <= 2


def test_alone_it_is_the_fine_tune(home: Path, parts: tuple[Path, Path, Path]) -> None:
    """With weight 1 the outcome is the fine-tune, bit for bit; it changed what it should."""
    base, tuned, _ = parts

    ours = merge(home, base, (f"full:{tuned}", 1.0))

    expected = tensors_of(tuned)
    assert all(torch.equal(expected[name], ours[name]) for name in expected)
    before = tensors_of(base)
    assert sorted(CHANGED) == sorted(n for n in ours if not torch.equal(before[n], ours[n]))


def test_half_of_it_is_the_mean(home: Path, parts: tuple[Path, Path, Path]) -> None:
    """With weight 0.5 each element is the mean of both, rounded once."""
    base, tuned, _ = parts

    ours = merge(home, base, (f"full:{tuned}", 0.5), precision="float64")

    before, after = tensors_of(base), tensors_of(tuned)
    for name, tensor in ours.items():
        mean = (before[name].double() + after[name].double()) / 2
        assert torch.equal(mean.to(tensor.dtype), tensor), name


@pytest.mark.parametrize(("full_weight", "weight"), [(1.0, 1.0), (0.3, 1.5), (-0.75, 0.5)])
def test_with_an_adapter(
    home: Path, parts: tuple[Path, Path, Path], full_weight: float, weight: float
) -> None:
    """A fine-tune and an adapter add up to base + w delta + v delta; a negative weight subtracts.

    Both touch q_proj of layer 0.
    """
    base, tuned, adapter = parts
    inputs = ((f"full:{tuned}", full_weight), (str(adapter), weight))

    ours = merge(home, base, *inputs, precision="float64")

    full, lora = delta(tuned, base), adapters_delta(base, adapter)
    assert full[CHANGED[1]].any()
    assert lora[CHANGED[1]].any()
    check(ours, base, lambda name: full_weight * full[name] + weight * lora[name])


def test_ties_of_both(home: Path, parts: tuple[Path, Path, Path]) -> None:
    """TIES trims and elects on a fine-tune's delta as on an adapter's."""
    base, tuned, adapter = parts
    inputs = ((f"full:{tuned}", 0.5), (str(adapter), -2.0))
    more: dict[str, Any] = {"method": "ties", "parameters": {"density": 0.25}}

    ours = merge(home, base, *inputs, precision="float64", **more)

    both = delta(tuned, base), adapters_delta(base, adapter)

    def ties(name: str) -> torch.Tensor:
        trimmed = []
        for one, weight in zip(both, (0.5, -2.0), strict=True):
            flat = one[name].flatten()
            order = torch.sort(flat.abs(), descending=True, stable=True).indices
            kept = torch.zeros_like(flat)
            chosen = order[: flat.numel() // 4]
            kept[chosen] = flat[chosen]
            trimmed.append(weight * kept.reshape(one[name].shape))
        plus = trimmed[0] + trimmed[1] >= 0
        agree = [torch.where(plus, part > 0, part < 0) for part in trimmed]
        divisor = 0.5 * agree[0] + 2.0 * agree[1]
        total = agree[0] * trimmed[0] + agree[1] * trimmed[1]
        return total / torch.where(divisor == 0, 1, divisor)

    check(ours, base, ties)


def test_files_of_every_kind(tmp_path: Path, home: Path) -> None:
    """The same fine-tune in shards, and as a pickle, makes the same tensors."""
    base = factory.make_base(tmp_path / "base")
    tuned = tune(base, tmp_path / "tuned")
    sharded = tune(base, tmp_path / "sharded", shard_size=20_000)
    pickled = Path(shutil.copytree(tuned, tmp_path / "pickled"))
    torch.save(tensors_of(tuned), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()

    ours = [merge(home, base, (f"full:{one}", 0.5)) for one in (tuned, sharded, pickled)]

    assert len(list(sharded.glob("*.safetensors"))) > 1
    for other in ours[1:]:
        assert all(torch.equal(ours[0][name], other[name]) for name in ours[0])


def test_another_dtype(tmp_path: Path, home: Path) -> None:
    """A fine-tune in float32 of a base in bfloat16: its delta is taken before rounding."""
    base = factory.make_base(tmp_path / "base")
    tuned = tmp_path / "tuned"
    tune(factory.make_base(tmp_path / "wide", dtype=torch.float32), tuned)

    ours = merge(home, base, (f"full:{tuned}", 0.5), precision="float64")

    full = delta(tuned, base)
    assert {torch.bfloat16} == {tensor.dtype for tensor in ours.values()}
    check(ours, base, lambda name: 0.5 * full[name])


def test_a_tied_fine_tune(tmp_path: Path, home: Path) -> None:
    """A tied fine-tune changes the embedding and the head that is tied to it; both stay one."""
    base = factory.make_base(tmp_path / "base", "llama-tied")
    tuned = tune(base, tmp_path / "tuned")
    registry = Registry(home)

    merged = registry.merge(
        Recipe((RecipeAdapter(f"full:{tuned}"),), str(base)), output=tmp_path / "out"
    )

    assert not merged.untied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    ours, expected = tensors_of(tmp_path / "out"), tensors_of(tuned)
    assert sorted(expected) == sorted(ours)
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_tied_fine_tune_and_an_adapter_on_one_side(
    tmp_path: Path, home: Path, module: str
) -> None:
    """An adapter changes one side of a tie, as in PEFT; the fine-tune's delta is on both."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    tuned = tune(base, tmp_path / "tuned")
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", module])

    ours = merge(home, base, (f"full:{tuned}", 0.5), (str(adapter), 2.0), precision="float64")

    embedding = "model.embed_tokens.weight"
    before = tensors_of(base)[embedding].double()
    both = before + 0.5 * delta(tuned, base)[embedding]
    lora = load_file(adapter / "adapter_model.safetensors")
    if module == "lm_head":
        a, b = (lora[f"base_model.model.lm_head.lora_{x}.weight"].double() for x in "AB")
        change = {"lm_head.weight": 2.0 * 2 * b @ a, embedding: 0 * before}
    else:
        start = "base_model.model.model.embed_tokens.lora_embedding_"
        a, b = (lora[f"{start}{x}"].double() for x in "AB")
        change = {"lm_head.weight": 0 * before, embedding: 2.0 * 2 * (b @ a).T}
    for name, one in change.items():
        assert torch.allclose(both + one, ours[name].double(), rtol=1e-7, atol=1e-9), name


def model_of(registry: Registry, name: str) -> ModelVersion:
    """Return what the catalog knows of a model."""
    version = registry.show(name).version
    assert isinstance(version, ModelVersion)
    return version


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """A registry with the base ``tiny``, the adapter ``one``, and ``bot`` that is both."""
    registry = Registry(home)
    base = factory.make_base(tmp_path / "tiny")
    tune(base, tmp_path / "tuned")
    registry.add_base(str(base), name="tiny", licence="mit")
    registry.add(factory.make_adapter(base, tmp_path / "one"), name="one", base="tiny")
    registry.merge(Recipe((RecipeAdapter("one"),), "tiny"), name="bot")
    return registry


def test_a_model_of_the_catalog(tmp_path: Path, registry: Registry) -> None:
    """full:NAME is a recorded model; its delta can be taken twice."""
    recipe = Recipe((RecipeAdapter("full:bot", 2.0),), "tiny", dtype="float32")
    merged = registry.merge(recipe, output=tmp_path / "out", name="twice")

    assert (("full:bot@1", 2.0),) == merged.adapters
    bot, before = (
        tensors_of(model_of(registry, "bot").facts.location),
        tensors_of(tmp_path / "tiny"),
    )
    for name, tensor in tensors_of(tmp_path / "out").items():
        exact = before[name].float() + 2 * (bot[name].float() - before[name].float())
        assert torch.equal(exact, tensor), name


def test_what_is_kept_of_it(tmp_path: Path, registry: Registry) -> None:
    """The card names the checkpoint and its weight, the catalog what it was made of."""
    inputs = (RecipeAdapter("full:bot", 0.5), RecipeAdapter("one", 0.25))
    registry.merge(Recipe(inputs, "tiny"), output=tmp_path / "out", name="mix")
    other = (RecipeAdapter(f"full:{tmp_path / 'tuned'}", 0.5),)
    registry.merge(Recipe(other, "tiny"), output=tmp_path / "out2", name="other")

    card = (tmp_path / "out" / "README.md").read_text()
    assert "full:bot@1" in card
    assert "0.5" in card
    record = model_of(registry, "mix")
    bot = model_of(registry, "bot")
    assert [("bot", 0.5), ("one", 0.25)] == [(one.name, one.weight) for one in record.inputs]
    assert bot.key.digest == record.inputs[0].digest
    assert "full:bot" == record.facts.recipe["adapters"][0]["ref"]
    assert str(tmp_path) not in (tmp_path / "out2" / "README.md").read_text()
    assert "tuned" in (tmp_path / "out2" / "README.md").read_text()


def test_no_lock_can_name_it(tmp_path: Path, registry: Registry) -> None:
    """Exporting such a model is refused in words, and nothing is left behind."""
    registry.merge(Recipe((RecipeAdapter("full:bot", 0.5),), "tiny"), name="mix")

    with pytest.raises(InputRefused) as caught:
        registry.export("mix", tmp_path / "release", licence="mit")

    assert "made of a whole checkpoint (full:bot), which no lock file can name" in str(caught.value)
    assert "adreg extract bot" in caught.value.hint
    assert not (tmp_path / "release").exists()


def _other_shape(tensors: Tensors) -> None:
    tensors[CHANGED[0]] = tensors[CHANGED[0]][:-1].contiguous()


def _missing(tensors: Tensors) -> None:
    del tensors[CHANGED[3]]


def _more(tensors: Tensors) -> None:
    tensors["model.extra.weight"] = torch.ones(2, 2)


FAULTS: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "another shape": (_other_shape, f"'{CHANGED[0]}' is (95, 32) in the checkpoint and (96, 32)"),
    "a tensor missing": (_missing, f"the checkpoint has no tensor '{CHANGED[3]}', which the base"),
    "a tensor more": (_more, "the base has no tensor 'model.extra.weight', which the checkpoint"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit(tmp_path: Path, registry: Registry, case: str) -> None:
    """Each tensor that does not fit is named, and nothing is written."""
    edit, words = FAULTS[case]
    factory.edit_tensors(tmp_path / "tuned", edit, "model.safetensors")

    full = RecipeAdapter(f"full:{tmp_path / 'tuned'}")

    with pytest.raises(Incompatible) as caught:
        registry.merge(Recipe((full,), "tiny"), output=tmp_path / "out")

    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_is_tied(tmp_path: Path, registry: Registry) -> None:
    """A tied fine-tune of an untied base is refused: two matrices cannot be one."""
    tied = factory.make_base(tmp_path / "tied", "llama-tied")

    with pytest.raises(Incompatible) as caught:
        registry.merge(Recipe((RecipeAdapter(f"full:{tied}"),), "tiny"))

    assert "one of the two ties its head to its embedding, the other does not" in str(caught.value)
    assert "the checkpoint has no tensor 'lm_head.weight'" in str(caught.value)


REFUSED: dict[str, tuple[tuple[RecipeAdapter, ...], str, type[AdregError], str]] = {
    "the base itself": (
        (RecipeAdapter("full:tiny"),),
        "tiny",
        MergeRefused,
        "every element equals",
    ),
    "nobody": ((RecipeAdapter("full:nobody"),), "tiny", NotFound, "'nobody'"),
    "no base": ((RecipeAdapter("full:bot"),), "", NotFound, "base"),
    "the weight 0": ((RecipeAdapter("full:bot", 0),), "tiny", MergeRefused, "has the weight 0"),
    "twice": (
        (RecipeAdapter("full:bot"), RecipeAdapter("full:bot@1")),
        "tiny",
        MergeRefused,
        "full:bot@1 is named twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, registry: Registry, case: str) -> None:
    """What cannot be an input is refused by name, with what to do."""
    inputs, base, error, words = REFUSED[case]

    with pytest.raises(error) as caught:
        registry.merge(Recipe(inputs, base), output=tmp_path / "out")

    assert words in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
