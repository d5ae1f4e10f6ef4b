"""SHA256SUMS against the real sha256sum."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from adreg.registry import digest
from adreg.registry.digest import FileDigest
from adreg.registry.release.checksums import SUMS, sums


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs GNU coreutils")
def test_sha256sum_accepts_it(tmp_path: Path) -> None:
    """``sha256sum -c`` finds and accepts every file, odd names and folders too."""
    names = ["b.txt", "a b.txt", "sub/c.bin", "back\\slash", "new\nline", "ünï"]
    files = []
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        files.append(FileDigest(name, digest.of_file(path), path.stat().st_size))
    (tmp_path / SUMS).write_text(sums(files))
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", SUMS], cwd=tmp_path, capture_output=True, check=False
    )

    assert (0, len(names)) == (done.returncode, done.stdout.count(b": OK"))


def test_sorted() -> None:
    """The order of the files does not matter."""
    a, b = FileDigest("a", "0" * 64, 1), FileDigest("b", "1" * 64, 1)

    assert f"{'0' * 64}  a\n{'1' * 64}  b\n" == sums([b, a]) == sums([a, b])
