"""Opening files of other people: regular ones alone, and waiting for none of them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_HOLLOW_FROM = 1 << 30
_HOLLOW_SHARE = 8


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes; links are followed.

    A pipe, a socket or a device is left alone: opening one can take for ever, or do
    something. Raises OSError, whose ``strerror`` tells what is wrong.
    """
    _require_regular(path, path.stat())
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    # Should a pipe take the place in between: without O_NONBLOCK its opening waits for a writer.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        _require_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_hollow(descriptor: int) -> bool:
    """Whether an open file of 1 GiB or more is nearly all holes: bytes that no disk holds.

    Reading a terabyte of them through costs hours, and making them nothing. Both must say
    so: network and FUSE file systems report no blocks of files that are whole, and know
    no holes; compressing ones hold whole files in fewer blocks, without holes.
    """
    found = os.fstat(descriptor)
    blocks = getattr(found, "st_blocks", None)
    if found.st_size < _HOLLOW_FROM or blocks is None or not hasattr(os, "SEEK_HOLE"):
        return False
    if blocks * 512 >= found.st_size // _HOLLOW_SHARE:
        return False
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < found.st_size
    except OSError:  # a file system that cannot tell
        return False
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def _require_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
