"""Fetching a base, when that was asked for."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.errors import BaseRefused, NotFound
from adreg.registry.hub import bases as hub_bases
from adreg.registry.hub.client import HubClient
from adreg.registry.ops.bases import OpenedBase, open_base
from adreg.registry.ops.context import Context


def fetch_base(
    context: Context, client: HubClient, repo: str, revision: str | None = None
) -> OpenedBase:
    """Open the base of this Hub id, from the cache if it is there, else fetched into it.

    Raises HubError, NotFound for a path of somebody else's, BaseRefused.
    """
    if Path(repo).is_absolute() or repo.startswith((".", "~")):
        advice = "Name the base with --base."
        raise NotFound("base on the Hub", repo, advice=advice)
    text = f"hf://{repo}" + (f"@{revision}" if revision else "")
    try:
        return open_base(context, text)
    except (NotFound, BaseRefused):  # not there, or in part
        hub_bases.fetch(client, repo, revision, context.progress)
    return open_base(context, text)
