"""The licence that a model card (README.md) declares in its front matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
_MAX_CARD = 1 << 20
_MAX_FIELD = 1 << 10
_MAX_LICENCE = 200
_FIELD = re.compile(r"^(license|license_name):.*(?:\n(?:[ \t-].*)?)*", re.MULTILINE)


def read_licence(folder: Path) -> str | None:
    """Return the licence of the card in a folder, None when there is none or it is broken.

    The Hub's rule: ``license`` is an identifier or a list of them; ``other`` means that
    ``license_name`` has the name.
    """
    fields = _fields(folder / CARD)
    licence = fields.get("license")
    if licence == "other":
        licence = fields.get("license_name") or "other"
    if isinstance(licence, list):
        licence = ", ".join(item for item in licence if isinstance(item, str))
    if not isinstance(licence, str):
        return None
    licence = licence.strip()
    if not licence or not licence.isprintable() or len(licence) > _MAX_LICENCE:
        return None
    return licence


def _fields(path: Path) -> dict[str, Any]:
    """Return ``license`` and ``license_name`` of a card's front matter, as far as they parse."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CARD).decode("utf-8-sig", errors="replace")
    except OSError:
        return {}
    opening, _, rest = text.replace("\r\n", "\n").partition("\n")
    front, closing, _ = ("\n" + rest).partition("\n---")
    if opening.rstrip() != "---" or not closing:
        return {}
    fields: dict[str, Any] = {}
    # Only these two are parsed: PyYAML takes seconds for five thousand brackets.
    for match in _FIELD.finditer(front):
        fields |= _parse(match[0][:_MAX_FIELD])
    return fields


def _parse(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date of month 13
        return {}
    return value if isinstance(value, dict) else {}
