"""What a merge that may be killed has finished: a line a weight file, checked before it counts.

A line is the SHA-256 of its text, a space, the text (canonical JSON), a newline. The first
says which merge it is of; each other says that a file is whole on the disk, its digest and
size, and what was done to its tensors. A line that was cut or altered ends the journal.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adreg.registry import digest
from adreg.registry.digest import FileDigest
from adreg.registry.durable import fsync_folder, replace_file, write_error
from adreg.registry.merge.plan import Plan
from adreg.registry.merge.report import TensorReport
from adreg.registry.merge.shards import WrittenShard
from adreg.registry.progress import Progress

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal ``file`` of the merge ``key`` into the staging ``folder``."""

    file: Path
    folder: Path
    key: str

    def seen(self, plan: Plan) -> dict[str, WrittenShard]:
        """Return what it says of the plan's files that have their size, by name; hash nothing."""
        sizes = {shard.file: shard.nbytes for shard in plan.shards}
        return {
            one.file.name: one
            for one in self._lines()
            if one.file.size == sizes.get(one.file.name)
            and _has_size(self.folder / one.file.name, one.file.size)
        }

    def finished(self, plan: Plan, progress: Progress) -> dict[str, WrittenShard]:
        """Return the files that are whole by their SHA-256; remove all else from the folder.

        The journal holds just those then. Raises WriteFailed or DiskFull.
        """
        seen = self.seen(plan)
        whole = {}
        if seen:
            progress.start("checking", sum(one.file.size for one in seen.values()))
            whole = {name: one for name, one in seen.items() if self._is_whole(one, progress)}
            progress.finish()
        try:
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name not in whole:
                    path.unlink()
            if whole:
                head = _line({"format": _FORMAT, "merge": self.key})
                replace_file(
                    self.file, b"".join([head, *map(_shard_line, whole.values())]), self.folder
                )
            else:
                self.file.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.file, error) from error
        return whole

    def record(self, written: WrittenShard) -> None:
        """Write down, durably, that a file is whole and durable. Raises WriteFailed, DiskFull."""
        try:
            fsync_folder(self.folder)
            new = not self.file.exists()
            with self.file.open("ab", buffering=0) as file:
                head = _line({"format": _FORMAT, "merge": self.key}) if new else b""
                line = memoryview(head + _shard_line(written))
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            if new:
                fsync_folder(self.file.parent)
        except OSError as error:
            raise write_error(self.file, error) from error

    def _lines(self) -> Iterator[WrittenShard]:
        """Read the journal as far as it is whole, if it is of this merge."""
        try:
            with self.file.open("rb") as file:
                if _text(file.readline()) != {"format": _FORMAT, "merge": self.key}:
                    return
                for line in file:
                    if (value := _text(line)) is None:
                        return
                    tensors = tuple(TensorReport(**one) for one in value["tensors"])
                    yield WrittenShard(FileDigest(**value["file"]), tensors)
        except FileNotFoundError:
            return
        except OSError:  # what cannot be read is made again
            return

    def _is_whole(self, one: WrittenShard, progress: Progress) -> bool:
        try:
            return digest.of_file(self.folder / one.file.name, progress.advance) == one.file.sha256
        except OSError:
            return False


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _shard_line(written: WrittenShard) -> bytes:
    return _line({"file": asdict(written.file), "tensors": [asdict(t) for t in written.tensors]})


def _line(value: Mapping[str, Any]) -> bytes:
    # Norms may be infinite in a report, which canonical JSON does not allow; a float's
    # repr gives the very float again.
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
    return f"{digest.of_bytes(text)} ".encode() + text + b"\n"


def _text(line: bytes) -> dict[str, Any] | None:
    """Return a line's value, None if it is not as it was written."""
    known, _, text = line.partition(b" ")
    if not text.endswith(b"\n") or digest.of_bytes(text[:-1]).encode() != known:
        return None
    value: dict[str, Any] = json.loads(text)
    return value
