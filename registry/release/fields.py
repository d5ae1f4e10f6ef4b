"""Taking typed fields out of a JSON object, so that none is missing, mistyped or left over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from adreg.registry.digest import FileDigest

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """One object; each method takes a field out and raises ValueError if it is not as said."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        """Begin with all fields of ``data``; ``where`` is its place in the file."""
        self._data = dict(data)
        self._where = where

    def names(self) -> list[str]:
        """Return the names of the fields that are still there."""
        return sorted(self._data)

    def close(self) -> None:
        """Raise ValueError if a field is left over."""
        if self._data:
            raise ValueError(f"{self._place(min(self._data))} is not known")

    def text(self, name: str) -> str:
        """Take a text that is not empty and has no control characters."""
        value = self._take(name)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"{self._place(name)} is not a printable text")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Take a text or null."""
        if name in self._data and self._data[name] is None:
            return self._data.pop(name)  # type: ignore[no-any-return]  # it is None
        return self.text(name)

    def sha256(self, name: str) -> str:
        """Take a SHA-256 in lower-case hex."""
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise ValueError(f"{self._place(name)} is not a SHA-256")
        return value

    def number(self, name: str) -> int:
        """Take a whole number that is not negative."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{self._place(name)} is not a whole number")
        return value

    def real(self, name: str) -> float:
        """Take a finite number."""
        value = self._take(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{self._place(name)} is not a number")  # noqa: TRY004  # of the data
        if not math.isfinite(value):
            raise ValueError(f"{self._place(name)} is not finite")
        return float(value)

    def raw(self, name: str) -> dict[str, Any]:
        """Take an object as it is."""
        value = self._take(name)
        if not isinstance(value, dict):
            raise ValueError(f"{self._place(name)} is not an object")  # noqa: TRY004  # of the data
        return value

    def object(self, name: str) -> Fields:
        """Take an object, to be read by fields."""
        return Fields(self.raw(name), self._place(name))

    def objects(self, name: str) -> list[Fields]:
        """Take a list of objects, each to be read by fields."""
        value = self._take(name)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise ValueError(f"{self._place(name)} is not a list of objects")
        return [Fields(one, f"{self._place(name)}[{n}]") for n, one in enumerate(value)]

    def texts(self, name: str) -> tuple[str, ...]:
        """Take a list of texts."""
        value = self._take(name)
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise ValueError(f"{self._place(name)} is not a list of texts")
        return tuple(value)

    def _take(self, name: str) -> Any:  # noqa: ANN401  # each caller checks what it is
        if name not in self._data:
            raise ValueError(f"{self._place(name)} is missing")
        return self._data.pop(name)

    def _place(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name


def files_of(fields: Fields) -> tuple[FileDigest, ...]:
    """Take the list ``files``; its names are plain relative paths, each there once."""
    files = []
    for one in fields.objects("files"):
        file = FileDigest(one.text("name"), one.sha256("sha256"), one.number("size"))
        one.close()
        parts = file.name.split("/")
        if "\\" in file.name or ":" in file.name or any(p in {"", ".", ".."} for p in parts):
            raise ValueError(f"the file name {file.name!r} is not a plain relative path")
        files.append(file)
    if len({file.name for file in files}) != len(files):
        raise ValueError("a file stands twice")
    return tuple(sorted(files))


def files_to(files: Iterable[FileDigest]) -> list[dict[str, object]]:
    """Return the JSON form that ``files_of`` takes."""
    return [{"name": f.name, "sha256": f.sha256, "size": f.size} for f in sorted(files)]
