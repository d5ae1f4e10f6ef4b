"""How long a shell waits for a completion, as a whole process.

    python benchmarks/completion.py

On catalogs of 1,000 and 100,000 adapters, as bash asks (``adreg completion bash``).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from catalog import fill
from processes import in_turn, table

_LINES = {
    "a command": "adreg sho",
    "an option": "adreg merge --ba",
    "a name": "adreg show team1",
    "a version or alias": "adreg show team1/chat-15@",
    "a base": "adreg list --base org4/m",
}


def main() -> None:
    """Print the table."""
    adreg = shutil.which("adreg") or sys.exit("adreg is not on the PATH")
    measured = {}
    for adapters in (1_000, 100_000):
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch), adapters)
            asking = {"ADREG_HOME": scratch, "_ADREG_COMPLETE": "bash_complete"}
            commands = {what: ["env", f"COMP_WORDS={line}", adreg] for what, line in _LINES.items()}
            measured[adapters] = in_turn(commands, 5, asking)
    rows = [(what, *(f"{one[what].seconds:.2f}" for one in measured.values())) for what in _LINES]
    table("Completion (process s)", ["what", "1,000 adapters", "100,000 adapters"], rows)


if __name__ == "__main__":
    main()
