"""A merged checkpoint's config.json: the base's, and what the merge changed of what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from adreg.registry import jsonio
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import CONFIG, Base
from adreg.registry.bases.diskname import find_embedding
from adreg.registry.merge.plan import Plan

_TOKENS = ("vocab_size", "padded_vocab_size")
"""Keys of a configuration with the number of rows of its embedding; the latter is ChatGLM's."""


def _vocabulary(plan: Plan, base: Base) -> int | None:
    """Return the number of rows of the embedding, None where it is still the base's."""
    name = find_embedding(base.layout, base.memory)
    for job in plan.jobs:
        if job.name == name and job.shape != base.layout[name].shape:
            return job.shape[0]
    return None


def _tokens(plan: Plan, base: Base) -> dict[str, Any]:
    """Return what config.json itself says of another vocabulary: a text_config may say it."""
    if (tokens := _vocabulary(plan, base)) is None:
        return {}
    keys = {key for key in _TOKENS if key in base.config}
    if not isinstance(base.config.get("text_config"), dict):
        keys.add("vocab_size")
    return dict.fromkeys(sorted(keys), tokens)


def _text_config(plan: Plan, base: Base) -> dict[str, Any] | None:
    """Return the text_config of the result, None without one or where it is the base's."""
    text = base.config.get("text_config")
    if not isinstance(text, dict):
        return None
    edits: dict[str, Any] = {}
    if plan.untie and "tie_word_embeddings" in text:
        edits["tie_word_embeddings"] = False
    if (tokens := _vocabulary(plan, base)) is not None:
        edits |= {key: tokens for key in _TOKENS if key in text}
        edits["vocab_size"] = tokens
    return {**text, **edits} if edits else None


_TRAINED = ("problem_type",)
"""Other keys that say how a head was trained."""


def _labels(count: int, base: Base, specs: Sequence[AdapterSpec | Base]) -> dict[str, Any]:
    """Return what config.json says of a new head: its labels, by name where they are known.

    They stand in a configuration that an adapter brings along; else the base's, of as many.
    """
    edits: dict[str, Any] = {"num_labels": count}
    for spec in specs:
        path = spec.folder / CONFIG
        if isinstance(spec, Base) or not any(file.name == CONFIG for file in spec.files):
            continue
        brought = jsonio.read_object(path)
        names = brought.get("id2label")
        if isinstance(names, dict) and len(names) == count:
            # transformers 5 writes label2id as null, and makes it of the other.
            edits["id2label"] = names
            edits["label2id"] = brought.get("label2id") or {v: int(k) for k, v in names.items()}
            return edits | {key: brought[key] for key in _TRAINED if brought.get(key)}
    labels = base.config.get("id2label")
    if not isinstance(labels, dict) or len(labels) != count:
        edits["id2label"] = {str(n): f"LABEL_{n}" for n in range(count)}
        edits["label2id"] = {f"LABEL_{n}": n for n in range(count)}
    return edits


def merged_config(plan: Plan, base: Base, specs: Sequence[AdapterSpec | Base]) -> str:
    """Return config.json: the base's own text unless the merge changed what it says."""
    edits: dict[str, Any] = _tokens(plan, base)
    if plan.untie:
        edits["tie_word_embeddings"] = False
    if plan.dtype is not None:
        # transformers 5 writes "dtype"; the older "torch_dtype" is kept true where it stands.
        edits["dtype"] = plan.dtype
        if "torch_dtype" in base.config:
            edits["torch_dtype"] = plan.dtype
    if plan.architecture is not None:
        edits["architectures"] = [plan.architecture]
    if plan.labels is not None:
        edits |= _labels(plan.labels, base, specs)
    if (text := _text_config(plan, base)) is not None:
        edits["text_config"] = text
    if not edits and not base.decoders and not base.replication:
        return (base.folder / CONFIG).read_text(encoding="utf-8")
    config = {**base.config, **edits}
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
