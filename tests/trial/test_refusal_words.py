"""Each refusal to ask or compare models says what is wrong with what, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
import transformers

from adreg.registry.errors import AdregError
from adreg.registry.trial.compare import _Answers, _answers, _check_shapes
from adreg.registry.trial.generate import Question, ask_base
from adreg.registry.trial.inputs import inputs_for
from adreg.registry.trial.loading import Subject, import_packages, load, load_tokenizer

BY_HAND = "Compare it in transformers: what it takes is not known here."
TEXT = "Give it some text."
TRAINED = "Pass the base that it was trained on with --base; `adreg show` names it."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2, whose tokenizer has no chat template."""
    return factory.make_base(tmp_path_factory.mktemp("words") / "base", "qwen2")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """It, loaded."""
    return factory.load_base(base, torch.float32)


def refused(ask: Callable[[], object]) -> AdregError:
    """Return the error of what is asked."""
    with pytest.raises(AdregError) as caught:
        ask()
    assert "\n" not in caught.value.sentence + caught.value.hint
    return caught.value


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is missing is named, with what needs it and how to get it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    error = refused(import_packages)

    assert "adreg try needs the package peft" == error.sentence
    assert "pip install peft" == error.hint


def test_checkpoints_that_do_not_load(tmp_path: Path, base: Path) -> None:
    """What transformers says of a checkpoint and of a tokenizer stands behind the folder."""
    broken = factory.make_base(tmp_path / "broken")
    factory.edit_config(broken, auto_map={"AutoModelForCausalLM": "x.Y"}, model_type="unheard-of")
    for file in broken.glob("tokenizer*"):
        file.write_text("{")

    error = refused(lambda: load(Subject("broken", broken), "auto"))
    assert f"{broken}: transformers cannot load it: " in error.sentence
    assert "See that all of its files are there; code of its own is never run." == error.hint

    error = refused(lambda: load_tokenizer(broken))
    assert f"{broken}: its tokenizer cannot be loaded: " in error.sentence
    assert "Copy the tokenizer's files of its base into it." == error.hint
    del base


def test_adapters_that_do_not_load(tmp_path: Path, base: Path) -> None:
    """What PEFT says, and tensors that have no place or are missing, are told with both names."""
    question, subject = Question("the cat", 2, chat=False), Subject("base", base)

    def ask(folder: Path) -> AdregError:
        return refused(lambda: ask_base(subject, [Subject("it", folder)], question))

    gpt2 = factory.make_base(tmp_path / "gpt2", "gpt2")
    error = ask(factory.make_adapter(gpt2, tmp_path / "other"))
    assert "it does not fit base: PEFT cannot load it: Target modules" in error.sentence
    assert TRAINED == error.hint

    adapter = factory.make_adapter(base, tmp_path / "it")
    factory.edit_tensors(adapter, lambda tensors: tensors.update(stray=torch.ones(2)))
    error = ask(adapter)
    assert "it does not fit base: 'stray' has no place" == error.sentence
    assert TRAINED == error.hint

    factory.edit_tensors(adapter, lambda tensors: [tensors.pop(k) for k in list(tensors)[:2]])
    assert "' was not found in it" in ask(adapter).sentence


def test_prompts(base: Path, model: Any) -> None:
    """A prompt of no tokens, a chat without template, and a text for a model of pictures."""
    subject = Subject("base", base)
    error = refused(lambda: ask_base(subject, [], Question("", 2, chat=False)))
    assert "base: the prompt has no tokens" == error.sentence
    assert TEXT == error.hint

    error = refused(lambda: ask_base(subject, [], Question("a", 2, chat=True)))
    assert f"{base}: its tokenizer has no chat template" == error.sentence
    assert "Leave out --chat." == error.hint

    error = refused(lambda: inputs_for(model, base, ["the cat", ""], 0))
    assert f"{base}: a prompt has no tokens" == error.sentence
    assert TEXT == error.hint


def test_inputs(base: Path, tmp_path: Path) -> None:
    """A model of pictures takes no prompt, and one of time series nothing that is known."""
    resnet: Any = factory.load_base(factory.make_base(tmp_path / "resnet", "resnet"))
    error = refused(lambda: inputs_for(resnet, tmp_path / "resnet", ["a"], 0))
    assert f"{tmp_path / 'resnet'}: it takes pixel_values and no text" == error.sentence
    assert "Leave out --prompt." == error.hint

    config = transformers.TimeSeriesTransformerConfig(prediction_length=2, d_model=8)
    series = transformers.TimeSeriesTransformerModel(config)
    error = refused(lambda: inputs_for(series, base, [], 0))
    assert f"{base}: nothing is known that fits its input past_values" == error.sentence
    assert BY_HAND == error.hint


def test_outputs(base: Path, model: Any) -> None:
    """A model that does not run, or whose outputs are none, others or not finite, is named."""
    subject = Subject("merged", base)
    error = refused(lambda: _answers(model, [{"pixel_values": torch.ones(1, 3)}], subject))
    assert f"{base}: it does not run on pixel_values: " in error.sentence
    assert BY_HAND == error.hint

    def rows(*shape: int) -> _Answers:
        return _Answers([torch.ones(shape)], logits=True)

    error = refused(lambda: _check_shapes(subject, rows(2, 3), rows(2, 4)))
    said = "its outputs have another shape than those of base and adapters: (2, 4) and (2, 3)"
    assert f"{base}: {said}" == error.sentence
    assert "Name its own base with --base." == error.hint

    error = refused(lambda: _check_shapes(subject, rows(2, 0), rows(2, 0)))
    assert f"{base}: it has no outputs" == error.sentence
    assert "Train a head for it." == error.hint

    broken = factory.load_base(base, torch.float32)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    error = refused(lambda: _answers(broken, [{"input_ids": torch.ones(1, 2).long()}], subject))
    assert f"{base}: outputs of merged are not finite" == error.sentence
    assert "Fetch or make it again." == error.hint
