"""A base on the Hub that is not here, as far as its headers tell."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from adreg.registry.bases.base import read_base
from adreg.registry.durable import write_error
from adreg.registry.errors import HubOffline, NameRefused
from adreg.registry.hub import headers
from adreg.registry.hub.client import HubClient
from adreg.registry.names import Reference
from adreg.registry.ops.bases import OpenedBase


@contextmanager
def remote_base(client: HubClient, text: str) -> Iterator[OpenedBase | None]:
    """Give the base ``OWNER/REPO[@REVISION]`` with its headers alone, while the body runs.

    None where ``text`` names no repository, or the Hub cannot be asked. No weight is
    fetched, and none can be read of what is given. Raises HubError, BaseRefused.
    """
    reference = None
    with suppress(NameRefused):
        reference = Reference.parse(f"hf://{text.removeprefix('hf://')}")
    if reference is None or client.offline or Path(text).is_absolute():
        yield None
        return
    try:
        info = client.info(reference.hub, reference.selector or "main")
    except HubOffline:
        yield None
        return
    files = info.files if info.files is not None else client.tree(info.repo, info.commit)
    try:
        made = tempfile.TemporaryDirectory(prefix="adreg-")
    except OSError as error:
        raise write_error(Path(tempfile.gettempdir()), error) from error
    with made as folder:
        sizes = headers.fetch(client, info.repo, info.commit, files, Path(folder))
        base = read_base(Path(folder), sizes=sizes)
        known = replace(base, hub_repo=info.repo, revision=info.commit)
        yield OpenedBase(known, None, text)
