"""SHA256SUMS: the text that ``sha256sum -c`` reads."""

from __future__ import annotations

from collections.abc import Iterable

from adreg.registry.digest import FileDigest

SUMS = "SHA256SUMS"
"""The name of the file; it cannot hold a line for itself."""

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def sums(files: Iterable[FileDigest]) -> str:
    """Return one line a file, sorted by name.

    A name with a backslash or a line end is escaped and its line begins with a
    backslash (GNU coreutils manual, "cksum output modes").
    """
    return "".join(_line(file) for file in sorted(files))


def _line(file: FileDigest) -> str:
    name = "".join(_ESCAPES.get(letter, letter) for letter in file.name)
    return f"{'' if name == file.name else chr(92)}{file.sha256}  {name}\n"
