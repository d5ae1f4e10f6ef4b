"""`adreg remote list`, `adreg remote check` and what `adreg show` tells of copies on the Hub."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hubserver import Hub
from pushing import Pusher

from adreg.registry.catalog import remotes, versions
from adreg.registry.catalog.records import Remote
from adreg.registry.names import Reference

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub 2.4 gives httpx2 a file in the old way (lfs.py, _upload_single_part).
    "ignore:Use .content=:DeprecationWarning"
)

REPO = "alice/support-lora"
OURS = ("--base-model", "org/tiny-llama")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def pushed(pusher: Pusher) -> Pusher:
    """team/one and team/two, each in a repository of its own."""
    for name in ("one", "two"):
        ran = pusher.push(f"team/{name}", f"alice/{name}", *OURS)
        assert ran.code == 0, ran.err
    return pusher


def states(pusher: Pusher, *arguments: str) -> tuple[int, dict[str, str]]:
    """Return the exit code of a check, and the state of each copy by its repository."""
    ran = pusher.run("remote", "check", *arguments, "--json")
    return ran.code, {one["remote"]["repo"]: one["state"] for one in json.loads(ran.out)}


def test_copies_are_listed_and_shown(pushed: Pusher, hub: Hub) -> None:
    """The list tells each push with its commit, all or one version's; show tells it too."""
    hub.requests.clear()
    one, two = hub.head("alice/one"), hub.head("alice/two")

    ran = pushed.run("remote", "list")

    assert ran.code == 0
    header, *lines = [line.split("\t") for line in ran.out.splitlines()]
    assert header == ["name", "how", "repository", "revision", "commit", "when"]
    assert [line[:5] for line in lines] == [
        ["team/one@1", "push", "alice/one", "main", one[:12]],
        ["team/two@1", "push", "alice/two", "main", two[:12]],
    ]
    mine = json.loads(pushed.run("remote", "list", "team/two", "--json").out)
    assert [entry["remote"]["commit"] for entry in mine] == [two]
    shown = pushed.run("show", "team/one").out
    assert f"pushed to alice/one@main, commit {one[:12]}" in shown
    assert hub.requests == []


def test_all_the_same(pushed: Pusher, hub: Hub) -> None:
    """Copies are the same right after a push, and after others changed the card or added files."""
    assert (0, {"alice/one": "same", "alice/two": "same"}) == states(pushed)
    hub.commit("alice/one", {"README.md": b"# New\n", "more.txt": b"more"})
    assert (0, {"alice/one": "same"}) == states(pushed, "team/one")


def test_a_change_is_told_with_who_and_what(pushed: Pusher, hub: Hub) -> None:
    """Other bytes, or none, in one of our files: changed, by whom, when, which; exit 1."""
    hub.commit("alice/one", {WEIGHTS: b"theirs" * 9}, message="Better weights")
    hub.commit("alice/two", {}, delete=["adapter_config.json"])

    ran = pushed.run("remote", "check", "--json")

    assert ran.code == 1
    one, two = json.loads(ran.out)
    assert (one["state"], one["files"], one["reason"]) == ("changed", [WEIGHTS], "Better weights")
    assert one["commit"] == hub.head("alice/one")
    assert one["by"]
    assert one["when"].startswith("20")
    assert (two["state"], two["files"]) == ("changed", ["adapter_config.json"])
    assert "\tchanged\talice/one\t" in pushed.run("remote", "check", "team/one").out


def test_gone_and_offline(pushed: Pusher, hub: Hub) -> None:
    """A repository or branch that is not there is gone; without a network it is offline."""
    with pushed.registry._context.catalog.write() as connection:
        key = versions.resolve(connection, Reference.parse("team/one"))
        at = datetime(2026, 11, 24, tzinfo=timezone.utc)
        for repo, revision in (("alice/never", "main"), ("alice/one", "no-branch")):
            copy = Remote("push", repo, "model", revision, "a" * 40, key.digest, at)
            remotes.record(connection, key, copy)
        connection.commit()
    ran = pushed.run("remote", "check", "team/one", "--json")
    assert ["same", "gone", "gone"] == [one["state"] for one in json.loads(ran.out)]
    assert ran.code == 1

    hub.stop()

    assert (1, {"alice/two": "offline"}) == states(pushed, "team/two")


def test_a_history_that_was_rewritten_is_compared_by_bytes(pushed: Pusher, hub: Hub) -> None:
    """The commit of the push is no longer there: the files are held against those here."""
    with pushed.registry._context.catalog.write() as connection:
        connection.exec_driver_sql("UPDATE remote SET commit_oid = ?", ("b" * 40,))
        connection.commit()
    assert (0, {"alice/one": "same"}) == states(pushed, "team/one")

    hub.commit("alice/one", {"adapter_config.json": b"{}"})

    (one,) = json.loads(pushed.run("remote", "check", "team/one", "--json").out)
    assert (one["state"], one["files"]) == ("changed", ["adapter_config.json"])
    assert one["reason"] == f"commit {'b' * 12} is no longer there"
