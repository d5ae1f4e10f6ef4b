"""The Hugging Face cache is read by its layout, as huggingface_hub writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, try_to_load_from_cache

from adreg.registry.bases.hf_cache import (
    close_repos,
    default_cache,
    find_snapshot,
    identify,
    repo_of,
)

OLD = "a" * 40
NEW = "b" * 40


def add(cache: Path, repo: str, commit: str, *refs: str, **files: str) -> Path:
    """Put a snapshot in a cache: blobs, links to them, and refs."""
    home = cache / ("models--" + repo.replace("/", "--"))
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    for name, text in ({"config_json": "{}"} | files).items():
        blob = home / "blobs" / f"{commit}{name}"
        blob.write_text(text)
        (snapshot / name.replace("_", ".")).symlink_to(f"../../blobs/{blob.name}")
    for ref in refs:
        path = home / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with two snapshots of one model, and one of another without refs."""
    add(tmp_path, "o/llama", OLD, "v1.0", "refs/pr/3")
    add(tmp_path, "o/llama", NEW, "main")
    add(tmp_path, "gpt2", OLD)
    return tmp_path


def test_it_is_the_layout_of_huggingface_hub(cache: Path) -> None:
    """What these tests build is a cache for huggingface_hub too."""
    found = try_to_load_from_cache("o/llama", "config.json", cache_dir=cache)

    snapshot = find_snapshot(cache, "o/llama")

    assert str(snapshot) == str(Path(str(found)).parent)
    assert {"o/llama", "gpt2"} == {repo.repo_id for repo in scan_cache_dir(cache).repos}


@pytest.mark.parametrize(
    ("revision", "commit"),
    [
        (None, NEW),
        ("main", NEW),
        ("v1.0", OLD),
        ("refs/pr/3", OLD),
        (OLD, OLD),
        (OLD[:7], OLD),
        (OLD[:6], None),
        ("c" * 40, None),
        ("missing", None),
        ("../refs/main", None),
        ("/etc/passwd", None),
    ],
)
def test_revisions(cache: Path, revision: str | None, commit: str | None) -> None:
    """Branches, tags, pull requests and commits are found, and nothing outside the refs."""
    snapshot = find_snapshot(cache, "o/llama", revision)

    assert commit == (snapshot and snapshot.name)


def test_only_snapshot(cache: Path) -> None:
    """A repository fetched by commit has no main: its only snapshot is meant, one of two is not."""
    found = find_snapshot(cache, "gpt2")

    assert found is not None
    assert found.name == OLD
    add(cache, "gpt2", NEW)
    assert find_snapshot(cache, "gpt2") is None


def test_broken_caches(cache: Path) -> None:
    """A ref to nowhere, a ref of rubbish, and names that climb."""
    refs = cache / "models--o--llama" / "refs"
    (refs / "gone").write_text("c" * 40)
    (refs / "rubbish").write_bytes(b"\xff../../x")

    assert find_snapshot(cache, "o/llama", "gone") is None
    assert find_snapshot(cache, "o/llama", "rubbish") is None
    assert find_snapshot(cache, "o/missing") is None
    assert find_snapshot(cache, "../x") is None
    assert find_snapshot(cache / "missing", "o/llama") is None


def test_identify(cache: Path) -> None:
    """A snapshot's folder tells repository and commit, also through a link; others do not."""
    snapshot = find_snapshot(cache, "o/llama")
    assert snapshot is not None
    link = cache / "link"
    link.symlink_to(snapshot)

    assert ("o/llama", NEW) == identify(snapshot) == identify(link)
    assert identify(cache) is None
    assert identify(snapshot.parent) is None
    assert repo_of(cache / "models--gpt2") == "gpt2"


def test_close_repos(cache: Path) -> None:
    """Near misses, other cases and other owners are offered."""
    assert close_repos(cache, "o/lama") == ("o/llama",)
    assert close_repos(cache, "O/Llama") == ("o/llama",)
    assert close_repos(cache, "somebody-else/llama") == ("o/llama",)
    assert close_repos(cache, "zzz/yyy") == ()
    assert close_repos(cache / "missing", "o/llama") == ()


@pytest.mark.parametrize(
    ("name", "value", "folder"),
    [("HF_HUB_CACHE", "/x/hub", "/x/hub"), ("HF_HOME", "/x/home", "/x/home/hub")],
)
def test_default_cache(name: str, value: str, folder: str) -> None:
    """The environment says where the cache is; huggingface_hub reads it once a process."""
    code = "from adreg.registry.bases import hf_cache; print(hf_cache.default_cache())"
    environment = {name: value, "PYTHONPATH": ":".join(sys.path), "HOME": "/nowhere"}

    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert folder == done.stdout.strip()
    assert default_cache().name == "hub"
