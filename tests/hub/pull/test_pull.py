"""``adreg pull`` of adapters that are well, from a Hub that is well."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from hubserver import Hub
from running import Adreg

from adreg.registry import Registry

ORDINARY = {"adapter_config.json", "adapter_model.safetensors", "README.md"}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder, by name."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def asked(hub: Hub, word: str = "") -> list[str]:
    """Return the paths of the requests with a word in them."""
    return [one.path for one in hub.requests if word in one.path]


def pulled(adreg: Adreg, *arguments: str) -> list[dict[str, Any]]:
    """Pull, and return what came."""
    ran = adreg("pull", *arguments, "--json")
    assert (0, "") == (ran.code, ran.err)
    return list(json.loads(ran.out)["pulled"])


def test_it_is_added_with_all_that_the_hub_knows(
    online: Hub, adapter_repo: str, adapter_folder: Path, adreg: Adreg
) -> None:
    """Bytes, licence, tags, author, base and commit are those of the Hub; no optimizer comes."""
    (one,) = pulled(adreg, adapter_repo, "--tag", "lang=de", "--alias", "prod")

    version = Registry().show("alice/support@prod").version
    stored = bytes_of(Registry()._context.store.folder(version.key.digest))
    wanted = bytes_of(adapter_folder)
    assert {name: wanted[name] for name in ORDINARY} == {name: stored[name] for name in ORDINARY}
    assert "optimizer.pt" not in stored
    assert not asked(online, "optimizer")
    assert sum(map(len, stored.values())) == one["fetched"] == one["bytes"]
    assert "apache-2.0" == version.content.licence
    head = online.head(adapter_repo)
    assert [("hub", adapter_repo, head)] == [
        (s.kind, s.location, s.revision) for s in version.sources
    ]
    tags = {str(tag) for tag in version.marks.tags}
    assert {"lang=de", "lora", "german", "author=alice", "base_model=someone/tiny-llama"} == tags
    (copy,) = Registry().remotes("alice/support")
    assert ("pull", adapter_repo, "main", head) == (
        copy.remote.direction,
        copy.remote.repo,
        copy.remote.revision,
        copy.remote.commit,
    )


def test_peft_loads_it_with_the_same_answers(
    adapter_repo: str, adapter_folder: Path, base_folder: Path, adreg: Adreg
) -> None:
    """The base with the pulled adapter answers as with the one that was uploaded."""
    pulled(adreg, adapter_repo, "--base", str(base_folder))
    folder = Registry()._context.store.folder(Registry().show(adapter_repo).version.key.digest)
    inputs = factory.example_inputs("llama")

    with torch.no_grad():
        mine = factory.load_adapter(base_folder, folder)(**inputs).logits
        theirs = factory.load_adapter(base_folder, adapter_folder)(**inputs).logits

    assert torch.equal(theirs, mine)


def test_a_repeat_is_one_request(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """An adapter that has not changed costs one request, and its marks are set all the same."""
    pulled(adreg, adapter_repo)
    online.requests.clear()

    (one,) = pulled(adreg, adapter_repo, "--tag", "again")

    assert 1 == len(online.requests)
    assert (False, 0) == (one["new"], one["fetched"])
    assert "again" in {tag.key for tag in Registry().show(adapter_repo).version.marks.tags}


def test_nothing_is_left_beside_the_store(adapter_repo: str, home: Path, adreg: Adreg) -> None:
    """What the store has is not kept a second time."""
    pulled(adreg, adapter_repo)

    left = [path for path in (home / "downloads").rglob("*") if path.is_file()]
    assert [".lock"] == [path.suffix for path in left]


def test_the_token_goes_to_the_hub_alone(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """The storage host that large files come from does not see the token; nor does a reader."""
    ran = adreg("pull", adapter_repo, "--json")

    to_cdn = [one for one in online.requests if one.path.startswith("/cdn/")]
    to_hub = [one for one in online.requests if not one.path.startswith("/cdn/")]
    assert to_cdn
    assert not any("authorization" in one.headers for one in to_cdn)
    assert all("Bearer hf_alice" == one.headers["authorization"] for one in to_hub)
    assert "hf_alice" not in ran.out + ran.err


def test_a_dry_run_fetches_and_writes_nothing(
    online: Hub, adapter_repo: str, home: Path, adreg: Adreg
) -> None:
    """A dry run asks once, tells what would come, and leaves the home empty."""
    ran = adreg("pull", adapter_repo, "--dry-run")

    assert 0 == ran.code
    assert ran.out.startswith(f"would pull alice/support at {online.head(adapter_repo)[:12]} as ")
    assert 1 == len(online.requests)
    assert not list(home.iterdir())


@pytest.mark.parametrize("revision", ["v1", "dev", "commit"])
def test_a_revision(online: Hub, adapter_repo: str, adreg: Adreg, revision: str) -> None:
    """A tag, a branch or a commit is pulled at its commit, not at main's."""
    first = online.head(adapter_repo)
    online.tag(adapter_repo, "v1")
    online.commit(adapter_repo, {"NOTICE": b"dev"}, branch="dev")
    online.commit(adapter_repo, {"NOTICE": b"newer on main"})
    text = first if revision == "commit" else revision

    (one,) = pulled(adreg, f"hf://{adapter_repo}@{text}")

    wanted = first if revision in {"v1", "commit"} else online.head(adapter_repo, revision)
    assert wanted == one["commit"]
    shown = Registry().show(f"hf://{adapter_repo}@{text}").version
    assert one["reference"] == str(shown.key)
    assert ("NOTICE" in one["files"]) == (revision == "dev")


def _several(hub: Hub, folder: Path, tmp_path: Path) -> str:
    """Make a repository with two adapters in folders of it, the second with another alpha."""
    other = shutil.copytree(folder, tmp_path / "other")
    factory.edit_config(other, lora_alpha=3)
    hub.create_repo("alice/many")
    files = {"README.md": b"# Two\n"}
    for name, source in (("first", folder), ("runs/second", other)):
        files |= {f"{name}/{file}": data for file, data in bytes_of(source).items()}
    hub.commit("alice/many", files)
    return "alice/many"


def test_one_of_several(online: Hub, adapter_folder: Path, tmp_path: Path, adreg: Adreg) -> None:
    """Of a repository with several adapters one is named; without that all are listed."""
    repo = _several(online, adapter_folder, tmp_path)

    ran = adreg("pull", repo)
    (one,) = pulled(adreg, repo, "--subfolder", "runs/second")

    assert 1 == ran.code
    assert (
        "error: alice/many: it holds 2 adapters\n"
        "hint: Name one with --subfolder, or pass --all: first, runs/second\n"
    ) == ran.err
    assert ("alice/many-runs-second@1", "runs/second") == (one["reference"], one["subfolder"])
    (source,) = Registry().show(one["reference"]).version.sources
    assert "alice/many/runs/second" == source.location
    assert [] == [path for path in asked(online, "resolve") if "/first/" in path]


def test_all_of_several(online: Hub, adapter_folder: Path, tmp_path: Path, adreg: Adreg) -> None:
    """--all brings every adapter of a repository, and again with one request."""
    repo = _several(online, adapter_folder, tmp_path)

    both = pulled(adreg, repo, "--all", "--name", "team")
    online.requests.clear()
    again = pulled(adreg, repo, "--all", "--name", "team")

    assert ["team/many-first@1", "team/many-runs-second@1"] == [one["reference"] for one in both]
    assert [False, False] == [one["new"] for one in again]
    assert 1 == len(online.requests)


def test_all_of_an_owner(
    online: Hub, adapter_repo: str, adapter_folder: Path, adreg: Adreg
) -> None:
    """--all-from brings what has the tag, and passes over what is no adapter."""
    online.create_repo("alice/notes")
    online.commit("alice/notes", {"README.md": b"---\ntags:\n- german\n---\n"})
    online.create_repo("alice/english")
    files = {**bytes_of(adapter_folder), "README.md": b"---\ntags:\n- english\n---\n"}
    online.commit("alice/english", files)

    found = pulled(adreg, "--all-from", "alice", "--filter", "german")

    assert [adapter_repo] == [one["repo"] for one in found]


def test_a_list(
    adapter_repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adreg: Adreg
) -> None:
    """A list from a file or stdin is pulled; what is refused in it does not stop the rest."""
    text = f"# mine\n\nalice/missing\nhf://{adapter_repo}  # the good one\n"
    (tmp_path / "list.txt").write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    from_file = adreg("pull", "--from", str(tmp_path / "list.txt"), "--json")
    from_stdin = adreg("pull", "--from", "-")

    told = json.loads(from_file.out)
    assert (1, 1) == (from_file.code, from_stdin.code)
    assert [adapter_repo] == [one["repo"] for one in told["pulled"]]
    assert [("alice/missing", "UnknownRepo")] == [
        (one["source"], one["error"]) for one in told["refused"]
    ]
    assert "is known already, as alice/support@1" in from_stdin.out
    assert "0 adapters pulled, 1 known already, 1 refused\n" in from_stdin.err


def test_a_stored_hub_reference_needs_no_network(
    online: Hub, adapter_repo: str, adreg: Adreg
) -> None:
    """hf://OWNER/REPO names what was pulled, with the Hub gone; before that it says how to pull."""
    before = adreg("show", f"hf://{adapter_repo}")
    pulled(adreg, adapter_repo)
    online.stop()

    after = adreg("show", f"hf://{adapter_repo}@main", "--json")

    assert (1, 0) == (before.code, after.code)
    assert "hint: Pull it first: adreg pull hf://alice/support; " in before.err
