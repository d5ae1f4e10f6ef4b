"""Loading models and putting adapters on them, by transformers and PEFT; no code of others runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.registry.errors import Incompatible, InputRefused, MissingPackage
from adreg.registry.tensors.arrays import TensorReader
from adreg.registry.tensors.checkpoint import INDEX, SINGLE, read_layout

_TORCH = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""torch's names of safetensors' types, of those that torch wrote into checkpoints."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is asked: a label for the answer and the folder where it lies.

    ``loader`` is the Auto class of transformers for a base or model, or the name of its own
    class, which counts only if transformers has it; of no use for an adapter.
    ``changes`` are fields of its configuration that are to be others; ``vocabulary`` is how
    many rows its embedding gets, where an adapter brings more or fewer than it has.
    """

    label: str
    folder: Path
    loader: str = "AutoModelForCausalLM"
    changes: Mapping[str, object] = field(default_factory=dict)
    vocabulary: int | None = None


def import_packages(purpose: str = "adreg try") -> tuple[Any, Any, Any]:
    """Import torch, transformers and peft: seconds of start-up that nothing else should pay.

    Raises MissingPackage, which says that ``purpose`` needs one.
    """
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
        raise MissingPackage(error.name or package, purpose) from error
    return torch, transformers, peft


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' remarks and bars off the terminal, and put its settings back."""
    _, transformers, _ = import_packages()
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


def load(subject: Subject, dtype: Any) -> Any:  # noqa: ANN401  # transformers builds classes as it goes
    """Return a checkpoint's model in a torch dtype or "auto", on the GPU if there is one.

    Raises InputRefused with what transformers says of it.
    """
    torch, transformers, _ = import_packages()
    ours = {"local_files_only": True, "trust_remote_code": False}
    try:
        loader = _class(subject.loader)
        if is_pickled(subject.folder):
            # transformers would give a .bin to torch.load: adreg's reader makes only tensors.
            config = transformers.AutoConfig.from_pretrained(
                subject.folder, **ours, **subject.changes
            )
            tensors = _tensors(subject.folder)
            model = loader.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)
        else:
            model = loader.from_pretrained(
                subject.folder, dtype=dtype, use_safetensors=True, **ours, **subject.changes
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = f"transformers cannot load it: {first_line(error)}"
        advice = "See that all of its files are there; code of its own is never run."
        raise InputRefused(subject.folder, reason, advice) from error
    if subject.vocabulary is not None:
        model.resize_token_embeddings(subject.vocabulary, mean_resizing=False)
    model.eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _class(name: str) -> Any:  # noqa: ANN401
    """Return an Auto class, or a model class that a config.json names; AutoModel if it is none."""
    _, transformers, _ = import_packages()
    found = getattr(transformers, name, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model or name.startswith("AutoModel") else transformers.AutoModel


def is_pickled(folder: Path) -> bool:
    """Whether a checkpoint's weights are only there as torch wrote them.

    Then ``Subject.loader`` must be the model's own class: an Auto class takes no tensors.
    """
    return not any((folder / name).exists() for name in (SINGLE, INDEX))


def _tensors(folder: Path) -> dict[str, Any]:
    torch, _, _ = import_packages()
    tensors = {}
    with TensorReader() as reader:
        for name, (file, info) in read_layout(folder).places.items():
            data = bytearray(info.nbytes)
            reader.read_into(file.path, info.start, memoryview(data))
            dtype = getattr(torch, _TORCH[info.dtype])
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(info.shape)
    return tensors


def adapter_name(number: int) -> str:
    """Return the name that ``put_on`` gives to an adapter."""
    return f"adreg_{number}"


def put_on(model: Any, base: Subject, adapters: Sequence[Subject]) -> Any:  # noqa: ANN401
    """Return a PeftModel with each adapter loaded under its number's name.

    Raises Incompatible for an adapter that PEFT cannot put on, or would put on in part.
    """
    _, _, peft = import_packages()
    wrapped: Any = None
    for number, adapter in enumerate(adapters):
        name = adapter_name(number)
        try:
            if wrapped is None:
                config = peft.PeftConfig.from_pretrained(str(adapter.folder))
                config.inference_mode = True
                wrapped = peft.get_peft_model(model, config, adapter_name=name)
            loaded = wrapped.load_adapter(str(adapter.folder), adapter_name=name)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            reason = f"PEFT cannot load it: {first_line(error)}"
            raise Incompatible(adapter.label, base.label, (reason,)) from error
        # PEFT goes on with a warning when a name does not match: then nothing is applied.
        faults = [f"{key!r} was not found in it" for key in loaded.missing_keys]
        faults += [f"{key!r} has no place" for key in loaded.unexpected_keys]
        if faults:
            raise Incompatible(adapter.label, base.label, tuple(faults))
    if wrapped is not None:
        wrapped.eval()
    return wrapped


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401
    """Return the tokenizer of a folder; raise InputRefused."""
    _, transformers, _ = import_packages()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = f"its tokenizer cannot be loaded: {first_line(error)}"
        advice = "Copy the tokenizer's files of its base into it."
        raise InputRefused(folder, reason, advice) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
