"""A page of what the catalog holds."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.catalog import listing as catalog_listing
from adreg.registry.catalog.records import ListQuery, ListRow
from adreg.registry.ops.context import Context


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows of one page, and how many there are on all pages."""

    rows: tuple[ListRow, ...]
    total: int


def listing(context: Context, query: ListQuery) -> Listing:
    """Return the page that a query asks for; an empty one where there is no catalog."""
    with context.catalog.read() as connection:
        return Listing(*catalog_listing.page(connection, query))
