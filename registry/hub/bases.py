"""A base from the Hub into the Hugging Face cache, and every file of it hashed after that."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.errors import HubDamaged
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.download import is_file
from adreg.registry.progress import Progress

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*")
"""What a merge takes of a base; pickles and code are not fetched."""


def fetch(client: HubClient, repo: str, revision: str | None, progress: Progress) -> Path:
    """Return the snapshot of a base in the cache, fetched by huggingface_hub and verified by us.

    huggingface_hub 2.4 compares sizes alone (file_download.py). Raises HubError;
    HubDamaged names a wrong file, which is removed from the cache.
    """
    info = client.info(repo, revision or "main")
    files = info.files if info.files is not None else client.tree(repo, info.commit)
    with client.guarded(repo):
        folder = Path(
            client.api.snapshot_download(
                repo, revision=revision or "main", allow_patterns=list(_WANTED)
            )
        )
    if folder.name != info.commit:
        # The branch moved, or huggingface_hub fell back on what it had fetched before.
        files = client.tree(repo, folder.name)
    by_name = {entry.path: entry for entry in files}
    there = [(name, by_name[name]) for name in by_name if (folder / name).is_file()]
    progress.start(f"Verifying {repo}", sum(entry.size for _, entry in there))
    try:
        for name, entry in there:
            if not is_file(folder / name, entry, progress.advance):
                (folder / name).resolve().unlink()
                (folder / name).unlink()
                advice = "Fetch it again: the damaged file is removed from the cache."
                raise HubDamaged(f"{repo}/{name}", "it is not what the Hub's digest says", advice)
    finally:
        progress.finish()
    return folder
