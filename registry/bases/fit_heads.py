"""Heads of classifiers that adapters bring: their names, and where they may take their place."""

from __future__ import annotations

from collections.abc import Mapping

from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor

TASKS: Mapping[str, str] = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""The end of a transformers class by PEFT task type."""

CLASSIFIERS = (
    *TASKS.values(),
    "ForImageClassification",
    "ForAudioClassification",
    "ForVideoClassification",
)
"""Ends of classes that have a head of classes."""

_HEADS = frozenset(
    {"score", "classifier", "qa_outputs", "pre_classifier", "classification_head", "logits_proj"}
)
"""Modules of heads in transformers 5.23's classifiers, one of which holds all of a head."""

_LAST = ("score", "classifier", "qa_outputs", "logits_proj", "out_proj")
"""Where the rows of a head's last matrix, one for each label, stand by its module's last name."""


def is_head(spec: AdapterSpec, module: str) -> bool:
    """Whether a module can be new to a base: a head that is named so, or that was saved as one."""
    parts = set(module.split("."))
    saved = {kept.rpartition(".")[2] for kept in spec.modules_to_save}
    return bool(parts & (saved | _HEADS)) and not any(part.isdigit() for part in parts - _HEADS)


def is_last(name: str) -> bool:
    """Whether a tensor, by its name, is the matrix of a head with a row for each label."""
    module, _, parameter = name.rpartition(".")
    in_head = any(part in _HEADS for part in module.split("."))
    return parameter == "weight" and in_head and module.endswith(_LAST)


def is_relabelled(spec: AdapterSpec, shape: tuple[int, ...], tensor: AdapterTensor) -> bool:
    """Whether a tensor is the last of a saved head, for another number of labels."""
    saved = {kept.rpartition(".")[2] for kept in spec.modules_to_save}
    named = saved & set(tensor.module.split("."))
    brought = tensor.info.shape
    return (
        bool(named)
        and is_last(f"{tensor.module}.weight")
        and len(brought) == len(shape)
        and brought[:1] != shape[:1]
        and brought[1:] == shape[1:]
    )
