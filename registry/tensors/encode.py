"""Safetensors headers for writing, and how tensors are spread over shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adreg.registry.tensors import dtypes


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return dtypes.nbytes(self.dtype, self.shape)


def encode_header(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """Return the length prefix and header of a file that holds ``entries`` in this order.

    Padded with spaces so that the data begins at a multiple of 8, as the safetensors
    library writes it.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.nbytes],
        }
        position += entry.nbytes
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def spread(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """Spread tensors over shards of at most ``max_bytes``, in order; one larger stands alone."""
    shards: list[list[Entry]] = []
    room = -1
    for entry in entries:
        if entry.nbytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(entry)
        room -= entry.nbytes
    return shards


def shard_names(count: int) -> list[str]:
    """Return the file names that transformers gives to ``count`` shards."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
