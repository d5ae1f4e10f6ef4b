"""What a base, adapters on it and merged models answer to a prompt, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.adapters.files import CONFIG
from adreg.registry.bases.base import Base, read_base
from adreg.registry.bases.verdict import Grade, judge
from adreg.registry.catalog import show, versions
from adreg.registry.catalog.records import ModelVersion
from adreg.registry.errors import (
    BaseRefused,
    Damaged,
    Incompatible,
    InputRefused,
    NameRefused,
    NotFound,
)
from adreg.registry.names import Reference
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.check import base_for
from adreg.registry.ops.context import Context
from adreg.registry.ops.specs import OpenedVersion, open_version
from adreg.registry.release.architectures import load_class
from adreg.registry.tensors.checkpoint import CHECKPOINTS
from adreg.registry.trial.generate import Answer, Question, ask_base, ask_model
from adreg.registry.trial.loading import Subject

_ANSWERING = frozenset(
    {"AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"}
)


@dataclass(frozen=True, slots=True)
class Trial:
    """The question and the answers: each base, its adapters, then the merged models."""

    question: Question
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    base: Base
    record: ModelVersion | None


def try_out(
    context: Context, references: Sequence[str], question: Question, *, base: str | None = None
) -> Trial:
    """Ask each reference, and the bases that they were made for; no code of others runs.

    A reference is an adapter or a model in the catalog, or a folder of either. ``base`` is
    what ``open_base`` takes; without it, the base that is recorded for an adapter or a
    model. A model whose base is not at hand is asked alone. Everything is found and
    checked before anything is loaded.

    Raises NameRefused for no reference, NotFound, Damaged, Incompatible, BaseRefused,
    InputRefused, MissingPackage.
    """
    if not references:
        raise NameRefused("the reference", "", "none was given", "Name one or more.")
    opened = [_open(context, text) for text in references]
    groups: dict[Path, tuple[OpenedBase, list[Subject]]] = {}
    models: list[Subject] = []
    for one in opened:
        if isinstance(one, _Model):
            models.append(_subject(one.name, one.base))
            found = _base_of_model(context, one, base)
        else:
            found = base_for(context, one, base)
        if found is None:
            continue
        _, adapters = groups.setdefault(found.base.folder, (found, []))
        if isinstance(one, OpenedVersion):
            _check_fit(one, found)
            adapters.append(Subject(one.name, one.spec.folder))
    asked = [(_subject(found.name, found.base), adapters) for found, adapters in groups.values()]
    return Trial(question, _answers(context, asked, models, question))


def _answers(
    context: Context,
    asked: Sequence[tuple[Subject, list[Subject]]],
    models: Sequence[Subject],
    question: Question,
) -> tuple[Answer, ...]:
    total = sum(1 + len(adapters) for _, adapters in asked) + len(models)
    answers: list[Answer] = []
    context.progress.start("Answering", total, "items")
    try:
        for subject, adapters in asked:
            answers += ask_base(subject, adapters, question, progress=context.progress)
        for model in models:
            answers.append(ask_model(model, question))
            context.progress.advance()
    finally:
        context.progress.finish()
    return tuple(answers)


def _open(context: Context, text: str) -> OpenedVersion | _Model:
    reference = Reference.parse(text)
    if reference.path is not None:
        folder = reference.path.absolute()
        holds_weights = any((folder / name).exists() for name in CHECKPOINTS)
        if (folder / CONFIG).exists() or not holds_weights:
            return open_version(context, text)
        return _Model(reference.text, read_base(folder), None)
    if reference.hub:
        return open_version(context, text)
    with context.catalog.read() as connection:
        key = versions.resolve(connection, reference)
        record = show.model(connection, key) if key.kind == "model" else None
    if record is None:
        return open_version(context, text)
    location = record.facts.location
    if not location.is_dir():
        raise Damaged((f"{key}: its folder {location} is gone",))
    return _Model(str(key), read_base(location), record)


def _base_of_model(context: Context, model: _Model, text: str | None) -> OpenedBase | None:
    if text is not None:
        return open_base(context, text)
    if model.record is None:
        return None
    try:
        if model.record.base is not None:
            return open_record(model.record.base)
        recorded = model.record.facts.recipe.get("base")
        return open_base(context, recorded) if isinstance(recorded, str) else None
    except (NotFound, BaseRefused):
        return None


def _check_fit(version: OpenedVersion, base: OpenedBase) -> None:
    verdict = judge(version.spec, base.base, base.known_names)
    if verdict.grade is Grade.INCOMPATIBLE:
        raise Incompatible(version.name, base.name, verdict.reasons)


def _subject(label: str, base: Base) -> Subject:
    loader = load_class(base.architecture, base.model_type).model
    if loader not in _ANSWERING:
        what = base.architecture or "a model without a known architecture"
        raise InputRefused(
            base.folder, f"{what} answers no prompt", "Only models that generate text can be tried."
        )
    return Subject(label, base.folder, loader)
