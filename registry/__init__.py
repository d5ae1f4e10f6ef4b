"""adreg.registry: the registry of LoRA/PEFT adapters as a library.

from adreg.registry import Registry

registry = Registry()
registry.show("team/support@prod")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adreg.registry.api import Registry
    from adreg.registry.catalog.records import ListQuery

__all__ = ["ListQuery", "Registry"]

_HOMES = {"ListQuery": "adreg.registry.catalog.records", "Registry": "adreg.registry.api"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the module protocol of PEP 562
    """Import what is exported only when it is asked for: ``adreg --help`` needs just the errors."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
