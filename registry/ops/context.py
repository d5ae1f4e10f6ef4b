"""What every use case is given: the places, the catalog, the store, and who listens."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.registry.catalog.engine import Catalog
from adreg.registry.progress import SILENT, Progress
from adreg.registry.settings import Settings
from adreg.registry.store.blobs import Store


@dataclass(frozen=True, slots=True)
class Context:
    """One registry, opened; making one touches no disk."""

    settings: Settings
    catalog: Catalog
    store: Store
    progress: Progress = SILENT

    @classmethod
    def of(cls, settings: Settings, progress: Progress = SILENT) -> Context:
        """Wire a registry from its settings: the one place where this is done."""
        return cls(settings, Catalog(settings), Store(settings.store), progress)
