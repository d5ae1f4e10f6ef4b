"""Running a reader in a process of its own that may take only so much memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEMORY = 256 << 20
"""Bytes that reading one hostile file may take, over what Python and the imports take."""

SECONDS = 60

_CHILD = """
import resource, sys
from pathlib import Path
{imports}
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + {memory}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from adreg.registry.errors import AdregError
try:
    {call}
except AdregError as error:
    print(type(error).__name__, str(error).encode("ascii", "backslashreplace").decode())
else:
    print("read")
"""


def run_bounded(imports: str, call: str, *arguments: Path | str) -> str:
    """Return "read", or the name and the words of adreg's error; anything else fails.

    ``call`` finds the arguments in ``sys.argv[1:]``.
    """
    code = _CHILD.format(imports=imports, call=call, memory=MEMORY)
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.strip()
