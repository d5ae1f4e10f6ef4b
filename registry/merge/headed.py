"""Which class a merged checkpoint loads as when an adapter brings a head of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base
from adreg.registry.bases.diskname import find_head, head_name
from adreg.registry.bases.fit_heads import CLASSIFIERS, TASKS, is_last
from adreg.registry.bases.fit_vocabulary import vocabulary
from adreg.registry.bases.renames import Architecture
from adreg.registry.bases.renames import architecture as known_architecture
from adreg.registry.errors import MergeRefused

if TYPE_CHECKING:
    from adreg.registry.merge.plan import Job

_HEADS = (
    "ForCausalLM",
    "LMHeadModel",
    "ForMaskedLM",
    "ForPreTraining",
    "ForConditionalGeneration",
    *CLASSIFIERS,
    "Model",
)


@dataclass(frozen=True, slots=True)
class Headed:
    """What a head of the adapters' makes of a checkpoint.

    ``architecture`` is the class of it, None where it is still the base's; ``labels`` the
    number of its outputs, None without a head; ``dropped`` are the base's tensors that the
    class does not have: its own head.
    """

    architecture: str | None = None
    labels: int | None = None
    dropped: tuple[str, ...] = ()


def headed(base: Base, specs: Sequence[AdapterSpec], changes: Mapping[str, Job]) -> Headed:
    """Return what the heads among ``changes`` make of a base; they are new, or of other labels.

    ``LlamaForCausalLM`` with a SEQ_CLS adapter that brings ``score.weight`` (n, hidden)
    becomes ``LlamaForSequenceClassification`` with n labels, without ``lm_head.weight``.

    Raises MergeRefused when the class needs what neither side has.
    """
    tokens = vocabulary(base)
    new = [
        job
        for job in changes.values()
        if job.source is None and job.name.endswith(".weight") and job.name not in tokens
    ]
    last = next((job for job in new if is_last(job.name)), None)
    endings = {TASKS[task] for spec in specs if (task := spec.task_type) and task in TASKS}
    if not new:
        return Headed()
    if len(endings) != 1:
        _check_class(base, new)
    if len(endings) != 1 or base.architecture is None:
        return Headed(labels=None if last is None else last.shape[0])
    labels = (last or new[-1]).shape[0]
    known = next((head for head in _HEADS if base.architecture.endswith(head)), None)
    if known is None:
        return Headed(labels=labels)
    name = base.architecture.removesuffix(known) + endings.pop()
    if name == base.architecture:
        return Headed(labels=labels)
    return _of_class(name, labels, base, changes)


def _check_class(base: Base, new: Sequence[Job]) -> None:
    """Refuse what is of no part of the base's class when nothing says of which class it is."""
    kind = known_architecture(base.architecture)
    strange = [
        job.name
        for job in new
        if kind is not None
        and job.name not in base.layout
        and job.name.partition(".")[0] not in kind.firsts
    ]
    if strange:
        raise MergeRefused(
            (f"{base.architecture} has no {strange[0]!r}, and no task_type says which class has",),
            "Set task_type in adapter_config.json: SEQ_CLS, TOKEN_CLS or QUESTION_ANS.",
        )


def _of_class(name: str, labels: int, base: Base, changes: Mapping[str, Job]) -> Headed:
    """Return what becomes of a base that is to be another class."""
    old, kind = known_architecture(base.architecture), known_architecture(name)
    if old is None or kind is None:
        dropped = _language_head(base, None)
    elif old.prefix != kind.prefix:
        raise MergeRefused(
            (f"{name} keeps its layers in {kind.prefix!r}, the base in {old.prefix!r}",),
            f"transformers cannot load the base as {name}; train another head.",
        )
    else:
        _check_parts(base, kind, name, changes)
        apart = old.prefix in old.firsts
        dropped = _without(base, kind) if apart else _language_head(base, kind)
    if lost := sorted(changes.keys() & set(dropped)):
        raise MergeRefused(
            tuple(f"{one!r} is changed, and {name} has none" for one in lost),
            "Merge the classifier and the adapters of the output head apart.",
        )
    return Headed(name, labels, dropped)


def _without(base: Base, kind: Architecture) -> tuple[str, ...]:
    """Return the base's tensors that are in no part of a class."""
    return tuple(
        piece.name
        for name, pieces in base.memory.items()
        if name.partition(".")[0] not in kind.firsts
        for piece in pieces or ()
    )


def _language_head(base: Base, kind: Architecture | None) -> tuple[str, ...]:
    """Return the base's output head, unless it is a part of the class too."""
    name = find_head(base.memory, base.architecture)
    known = head_name(base.architecture) or ""
    if name is None or (kind is not None and known.partition(".")[0] in kind.firsts):
        return ()
    return (name,)


def _check_parts(base: Base, kind: Architecture, name: str, changes: Mapping[str, Job]) -> None:
    parts = {job.partition(".")[0] for job in changes if job not in base.layout}
    parts |= {known.partition(".")[0] for known in base.memory} | {kind.prefix}
    if missing := sorted(kind.firsts - parts):
        raise MergeRefused(
            (f"{name} needs {', '.join(missing)}, which neither base nor adapter has",),
            "Train the adapter with all of its head in modules_to_save.",
        )
