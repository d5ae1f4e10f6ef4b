"""How the catalog's schema came to be; ``adreg.registry.catalog.upgrade`` runs it."""
