"""Answers of tiny real models, through transformers and PEFT."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from factory import load_adapter, load_base, make_adapter, make_base

from adreg.registry.errors import Incompatible, InputRefused, MissingPackage
from adreg.registry.trial.generate import Question, ask_base, ask_model
from adreg.registry.trial.loading import Subject

QUESTION = Question("the cat sat on", max_new_tokens=6, chat=False)


def _expected(model: torch.nn.Module, folder: Path, prompt: str = QUESTION.prompt) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = model.generate(  # type: ignore[operator]
        input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=6, do_sample=False
    )
    text = tokenizer.decode(out[0, given.shape[1] :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text.strip()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a tiny Llama."""
    return make_base(tmp_path / "base")


def test_base_and_adapters(base: Path, tmp_path: Path) -> None:
    """One loaded base gives its own answer and that with each adapter, as PEFT alone does."""
    one = make_adapter(base, tmp_path / "one", seed=1)
    two = make_adapter(base, tmp_path / "two", seed=2, r=2, use_rslora=True)
    adapters = [Subject("one", one), Subject("two", two)]
    answers = ask_base(Subject("base", base), adapters, QUESTION)

    assert [("base", "base"), ("one", "adapter"), ("two", "adapter")] == [
        (answer.label, answer.kind) for answer in answers
    ]
    assert [
        _expected(load_base(base, torch.float32), base),
        _expected(load_adapter(base, one, torch.float32), base),
        _expected(load_adapter(base, two, torch.float32), base),
    ] == [answer.text for answer in answers]
    assert 3 == len({answer.text for answer in answers})


def test_trained_biases(tmp_path: Path) -> None:
    """Adapters that overwrite biases change neither the base's answer nor each other's."""
    base = make_base(tmp_path / "base", "qwen2")
    one = make_adapter(base, tmp_path / "one", seed=1, bias="all")
    two = make_adapter(base, tmp_path / "two", seed=2, bias="lora_only")
    adapters = [Subject("one", one), Subject("two", two)]
    answers = ask_base(Subject("base", base), adapters, QUESTION)

    assert [
        _expected(load_base(base, torch.float32), base),
        _expected(load_adapter(base, one, torch.float32), base),
        _expected(load_adapter(base, two, torch.float32), base),
    ] == [answer.text for answer in answers]


def test_model(base: Path) -> None:
    """A merged model is asked like any model."""
    answer = ask_model(Subject("m", base), QUESTION)

    assert _expected(load_base(base, torch.float32), base) == answer.text
    assert answer.tokens <= 6


def test_chat_template(base: Path) -> None:
    """The chat template is used when there is one, and not when it is refused."""
    chat = Question("the cat sat on", max_new_tokens=6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the cat sat on"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    out = load_base(base, torch.float32).generate(  # type: ignore[operator]
        input_ids=torch.tensor([given]), max_new_tokens=6, do_sample=False
    )
    expected = str(tokenizer.decode(out[0, len(given) :], skip_special_tokens=True)).strip()

    assert expected == ask_model(Subject("m", base), chat).text


def test_chat_without_template(tmp_path: Path) -> None:
    """Asking for a chat template that is not there is an error."""
    base = make_base(tmp_path / "base", "gpt2")
    with pytest.raises(InputRefused, match="no chat template"):
        ask_model(Subject("m", base), Question("the", chat=True))


def test_seed(base: Path) -> None:
    """The same seed draws the same answer."""
    question = Question("the cat", max_new_tokens=6, seed=3, chat=False)

    assert ask_model(Subject("m", base), question).text == (
        ask_model(Subject("m", base), question).text
    )


def test_half_an_adapter(base: Path, tmp_path: Path) -> None:
    """An adapter for layers that the base lacks is refused, where PEFT only warns."""
    big = make_base(tmp_path / "gpt2", "gpt2")
    adapter = make_adapter(big, tmp_path / "a")
    with pytest.raises(Incompatible):
        ask_base(Subject("base", base), [Subject("a", adapter)], QUESTION)


def test_no_code_of_others(base: Path) -> None:
    """A model that wants its own code run is refused, and the code is not run."""
    config = base / "config.json"
    text = config.read_text().replace(
        '"model_type": "llama"',
        '"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}',
    )
    config.write_text(text)
    (base / "evil.py").write_text(f"open({str(base / 'ran')!r}, 'w')\n")
    with pytest.raises(InputRefused):
        ask_model(Subject("m", base), QUESTION)

    assert not (base / "ran").exists()


def test_missing_package(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PEFT the package is named."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackage) as caught:
        ask_model(Subject("m", base), QUESTION)

    assert "peft" == caught.value.package


def test_settings_are_put_back(base: Path) -> None:
    """The caller's logging of transformers is as before."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    ask_model(Subject("m", base), QUESTION)

    assert before == logging.get_verbosity()
