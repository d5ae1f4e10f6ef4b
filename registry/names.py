"""Names and references, and the one grammar they are read by.

    name       PART or PART/PART            team/support, support
    PART       a letter or digit, then letters, digits, '.', '_', '-'; at most 96; no '..'
    alias      a PART that is not all digits and is not 'latest'
    reference  NAME[@VERSION|@ALIAS][=WEIGHT]
               hf://OWNER/REPO[@REVISION][=WEIGHT]
               PATH[=WEIGHT]                 it exists, or begins with '.', '~' or '/'
    tag        KEY or KEY=VALUE              KEY is a PART, VALUE is any printable text

A name never becomes part of a path on disk: the store is addressed by digest.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.errors import NameRefused

LATEST = "latest"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HUB_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}")
_TAG_VALUE_MAX = 1024


_RESERVED = re.compile(
    r"(?i:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3])\s*(?:\..*)?"
)
"""Devices of Windows, with any ending (learn.microsoft.com, "Naming Files, Paths, Namespaces")."""

_MAX_FILE = 255


def file_fault(name: str) -> str | None:
    """Return what is wrong with the name of a file in somebody's folder, None if nothing is.

    It must be one part of a path wherever it is copied to: printable, no way elsewhere, no
    stream or device of Windows, and not the name of another file once Windows has taken
    its last dots and spaces away.
    """
    if not name or name in {".", ".."} or not name.isprintable() or set(name) & set("/\\:"):
        return "has characters that are not allowed"
    if len(name.encode()) > _MAX_FILE:
        return f"is longer than {_MAX_FILE} bytes"
    if _RESERVED.fullmatch(name):
        return "is a device of Windows"
    if name.endswith((".", " ")):
        return "ends with a dot or a space, which Windows drops"
    return None


def collisions(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give names of one folder that are one file on macOS or Windows, by twos.

    These compare without case, and after composing what Unicode can write in two ways.
    """
    seen: dict[str, str] = {}
    for name in sorted(names):
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if (other := seen.setdefault(folded, name)) != name:
            yield other, name


def _fault(part: str) -> str | None:
    if not part:
        return "it is empty"
    if ".." in part:
        return "it contains '..'"
    if part.endswith("."):
        return "it ends with '.'"
    if not _PART.fullmatch(part):
        return "it has a character that is not allowed, or is longer than 96"
    return None


def check_name(name: str, what: str = "the name") -> str:
    """Return ``name`` if it is ``PART`` or ``PART/PART``; else raise NameRefused."""
    parts = name.split("/")
    if len(parts) > 2:
        raise NameRefused(what, name, "it has more than one '/'", "Write it as NAME or TEAM/NAME.")
    for part in parts:
        if fault := _fault(part):
            raise NameRefused(what, name, fault)
    return name


def check_alias(alias: str) -> str:
    """Return ``alias`` if it can be told from a version number; else raise NameRefused."""
    if fault := _fault(alias):
        raise NameRefused("the alias", alias, fault)
    if alias.isdigit():
        reason = "all digits mean a version number"
        raise NameRefused("the alias", alias, reason, "Choose a word, such as prod.")
    if alias == LATEST:
        reason = "it always means the newest version"
        raise NameRefused("the alias", alias, reason, "Choose another word, such as prod.")
    return alias


def suggest_name(text: str) -> str:
    """Make a valid name out of a folder's name: ``"My run (3)"`` gives ``"My-run-3"``."""
    part = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    part = re.sub(r"\.{2,}", ".", part).strip("-._")
    return part[:96].rstrip("-._") or "adapter"


FULL = "full:"
"""Before a path or a model's name, in recipes: the delta of a whole checkpoint."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A plain tag (``value`` is empty) or a ``key=value`` tag."""

    key: str
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read ``KEY`` or ``KEY=VALUE``; raise NameRefused."""
        key, _, value = text.partition("=")
        if fault := _fault(key):
            raise NameRefused("the tag", text, fault)
        if not value.isprintable() or len(value) > _TAG_VALUE_MAX:
            reason = "its value has control characters or is too long"
            advice = f"Behind the '=' goes printable text of at most {_TAG_VALUE_MAX} characters."
            raise NameRefused("the tag", text, reason, advice)
        return cls(key, value)

    def __str__(self) -> str:
        """The form that ``parse`` reads."""
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user wrote to name a version, a model, a Hub repository or a folder.

    Just one of ``name``, ``hub`` and ``path`` is set. ``selector`` is what stood
    behind the ``@``: a version number, an alias, ``latest`` or a Hub revision;
    empty when nothing did. ``weight`` is None when none was given.
    """

    text: str
    name: str = ""
    hub: str = ""
    path: Path | None = None
    selector: str = ""
    weight: float | None = None

    @property
    def number(self) -> int | None:
        """The version number, if the selector is one."""
        return int(self.selector) if self.selector.isdigit() else None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read one reference; raise NameRefused."""
        body, weight = _split_weight(text)
        if body.startswith("hf://"):
            return _hub_reference(text, body, weight)
        # A folder called like an adapter needs a leading './', so that what a
        # name means never depends on the current directory.
        if body.startswith((".", "/", "~")) or "\\" in body:
            return cls(text, path=_path(body), weight=weight)
        name, at, selector = body.partition("@")
        try:
            check_name(name, "the reference")
        except NameRefused:
            if _exists(body):
                return cls(text, path=Path(body), weight=weight)
            raise
        if at and (fault := _fault(selector)):
            raise NameRefused("the version or alias", selector, fault)
        return cls(text, name=name, selector=selector, weight=weight)


def _path(text: str) -> Path:
    if "\0" in text:
        reason = "it has a NUL character"
        raise NameRefused("the path", text, reason, "Name a file or folder that exists.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        reason = "there is no home of this user"
        advice = "Write the folder out in full."
        raise NameRefused("the path", text, reason, advice) from None


def _exists(text: str) -> bool:
    """Whether there is a file or folder of this name; the empty name is none, though it is '.'."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _split_weight(text: str) -> tuple[str, float | None]:
    body, equals, tail = text.rpartition("=")
    if not equals:
        return text, None
    try:
        weight = float(tail)
    except ValueError:
        if _exists(text):
            return text, None
        reason = f"{text!r} does not end in a number"
        raise NameRefused("the weight", tail, reason, "Write it as REF=0.5.") from None
    if not math.isfinite(weight):
        reason = "it is not a finite number"
        raise NameRefused("the weight", tail, reason, "Write it as REF=0.5.")
    return body, weight


def _hub_reference(text: str, body: str, weight: float | None) -> Reference:
    repo, at, revision = body.removeprefix("hf://").partition("@")
    if repo.count("/") != 1:
        reason = "it is not hf://OWNER/REPO"
        advice = "Write it as hf://OWNER/REPO or hf://OWNER/REPO@REVISION."
        raise NameRefused("the Hub reference", text, reason, advice)
    check_name(repo, "the Hub reference")
    if at and (not _HUB_REVISION.fullmatch(revision) or ".." in revision):
        reason = "it is no name of a branch, tag or commit"
        advice = "Use letters, digits, '.', '_', '-' and '/', such as main or refs/pr/3."
        raise NameRefused("the revision", revision, reason, advice)
    return Reference(text, hub=repo, selector=revision, weight=weight)
