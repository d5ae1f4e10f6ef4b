"""The licence that a model card (README.md) declares in its front matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
_MAX_BYTES = 1 << 18
_MAX_LICENCE = 200


def read_licence(folder: Path) -> str | None:
    """Return the licence of the card in a folder, None when there is none or it is broken.

    The Hub's rule: ``license`` is an identifier or a list of them; ``other`` means that
    ``license_name`` has the name.
    """
    front = _front_matter(folder / CARD)
    licence = front.get("license")
    if licence == "other":
        licence = front.get("license_name") or "other"
    if isinstance(licence, list):
        licence = ", ".join(item for item in licence if isinstance(item, str))
    if not isinstance(licence, str):
        return None
    licence = licence.strip()
    if not licence or not licence.isprintable() or len(licence) > _MAX_LICENCE:
        return None
    return licence


def _front_matter(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return {}
    opening, _, rest = text.replace("\r\n", "\n").partition("\n")
    front, closing, _ = ("\n" + rest).partition("\n---")
    if opening.rstrip() != "---" or not closing:
        return {}
    try:
        value = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date of month 13
        return {}
    return value if isinstance(value, dict) else {}
