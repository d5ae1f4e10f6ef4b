"""Bases on the Hub: fetched when that is asked for, else judged by their headers alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import factory
import pytest
from hubserver import Fault, Hub
from running import Adreg

from adreg.registry import Registry
from adreg.registry.errors import HubError
from adreg.registry.hub import bases, headers
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient
from adreg.registry.progress import SILENT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty Hugging Face cache, which huggingface_hub takes in this process."""
    folder = tmp_path / "hf-cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return folder


def put_base(hub: Hub, folder: Path, repo: str = "alice/tiny") -> str:
    """Put a base on the Hub."""
    hub.create_repo(repo)
    hub.commit(repo, {path.name: path for path in folder.iterdir() if path.is_file()})
    hub.requests.clear()
    return repo


@pytest.mark.parametrize("shard_size", [None, 40_000])
def test_check_reads_headers_alone(  # noqa: PLR0917
    online: Hub,
    adapter_folder: Path,
    cache: Path,
    tmp_path: Path,
    adreg: Adreg,
    shard_size: int | None,
) -> None:
    """A base that is not here is judged as if it were, and no weight comes."""
    local = factory.make_base(tmp_path / "base", shard_size=shard_size)
    repo = put_base(online, local)
    here = json.loads(adreg("check", str(adapter_folder), "--base", str(local), "--json").out)

    ran = adreg("check", str(adapter_folder), "--base", repo, "--json")

    told = json.loads(ran.out)
    assert (0, repo, f"hf://{repo}") == (ran.code, told["base"], told["base_folder"])
    assert (here["verdict"]["grade"], here["verdict"]["matched"]) == (
        told["verdict"]["grade"],
        told["verdict"]["matched"],
    )
    of_weights = [one for one in online.requests if one.path.startswith("/cdn/")]
    assert of_weights
    assert all(one.headers["range"].startswith("bytes=0-") for one in of_weights)
    assert not cache.exists()


def test_check_against_the_wrong_base(
    online: Hub, adapter_folder: Path, cache: Path, tmp_path: Path, adreg: Adreg
) -> None:
    """A base that does not fit is found out without its weights."""
    repo = put_base(online, factory.make_base(tmp_path / "gpt2", "gpt2"))

    ran = adreg("check", str(adapter_folder), "--base", repo)

    assert 1 == ran.code
    assert ran.out.startswith(f"incompatible: {adapter_folder} on {repo}, 0 of ")
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
def test_a_repository_that_is_no_base(online: Hub, adapter_folder: Path, adreg: Adreg) -> None:
    """A repository without a checkpoint is told; an unknown one too."""
    online.create_repo("alice/notes")

    notes = adreg("check", str(adapter_folder), "--base", "alice/notes")
    unknown = adreg("check", str(adapter_folder), "--base", "alice/unknown")

    assert (
        "error: alice/notes: it is no model of transformers in safetensors\n"
        "hint: Name the base that the adapter was trained on.\n"
    ) == notes.err
    assert unknown.err.startswith("error: alice/unknown: there is no such repository on the Hub")


def test_a_header_that_lies(
    online: Hub, adapter_folder: Path, base_folder: Path, cache: Path, adreg: Adreg
) -> None:
    """A file that is no safetensors is refused at its first bytes."""
    repo = put_base(online, base_folder)
    online.commit(repo, {"model.safetensors": b"\xff" * 100})

    ran = adreg("check", str(adapter_folder), "--base", repo)

    assert (
        "error: alice/tiny/model.safetensors: it does not begin with the header of a"
        " safetensors file\n"
    ) == ran.err
    assert not cache.exists()


def test_the_base_is_fetched_when_asked_for(
    online: Hub, adapter_folder: Path, base_folder: Path, cache: Path, adreg: Adreg
) -> None:
    """--fetch-base brings the base that the adapter names into the cache, and records it."""
    base = put_base(online, base_folder)
    files = {p.name: p.read_bytes() for p in adapter_folder.iterdir() if p.is_file()}
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps(config | {"base_model_name_or_path": base}).encode()
    online.create_repo("alice/support")
    online.commit("alice/support", files)

    ran = adreg("pull", "alice/support", "--fetch-base", "--json")

    assert 0 == ran.code, ran.err
    version = Registry().show("alice/support").version
    assert version.base is not None
    assert base in version.base.aliases
    snapshot = cache / "models--alice--tiny" / "snapshots" / online.head(base)
    for name in ("config.json", "model.safetensors"):
        assert (base_folder / name).read_bytes() == (snapshot / name).read_bytes()
    assert os.fspath(snapshot) == os.fspath(version.base.facts.location)


def test_a_base_with_a_wrong_byte(
    online: Hub, adapter_folder: Path, base_folder: Path, cache: Path, adreg: Adreg
) -> None:
    """huggingface_hub takes a flipped byte for right; it is found and removed from the cache."""
    base = put_base(online, base_folder)
    files = {p.name: p.read_bytes() for p in adapter_folder.iterdir() if p.is_file()}
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps(config | {"base_model_name_or_path": base}).encode()
    online.create_repo("alice/support")
    online.commit("alice/support", files)
    large = online.files(base)["model.safetensors"]
    assert isinstance(large, Path)
    online.faults.append(Fault(f"GET /cdn/.*{large.name}", "corrupt", at=5000))

    ran = adreg("pull", "alice/support", "--fetch-base")
    again = adreg("pull", "alice/support", "--fetch-base")

    assert (
        "error: alice/tiny/model.safetensors: it is not what the Hub's digest says\n"
        "hint: Fetch it again: the damaged file is removed from the cache.\n"
    ) == ran.err
    assert (1, 0) == (ran.code, again.code)
    snapshot = cache / "models--alice--tiny" / "snapshots" / online.head(base)
    wrong = (base_folder / "model.safetensors").read_bytes()
    assert wrong == (snapshot / "model.safetensors").read_bytes()


def test_a_branch_that_moves_while_a_base_is_fetched(
    online: Hub, base_folder: Path, cache: Path
) -> None:
    """What came is compared with its own commit, and nothing of the cache is removed for that."""
    repo = put_base(online, base_folder)
    client = HubClient()
    seen = client.info(repo)
    online.commit(repo, {"config.json": b"{}"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "info", lambda *_: seen)
        folder = bases.fetch(client, repo, None, SILENT)

    assert seen.commit != online.head(repo) == folder.name
    assert folder.is_relative_to(cache)
    assert b"{}" == (folder / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["a\x00.safetensors", "a\x1b[2J.safetensors", "a:b.safetensors"])
@pytest.mark.usefixtures("cache")
def test_a_base_with_a_name_that_must_not_be_written(
    online: Hub, base_folder: Path, tmp_path: Path, name: str
) -> None:
    """Weight files too are written under no name that a folder here would be refused for."""
    repo = put_base(online, base_folder)
    client = HubClient()
    info = client.info(repo)
    entries = (*(info.files or ()), Entry(name, 100, "0" * 40, "0" * 64))

    with pytest.raises(HubError, match="has characters that are not allowed"):
        headers.fetch(client, repo, info.commit, entries, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
