"""What killed processes left in the store."""

from __future__ import annotations

from adreg.registry.catalog import blobs, versions
from adreg.registry.ops.context import Context
from adreg.registry.store.publication import Leftover


def take_back(context: Context) -> int:
    """Remove what killed processes left in the store; return how many there were."""

    def discard(leftovers: tuple[Leftover, ...]) -> None:
        came_in = {sha256 for leftover in leftovers for sha256 in leftover.blobs}
        snapshots = {one for leftover in leftovers for one in leftover.snapshots}
        with context.catalog.write() as connection:
            gone = {
                one
                for one in snapshots
                if versions.find_by_digest(connection, "adapter", one) is None
            }
            context.store.discard(blobs.unused(connection, came_in), sorted(gone))

    return context.store.take_back(discard)
