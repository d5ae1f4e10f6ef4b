"""Where adreg keeps its things, read once from the environment and passed on.

ADREG_HOME          the folder of the catalog, the store and merged models;
                    else the platform's data folder
ADREG_DATABASE_URL  any SQLAlchemy URL; else SQLite in ADREG_HOME
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True, slots=True)
class Settings:
    """The places of one registry. Making one touches no disk."""

    home: Path
    database_url: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ADREG_HOME and ADREG_DATABASE_URL, with the platform's defaults."""
        environ = os.environ if environ is None else environ
        home = environ.get("ADREG_HOME") or platformdirs.user_data_dir("adreg", appauthor=False)
        return cls.at(Path(home).expanduser(), environ.get("ADREG_DATABASE_URL", ""))

    @classmethod
    def at(cls, home: Path, database_url: str = "") -> Settings:
        """The registry in ``home``; SQLite in it unless a URL is given."""
        home = home.absolute()
        return cls(home, database_url or f"sqlite:///{home / 'catalog.sqlite'}")

    @property
    def store(self) -> Path:
        """The folder of the content-addressed blobs."""
        return self.home / "store"

    @property
    def downloads(self) -> Path:
        """The folder of what is coming from the Hub, and of what came and was not taken in."""
        return self.home / "downloads"

    @property
    def models(self) -> Path:
        """The folder for merged models that were given no output folder."""
        return self.home / "models"
