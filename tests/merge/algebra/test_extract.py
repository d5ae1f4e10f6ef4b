"""A LoRA out of a fine-tune: loaded by PEFT, against the fine-tune itself and torch's full SVD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import load_file

from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.bases.base import read_base
from adreg.registry.bases.fit import fit
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra.combine import CombinedAdapter
from adreg.registry.merge.algebra.extract import Extraction, extract_lora
from adreg.registry.merge.algebra.low_rank import Target

Deltas = Callable[..., dict[str, torch.Tensor]]


def fine_tune(
    base: Path, out: Path, *, rank: int | None = 3, words: str = "", seed: int = 3
) -> Path:
    """Save the base with each parameter changed in whose name ``words`` is: by a rank, or fully.

    Kernels of convolutions only change when they are named.
    """
    model = factory.load_base(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            if rank is not None and parameter.ndim == 2:
                left = torch.randn((parameter.shape[0], rank), generator=generator)
                noise = left @ torch.randn((rank, parameter.shape[1]), generator=generator) * 0.03
            if words in name and (parameter.ndim <= 2 or words):
                parameter.add_(noise.to(parameter.dtype))
    model.save_pretrained(out)
    return out


def extract(base: Path, full: Path, out: Path | None, **how: Any) -> CombinedAdapter:
    """Extract into the new folder ``out``."""
    if out is not None:
        out.mkdir()
    how = {"target": Target(3), **how}
    return extract_lora(read_base(base), read_base(full), Extraction(**how), out)


@pytest.mark.parametrize("kind", factory.KINDS)
def test_the_base_with_it_is_the_fine_tune(tmp_path: Path, kind: str) -> None:
    """A fine-tune of rank 3 and changed norms comes back whole, on every architecture.

    Tied heads follow their embedding, Conv1D is the right way round, nothing is lost.
    """
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full")

    made = extract(base, full, tmp_path / "out", with_norms=True)

    inputs = factory.example_inputs(kind)
    with torch.no_grad():
        expected = factory.load_base(full)(**inputs).logits
        before = factory.load_base(base)(**inputs).logits
        ours = factory.load_adapter(base, tmp_path / "out")(**inputs).logits
    assert torch.allclose(expected, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, before, rtol=1e-2, atol=1e-2)
    assert () == made.lost
    assert made.relative is not None
    assert made.relative < 1e-6
    assert () == fit(read_adapter(tmp_path / "out"), read_base(base)).faults


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_module_is_near_the_best(
    tmp_path: Path, deltas: Deltas, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of full rank is cut within 1 % of the best, and the errors told are true."""
    from adreg.registry.merge.algebra import svd  # noqa: PLC0415

    monkeypatch.setattr(svd, "_EXACT", 0)
    monkeypatch.setattr(svd, "_HELD", 0)
    monkeypatch.setattr(svd, "_BLOCK", 256)
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full", rank=None)

    made = extract(base, full, tmp_path / "out", target=Target(5))

    before, after = (load_file(one / "model.safetensors") for one in (base, full))
    ours = deltas(base, tmp_path / "out")
    tied = {"lm_head": "transformer.wte"} if kind == "gpt2" else {}
    assert {one.name for one in made.modules} == set(ours)
    for one in made.modules:
        name = f"{tied.get(one.name, one.name)}.weight"
        exact = after[name].double() - before[name].double()
        if ours[one.name].shape != exact.shape:
            pytest.fail(f"{one.name} is turned")
        error = float((ours[one.name] - exact).norm())
        best = float(torch.linalg.svdvals(exact)[5:].norm())
        assert best * (1 - 1e-4) <= error <= 1.01 * best
        assert one.error == pytest.approx(error, rel=1e-4)
        assert one.norm == pytest.approx(float(exact.norm()), rel=1e-5)


def test_the_rank_by_energy(tmp_path: Path) -> None:
    """With an energy each module gets the rank that torch's singular values ask for."""
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full", rank=6, words="proj")

    made = extract(base, full, tmp_path / "out", target=Target(energy=0.8))

    before, after = (load_file(one / "model.safetensors") for one in (base, full))
    assert 14 == len(made.modules)
    for one in made.modules:
        exact = after[f"{one.name}.weight"].double() - before[f"{one.name}.weight"].double()
        squares = torch.linalg.svdvals(exact) ** 2
        shares = torch.cumsum(squares, 0) / squares.sum()
        assert int((shares >= 0.8).double().argmax()) + 1 == one.rank
    assert len({one.rank for one in made.modules}) > 1
    factory.load_adapter(base, tmp_path / "out")  # rank_pattern names each module


def test_shards_and_16_bits(tmp_path: Path) -> None:
    """Checkpoints in shards of their own and types of their own are compared by value."""
    base = factory.make_base(tmp_path / "base", "llama", shard_size=20_000)
    full = fine_tune(base, tmp_path / "full", words="proj")

    made = extract(base, full, None, target=Target(32))

    assert () == made.files
    assert 14 == len(made.modules)
    assert made.relative is not None
    assert made.relative < 1e-6
    assert () == made.lost


def test_what_is_lost_is_named(tmp_path: Path) -> None:
    """Norms, untargeted weights and tensors without a partner are named with their change."""
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.extra.weight"] = torch.ones(4, 4)
        tensors["lm_head.weight"] = torch.ones(100, 32)
        del tensors["model.layers.0.mlp.up_proj.weight"]

    factory.edit_tensors(full, edit, "model.safetensors")

    made = extract(base, full, tmp_path / "out", modules="q_proj|down_proj")

    lost = {one.name: one for one in made.lost}
    before, after = (load_file(one / "model.safetensors") for one in (base, full))
    assert "only the fine-tune has it" == lost["model.extra.weight"].reason
    assert "only the base has it" == lost["model.layers.0.mlp.up_proj.weight"].reason
    assert "(100, 32) in the fine-tune" in lost["lm_head.weight"].reason
    assert "it is not targeted" == lost["model.embed_tokens.weight"].reason
    assert "--with-norms" in lost["model.norm.weight"].reason
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        norm = float((after[name].double() - before[name].double()).norm())
        assert lost[name].norm == pytest.approx(norm)
    assert 4 == len(made.modules)
    assert len(before) + 1 == 4 + len(lost)


def test_an_untied_fine_tune(tmp_path: Path, deltas: Deltas) -> None:
    """A head that the fine-tune has apart is compared with the embedding that the base ties."""
    base = factory.make_base(tmp_path / "base", "llama-tied", dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full", words="proj")
    before = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    change = torch.outer(torch.arange(96.0), torch.ones(32)) / 100
    factory.edit_tensors(
        full, lambda t: t.update({"lm_head.weight": before + change}), "model.safetensors"
    )
    factory.edit_config(full, tie_word_embeddings=False)

    made = extract(base, full, tmp_path / "out")

    ours = deltas(base, tmp_path / "out")
    assert torch.allclose(change.double(), ours["lm_head"], atol=1e-5)
    assert "model.embed_tokens" not in ours
    assert () == made.lost


def test_old_gpt2_names(tmp_path: Path, deltas: Deltas) -> None:
    """Files without ``transformer.`` before their names give modules that PEFT finds."""
    base = factory.make_base(tmp_path / "base", "gpt2", dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full", words="c_attn.weight")

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    factory.edit_tensors(base, shorten, "model.safetensors")

    made = extract(base, full, tmp_path / "out")

    assert ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"] == [
        one.name for one in made.modules
    ]
    assert 2 == len(deltas(base, tmp_path / "out"))
    assert () == made.lost


def test_fused_experts_are_lost_by_name(tmp_path: Path) -> None:
    """Experts, which memory fuses, and their router are named as lost and not targeted."""
    import transformers  # noqa: PLC0415

    config = transformers.MixtralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "base")
    full = fine_tune(tmp_path / "base", tmp_path / "full", words="e")  # all of them

    made = extract(tmp_path / "base", full, tmp_path / "out", with_norms=True)

    names = {one.name for one in made.lost}
    assert names
    assert all("experts" in name or "gate" in name for name in names)
    assert any("experts" in name for name in names)
    assert any(one.norm for one in made.lost)
    factory.load_adapter(tmp_path / "base", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "how", "said"),
    [
        ("nothing at all", {}, "the fine-tune is the base: no tensor differs"),
        (
            "norm",
            {},
            "nothing of what differs fits a LoRA: 'model.layers.0.input_layernorm.weight'",
        ),
        ("convolution.weight", {}, "it is no weight with two dimensions"),
        ("proj", {"modules": "("}, "'(' is no regular expression"),
    ],
)
def test_refusals(tmp_path: Path, words: str, how: dict[str, Any], said: str) -> None:
    """An adapter that would hold nothing is refused, and leaves nothing behind."""
    kind = "resnet" if "convolution" in words else "llama"
    base = factory.make_base(tmp_path / "base", kind, dtype=torch.float32)
    full = fine_tune(base, tmp_path / "full", words=words)

    with pytest.raises(AdapterNotMade) as caught:
        extract(base, full, tmp_path / "out", **how)

    assert said in str(caught.value)
    assert [] == list((tmp_path / "out").iterdir())
