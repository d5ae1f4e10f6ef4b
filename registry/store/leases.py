"""Leases: what a running command reads of the store stays there until it ends.

A lease is a file lock in ``models--adreg/leases`` that is held for a command's life; the
system lets go of it however the command ends, so that none needs a person to remove it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from adreg.registry.durable import write_error


@contextmanager
def lease(root: Path) -> Iterator[None]:
    """Keep all files of the store in ``root`` from being removed. Raises WriteFailed.

    Take it before the catalog is asked which files there are.
    """
    path = root / "leases" / f"{uuid.uuid4().hex}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def is_held(lock: Path) -> bool:
    """Tell whether a living process has this lock, and leave its file as it is."""
    import fcntl  # noqa: PLC0415  # Windows has none

    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:  # it has just been let go
        return False
    try:
        # Shared: two who only look are not in each other's way. filelock's own is exclusive.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_leased(root: Path) -> bool:
    """Tell whether a running command has a lease on the store in ``root``."""
    return any(is_held(path) for path in (root / "leases").glob("*.lock"))
