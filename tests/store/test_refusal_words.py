"""Each refusal of the store says which file, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adreg.registry.errors import AdregError
from adreg.registry.store.blobs import Store


def taken(store: Store, path: Path, see: Callable[[int], None]) -> AdregError:
    """Return the error of taking a file in, of whose bytes ``see`` hears."""
    with store.publication() as publication, pytest.raises(AdregError) as caught:
        publication.take({"x": path}, {}, see)
    return caught.value


def test_files_that_change(tmp_path: Path) -> None:
    """A file that is written to meanwhile, and one that is gone, are named."""
    store, path = Store(tmp_path / "store"), tmp_path / "weights.bin"
    path.write_bytes(b"w" * 100)

    def write(_: int) -> None:
        path.write_bytes(b"W" * 99)

    changed = taken(store, path, write)
    path.unlink()
    gone = taken(store, path, lambda _: None)

    assert f"{path}: it changed while it was read" == changed.sentence
    assert "Wait until nothing writes to it any more, and add it again." == changed.hint
    assert f"{path}: No such file or directory" == gone.sentence
    assert "See that it is there and can be read, and try again." == gone.hint
