"""What the model card of an adapter says: its metadata, and the section that a push renews.

Metadata fields: the Hub's model card specification (hub-docs, model-cards.md); the
code loads an adapter as PEFT 0.21 documents it. The same facts give the same text.
"""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.digest import FileDigest
from adreg.registry.release.architectures import load_class
from adreg.registry.release.card import CardBase, code, licence_fields, licence_section, text
from adreg.registry.release.readme import Part


@dataclass(frozen=True, slots=True)
class AdapterCardFacts:
    """All that the card of an adapter says; ``made`` is how adreg made it, if it did.

    ``base.repo`` must be the Hub id. ``shape`` are pairs such as ``("rank", "16")``.
    """

    reference: str
    repo: str
    digest: str
    base: CardBase
    peft_type: str
    shape: tuple[tuple[str, str], ...]
    files: tuple[FileDigest, ...]
    architecture: str | None = None
    model_type: str | None = None
    licence: str | None = None
    made: tuple[tuple[str, str], ...] = ()


def adapter_part(facts: AdapterCardFacts, *, licence_given: bool) -> Part:
    """Return what adreg has to say in the README of an adapter.

    A licence that the README has is left, unless this one was ``licence_given`` by the user.
    """
    licence = licence_fields(facts.licence, (facts.licence, facts.base.licence))
    task = load_class(facts.architecture, facts.model_type).task
    stated: dict[str, object] = {
        "base_model": facts.base.repo,
        "base_model_relation": "adapter",
        "library_name": "peft",
    }
    defaults: dict[str, object] = {"pipeline_tag": task} if task is not None else {}
    (stated if licence_given else defaults).update(licence)
    tags = tuple(dict.fromkeys((facts.peft_type.lower(), "peft", "adreg")))
    sections = (
        _what(facts),
        _loading(facts),
        _checking(facts),
        licence_section(facts.licence, facts.base, (), "adapter"),
    )
    title = text(facts.repo.rpartition("/")[2])
    return Part(title, stated, defaults, tags, "\n\n".join(sections))


def _what(facts: AdapterCardFacts) -> str:
    base = facts.base
    at = f" at revision {code(base.revision)}" if base.revision else ""
    lines = [
        f"{text(facts.peft_type)} adapter for [{base.repo}](https://huggingface.co/{base.repo}){at}.",
        "",
        "| fact | value |",
        "| --- | --- |",
        *(f"| {name} | {code(value)} |" for name, value in facts.shape),
        f"| base layout (SHA-256) | {code(base.layout_digest)} |"
        if base.layout_digest
        else "| base layout | not checked |",
        f"| adapter digest (SHA-256) | {code(facts.digest)} |",
    ]
    if facts.made:
        lines += ["", "It was made by adreg:", ""]
        lines += [f"- {text(name)}: {code(value)}" for name, value in facts.made]
    return "\n".join(lines)


def _loading(facts: AdapterCardFacts) -> str:
    loaded = load_class(facts.architecture, facts.model_type)
    revision = f', revision="{facts.base.revision}"' if facts.base.revision else ""
    return (
        "## How to load\n\n```python\n"
        "from peft import PeftModel\n"
        f"from transformers import {loaded.model}, {loaded.processor}\n\n"
        f'base = {loaded.model}.from_pretrained("{facts.base.repo}"{revision})\n'
        f'model = PeftModel.from_pretrained(base, "{facts.repo}")\n'
        f'{loaded.variable} = {loaded.processor}.from_pretrained("{facts.base.repo}"{revision})\n'
        "```"
    )


def _checking(facts: AdapterCardFacts) -> str:
    return (
        "## How to reproduce\n\n`adreg pull` holds every file against its digest, and"
        " `adreg merge` makes a standalone checkpoint of it, the same bytes each time:\n\n```sh\n"
        f"adreg pull {facts.repo} --name {facts.reference.partition('@')[0]}\n"
        f"adreg merge {facts.reference.partition('@')[0]} -o DIR\n"
        "```\n\n| file | SHA-256 |\n| --- | --- |\n"
        + "\n".join(f"| {code(one.name)} | {code(one.sha256)} |" for one in sorted(facts.files))
    )
