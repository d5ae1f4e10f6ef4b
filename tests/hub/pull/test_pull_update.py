"""``adreg outdated`` and ``adreg pull --update``: what is newer on the Hub, and only that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import pytest
import torch
from hubserver import Hub
from running import Adreg

from adreg.registry import Registry


def states(adreg: Adreg, *names: str) -> dict[str, str]:
    """Return how each adapter stands."""
    ran = adreg("outdated", "--all", "--json", *names)
    return {one["reference"]: one["state"] for one in json.loads(ran.out)}


def edited(folder: Path, tmp_path: Path) -> Path:
    """Return the adapter's weights file with other numbers in it."""
    other = shutil.copytree(folder, tmp_path / "edited")

    def double(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] *= 2

    factory.edit_tensors(other, double)
    return other / "adapter_model.safetensors"


def test_a_newer_adapter_becomes_the_next_version(
    online: Hub, adapter_repo: str, adapter_folder: Path, tmp_path: Path, adreg: Adreg
) -> None:
    """Outdated names it, --update brings the changed file alone, under the name it has."""
    adreg("pull", adapter_repo, "--name", "team/mine")
    before = states(adreg)
    online.commit(adapter_repo, {"adapter_model.safetensors": edited(adapter_folder, tmp_path)})
    table = adreg("outdated")
    online.requests.clear()

    ran = adreg("pull", "--update", "--json")

    assert {"team/mine@1": "current"} == before
    assert 0 == table.code
    assert "team/mine@1\toutdated\talice/support\tmain\t" in table.out
    assert ["team/mine@2"] == [one["reference"] for one in json.loads(ran.out)["pulled"]]
    fetched = [one.path for one in online.requests if "/resolve/" in one.path]
    assert [
        f"/alice/support/resolve/{online.head(adapter_repo)}/adapter_model.safetensors"
    ] == fetched
    assert {"team/mine@2": "current"} == states(adreg)


def test_a_newer_card_fetches_the_card_alone(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """Weights that are stored are not fetched again for another file's sake."""
    adreg("pull", adapter_repo)
    online.commit(adapter_repo, {"README.md": b"# Better words\n"})
    online.requests.clear()

    ran = adreg("pull", adapter_repo, "--json")

    (one,) = json.loads(ran.out)["pulled"]
    assert (True, len(b"# Better words\n")) == (one["new"], one["fetched"])
    assert [] == [r for r in online.requests if "safetensors" in r.path]


def test_a_commit_that_changes_no_file_of_it(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """A newer commit with the same adapter is unchanged; an update fetches nothing for it."""
    adreg("pull", adapter_repo)
    online.commit(adapter_repo, {"optimizer.pt": b"other"})

    before = states(adreg)
    online.requests.clear()
    ran = adreg("pull", "--update", "alice/support", "--json")

    assert {"alice/support@1": "unchanged"} == before
    assert 1 == len(online.requests)
    (one,) = json.loads(ran.out)["pulled"]
    assert (False, 0) == (one["new"], one["fetched"])
    assert {"alice/support@1": "current"} == states(adreg)
    commits = [s.revision for s in Registry().show("alice/support").version.sources]
    assert online.head(adapter_repo) == commits[-1]


def test_pinned_and_gone(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """A pull at a commit is pinned and never asked for; a branch that is gone is told, exit 1."""
    online.commit(adapter_repo, {"NOTICE": b"on dev"}, branch="dev")
    adreg("pull", f"{adapter_repo}@{online.head(adapter_repo)}", "--name", "pinned")
    adreg("pull", f"{adapter_repo}@dev", "--name", "moving")
    online._repo(adapter_repo).branches.pop("dev")
    online.requests.clear()

    ran = adreg("outdated", "--all", "--json")

    told = {one["reference"]: one["state"] for one in json.loads(ran.out)}
    assert {"pinned@1": "pinned", "moving@1": "gone"} == told
    assert (1, "alice/support@dev: there is no such revision\n") == (ran.code, ran.err)
    assert 1 == len(online.requests)


@pytest.mark.parametrize("command", [("outdated", "team/own"), ("pull", "--update", "team/own")])
def test_what_was_not_pulled_is_not_followed(
    online: Hub, adapter_folder: Path, adreg: Adreg, command: tuple[str, ...]
) -> None:
    """A folder's adapter has no place on the Hub to ask."""
    Registry().add(adapter_folder, name="team/own")

    ran = adreg(*command)

    assert 1 == ran.code
    assert (
        "error: there is no pull recorded for 'team/own'\n"
        "hint: Only what `adreg pull` brought can be followed: pull it once.\n"
    ) == ran.err
    assert not online.requests
