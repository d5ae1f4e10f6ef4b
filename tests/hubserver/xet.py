"""Xet's own local store, in folders: what hf_xet 1.8 makes of a CAS address `local:///folder`.

A commit names large files by their sha256, Xet by a hash of its own. Which belongs to which is
said in the shards of the store, whose form is https://huggingface.co/docs/xet/shard.

A process that has such a folder open keeps all others out, by a lock on an index in it. So no
folder is opened twice: each token leads to a copy of the newest store (links to its files, and
the index copied), and what clients put there is read from a copy of theirs.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hubserver.objects import Objects

_BLOCK = 48  # the length of a shard's header, and of each record in it
_VERIFIED, _WITH_METADATA = 1 << 31, 1 << 30
_INSIDE = Path("xet", "xorbs")
_WHOLE = re.compile(r"(default\.[0-9a-f]{64}|[0-9a-f]{64}\.mdb)(\.tagset)?")
_INDEX = "global_dedup_lookup.redb"


class Xet:
    """The Xet store of one Hub."""

    def __init__(self, folder: Path, objects: Objects) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._objects = objects
        self._newest: Path | None = None
        self._clients: list[Path] = []
        self._known: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def address(self, sha256s: Iterable[str] = ()) -> str:
        """Return the address of a store for the asker alone, with these objects in it."""
        for sha256 in sha256s:
            self.hash_of(sha256)
        with self._lock:
            self._clients.append(self._copy(self._newest))
            return f"local://{self._clients[-1]}"

    def hash_of(self, sha256: str) -> str:
        """Return the Xet hash of an object, which is put into the store if it is not there."""
        with self._lock:
            if sha256 not in self._known:
                folder = self._copy(self._newest)
                with _session().new_upload_commit(**_access(folder)) as commit:
                    commit.start_upload_file(str(self._objects.path(sha256)), sha256=sha256)
                self._newest = folder
                self._known = _shards(folder)
            return self._known[sha256][0]

    def adopt(self, sha256: str) -> bool:
        """Copy a file that came by Xet to the objects; return whether it was there."""
        from hf_xet import XetFileInfo  # type: ignore[import-untyped]  # noqa: PLC0415

        with self._lock:
            for client in reversed(self._clients):
                found = _shards(client).get(sha256)
                if found is None:
                    continue
                copy = self._copy(client)
                with _session().new_file_download_group(**_access(copy)) as group:
                    group.start_download_file(XetFileInfo(*found), str(copy / "file"))
                assert self._objects.put(copy / "file")[0] == sha256, "Xet gave other bytes"
                shutil.rmtree(copy)
                return True
        return False

    def _copy(self, store: Path | None) -> Path:
        """Return a new folder with what is in a store."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        for path in (store / _INSIDE).glob("*/*") if store else ():
            if _WHOLE.fullmatch(path.name):
                target = folder / _INSIDE / path.parent.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
        if store and (store / _INSIDE / _INDEX).exists():
            shutil.copy(store / _INSIDE / _INDEX, folder / _INSIDE / _INDEX)
        return folder


def _shards(store: Path) -> dict[str, tuple[str, int]]:
    """Return Xet hash and size of all files of a store, by sha256."""
    found: dict[str, tuple[str, int]] = {}
    for path in (store / _INSIDE / "shards").glob("*.mdb"):
        found |= read_shard(path.read_bytes())
    return found


def _access(folder: Path) -> dict[str, Any]:
    """Return what a session needs to reach a store."""
    soon = int(time.time()) + 3600
    return {"endpoint": f"local://{folder}", "token": "xet", "token_expiry_unix_secs": soon}


def read_shard(data: bytes) -> dict[str, tuple[str, int]]:
    """Return Xet hash and size of the files of a shard, by sha256."""
    found = {}
    at = _BLOCK
    while (name := data[at : at + 32]) != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", data, at + 32)
        at += _BLOCK
        size = sum(
            struct.unpack_from("<I", data, at + _BLOCK * index + 36)[0] for index in range(count)
        )
        at += _BLOCK * count * (2 if flags & _VERIFIED else 1)
        if flags & _WITH_METADATA:
            found[_hex(data[at : at + 32])] = _hex(name), size
            at += _BLOCK
    return found


def _hex(digest: bytes) -> str:
    """Return a digest as Xet writes it: four 64-bit numbers, the bytes of each turned round."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def _session() -> Any:
    """Return a session of hf_xet."""
    from hf_xet import XetSession  # noqa: PLC0415  (a test that uses no Xet loads none)

    return XetSession()
