"""A checkpoint's configuration, index and safetensors headers, by range requests: no weights.

A header is eight bytes of length, little-endian, and as many bytes of JSON (safetensors,
README, "Format"); most fit in the first 64 KiB, so that a shard costs one request.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from adreg.registry.durable import write_error
from adreg.registry.errors import HubDamaged, HubError, HubNotFound
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient, file_path
from adreg.registry.hub.download import is_file
from adreg.registry.names import file_fault
from adreg.registry.tensors.checkpoint import INDEX, SINGLE

_FIRST = 1 << 16
_MAX_HEADER = 100_000_000
"""safetensors' own limit (safetensors 0.8, MAX_HEADER_SIZE)."""

_CONFIG = "config.json"


def fetch(
    client: HubClient, repo: str, commit: str, entries: tuple[Entry, ...], folder: Path
) -> Mapping[str, int]:
    """Write what a checkpoint says of its tensors into ``folder``.

    Returns the true size of each file of which only the header is there. Small files are
    compared with the Hub's digest; a header cannot be, and is only read. Raises
    HubNotFound for a repository that is no checkpoint in safetensors, HubError also for a
    name that must not be written, WriteFailed or DiskFull.
    """
    there = {entry.path: entry for entry in entries}
    if _CONFIG not in there or not {SINGLE, INDEX} & there.keys():
        reason = "it is no model of transformers in safetensors"
        raise HubNotFound(repo, reason, "Name the base that the adapter was trained on.")
    weights = [one for one in there if "/" not in one and one.endswith(".safetensors")]
    for name in weights:
        if fault := file_fault(name):
            advice = "Do not use this repository; tell its owner or the Hub."
            raise HubError(repo, f"the file name {name!r} {fault}", advice)
    try:
        for name in {_CONFIG, INDEX} & there.keys():
            (folder / name).write_bytes(client.read(repo, commit, name, 64 << 20))
            if not is_file(folder / name, there[name]):
                raise HubDamaged(f"{repo}/{name}", "its bytes are not those of the Hub's digest")
        sizes = {}
        for name in weights:
            (folder / name).write_bytes(fetch_header(client, repo, commit, there[name]))
            sizes[name] = there[name].size
    except OSError as error:
        raise write_error(folder, error) from error
    return sizes


def fetch_header(client: HubClient, repo: str, commit: str, entry: Entry) -> bytes:
    """Return a safetensors file's bytes up to the end of its header; mostly one request.

    Raises HubDamaged for a file that does not begin with a header, HubError.
    """
    target = f"{repo}/{entry.path}"
    url = file_path(repo, commit, entry.path)
    start = _range(client, url, target, 0, min(_FIRST, entry.size))
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    end = 8 + length
    if not length or length > _MAX_HEADER or end > entry.size:
        raise HubDamaged(target, "it does not begin with the header of a safetensors file")
    if end > len(start):
        start += _range(client, url, target, len(start), end)
    return start[:end]


def _range(client: HubClient, url: str, target: str, begin: int, end: int) -> bytes:
    """Return the bytes [begin, end) of a file, however much of it the server sends."""
    failures = 0
    headers = {"Range": f"bytes={begin}-{end - 1}"}
    while True:
        data = bytearray()
        try:
            with client.stream(url, target=target, headers=headers) as response:
                skip = 0 if response.status_code == 206 else begin
                for piece in response.iter_raw():
                    data += piece
                    if len(data) >= skip + end - begin:
                        break
        except HubError as error:
            failures += 1
            client.pause(error, failures)
            continue
        if len(data) >= skip + end - begin:
            return bytes(data[skip : skip + end - begin])
        raise HubDamaged(target, "it is shorter than the Hub says")
