"""The repositories of an owner, as the Hub lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adreg.registry.errors import NameRefused
from adreg.registry.hub.client import HubClient
from adreg.registry.names import check_name

_PAGE = 500


def models_of(
    client: HubClient, owner: str, filters: tuple[str, ...] = (), search: str | None = None
) -> Iterator[str]:
    """Give ``OWNER/REPO`` of all repositories of an owner that this token may see, page by page.

    ``filters`` are tags of the Hub, such as ``peft`` or ``base_model:adapter:ORG/NAME``,
    all of which must be there (``GET /api/models``, huggingface_hub 2.4, list_models);
    ``search`` is text in the name. Raises NameRefused, HubError.
    """
    if "/" in check_name(owner, "the owner on the Hub"):
        raise NameRefused("the owner on the Hub", owner, "it has a '/'")
    asked: dict[str, str | int | list[str]] = {"author": owner, "limit": _PAGE}
    if filters:
        asked["filter"] = list(filters)
    if search:
        asked["search"] = search
    for page in client.pages("api/models", owner, asked):
        for one in page if isinstance(page, list) else ():
            repo = one.get("id") if isinstance(one, Mapping) else None
            if isinstance(repo, str) and repo.startswith(f"{owner}/"):
                yield check_name(repo, "the Hub repository")
