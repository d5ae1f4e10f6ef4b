"""A base is found by its folder or in the Hugging Face cache, never on the network."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest

from adreg.registry.bases.base import read_base
from adreg.registry.bases.locate import Located, locate
from adreg.registry.errors import NotFound

COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with one real model: its files are links to blobs."""
    base = factory.make_base(tmp_path / "llama")
    home = tmp_path / "hub" / "models--owner--tiny-llama"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for path in base.iterdir():
        shutil.copy(path, home / "blobs" / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def snapshot_of(cache: Path) -> Path:
    """Return the folder of the cache's one snapshot."""
    return cache / "models--owner--tiny-llama" / "snapshots" / COMMIT


@pytest.mark.parametrize(
    "text",
    [
        "owner/tiny-llama",
        "hf://owner/tiny-llama",
        "owner/tiny-llama@main",
        f"hf://owner/tiny-llama@{COMMIT}",
        "owner/tiny-llama@0123456",
    ],
)
def test_cached(cache: Path, text: str) -> None:
    """Every spelling of a cached model gives its snapshot, with repository and commit."""
    found = locate(text, cache_dir=cache)

    assert Located(snapshot_of(cache), "owner/tiny-llama", COMMIT) == found


def test_snapshot_is_read_through_its_links(cache: Path) -> None:
    """A base in the cache is a base, and knows where it is from."""
    base = read_base(locate("owner/tiny-llama", cache_dir=cache).folder)

    assert ("owner/tiny-llama", COMMIT) == (base.hub_repo, base.revision)
    assert "tokenizer.json" in base.side_files


def test_folders(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is itself; a snapshot and the repository's folder in the cache are recognised."""
    local = cache.parent / "llama"
    known = Located(snapshot_of(cache), "owner/tiny-llama", COMMIT)

    assert Located(local, None, None) == locate(str(local))
    assert known == locate(str(snapshot_of(cache)))
    assert known == locate(str(cache / "models--owner--tiny-llama"))
    monkeypatch.chdir(cache.parent)
    assert Located(Path("llama"), None, None) == locate("llama", cache_dir=cache)
    assert Located(Path("./llama"), None, None) == locate("./llama", cache_dir=cache)
    monkeypatch.setenv("HOME", str(cache.parent))
    assert Located(local, None, None) == locate("~/llama", cache_dir=cache)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("/no/such/folder", "no folder '/no/such/folder'", "OWNER/REPO"),
        ("./nothing", "no folder", "OWNER/REPO"),
        ("owner/tiny-lama", "or model in the Hugging Face cache", "'owner/tiny-llama'"),
        ("Owner/Tiny-Llama", "or model in the Hugging Face cache", "'owner/tiny-llama'"),
        ("else/nothing-like-it", "in the Hugging Face cache", "hf download else/nothing-like-it"),
        ("owner/tiny-llama@v9", "no revision in the", "--revision v9"),
        ("a/b/c", "no base 'a/b/c'", "OWNER/REPO[@REVISION]"),
        ("hf://../../etc", "no base", "OWNER/REPO[@REVISION]"),
        ("owner/tiny-llama@../x", "no base", "OWNER/REPO[@REVISION]"),
        ("", "no base ''", "OWNER/REPO"),
        ("x" * 5000, "no base", "OWNER/REPO"),
        ("/" + "x" * 5000, "no folder", "OWNER/REPO"),
        ("a\0b", "no base", "OWNER/REPO"),
        ("~nobody-of-this-name/x", "no folder", "OWNER/REPO"),
    ],
)
def test_not_found(cache: Path, text: str, words: str, hint: str) -> None:
    """What is not there is said with near names, or with how to get it."""
    with pytest.raises(NotFound) as caught:
        locate(text, cache_dir=cache)

    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_file_instead_of_folder(cache: Path) -> None:
    """A file is no base."""
    with pytest.raises(NotFound, match="there is no folder"):
        locate(str(cache.parent / "llama" / "config.json"), cache_dir=cache)
