"""Proof that a merged model answers as its base with the adapters on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adreg.registry import digest
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.bases.base import Base, read_base
from adreg.registry.catalog import show, versions
from adreg.registry.catalog.records import ModelInput, ModelVersion
from adreg.registry.errors import BaseRefused, Damaged, InputRefused, NotFound
from adreg.registry.names import Reference
from adreg.registry.ops import resolve
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.specs import OpenedVersion, open_version, read_stored
from adreg.registry.release.architectures import load_class
from adreg.registry.trial.compare import (
    Checkpoint,
    Comparison,
    Verdict,
    Way,
    Weighted,
    compare,
)
from adreg.registry.trial.loading import Subject, is_pickled

TOLERANCE = 2.0
"""How many times the yardstick of rounding a difference may be."""

_SCALED = frozenset({Part.LORA_A, Part.LORA_B, Part.LORA_BIAS, Part.EMBEDDING_A, Part.EMBEDDING_B})
"""Parts that PEFT takes ``weight`` times when a layer's scaling is multiplied by it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A merged model against base and adapters, with the verdict.

    ``dtype`` is the safetensors code that most of the model is stored in.
    """

    model: str
    base: str
    adapters: tuple[tuple[str, float], ...]
    dtype: str
    tolerance: float
    comparison: Comparison
    verdict: Verdict


def verify_merge(  # noqa: PLR0913  # one argument for each thing that can be asked
    context: Context,
    reference: str,
    *,
    prompts: Sequence[str] = (),
    base: str | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Proof:
    """Run a recorded model, and its base with its adapters in PEFT, on the same inputs.

    Without ``prompts`` the inputs are drawn with ``seed``: token ids, pixels or sound, as
    the model takes them. ``base`` is what ``open_base`` takes, where the recorded one lies
    elsewhere. Nothing is written, and a bad verdict is in the answer, not raised.

    Raises NotFound, Damaged when the model's folder or an adapter is gone or changed,
    BaseRefused, Incompatible, MissingPackage; InputRefused for a model that was combined
    in a way that PEFT cannot do, or that none of the inputs fit.
    """
    with context.catalog.read() as connection:
        record = show.model(connection, resolve.unweighted(connection, reference, "model"))
    _check_recipe(record)
    merged = read_model(record)
    opened = _open_base(context, record, base)
    adapters = [(open_input(context, one), one.weight) for one in record.inputs]
    subject, base_answers = _base_subject(opened, merged)
    context.progress.start("Comparing", 4, "items")
    try:
        comparison = compare(
            subject,
            [Weighted(Subject(one.name, one.spec.folder), weight) for one, weight in adapters],
            Checkpoint(
                Subject(str(record.key), merged.folder, _loader(merged)),
                {info.name: info.dtype for info in merged.layout},
            ),
            way=_way([(one.spec, weight) for one, weight in adapters]),
            prompts=prompts,
            seed=seed,
            base_answers=base_answers,
            progress=context.progress,
        )
    finally:
        context.progress.finish()
    return Proof(
        str(record.key),
        opened.name,
        tuple((one.name, weight) for one, weight in adapters),
        merged.dtype,
        tolerance,
        comparison,
        comparison.verdict(tolerance),
    )


def read_model(record: ModelVersion) -> Base:
    """Read a recorded model's headers; raise Damaged if its folder is gone or is another model."""
    location = record.facts.location
    if not location.is_dir():
        raise Damaged((f"{record.key}: its folder {location} is gone",))
    sizes = {file.name: file.size for file in record.content.files}
    for name, size in sizes.items():
        path = location / name
        if not path.is_file() or path.stat().st_size != size:
            raise Damaged((f"{record.key}: {path} is not the file that was recorded",))
    return read_base(location)


def open_input(context: Context, one: ModelInput) -> OpenedVersion:
    """Open an adapter that a model was built from, whatever it is called now.

    Raises NotFound when it was removed, Damaged when its folder holds another one now.
    """
    with context.catalog.read() as connection:
        key = versions.find_by_digest(connection, "adapter", one.digest)
        record = None if key is None else show.adapter(connection, key)
    if record is not None:
        spec = read_stored(context, record)
        return OpenedVersion(spec, record, Reference.parse(str(record.key)))
    if one.number:
        advice = "It was removed: add it again from where it came from."
        raise NotFound("adapter", f"{one.name}@{one.number}", (), advice)
    opened = open_version(context, one.name)
    if digest.of_files(opened.spec.files) != one.digest:
        raise Damaged((f"{one.name}: it is no longer the adapter that was merged",))
    return opened


def _check_recipe(record: ModelVersion) -> None:
    """Raise InputRefused unless the model is a plain weighted sum of its adapters' deltas."""
    facts = record.facts
    advice = "`adreg rebuild` proves it byte for byte, from the lock file that `adreg export` adds."
    if facts.method != "linear":
        reason = f"{record.key} was combined by {facts.method}, which PEFT cannot do unmerged"
        raise InputRefused(facts.location, reason, advice)
    if not record.inputs:
        raise InputRefused(facts.location, f"no adapter is recorded for {record.key}", advice)
    asked = facts.recipe.get("adapters")
    parts = [one for one in asked if isinstance(one, Mapping)] if isinstance(asked, list) else []
    more = any(one.get("weights") for one in parts)
    if more or facts.recipe.get("weights"):
        what = "weights of their own for some modules"
        reason = f"{record.key} was merged with {what}, which PEFT cannot do unmerged"
        raise InputRefused(facts.location, reason, advice)


def _open_base(context: Context, record: ModelVersion, text: str | None) -> OpenedBase:
    known = record.base
    if text is None and known is not None:
        return open_record(known)
    if text is None:
        raise NotFound("base recorded for", str(record.key), (), "Name it with --base.")
    opened = open_base(context, text)
    if known is not None and opened.base.layout_digest != known.facts.layout_digest:
        reason = f"it has other tensors than {known.name}, the base of {record.key}"
        raise BaseRefused(opened.base.folder, reason, "Name the base that it was merged into.")
    return opened


def _base_subject(opened: OpenedBase, merged: Base) -> tuple[Subject, bool]:
    """Return the base as it is loaded beside a model, and whether its own answers mean something.

    It is loaded as the class of the model, with as many labels and rows of the embedding.
    """
    base = opened.base
    changes: dict[str, object] = {}
    if base.architecture != merged.architecture:
        labels = merged.config.get("id2label")
        count = len(labels) if isinstance(labels, Mapping) else merged.config.get("num_labels")
        changes = {"num_labels": count} if count else {}
    rows = _vocabulary(merged)
    resized = rows if rows != _vocabulary(base) else None
    loader = merged.architecture if is_pickled(base.folder) else None
    subject = Subject(opened.name, base.folder, loader or _loader(merged), changes, resized)
    return subject, base.architecture == merged.architecture and resized is None


def _vocabulary(base: Base) -> int | None:
    text = base.config.get("text_config")
    config = text if isinstance(text, Mapping) else base.config
    size = config.get("vocab_size")
    return size if isinstance(size, int) else None


def _loader(base: Base) -> str:
    """Return the Auto class of a model, or its own where no Auto class is known for it."""
    known = load_class(base.architecture, base.model_type).model
    return base.architecture or known if known == "AutoModel" else known


def _way(adapters: Sequence[tuple[AdapterSpec, float]]) -> Way:
    """Return how PEFT can weight these: by scaling what LoRA adds, else a delta at a time."""
    if len(adapters) == 1 and adapters[0][1] == 1:
        return "unmerged"
    additive = all(
        spec.peft_type == "LORA"
        and all(tensor.part in _SCALED for tensor in spec.tensors)
        and not spec.config.get("target_parameters")
        for spec, _ in adapters
    )
    return "unmerged" if additive else "folded"
