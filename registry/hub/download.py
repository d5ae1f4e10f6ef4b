"""Files of the Hub, each hashed while it streams, and kept across processes until it is whole.

    models--OWNER--REPO/blobs/KEY.part   what has come of a file
    models--OWNER--REPO/blobs/KEY.etag   what its server calls it
    models--OWNER--REPO/blobs/KEY        a file that is whole
    models--OWNER--REPO/snapshots/ID/    an adapter as links to those, while it is taken in

The shape of the Hugging Face cache, from which links may lead out of an adapter's folder.
``KEY`` is the file's digest on the Hub: SHA-256 of what LFS or Xet hold, else git's blob
id. huggingface_hub 2.4 itself does neither (file_download.py): its temporary names are
new in each process, and it compares sizes only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final
from uuid import uuid4

from filelock import FileLock

from adreg.registry.digest import PIECE
from adreg.registry.durable import copy_file, write_error
from adreg.registry.errors import (
    HubBusy,
    HubConflict,
    HubDamaged,
    HubError,
    HubNotFound,
)
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient, file_path

_WRONG_TRIES = 3
"""Whole downloads with wrong bytes, after which the Hub or the way to it is to blame."""

_LARGE = 8 << 20
"""A file of at least so many bytes is hashed by a thread of its own."""

_HASHED, _WAITING = 1 << 18, 16
"""Bytes that are hashed together, and how many such may wait for it."""

_KEPT_FOR = 30 * 24 * 3600.0
"""Seconds after which what nobody asked for again is removed."""

_BLOBS, _VIEWS = "blobs", "snapshots"


def key_of(entry: Entry) -> str:
    """Return the name of a file by its digest on the Hub."""
    return f"sha256-{entry.sha256}" if entry.sha256 is not None else f"git-{entry.git_sha1}"


def new_hash(entry: Entry) -> Any:  # noqa: ANN401  # hashlib's type has no public name
    """Return the hash that a file's bytes are to be given to.

    git's blob id is the SHA-1 of "blob", the size, a NUL, and the bytes (Pro Git, 10.2).
    """
    if entry.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)


def is_file(path: Path, entry: Entry, advance: Callable[[int], None] | None = None) -> bool:
    """Tell whether a file on disk is what the Hub has, by its hash. Raises OSError."""
    if path.stat().st_size != entry.size:
        return False
    digest = new_hash(entry)
    buffer = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if advance is not None:
                advance(count)
    return bool(digest.hexdigest() == (entry.sha256 or entry.git_sha1))


@final
class Downloads:
    """What came, or is coming, of one repository; only one process at a time has it."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, of which the caller holds the lock."""
        self._views = folder / _VIEWS
        self.folder = folder / _BLOBS
        self.fetched = 0
        """Bytes that came over the network, from when this was made."""

    @classmethod
    @contextmanager
    def of(cls, root: Path, repo: str) -> Iterator[Downloads]:
        """Lock and give the downloads of a repository; wait while another process has them.

        What processes that were killed left is kept, but for what is a month old.
        Raises WriteFailed or DiskFull.
        """
        folder = root / f"models--{repo.replace('/', '--')}"
        try:
            for name in (_BLOBS, _VIEWS):
                (folder / name).mkdir(parents=True, exist_ok=True)
            lock = FileLock(root / f"{folder.name}.lock")
            lock.acquire()
        except OSError as error:
            raise write_error(folder, error) from error
        try:
            _sweep(root, folder)
            yield cls(folder)
        finally:
            lock.release()

    def missing(self, entries: Iterable[Entry]) -> int:
        """Return how many bytes of these files are not here yet."""
        return sum(entry.size - self._here(entry) for entry in entries)

    def fetch(
        self,
        client: HubClient,
        repo: str,
        commit: str,
        entry: Entry,
        advance: Callable[[int], None],
    ) -> Path:
        """Return a file whose bytes are those that the Hub names, fetched as far as need be.

        ``advance`` hears of every byte once, those that were here already too. Raises
        HubDamaged for bytes that are wrong again and again, HubConflict when the commit
        is gone meanwhile, HubError, WriteFailed or DiskFull; what came is kept.
        """
        whole = self.folder / key_of(entry)
        try:
            if whole.exists():
                if is_file(whole, entry):
                    advance(entry.size)
                    return whole
                whole.unlink()
            part = _Part(self.folder, entry, advance)
            with part:
                self._fill(client, file_path(repo, commit, entry.path), repo, part)
        except HubNotFound as error:
            raise HubConflict(
                repo,
                f"it changed while it was pulled: {entry.path} is gone",
                "Pull it again; what was fetched so far is kept.",
                error.status,
            ) from error
        except OSError as error:
            raise write_error(whole, error) from error
        return whole

    def _fill(self, client: HubClient, url: str, repo: str, part: _Part) -> None:
        """Bring a part to its end, over as many connections as it takes."""
        target = f"{repo}/{part.entry.path}"
        failures = wrong = 0
        while True:
            before, resumed = part.size, part.size > 0
            try:
                if part.size < part.entry.size or not part.entry.size:
                    self._stream(client, url, target, part)
            except HubError as error:
                # A connection that brings something is no failure in a row.
                failures = (
                    1 if part.size - before > min(PIECE, part.entry.size // 100) else (failures + 1)
                )
                client.pause(error, failures)
                continue
            if part.is_right():
                part.finish()
                return
            part.restart()
            # A power cut may have spoilt what was here before.
            wrong += not resumed
            if wrong >= _WRONG_TRIES:
                part.remove()
                reason = f"the bytes that come are not those of the Hub's digest ({wrong} times)"
                advice = "Check HF_ENDPOINT and the proxy, and try again: nothing was registered."
                raise HubDamaged(target, reason, advice)

    def _stream(self, client: HubClient, url: str, target: str, part: _Part) -> None:
        with client.stream(url, target=target, headers=part.range_headers()) as response:
            status = response.status_code
            if status == 416 or (status == 206 and _begin(response.headers) != part.size):
                part.restart()
                raise HubBusy(target, "the Hub does not go on where it was left", status=status)
            if status == 200 and part.size:
                part.restart()
            part.remember(response.headers)
            try:
                for piece in response.iter_raw():
                    self.fetched += len(piece)
                    if not part.append(piece):
                        break
            finally:
                part.settle()
        if part.size < part.entry.size:
            raise HubBusy(target, f"it ended after {part.size:,} of {part.entry.size:,} bytes")

    def _here(self, entry: Entry) -> int:
        whole = self.folder / key_of(entry)
        for path in (whole, whole.with_name(whole.name + ".part")):
            if path.exists():
                return min(path.stat().st_size, entry.size)
        return 0

    @contextmanager
    def view(self, files: Mapping[str, Path], called: str) -> Iterator[Path]:
        """Give a folder ``called`` so with these files under their names, while the body runs.

        Raises WriteFailed or DiskFull.
        """
        aside = self._views / uuid4().hex
        folder = aside / called
        try:
            folder.mkdir(parents=True)
            for name, path in files.items():
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if path.parent == self.folder:
                    place.symlink_to(os.path.relpath(path, place.parent))
                else:  # a link into the store would lead out of here
                    copy_file(path, place, name)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise write_error(folder, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def discard(self, entries: Iterable[Entry]) -> None:
        """Remove whole files that the store has by now."""
        for entry in entries:
            (self.folder / key_of(entry)).unlink(missing_ok=True)


@final
class _Part:
    """A file that is coming: its bytes on disk, and the hash of all of them."""

    def __init__(self, folder: Path, entry: Entry, advance: Callable[[int], None]) -> None:
        self.entry = entry
        self.size = 0
        self._path = folder / f"{key_of(entry)}.part"
        self._etag = folder / f"{key_of(entry)}.etag"
        self._advance = advance
        self._hash = new_hash(entry)
        self._pool = ThreadPoolExecutor(1) if entry.size >= _LARGE else None
        self._waiting: deque[Future[None]] = deque()
        self._pending: list[memoryview] = []
        self._held = 0
        self._told = 0

    def __enter__(self) -> _Part:
        """Open the file and hash what is there of it. Raises OSError."""
        self._file = self._path.open("a+b", buffering=0)
        self._file.seek(0)
        buffer = memoryview(bytearray(PIECE))
        while self.size < self.entry.size and (
            count := self._file.readinto(buffer[: self.entry.size - self.size])
        ):
            self._hash.update(buffer[:count])
            self._add(count)
        self._file.truncate(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; what it has stays."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._file.close()

    def append(self, piece: bytes) -> bool:
        """Write what came; False, and the rest dropped, once it is more than the file."""
        fits = self.entry.size - self.size
        kept = piece if len(piece) <= fits else piece[:fits]
        view = memoryview(kept)
        while view:
            done = self._file.write(view)
            self._add(done)
            self._pending.append(view[:done])
            view = view[done:]
        self._held += len(kept)
        if self._held >= _HASHED:
            self._hand_over()
        return len(piece) <= fits

    def settle(self) -> None:
        """Wait until all that was written is hashed."""
        self._hand_over()
        while self._waiting:
            self._waiting.popleft().result()

    def _hand_over(self) -> None:
        # Joined: each call that lets go of the interpreter's lock has to wait for it again.
        data, self._pending, self._held = b"".join(self._pending), [], 0
        if self._pool is None:
            self._hash.update(data)
            return
        self._waiting.append(self._pool.submit(self._hash.update, data))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def range_headers(self) -> dict[str, str]:
        """Return what asks for the rest, and for all if the server has another file by now."""
        if not self.size:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        if self._etag.exists() and (etag := self._etag.read_text("ascii", errors="ignore")):
            headers["If-Range"] = etag
        return headers

    def remember(self, headers: Mapping[str, str]) -> None:
        """Keep the server's own name of the file. A weak one is of no use (RFC 9110, 13.1.5)."""
        etag = headers.get("ETag", "")
        if etag.startswith('"') and etag.isascii() and etag.isprintable() and len(etag) < 512:
            if not self._etag.exists() or self._etag.read_text("ascii") != etag:
                self._etag.write_text(etag, "ascii")
        else:
            self._etag.unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget all that came."""
        self._file.truncate(0)
        self._hash, self.size = new_hash(self.entry), 0
        self._etag.unlink(missing_ok=True)

    def is_right(self) -> bool:
        """Tell whether all is there and has the digest that the Hub promised."""
        wanted = self.entry.sha256 or self.entry.git_sha1
        return self.size == self.entry.size and self._hash.hexdigest() == wanted

    def finish(self) -> None:
        """Give the file its name. Raises OSError.

        Not fsynced: what is found here later is hashed again before it is used.
        """
        self._path.rename(self._path.with_suffix(""))
        self._etag.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing."""
        self._path.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def _add(self, count: int) -> None:
        self.size += count
        if self.size > self._told:  # after a restart the same bytes come again
            self._advance(self.size - self._told)
            self._told = self.size


def _begin(headers: Mapping[str, str]) -> int | None:
    """Return where a partial answer begins: ``Content-Range: bytes 7-11/12``."""
    begin = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(begin) if begin.isdigit() else None


def _sweep(root: Path, folder: Path) -> None:
    for view in (folder / _VIEWS).iterdir():
        shutil.rmtree(view, ignore_errors=True)
    oldest = time.time() - _KEPT_FOR
    for path in root.glob(f"*/{_BLOBS}/*"):
        with suppress(OSError):  # another process may have been faster
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
