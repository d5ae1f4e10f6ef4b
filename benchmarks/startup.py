"""How long commands take as whole processes: --help, and list on 1,000 adapters.

python benchmarks/startup.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from processes import in_turn, table

from adreg.registry import Registry, digest
from adreg.registry.catalog import adapters
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import AdapterFacts, Content, Source
from adreg.registry.digest import FileDigest
from adreg.registry.ops import history

_ADAPTERS = 1000


def fill(home: Path) -> None:
    """Record many adapters, without files in the store: a listing reads none."""
    registry = Registry(home)
    with Catalog(registry.settings).write() as connection:
        for number in range(_ADAPTERS):
            files = (FileDigest("adapter_model.safetensors", digest.of_value(number), 1 << 20),)
            content = Content(digest.of_files(files), 1 << 20, 1 << 18, "F32", files)
            facts = AdapterFacts("LORA", "{}", ("q_proj", "v_proj"), 64, rank=16, alpha=32.0)
            name, at = f"team{number % 7}/adapter-{number}", history.now()
            source = Source("path", f"/adapters/{number}", at)
            adapters.add(connection, name, content, facts, source, base_id=None, at=at)
        connection.commit()


def main() -> None:
    """Print the table."""
    adreg = shutil.which("adreg") or sys.exit("adreg is not on the PATH")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        fill(home)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "adreg --help": [adreg, "--help"],
            "adreg list (1,000)": [adreg, "-q", "list"],
            "adreg show": [adreg, "show", "team0/adapter-0"],
        }
        medians = in_turn(commands, 9, {"ADREG_HOME": scratch})
    nothing = medians["python -c pass"].seconds
    rows = [
        [name, f"{done.seconds:.3f}", f"{done.seconds / nothing:.0f}"]
        for name, done in medians.items()
    ]
    table(
        "Start-up (median of 9 whole processes)",
        ["command", "seconds", "times python -c pass"],
        rows,
    )


if __name__ == "__main__":
    main()
