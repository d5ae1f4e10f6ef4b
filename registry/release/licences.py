"""Under which licence a release goes out, from the licences of its parts.

adreg does not judge whether two licences may be combined: it names all of them. What
is decided here is only what the card's ``license`` field may say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adreg.registry.errors import LicenceUnknown, NameRefused

OTHER = "other"
"""What the Hub calls a licence that is none of its list: several at once, here."""

_GRAMMAR = re.compile(r"[a-z0-9][a-z0-9.+-]{0,95}")
_NONE = frozenset({"", "unknown", "none", "unlicensed"})


@dataclass(frozen=True, slots=True)
class LicensedPart:
    """A base or an adapter and its licence; ``licence`` is None where none is known."""

    what: str
    licence: str | None


def normal(licence: str | None) -> str | None:
    """Return a licence as the Hub writes it (``Apache-2.0`` is ``apache-2.0``), None if unknown."""
    text = (licence or "").strip().lower()
    return None if text in _NONE else text


def check_licence(text: str) -> str:
    """Return what a user gave as licence in the Hub's form; raise NameRefused."""
    licence = normal(text)
    if licence is None or not _GRAMMAR.fullmatch(licence):
        reason = "it is not an identifier such as apache-2.0"
        advice = "Use one of the Hub's identifiers, such as apache-2.0, mit or llama3, or other."
        raise NameRefused("the licence", text, reason, advice)
    return licence


def release_licence(
    parts: Sequence[LicensedPart], given: str | None = None, *, allow_unknown: bool = False
) -> str | None:
    """Return the licence of a release: the one given, or the one all parts share.

    Parts under different licences make ``other``: the card then names each. Raises
    LicenceUnknown for parts without one, unless ``allow_unknown``: then the result is
    None, and the card says that it is not known.
    """
    if given is not None:
        return check_licence(given)
    if unknown := tuple(part.what for part in parts if normal(part.licence) is None):
        if allow_unknown:
            return None
        raise LicenceUnknown(unknown)
    known = {normal(part.licence) for part in parts}
    return known.pop() if len(known) == 1 else OTHER
