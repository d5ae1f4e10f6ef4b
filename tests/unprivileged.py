"""Files that may not be read, whoever runs the tests: root reads all, so it becomes nobody."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unreadable(folder: Path, name: str = ".") -> Iterator[Path]:
    """Give a copy of a folder in which ``name`` may not be read, in a process that cannot.

    ``name`` is a file in it or the folder itself; while this is open, root is nobody.
    """
    top = Path(tempfile.mkdtemp())
    copy = shutil.copytree(folder, top / folder.name)
    for path in (top, copy, *copy.iterdir()):
        path.chmod(0o755)
    top.chmod(0o777)
    (copy / name).chmod(0)
    user = os.geteuid()
    codecs.lookup("utf-8-sig")  # a module that is loaded late, perhaps from a folder of root's
    try:
        if user == 0:
            os.seteuid(_NOBODY)
        yield copy
    finally:
        if user == 0:
            os.seteuid(0)
        (copy / name).chmod(0o700)
        shutil.rmtree(top)
