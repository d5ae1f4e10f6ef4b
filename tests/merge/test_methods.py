"""Every method in a whole merge: PEFT's deltas, and each formula on whole arrays in float64."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from adreg.registry import Registry
from adreg.registry.merge.methods.draws import Draws
from adreg.registry.merge.methods.method import METHODS
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

Array = NDArray[Any]
WEIGHTS = (0.75, -0.5, 1.25)
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"lambda": 0.8},
    "task_arithmetic": {"normalize": True, "lambda": 1.5},
    "ties": {"density": 0.4, "lambda": 0.7},
    "dare_linear": {"density": 0.5, "seed": 11},
    "dare_ties": {"density": 0.5, "seed": 12, "sign": "frequency"},
    "della": {"density": 0.5, "epsilon": 0.3, "seed": 13},
    "della_linear": {"density": 0.6, "seed": 14, "rescale": False},
    "breadcrumbs": {"density": 0.4, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.7, "gamma": 0.2, "normalize": True},
    "sce": {"density": 0.3},
    "slerp": {"t": 0.3},
    "nuslerp": {},
    "model_stock": {},
    "karcher": {},
    "peft_ties": {"density": 0.4, "sign": "frequency"},
    "peft_dare_linear": {"density": 0.5, "seed": 15},
    "peft_dare_ties": {"density": 0.5, "seed": 16},
    "peft_magnitude_prune": {"density": 0.4},
}
ITERATED = {"slerp", "nuslerp", "model_stock", "karcher"}
"""Methods of angles, which cost some of float64's digits."""
PLACED = {"dare_linear", "dare_ties", "della", "della_linear", "slerp"}
PLACED |= {"peft_dare_linear", "peft_dare_ties"}
"""Methods in which an input's place in the recipe counts."""

each_method = pytest.mark.parametrize("name", METHODS)


@dataclass(frozen=True)
class Inputs:
    """A base, adapters for it, and all of W and of each adapter's deltas in float64."""

    base: Path
    adapters: tuple[Path, ...]
    weights: dict[str, Array]
    deltas: tuple[dict[str, Array], ...]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A Qwen with biases, a LoRA with biases, an rsLoRA with a saved head, and a DoRA."""
    root = tmp_path_factory.mktemp("methods")
    base = factory.make_base(root / "base", "qwen2", dtype=torch.float32)
    settings: list[dict[str, Any]] = [
        {"target_modules": ["q_proj", "v_proj", "down_proj"], "bias": "all"},
        {
            "target_modules": ["q_proj", "o_proj"],
            "r": 2,
            "use_rslora": True,
            "modules_to_save": ["lm_head"],
        },
        {"target_modules": ["q_proj", "v_proj", "up_proj"], "r": 3, "use_dora": True},
    ]
    adapters = tuple(
        factory.make_adapter(base, root / f"adapter{number}", seed=number, **one)
        for number, one in enumerate(settings, 1)
    )
    weights = {
        name: w.astype(np.float64) for name, w in load_file(base / "model.safetensors").items()
    }
    deltas = []
    for adapter in adapters:
        alone = factory.load_adapter(base, adapter, dtype=torch.float64).double()
        merged = alone.merge_and_unload().state_dict()
        deltas.append({name: merged[name].numpy() - w for name, w in weights.items()})
    return Inputs(base, adapters, weights, tuple(deltas))


def count_of(name: str) -> int:
    """Return how many adapters are combined: three, unless the method takes fewer."""
    return min(3, METHODS[name].inputs[1] or 3)


def merge(
    registry: Registry, inputs: Inputs, name: str, output: Path, **more: Any
) -> dict[str, Array]:
    """Merge by a method; return the tensors on disk. ``order`` are places of the adapters."""
    order = more.pop("order", range(count_of(name)))
    threads = more.pop("threads", None)
    parts = tuple(RecipeAdapter(str(inputs.adapters[n]), WEIGHTS[n]) for n in order)
    recipe = Recipe(parts, str(inputs.base), name, PARAMETERS[name], **more)
    registry.merge(recipe, output=output, name="mix", threads=threads, force=True)
    return load_file(output / "model.safetensors")


def largest(delta: Array, first: int, last: int) -> Array:
    """Return a mask of the elements from rank ``first`` to before ``last``, largest first."""
    mask = np.zeros(delta.size, np.bool_)
    mask[np.argsort(-np.abs(delta.ravel()), kind="stable")[first:last]] = True
    return mask.reshape(delta.shape)


def agreement(deltas: Sequence[Array], sign: str) -> list[Array]:
    """Return which elements have the elected sign; a sum of zero elects plus."""
    total = sum(np.sign(d) if sign == "frequency" else d for d in deltas)
    return [np.sign(d) == np.where(np.asarray(total) >= 0, 1, -1) for d in deltas]


def masked(name: str, tensor: str, place: int, delta: Array, said: dict[str, Any]) -> Array:
    """Return which elements of a delta the method keeps."""
    density, size = said.get("density", 1), delta.size
    if name in {"linear", "task_arithmetic"}:
        return np.ones(delta.shape)
    if "breadcrumbs" in name:
        kept = int(density * size)
        dropped = min(int(said["gamma"] * size), size - kept)
        return largest(delta, dropped, dropped + kept)
    if name in {"ties", "peft_ties", "peft_magnitude_prune"}:
        return largest(delta, 0, max(int(density * size), 1))
    uniform = Draws(said["seed"], tensor, place).uniform(0, size).reshape(delta.shape)
    if "dare" in name:
        return np.asarray(uniform < density)
    # MagPrune ranks in rows; a vector is one row.
    ranks = np.argsort(np.argsort(np.abs(delta), axis=-1, kind="stable"), axis=-1)
    epsilon = said.get("epsilon", 0.15)
    return np.asarray(uniform < density - epsilon + 2 * epsilon * ranks / (delta.shape[-1] - 1))


def summed(
    name: str, tensor: str, deltas: Sequence[Array], weights: Sequence[float], said: dict[str, Any]
) -> Array:
    """Task arithmetic, TIES, DARE, DELLA, Breadcrumbs: mergekit's order, and PEFT's."""
    peft = name.startswith("peft_")
    rescales = said.get("rescale", name.startswith(("dare", "della")))
    parts = []
    for place, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        part = delta * masked(name, tensor, place, delta, said)
        if rescales and delta.any() and part.any():
            part *= np.abs(delta).sum() / np.abs(part).sum()
        if "peft_dare" in name:
            part /= said["density"]
        parts.append(part if peft else weight * part)
    elects = "sign" in METHODS[name].parameters
    agree: list[Array] = [np.ones(d.shape) for d in deltas]
    if elects:
        agree = agreement(parts, said.get("sign", "total"))
    if peft:
        total = sum(w * a * p for w, a, p in zip(weights, agree, parts, strict=True))
        return np.asarray(total / np.maximum(sum(agree, np.zeros(())), 1) if elects else total)
    total = np.asarray(sum(a * p for a, p in zip(agree, parts, strict=True)))
    if said.get("normalize", name in {"ties", "della"}):
        divisor = np.asarray(sum(a * abs(w) for a, w in zip(agree, weights, strict=True)))
        total = total / np.where(divisor == 0, 1, divisor)
    return np.asarray(total * said.get("lambda", 1))


def sce(deltas: Sequence[Array], weights: Sequence[float], density: float) -> Array:
    """Select by variance, weigh by squares, erase the minority's sign."""
    parts = [w * d for w, d in zip(weights, deltas, strict=True)]
    variance = np.var(np.stack(parts), axis=0)
    variance[np.all(np.stack(parts) == parts[0], axis=0)] = 0
    kept = largest(variance, 0, int(density * np.count_nonzero(variance)))
    parts = [part * kept for part in parts]
    squares = [float(np.square(part).sum()) for part in parts]
    squares = [square / sum(squares) for square in squares]
    agree = agreement(parts, "total")
    over = sum(s * a * p for s, a, p in zip(squares, agree, parts, strict=True))
    under = np.asarray(sum(s * a for s, a in zip(squares, agree, strict=True)))
    return np.asarray(over / np.where(under == 0, 1, under))


def arc(first: Array, second: Array, t: float, straight: float) -> Array:
    """Return the point between two on the sphere; on a line beyond a cosine of ``straight``."""
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    cosine = 0.0 if norms == 0 else float(np.sum(first * second)) / norms
    if abs(cosine) > straight:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    over = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return np.asarray(over / np.sin(angle))


def stock(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    """The mean delta times N cos / (1 + (N - 1) cos)."""
    parts = [w * d for w, d in zip(weights, deltas, strict=True)]
    count = len(parts)
    cosines = [
        float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)) if a.any() and b.any() else 0.0
        for i, a in enumerate(parts)
        for b in parts[i + 1 :]
    ]
    cosine = float(np.mean(cosines))
    return np.asarray(count * cosine / (1 + (count - 1) * cosine) * np.mean(parts, axis=0))


def karcher(base: Array, deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    """The mean on the sphere by logarithms and exponentials, at the models' mean norm."""
    models = [base + w * d for w, d in zip(weights, deltas, strict=True)]
    units = [model / np.linalg.norm(model) for model in models]
    mean = np.mean(units, axis=0)
    mean /= np.linalg.norm(mean)
    for _ in range(10):
        step = np.zeros(base.shape)
        for unit in units:
            cosine = float(np.clip(np.sum(mean * unit), -1, 1))
            if (angle := np.arccos(cosine)) >= 1e-5:
                step += angle / np.sin(angle) / len(units) * (unit - cosine * mean)
        if (size := float(np.linalg.norm(step))) < 1e-5:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
        mean /= np.linalg.norm(mean)
    return np.asarray(np.mean([np.linalg.norm(model) for model in models]) * mean - base)


def combined(name: str, tensor: str, base: Array, deltas: Sequence[Array]) -> Array:
    """Return the delta that a method makes of deltas."""
    said, weights = PARAMETERS[name], WEIGHTS[: len(deltas)]
    match name:
        case "sce":
            return sce(deltas, weights, said["density"])
        case "slerp":
            models = [base + w * d for w, d in zip(weights, deltas, strict=True)]
            return arc(models[0], models[1], said["t"], 0.9995) - base
        case "nuslerp":
            return arc(deltas[0], deltas[1], weights[1] / sum(weights), 1 - 1e-16)
        case "model_stock":
            return stock(deltas, weights)
        case "karcher":
            return karcher(base, deltas, weights)
    return summed(name, tensor, deltas, weights, said)


def expected(inputs: Inputs, name: str) -> dict[str, Array]:
    """Return each tensor that the formula makes, W where no adapter touches it, in float64."""
    result = {}
    for tensor, base in inputs.weights.items():
        deltas = [inputs.deltas[n][tensor] for n in range(count_of(name))]
        result[tensor] = base
        if not any(delta.any() for delta in deltas):
            continue
        result[tensor] = base + combined(name, tensor, base, deltas)
    return result


def test_every_method_has_settings_here() -> None:
    """A method that is added is merged by these tests too."""
    assert sorted(METHODS) == sorted(PARAMETERS)


@each_method
def test_float64_is_the_formula_rounded_once(
    tmp_path: Path, home: Path, inputs: Inputs, name: str
) -> None:
    """Summed in float64, each element is the formula's on PEFT's deltas, rounded to float32."""
    ours = merge(Registry(home), inputs, name, tmp_path / "out", precision="float64")

    exact = expected(inputs, name)
    assert sorted(exact) == sorted(ours)
    changed = 0
    for tensor, values in exact.items():
        if name in ITERATED:
            np.testing.assert_allclose(ours[tensor], values, rtol=7e-8, atol=1e-9, err_msg=tensor)
        else:
            np.testing.assert_array_equal(ours[tensor], values.astype(np.float32), tensor)
        changed += int(np.count_nonzero(ours[tensor] != inputs.weights[tensor]))
    assert changed > 2000


@each_method
def test_float32_is_the_formula_nearly(
    tmp_path: Path, home: Path, inputs: Inputs, name: str
) -> None:
    """Summed in float32 it is the same but for the sums' own rounding."""
    ours = merge(Registry(home), inputs, name, tmp_path / "out")

    for tensor, values in expected(inputs, name).items():
        np.testing.assert_allclose(ours[tensor], values, rtol=2e-6, atol=2e-6, err_msg=tensor)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "peft_magnitude_prune", "sce"])
def test_a_base_in_float64_under_sums_in_float32(
    tmp_path: Path, home: Path, inputs: Inputs, name: str
) -> None:
    """W in float64 makes the deltas float64, and a method ranks them as such."""
    base = tmp_path / "base"
    shutil.copytree(inputs.base, base)
    save_file(inputs.weights, base / "model.safetensors", metadata={"format": "pt"})

    ours = merge(Registry(home), replace(inputs, base=base), name, tmp_path / "out")

    for tensor, values in expected(inputs, name).items():
        np.testing.assert_allclose(ours[tensor], values, rtol=2e-6, atol=2e-6, err_msg=tensor)


@each_method
def test_what_no_adapter_touches(tmp_path: Path, home: Path, inputs: Inputs, name: str) -> None:
    """A tensor without a delta keeps its bits, and what one adapter touches is combined alone."""
    ours = merge(Registry(home), inputs, name, tmp_path / "out")

    count = count_of(name)
    touched = [sum(bool(inputs.deltas[n][t].any()) for n in range(count)) for t in ours]
    assert {0, 1, count} <= set(touched)
    for tensor, how_many in zip(ours, touched, strict=True):
        if not how_many:
            before = inputs.weights[tensor].astype(np.float32)
            assert before.tobytes() == ours[tensor].tobytes(), tensor


@each_method
def test_threads_do_not_show(tmp_path: Path, home: Path, inputs: Inputs, name: str) -> None:
    """One thread and four write the same bytes."""
    registry = Registry(home)
    for threads in (1, 4):
        merge(registry, inputs, name, tmp_path / f"out{threads}", threads=threads)

    one, four = ((tmp_path / f"out{n}" / "model.safetensors").read_bytes() for n in (1, 4))
    assert one == four


@pytest.mark.parametrize("name", [name for name in METHODS if name not in PLACED])
def test_order_does_not_show(tmp_path: Path, home: Path, inputs: Inputs, name: str) -> None:
    """The adapters named the other way round make the same tensors, where places do not count."""
    registry, count = Registry(home), count_of(name)
    there = merge(registry, inputs, name, tmp_path / "there", precision="float64")
    back = merge(
        registry,
        inputs,
        name,
        tmp_path / "back",
        precision="float64",
        order=reversed(range(count)),
    )

    for tensor, values in there.items():
        if name in ITERATED:
            np.testing.assert_allclose(back[tensor], values, rtol=1.2e-7, atol=1e-9)
        else:
            assert values.tobytes() == back[tensor].tobytes(), tensor


def test_the_seed_counts(tmp_path: Path, home: Path, inputs: Inputs) -> None:
    """Another seed keeps other elements of a delta, the same seed the same."""
    registry = Registry(home)
    one = RecipeAdapter(str(inputs.adapters[0]))
    outs: list[bytes] = []
    for seed in (0, 1, 0):
        recipe = Recipe((one,), str(inputs.base), "dare_linear", {"density": 0.5, "seed": seed})
        out = tmp_path / f"out{len(outs)}"
        registry.merge(recipe, output=out, name="mix")
        outs.append((out / "model.safetensors").read_bytes())

    assert outs[0] == outs[2]
    assert outs[0] != outs[1]
