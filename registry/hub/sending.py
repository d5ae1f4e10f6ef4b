"""Handing a commit to huggingface_hub: large files first, with one bar of ours, then the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils import _xet_progress_reporting as xet_progress
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported lazily
from huggingface_hub.utils._runtime import is_xet_available
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from adreg.registry.errors import AdregError, HubBusy, HubError, PushRefused
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.repository import Head
from adreg.registry.hub.upload import LocalFile, operation
from adreg.registry.progress import Progress


def send(  # noqa: PLR0913  # where, what, with which words
    client: HubClient,
    head: Head,
    files: Sequence[LocalFile],
    words: tuple[str, str],
    progress: Progress,
    *,
    create_pr: bool = False,
) -> tuple[str, str | None]:
    """Upload what the Hub lacks, commit once on top of ``head``; return the commit and its ref.

    The ref is that of a pull request, else None. Raises HubError; HubBusy, HubOffline and
    HubConflict do not tell whether the commit was made.
    """
    total = sum(file.digest.size for file in files)
    meter = _Meter(progress, total)
    made = [operation(file, meter.advance) for file in files]
    progress.start(f"Uploading to {head.repo}", total)
    try:
        with _told(client, head.name):
            with _bars(meter):
                client.api.preupload_lfs_files(
                    head.repo, made, revision=head.revision, create_pr=create_pr
                )
            meter.fill()
            _check_none_ignored(head, made)
            done = client.api.create_commit(
                head.repo,
                made,
                commit_message=words[0],
                commit_description=words[1],
                revision=head.revision,
                parent_commit=head.commit,
                create_pr=create_pr,
            )
    finally:
        progress.finish()
    return done.oid, done.pr_revision


def _check_none_ignored(head: Head, made: Sequence[Any]) -> None:
    ignored = [one.path_in_repo for one in made if getattr(one, "_should_ignore", False)]
    if ignored:
        raise PushRefused(
            ", ".join(ignored),
            head.name,
            "a .gitignore in that repository leaves it out",
            "Mend .gitignore on the Hub, and push again.",
        )


@contextmanager
def _told(client: HubClient, target: str) -> Iterator[None]:
    """Let errors of huggingface_hub and hf_xet out as ours.

    An LFS upload that failed is a RuntimeError from what happened (_commit_api.py,
    ``_upload_lfs_files``); hf_xet raises RuntimeError, and ValueError means that the
    server's answer is malformed.
    """
    with client.guarded(target):
        try:
            yield
        except AdregError:
            raise
        except RuntimeError as error:
            if isinstance(error.__cause__, httpx.HTTPError):
                raise error.__cause__ from error
            advice = "Push again: what was uploaded is not sent twice."
            raise HubBusy(target, f"the upload broke off: {_line(error)}", advice) from error
        except ValueError as error:
            raise HubError(target, f"the upload was refused: {_line(error)}") from error


def _line(error: BaseException) -> str:
    said = error.__cause__ or error
    return " ".join(str(said).split())[:200] or type(said).__name__


class _Meter:
    """Adds up what threads tell, up to the total."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._left = total
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        with self._lock:
            amount = min(amount, self._left)
            self._left -= amount
            if amount:
                self._progress.advance(amount)

    def fill(self) -> None:
        """Tell of what was there already, and of small files, which go with the commit."""
        self.advance(self._left)


@contextmanager
def _bars(meter: _Meter) -> Iterator[None]:
    """Put our bar in the place of those that huggingface_hub draws on stderr.

    Xet tells how far it is only to its own reporter, and only while bars are on
    (_commit_api.py, ``_upload_xet_files``).
    """

    class Reporter:
        def __init__(self, *_: object, **__: object) -> None:
            self._told = 0

        def update_progress(self, group: Any, _items: object = None) -> None:  # noqa: ANN401
            far = int(getattr(group, "total_bytes_completed", 0))
            if far > self._told:
                meter.advance(far - self._told)
                self._told = far

        def close(self, *_: object) -> None:
            pass

    were_on = not are_progress_bars_disabled()
    theirs = xet_progress.XetUploadProgressReporter
    if is_xet_available():
        xet_progress.XetUploadProgressReporter = Reporter  # type: ignore[assignment,misc]
    elif were_on:
        disable_progress_bars()
    try:
        yield
    finally:
        xet_progress.XetUploadProgressReporter = theirs  # type: ignore[misc]
        if were_on and are_progress_bars_disabled():
            enable_progress_bars()
