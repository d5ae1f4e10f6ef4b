"""The model card of a merged model: README.md with the Hub's metadata on top.

No date, no path and no machine stands in it: the same facts give the same bytes.
Metadata fields: the Hub's model card specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from adreg.registry.release.architectures import load_class
from adreg.registry.release.licences import OTHER, normal
from adreg.registry.release.readme import Part

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
    """All that a card says. ``dtype`` is the output's (``bfloat16``), ``licence`` the release's.

    ``code`` are the base's Python files that lie beside the weights.
    """

    title: str
    base: CardBase
    adapters: tuple[CardAdapter, ...]
    method: str
    precision: str
    dtype: str
    architecture: str | None = None
    model_type: str | None = None
    licence: str | None = None
    code: tuple[str, ...] = ()


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md for a merged model; the same facts give the same text."""
    front = yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n# {text(facts.title)}\n\n{sections(facts)}\n"


def sections(facts: CardFacts) -> str:
    """Return what follows the title: what the model is, how to load and rebuild it, licences."""
    parts = [
        _introduction(facts),
        _table(facts),
        _loading(facts),
        *([_code_files(facts)] if facts.code else ()),
        _rebuilding(),
        licence_section(facts.licence, facts.base, facts.adapters, "model"),
    ]
    return "\n\n".join(parts)


def model_part(facts: CardFacts, title: str, *, licence_given: bool) -> Part:
    """Return what adreg has to say in the README of a model; ``title`` heads a new one.

    A licence that the README has is left, unless this one was ``licence_given`` by the user.
    """
    said = metadata(facts)
    tags = ("merge", "adreg", "lora")
    licence: dict[str, Any] = {
        name: said[name] for name in ("license", "license_name") if name in said
    }
    task: dict[str, Any] = {"pipeline_tag": said["pipeline_tag"]} if "pipeline_tag" in said else {}
    names = ("base_model", "base_model_relation", "library_name")
    stated = {name: said[name] for name in names if name in said}
    if licence_given:
        return Part(text(title), {**stated, **licence}, task, tags, sections(facts))
    return Part(text(title), stated, {**licence, **task}, tags, sections(facts))


def hub_id(repo: str | None) -> str | None:
    """Return ``repo`` if it is a Hub id (OWNER/NAME), never a path on somebody's disk."""
    return repo if repo is not None and _HUB_ID.fullmatch(repo) else None


def metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the metadata of the card, in the order in which it is written."""
    data: dict[str, Any] = {}
    if repo := hub_id(facts.base.repo):
        data["base_model"] = [repo]
        data["base_model_relation"] = "merge"
    data["library_name"] = "transformers"
    task = load_class(facts.architecture, facts.model_type).task
    if task is not None:
        data["pipeline_tag"] = task
    parts = [facts.base.licence, *(one.licence for one in facts.adapters)]
    data |= licence_fields(facts.licence, parts)
    data["tags"] = ["merge", "adreg", "lora"]
    return data


def licence_fields(licence: str | None, parts: Iterable[str | None]) -> dict[str, Any]:
    """Return ``license``, and ``license_name`` for the several licences of the parts.

    What the Hub's list does not have is ``other`` with a name, as the Hub asks
    (hub-docs, model-cards.md).
    """
    licence = normal(licence)
    if licence is None:
        return {}
    if licence != OTHER:
        return {"license": licence}
    known = {normal(one) for one in parts}
    name = "-and-".join(sorted(one for one in known if one is not None and one != OTHER))
    return {"license": OTHER, "license_name": re.sub(r"[^a-z0-9.-]+", "-", name) or "see-below"}


def _introduction(facts: CardFacts) -> str:
    base = facts.base
    repo = hub_id(base.repo)
    several = "adapters" if len(facts.adapters) > 1 else "adapter"
    if repo is None:
        what = f"{code(base.name)}"
        after = "\n\nThe base's repository on the Hub is not known, so the metadata names no base."
    else:
        at = f" at revision {code(base.revision)}" if base.revision else ""
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
        *(f"| {code(a.reference)} | {a.weight!r} | {code(a.digest)} |" for a in facts.adapters),
        "",
        f"- Method: {text(facts.method)}{how}",
        f"- Computed in {text(facts.precision)}, rounded once to {text(facts.dtype)}",
        f"- Base layout: {code(facts.base.layout_digest)}",
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


def _code_files(facts: CardFacts) -> str:
    files = ", ".join(map(code, facts.code))
    return (
        "## Code of others\n\nThese files came with the base, and were copied without being run:"
        f" {files}. Read them before you load the model with `trust_remote_code=True`."
    )


def _rebuilding() -> str:
    return (
        "## How to rebuild\n\nA release holds `adreg.lock.json` with the recipe and the digest of"
        " every file that went in and came out, and `SHA256SUMS`. These give the same bytes"
        " again, and check them:\n\n```sh\nadreg rebuild adreg.lock.json -o DIR\n"
        "sha256sum -c SHA256SUMS\n```"
    )


def licence_section(
    licence: str | None, base: CardBase, adapters: Iterable[CardAdapter], what: str
) -> str:
    """Return the section that names the licence and that of each part."""
    licence = normal(licence)
    first = {
        None: f"The licence of this {what} is not known: ask the owners of its parts.",
        OTHER: "The parts are under different licences; all of them hold.",
    }.get(licence, f"This {what} is released under {code(licence or '')}.")
    lines = ["## Licence", "", first, "", "| part | licence |", "| --- | --- |"]
    base_name = hub_id(base.repo) or base.name
    pairs = [(f"base {code(base_name)}", base.licence)]
    pairs += [(f"adapter {code(a.reference)}", a.licence) for a in adapters]
    lines += [f"| {what} | {code(normal(one) or 'unknown')} |" for what, one in pairs]
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Take out what could end a line: a control character becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in words)


def text(words: str) -> str:
    """Return plain words as Markdown that shows just them."""
    return _SPECIAL.sub(r"\\\1", _plain(words))


def code(words: str) -> str:
    """Return a code span that may stand in a table: there even code needs ``|`` escaped (GFM)."""
    words = _plain(words).replace("|", "\\|")
    runs = [len(run) for run in re.findall("`+", words)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"
