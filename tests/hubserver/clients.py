"""Real clients of the Hub, each in a process of its own that knows only our server.

huggingface_hub reads HF_ENDPOINT and the like once, when it is imported: hence the processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from hubserver.hub import Hub

_PROLOGUE = """
import json
from huggingface_hub import *
from huggingface_hub.errors import *
api = HfApi()
answer = None
"""


def environment(hub: Hub, home: Path, token: str = "", *, xet: bool = False) -> dict[str, str]:
    """Return an environment in which this server is the Hub, and `home` what is remembered."""
    ours = "HF_", "TRANSFORMERS_OFFLINE"  # huggingface_hub takes the second for HF_HUB_OFFLINE too
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
        **({"HF_TOKEN": token} if token else {}),
    }


def python(hub: Hub, home: Path, code: str, token: str = "", *, xet: bool = False) -> Any:
    """Run code that knows all of huggingface_hub and `api`; return what it left in `answer`."""
    program = _PROLOGUE + textwrap.dedent(code) + "\nprint(json.dumps(answer))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(hub, home, token, xet=xet),
        cwd=home.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def hf(hub: Hub, home: Path, *arguments: str, token: str = "", xet: bool = False) -> str:
    """Run the `hf` command; return what it printed."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *arguments],
        env=environment(hub, home, token, xet=xet),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(hub: Hub, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    """Return the bytes of all files of a commit but .gitattributes."""
    return {
        path: data.read_bytes() if isinstance(data, Path) else data
        for path, data in hub.files(repo_id, revision).items()
        if path != ".gitattributes"
    }


def folder_contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, without what clients keep for themselves."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts and path.name != ".gitattributes"
    }
