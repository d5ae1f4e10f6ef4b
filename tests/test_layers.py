"""What a command may import: looking something up starts fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"alembic", "huggingface_hub", "numpy", "peft", "torch", "transformers"}
"""What no look at the catalog needs; together they take more than 5 seconds to import."""

RUN = """
import json, sys
from adreg.cli.main import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["show", "nobody"]], ids=["help", "list", "show"]
)
def test_looking_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """Help, list and show start without torch, numpy, alembic and the Hub."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, *arguments],
        env={**os.environ, "ADREG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    imported = set(json.loads(done.stderr.splitlines()[-1]))

    assert "adreg" in imported
    assert set() == HEAVY & imported
