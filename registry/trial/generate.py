"""What a base, the same base with adapters on it, and merged models answer to one prompt.

One base is loaded once; adapters are put on it by PEFT, unmerged, switched by name and
switched off for the base's own answer.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adreg.registry import jsonio
from adreg.registry.errors import Incompatible, InputRefused, MissingPackage
from adreg.registry.progress import SILENT, Progress

_FLOAT32_BELOW = 4 << 30
"""Bytes of weights up to which a CPU computes in float32: over three times as fast there as
bfloat16 where the CPU has no bfloat16 units, for twice the memory."""

Kind = Literal["base", "adapter", "model"]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is asked: a label for the answer and the folder where it lies.

    ``loader`` is the Auto class of transformers for a base or model; of no use for an adapter.
    """

    label: str
    folder: Path
    loader: str = "AutoModelForCausalLM"


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
    _import_packages()
    # Adapters with trained biases overwrite the base's: each gets a base of its own.
    sharing = [one for one in adapters if _can_share(one)]
    with _quiet():
        model = _load(base)
        own = _tokenizer(base, question)
        shared = _put_on(model, base, sharing) if sharing else None
        with nullcontext() if shared is None else shared.disable_adapter():
            asked = model if shared is None else shared
            answers = [_ask(asked, own, base.label, "base", question)]
        progress.advance()
        for adapter in adapters:
            tokenizer = _adapter_tokenizer(adapter, own, question)
            if shared is not None and adapter in sharing:
                shared.set_adapter(_name(sharing.index(adapter)))
                wrapped = shared
            else:
                wrapped = _put_on(_load(base), base, [adapter])
            answers.append(_ask(wrapped, tokenizer, adapter.label, "adapter", question))
            progress.advance()
    return tuple(answers)


def ask_model(model: Subject, question: Question) -> Answer:
    """Return the answer of a merged model. Raises InputRefused, MissingPackage."""
    _import_packages()
    with _quiet():
        return _ask(_load(model), _tokenizer(model, question), model.label, "model", question)


def _import_packages() -> tuple[Any, Any, Any]:
    """Import what runs models: seconds of start-up that nothing else should pay."""
    package = "torch"
    try:
        import torch  # noqa: PLC0415

        package = "transformers"
        import transformers  # noqa: PLC0415

        package = "peft"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackage(error.name or package, "adreg try") from error
    return torch, transformers, peft


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks and bars off the terminal, and put its settings back."""
    _, transformers, _ = _import_packages()
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def _load(subject: Subject) -> Any:  # noqa: ANN401  # transformers builds classes as it goes
    torch, transformers, _ = _import_packages()
    loader = getattr(transformers, subject.loader)
    try:
        model = loader.from_pretrained(
            subject.folder,
            dtype=_dtype(subject.folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = f"transformers cannot load it: {_first_line(error)}"
        raise InputRefused(subject.folder, reason) from error
    model.eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(folder: Path) -> Any:  # noqa: ANN401
    """Return the dtype to compute in: the checkpoint's own, or float32 for a small one on a CPU."""
    torch, _, _ = _import_packages()
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    small = weights <= _FLOAT32_BELOW and not torch.cuda.is_available()
    return torch.float32 if small else "auto"


def _can_share(adapter: Subject) -> bool:
    config = jsonio.read_object(adapter.folder / "adapter_config.json")
    return bool(config.get("bias", "none") == "none")


def _name(number: int) -> str:
    return f"adreg_{number}"


def _put_on(model: Any, base: Subject, adapters: Sequence[Subject]) -> Any:  # noqa: ANN401
    """Return a PeftModel with each adapter loaded under its number's name."""
    _, _, peft = _import_packages()
    wrapped: Any = None
    for number, adapter in enumerate(adapters):
        name = _name(number)
        try:
            if wrapped is None:
                config = peft.PeftConfig.from_pretrained(str(adapter.folder))
                config.inference_mode = True
                wrapped = peft.get_peft_model(model, config, adapter_name=name)
            loaded = wrapped.load_adapter(str(adapter.folder), adapter_name=name)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            reason = f"PEFT cannot load it: {_first_line(error)}"
            raise Incompatible(adapter.label, base.label, (reason,)) from error
        # PEFT goes on with a warning when a name does not match: then nothing is applied.
        faults = [f"{key!r} was not found in it" for key in loaded.missing_keys]
        faults += [f"{key!r} has no place" for key in loaded.unexpected_keys]
        if faults:
            raise Incompatible(adapter.label, base.label, tuple(faults))
    if wrapped is not None:
        wrapped.eval()
    return wrapped


def _tokenizer(subject: Subject, question: Question) -> Any:  # noqa: ANN401
    _, transformers, _ = _import_packages()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            subject.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = f"its tokenizer cannot be loaded: {_first_line(error)}"
        raise InputRefused(subject.folder, reason) from error
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
    torch, _, _ = _import_packages()
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
