"""The model card of a merged model: README.md with the Hub's metadata on top.

No date, no path and no machine stands in it: the same facts give the same bytes.
Metadata fields: the Hub's model card specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from adreg.registry.release.architectures import load_class
from adreg.registry.release.licences import OTHER, normal

CARD = "README.md"
"""The name of the card's file."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$!&])")


@dataclass(frozen=True, slots=True)
class CardAdapter:
    """An adapter as the card names it: ``team/support@3``, its digest, what it counted."""

    reference: str
    digest: str
    weight: float = 1.0
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class CardBase:
    """A base as the card names it; ``repo`` is its Hub id, None where it is not known."""

    name: str
    layout_digest: str
    repo: str | None = None
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """All that a card says. ``dtype`` is the output's (``bfloat16``), ``licence`` the release's."""

    title: str
    base: CardBase
    adapters: tuple[CardAdapter, ...]
    method: str
    precision: str
    dtype: str
    architecture: str | None = None
    model_type: str | None = None
    licence: str | None = None


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md for a merged model; the same facts give the same text."""
    front = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{front}---",
        f"# {_text(facts.title)}",
        _introduction(facts),
        _table(facts),
        _loading(facts),
        _rebuilding(),
        _licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def hub_id(repo: str | None) -> str | None:
    """Return ``repo`` if it is a Hub id (OWNER/NAME), never a path on somebody's disk."""
    return repo if repo is not None and _HUB_ID.fullmatch(repo) else None


def _metadata(facts: CardFacts) -> dict[str, object]:
    data: dict[str, object] = {}
    if repo := hub_id(facts.base.repo):
        data["base_model"] = [repo]
        data["base_model_relation"] = "merge"
    data["library_name"] = "transformers"
    task = load_class(facts.architecture, facts.model_type).task
    if task is not None:
        data["pipeline_tag"] = task
    licence = normal(facts.licence)
    if licence is not None:
        data["license"] = licence
    if licence == OTHER:
        known = {normal(facts.base.licence)} | {normal(a.licence) for a in facts.adapters}
        name = "-and-".join(sorted(one for one in known if one is not None and one != OTHER))
        data["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", name) or "see-below"
    data["tags"] = ["merge", "adreg", "lora"]
    return data


def _introduction(facts: CardFacts) -> str:
    base = facts.base
    repo = hub_id(base.repo)
    several = "adapters" if len(facts.adapters) > 1 else "adapter"
    if repo is None:
        what = f"{_code(base.name)}"
        after = "\n\nThe base's repository on the Hub is not known, so the metadata names no base."
    else:
        at = f" at revision {_code(base.revision)}" if base.revision else ""
        what = f"[{repo}](https://huggingface.co/{repo}){at}"
        after = ""
    return (
        f"{what} with the LoRA {several} below folded into its weights: a standalone"
        f" checkpoint that needs no PEFT.{after}"
    )


def _table(facts: CardFacts) -> str:
    how = ": the weighted sum of the adapters' changes" if facts.method == "linear" else ""
    lines = [
        "| adapter | weight | digest (SHA-256) |",
        "| --- | --- | --- |",
        *(f"| {_code(a.reference)} | {a.weight!r} | {_code(a.digest)} |" for a in facts.adapters),
        "",
        f"- Method: {_text(facts.method)}{how}",
        f"- Computed in {_text(facts.precision)}, rounded once to {_text(facts.dtype)}",
        f"- Base layout: {_code(facts.base.layout_digest)}",
    ]
    return "\n".join(lines)


def _loading(facts: CardFacts) -> str:
    loaded = load_class(facts.architecture, facts.model_type)
    return (
        "## How to load\n\n```python\n"
        f"from transformers import {loaded.model}, {loaded.processor}\n\n"
        'folder = "."  # this folder, or its repository on the Hub\n'
        f"model = {loaded.model}.from_pretrained(folder)\n"
        f"{loaded.variable} = {loaded.processor}.from_pretrained(folder)\n```"
    )


def _rebuilding() -> str:
    return (
        "## How to rebuild\n\nA release holds `adreg.lock.json` with the recipe and the digest of"
        " every file that went in and came out, and `SHA256SUMS`. These give the same bytes"
        " again, and check them:\n\n```sh\nadreg rebuild adreg.lock.json -o DIR\n"
        "sha256sum -c SHA256SUMS\n```"
    )


def _licence(facts: CardFacts) -> str:
    licence = normal(facts.licence)
    first = {
        None: "The licence of this model is not known: ask the owners of its parts.",
        OTHER: "The parts are under different licences; all of them hold.",
    }.get(licence, f"This model is released under {_code(licence or '')}.")
    lines = ["## Licence", "", first, "", "| part | licence |", "| --- | --- |"]
    base_name = hub_id(facts.base.repo) or facts.base.name
    pairs = [(f"base {_code(base_name)}", facts.base.licence)]
    pairs += [(f"adapter {_code(a.reference)}", a.licence) for a in facts.adapters]
    lines += [f"| {what} | {_code(normal(one) or 'unknown')} |" for what, one in pairs]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Take out what could end a line: a control character becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", _plain(text))


def _code(text: str) -> str:
    """Return a code span that may stand in a table: there even code needs ``|`` escaped (GFM)."""
    text = _plain(text).replace("|", "\\|")
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
