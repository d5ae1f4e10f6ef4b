"""Which class a merged checkpoint loads as when an adapter brings a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import Base

if TYPE_CHECKING:
    from adreg.registry.merge.plan import Job

_ENDINGS: dict[str, str] = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""The end of a transformers class by PEFT task type."""

_HEADS = (
    "ForCausalLM",
    "LMHeadModel",
    "ForMaskedLM",
    "ForPreTraining",
    "ForConditionalGeneration",
    "Model",
)


def headed_architecture(
    base: Base, specs: Sequence[AdapterSpec], added: Sequence[Job]
) -> tuple[str | None, int | None]:
    """Return the architecture and number of labels of a merge that adds a head, else (None, None).

    ``LlamaForCausalLM`` with a SEQ_CLS adapter that brings ``score.weight`` (n, hidden)
    becomes ``LlamaForSequenceClassification`` with n labels.
    """
    endings = {_ENDINGS[s.task_type] for s in specs if s.task_type in _ENDINGS}
    heads = [job for job in added if job.source is None and job.name.endswith(".weight")]
    if not heads or len(endings) != 1 or base.architecture is None:
        return None, None
    ending = endings.pop()
    stem = next(
        (base.architecture.removesuffix(h) for h in _HEADS if base.architecture.endswith(h)), None
    )
    if stem is None:
        return None, None
    return stem + ending, heads[-1].shape[0]
