"""Writing a PEFT adapter whose ranks are only known once its factors are: aside, then whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np

from adreg.registry.adapters.card import CARD
from adreg.registry.adapters.files import CONFIG, WEIGHTS
from adreg.registry.adapters.keys import PREFIX
from adreg.registry.adapters.spec import Part
from adreg.registry.digest import PIECE, FileDigest
from adreg.registry.durable import FileWriter
from adreg.registry.tensors.arrays import NUMPY, Array
from adreg.registry.tensors.dtypes import BITS
from adreg.registry.tensors.encode import Entry, encode_header

_ASIDE = ".factors"

Lora = tuple[Part, Part]
LINEAR: Lora = (Part.LORA_A, Part.LORA_B)
EMBEDDING: Lora = (Part.EMBEDDING_A, Part.EMBEDDING_B)

_CODES = {dtype: code for code, dtype in NUMPY.items()}


@final
@dataclass
class AdapterWriter:
    """Takes an adapter's tensors one by one and writes its files; used as a context.

    ``folder`` is a staging folder of the caller's, who publishes it; without one, nothing
    is written and only sizes are counted. ``ranks`` are those of the modules so far.
    """

    folder: Path | None
    ranks: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    nbytes: int = 0
    _entries: list[tuple[Entry, int]] = field(default_factory=list)
    _aside: FileWriter | None = None

    def __enter__(self) -> AdapterWriter:
        """Open the file that tensors are put aside in."""
        if self.folder is not None:
            self._aside = FileWriter(self.folder / _ASIDE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was put aside."""
        if self._aside is not None:
            self._aside.__exit__(kind, error, traceback)
            self._aside.path.unlink(missing_ok=True)

    def put(self, key: str, array: Array) -> None:
        """Take one tensor under its full key, as it is."""
        self.begin(key, _CODES[array.dtype], array.shape)
        self.append(np.ascontiguousarray(array))

    def begin(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Announce a tensor whose elements ``append`` brings, in order."""
        entry = Entry(key, dtype, shape)
        self._entries.append((entry, self.nbytes))
        self.nbytes += entry.nbytes
        self.parameters += entry.nbytes * 8 // BITS[dtype]

    def append(self, array: Array) -> None:
        """Take the next elements of the tensor that was begun."""
        if self._aside is not None:
            self._aside.write(array.reshape(-1).view(np.uint8).data)

    def put_lora(self, module: str, parts: Lora, a: Array, b: Array) -> None:
        """Take the pair of a module: ``a`` (r, in, k...) and ``b`` (out, r, 1...)."""
        self.ranks[module] = int(a.shape[0])
        for part, array in zip(parts, (a, b), strict=True):
            self.put(f"{PREFIX}{module}.{part.value}", array)

    def finish(self, config: Mapping[str, Any], card: str) -> tuple[FileDigest, ...]:
        """Write weights, configuration and card; return their digests, sorted.

        Wider types come first, so that each tensor is aligned to its own; within a type
        they keep the order of ``put``.
        """
        if self.folder is None or self._aside is None:
            return ()
        ordered = sorted(self._entries, key=lambda one: -BITS[one[0].dtype])
        files = []
        with FileWriter(self.folder / WEIGHTS) as writer, self._aside.path.open("rb") as aside:
            writer.write(encode_header((entry for entry, _ in ordered), {"format": "pt"}))
            for entry, start in ordered:
                aside.seek(start)
                left = entry.nbytes
                while left:
                    piece = aside.read(min(PIECE, left))
                    writer.write(piece)
                    left -= len(piece)
        files.append(writer.digest(WEIGHTS))
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        for name, content in ((CONFIG, text), (CARD, card)):
            with FileWriter(self.folder / name) as writer:
                writer.write(content.encode())
            files.append(writer.digest(name))
        return tuple(sorted(files))


def rank_fields(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return r, lora_alpha and their patterns, which make every scale alpha/r just 1.

    The keys of a pattern are matched at the end of module names, first come first served
    (peft 0.21.2, utils/other.py, ``get_pattern_key``): longer names stand first.
    """
    counts = Counter(ranks.values())
    most = max(counts, key=lambda rank: (counts[rank], rank))
    others = {module: rank for module, rank in ranks.items() if rank != most}
    # A short name's key would match longer names of the usual rank that end in it.
    shadowed = {m for m in ranks for other in others if m != other and m.endswith(f".{other}")}
    pattern = {
        module.replace(".", r"\."): ranks[module]
        for module in sorted(others.keys() | shadowed, key=lambda name: (-len(name), name))
    }
    return {"r": most, "lora_alpha": most, "rank_pattern": pattern, "alpha_pattern": dict(pattern)}
