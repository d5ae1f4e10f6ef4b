"""What a base, the same base with adapters on it, and merged models answer to one prompt.

One base is loaded once; adapters are put on it by PEFT, unmerged, switched by name and
switched off for the base's own answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adreg.registry import jsonio
from adreg.registry.errors import InputRefused
from adreg.registry.progress import SILENT, Progress
from adreg.registry.trial.loading import (
    Subject,
    adapter_name,
    import_packages,
    load,
    load_tokenizer,
    put_on,
    quiet,
)

_FLOAT32_BELOW = 4 << 30
"""Bytes of weights up to which a CPU computes in float32: over three times as fast there as
bfloat16 where the CPU has no bfloat16 units, for twice the memory."""

Kind = Literal["base", "adapter", "model"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how the answer is drawn.

    Without ``seed`` the likeliest token is taken each time; with it tokens are sampled as
    the model's generation_config says. ``chat`` puts the prompt into the chat template;
    None does so when there is one.
    """

    prompt: str
    max_new_tokens: int = 64
    seed: int | None = None
    chat: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: ``text`` without special tokens, ``tokens`` with them, ``seconds`` to draw it."""

    label: str
    kind: Kind
    text: str
    tokens: int
    seconds: float


def ask_base(
    base: Subject,
    adapters: Sequence[Subject],
    question: Question,
    *,
    progress: Progress = SILENT,
) -> tuple[Answer, ...]:
    """Return the answer of a base, then of the base with each adapter on it, in order.

    Raises Incompatible for an adapter that PEFT cannot put on the base, or would put on
    in part; InputRefused, MissingPackage.
    """
    import_packages()
    # Adapters with trained biases overwrite the base's: each gets a base of its own.
    sharing = [one for one in adapters if _can_share(one)]
    with quiet():
        model = load(base, _dtype(base.folder))
        own = _tokenizer(base, question)
        shared = put_on(model, base, sharing) if sharing else None
        with nullcontext() if shared is None else shared.disable_adapter():
            asked = model if shared is None else shared
            answers = [_ask(asked, own, base.label, "base", question)]
        progress.advance()
        for adapter in adapters:
            tokenizer = _adapter_tokenizer(adapter, own, question)
            if shared is not None and adapter in sharing:
                shared.set_adapter(adapter_name(sharing.index(adapter)))
                wrapped = shared
            else:
                wrapped = put_on(load(base, _dtype(base.folder)), base, [adapter])
            answers.append(_ask(wrapped, tokenizer, adapter.label, "adapter", question))
            progress.advance()
    return tuple(answers)


def ask_model(model: Subject, question: Question) -> Answer:
    """Return the answer of a merged model. Raises InputRefused, MissingPackage."""
    import_packages()
    with quiet():
        return _ask(
            load(model, _dtype(model.folder)),
            _tokenizer(model, question),
            model.label,
            "model",
            question,
        )


def _dtype(folder: Path) -> Any:  # noqa: ANN401
    """Return the dtype to compute in: the checkpoint's own, or float32 for a small one on a CPU."""
    torch, _, _ = import_packages()
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    small = weights <= _FLOAT32_BELOW and not torch.cuda.is_available()
    return torch.float32 if small else "auto"


def _can_share(adapter: Subject) -> bool:
    config = jsonio.read_object(adapter.folder / "adapter_config.json")
    return bool(config.get("bias", "none") == "none")


def _tokenizer(subject: Subject, question: Question) -> Any:  # noqa: ANN401
    tokenizer = load_tokenizer(subject.folder)
    if question.chat and not tokenizer.chat_template:
        raise InputRefused(
            subject.folder, "its tokenizer has no chat template", "Leave out --chat."
        )
    return tokenizer


def _adapter_tokenizer(adapter: Subject, base: Any, question: Question) -> Any:  # noqa: ANN401
    """Return the tokenizer that an adapter brings, or else the base's."""
    brings = (adapter.folder / "tokenizer_config.json").is_file()
    return _tokenizer(adapter, question) if brings else base


def _ask(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    label: str,
    kind: Kind,
    question: Question,
) -> Answer:
    torch, _, _ = import_packages()
    chat = bool(tokenizer.chat_template) if question.chat is None else question.chat
    if chat:
        messages = [{"role": "user", "content": question.prompt}]
        given = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    else:
        given = tokenizer(question.prompt, return_tensors="pt")
    given = {name: given[name].to(model.device) for name in ("input_ids", "attention_mask")}
    if not given["input_ids"].shape[1]:
        raise InputRefused(Path(label), "the prompt has no tokens", "Give it some text.")
    if question.seed is None:
        how = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    else:
        torch.manual_seed(question.seed)
        how = {"do_sample": True}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    begin = time.perf_counter()
    with torch.inference_mode():
        drawn = model.generate(
            **given, **how, max_new_tokens=question.max_new_tokens, pad_token_id=pad
        )[0]
    seconds = time.perf_counter() - begin
    if not model.config.is_encoder_decoder:
        drawn = drawn[given["input_ids"].shape[1] :]
    text = tokenizer.decode(drawn, skip_special_tokens=True).strip()
    return Answer(label, kind, text, len(drawn), seconds)
