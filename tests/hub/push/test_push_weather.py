"""Pushes in bad weather: others' commits, lost answers, kills, refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factory import edit_tensors
from hubserver import Fault, Hub
from hubserver.faults import Kind
from pushing import TOKEN, Pusher

from adreg.registry.hub import branches
from adreg.registry.hub.client import HubClient

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub 2.4 gives httpx2 a file in the old way (lfs.py, _upload_single_part).
    "ignore:Use .content=:DeprecationWarning"
)

REPO = "alice/support-lora"
OURS = ("--base-model", "org/tiny-llama")
SIDE = {".gitattributes", "README.md"}
WEIGHTS = "adapter_model.safetensors"


def sha(file: bytes | Path) -> str:
    """Return the SHA-256 of a file as the Hub gave it."""
    return hashlib.sha256(file if isinstance(file, bytes) else file.read_bytes()).hexdigest()


def commits_sent(hub: Hub) -> int:
    """Return how many commits were asked for."""
    return sum("/commit/" in one.path and one.method == "POST" for one in hub.requests)


@pytest.mark.parametrize("kind", ["after_commit_500", "after_commit_drop"])
def test_an_answer_that_is_lost_is_no_second_commit(pusher: Pusher, hub: Hub, kind: Kind) -> None:
    """The commit was made and its answer lost: it is found by its content, and recorded."""
    hub.faults.append(Fault(match=r"POST /api/models/.*/commit/", kind=kind, times=1))

    ran = pusher.push("team/one", REPO, *OURS, "--json")

    assert ran.code == 0, ran.err
    assert len(hub.commits(REPO)) == 2
    assert commits_sent(hub) == 1
    (known,) = pusher.registry.remotes("team/one")
    assert known.remote.commit == hub.head(REPO) == json.loads(ran.out)["commit"]


def test_a_lost_pull_request_is_no_second_one(pusher: Pusher, hub: Hub) -> None:
    """The same for a pull request."""
    hub.create_repo(REPO)
    hub.faults.append(Fault(match=r"POST /api/models/.*/commit/", kind="after_commit_500", times=1))

    ran = pusher.push("team/one", REPO, *OURS, "--create-pr", "--json")

    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["revision"] == "refs/pr/1"
    assert commits_sent(hub) == 1


def test_a_commit_that_fails_is_tried_again(pusher: Pusher, hub: Hub) -> None:
    """503 before the commit was made, twice, and 429 with a Retry-After: one commit in the end."""
    match = r"POST /api/models/.*/commit/"
    hub.faults.append(Fault(match=match, kind="status", status=503, times=2))
    hub.faults.append(
        Fault(match=match, kind="status", status=429, times=1, headers={"Retry-After": "1"})
    )

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 0, ran.err
    assert len(hub.commits(REPO)) == 2


def test_somebody_was_faster(pusher: Pusher, hub: Hub) -> None:
    """A commit in between (412) is shown: which, whose, what; it stays, and nothing is recorded."""
    hub.create_repo(REPO)
    hub.faults.append(Fault(match=r"POST /api/models/.*/commit/", kind="race", times=1))

    ran = pusher.push("team/one", REPO, *OURS)

    theirs = hub.head(REPO)
    assert ran.code == 1
    assert f"{REPO} at main is not as it was last seen: while this push ran, commit" in ran.err
    assert theirs[:12] in ran.err
    assert "hint: Look at it" in ran.err
    assert len(hub.commits(REPO)) == 2
    assert pusher.registry.remotes() == ()

    again = pusher.push("team/one", REPO, *OURS)
    assert again.code == 0, again.err
    assert [theirs, hub.commits(REPO)[-1].oid] == [one.oid for one in hub.commits(REPO)[1:]]


def test_a_change_of_somebody_elses_is_not_written_over(pusher: Pusher, hub: Hub) -> None:
    """A file of ours that was changed there since is told, and replaced only with --overwrite."""
    pusher.push("team/one", REPO, *OURS)
    hub.commit(REPO, {WEIGHTS: b"theirs" * 9}, message="Better weights")
    theirs = hub.head(REPO)

    ran = pusher.push("team/two", REPO, *OURS)

    assert ran.code == 1
    assert f"commit {theirs[:12]} by" in ran.err
    assert f"('Better weights') changed {WEIGHTS}" in ran.err
    assert "Push again with --overwrite to replace these files." in ran.err
    assert theirs == hub.head(REPO)
    assert pusher.push("team/two", REPO, *OURS, "--overwrite").code == 0


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_that_somebody_makes_meanwhile(
    pusher: Pusher, hub: Hub, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    """One made between the look and the making is not written over, nor pushed to if public."""
    made = branches.create_repo

    def faster(client: HubClient, repo: str, *, private: bool) -> None:
        hub.create_repo(repo)
        hub.commit(repo, {"notes.md" if private else WEIGHTS: b"of somebody else"})
        made(client, repo, private=private)

    monkeypatch.setattr(branches, "create_repo", faster)

    ran = pusher.push("team/one", REPO, *OURS, *["--private"][: int(private)])

    assert ran.code == 1
    assert f"{REPO}: somebody else made it meanwhile" in ran.err
    assert not pusher.registry.remotes("team/one")
    assert commits_sent(hub) == 0


def test_files_that_adreg_never_put_there_are_not_written_over(pusher: Pusher, hub: Hub) -> None:
    """A push to the wrong repository is refused, with the names of what it would replace."""
    hub.create_repo(REPO)
    before = hub.commit(REPO, {WEIGHTS: b"another" * 9})

    ran = pusher.push("team/one", REPO, *OURS, "--json")

    assert ran.code == 1
    told = json.loads(ran.err)
    assert told["error"] == "PushRefused"
    assert told["message"] == (
        f"team/one@1 is not pushed to {REPO}: it has other files of these names, which adreg"
        f" did not put there: {WEIGHTS}"
    )
    assert "--overwrite" in told["hint"]
    assert before == hub.head(REPO)


def test_a_gitignore_there_leaves_nothing_out_unnoticed(pusher: Pusher, hub: Hub) -> None:
    """A file that the repository's .gitignore would drop silently is an error before the commit."""
    hub.create_repo(REPO)
    before = hub.commit(REPO, {".gitignore": b"*.safetensors\n"})

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 1, "the server does not know .gitignore" if ran.code == 0 else ran.err
    assert "a .gitignore in that repository leaves it out" in ran.err
    assert before == hub.head(REPO)


@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        (REPO, "hf_readonly", ("access is denied", "Use a token with that right")),
        (REPO, "", ("it is not there, and may not be made", "Log in with `hf auth login`")),
        (REPO, "hf_wrong", ("does not accept this token", "Get a new one")),
        ("alice/..bad", TOKEN, ("'alice/..bad' is not allowed", "Use letters")),
        ("alice/a--b", TOKEN, ("'alice/a--b' is not allowed", "Use letters")),
        ("alice", TOKEN, ("it is not OWNER/REPO", "Use letters")),
    ],
)
def test_who_may_not_push_is_told_why(
    pusher: Pusher, hub: Hub, repo: str, token: str, words: tuple[str, str]
) -> None:
    """Each refusal of the Hub or of a name is two lines: what, and what to do; nothing is left."""
    hub.add_user("carol", "hf_readonly", write=False)

    ran = pusher.push("team/one", repo, *OURS, token=token)

    assert ran.code == 1
    error, hint = ran.err.splitlines()
    assert words[0] in error
    assert words[1] in hint
    assert pusher.registry.remotes() == ()


def test_a_base_that_has_no_name_on_the_hub(pusher: Pusher, hub: Hub) -> None:
    """Without a Hub id of the base nothing is sent; a name of it that the Hub knows will do."""
    ran = pusher.push("team/one", REPO)

    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"error: team/one@1 is not pushed to {REPO}: it is not known what the Hub calls its base",
        "hint: Name it with --base-model OWNER/NAME.",
    ]
    assert not hub.exists(REPO)
    hub.create_repo("org/known")
    pusher.registry.add_base(str(pusher.shop.base), name="tiny", aliases=["org/known"])
    done = pusher.push("team/one", REPO, "--json")
    assert json.loads(done.out)["base_model"] == "org/known"
    bad = pusher.push("team/one", REPO, "--base-model", "/models/base")
    assert "it is not OWNER/NAME on the Hub" in bad.err


def test_a_licence_that_nobody_knows(pusher: Pusher, hub: Hub, tmp_path: Path) -> None:
    """An adapter without a licence is pushed with one, or with the word that it is not known."""
    folder = shutil.copytree(pusher.shop.one, tmp_path / "bare")
    edit_tensors(folder, lambda tensors: tensors.update({k: v * 2 for k, v in tensors.items()}))
    pusher.registry.add(folder, name="bare", base="tiny")

    ran = pusher.push("bare", REPO, *OURS)

    assert ran.code == 1
    assert "no licence is known for the adapter bare@1" in ran.err
    assert not hub.exists(REPO)
    assert pusher.push("bare", REPO, *OURS, "--allow-unknown-license").code == 0
    assert b"licence of this adapter is not known" in bytes(hub.files(REPO, "main")["README.md"])


def test_metadata_that_the_hub_refuses_is_told_before_anything_is_sent(
    pusher: Pusher, hub: Hub
) -> None:
    """A licence that is not on the Hub's list: its words are shown, and there is no repository."""
    ran = pusher.push("team/one", REPO, *OURS, "--license", "my-own-licence")

    assert ran.code == 1
    assert "the Hub does not take its metadata" in ran.err
    assert "hint: Give --license and --base-model as the Hub writes them" in ran.err
    assert not hub.exists(REPO)


def test_damaged_files_are_not_sent(pusher: Pusher, hub: Hub) -> None:
    """Bytes that are not what was recorded stop a push before the repository is made."""
    version = pusher.registry.show("team/one").version
    blob = next(
        path
        for path in pusher.home.rglob("blobs/*")
        if path.name in {one.sha256 for one in version.content.files if one.name == WEIGHTS}
    )
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 1
    assert f"{WEIGHTS} is not what was recorded" in ran.err
    assert not hub.exists(REPO)


def test_offline(pusher: Pusher, hub: Hub) -> None:
    """Offline mode and a Hub that is gone are told; the catalog stays as it is."""
    pusher.offline = True
    assert "offline mode is on" in pusher.push("team/one", REPO, *OURS).err
    pusher.offline = False
    hub.stop()
    assert "cannot be reached" in pusher.push("team/one", REPO, *OURS).err
    assert pusher.registry.remotes() == ()


def test_a_killed_push_goes_on_where_it_was(pusher: Pusher, hub: Hub, tmp_path: Path) -> None:
    """After kill -9 at any moment no uploaded file is sent again, and one commit made."""
    large(pusher, tmp_path / "big", megabytes=24, files=12)
    hub.faults.append(Fault(match=r"PUT ", kind="slow", seconds=0.3, times=1000))
    for moment in (1, 6, 9):
        ended, first = uploads(hub, ended=True), len(hub.requests)
        process = pusher.start("push", "big", REPO, *OURS)
        try:
            wait_for_uploads(hub, moment)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert ended & uploads(hub, first) == set()
    assert len(hub.commits(REPO)) == 1
    ended, first = uploads(hub, ended=True), len(hub.requests)
    assert len(ended) >= 9

    ran = pusher.push("big", REPO, *OURS)

    assert ran.code == 0, ran.err
    assert len(hub.commits(REPO)) == 2
    assert ended & uploads(hub, first) == set()
    version = pusher.registry.show("big").version
    there = {name: sha(file) for name, file in hub.files(REPO, "main").items()}
    assert {o.name: o.sha256 for o in version.content.files if o.name != "README.md"} == {
        name: digest for name, digest in there.items() if name not in SIDE
    }


def uploads(hub: Hub, first: int = 0, *, ended: bool = False) -> set[str]:
    """Return the objects that were sent since a request, or those whose upload has ended."""
    sent = [one for one in hub.requests[first:] if one.method == "PUT"]
    return {one.path.partition("?")[0] for one in sent if not ended or one.status == 200}


def large(pusher: Pusher, folder: Path, megabytes: int, files: int) -> None:
    """Add the adapter ``big``: team/one with that many random bytes beside it."""
    random = np.random.default_rng(7)
    shutil.copytree(pusher.shop.one, folder)
    for number in range(files):
        data = b"\0" + random.bytes((megabytes << 20) // files)  # so the Hub takes it as large
        (folder / f"tokenizer-{number}.json").write_bytes(data)
    pusher.registry.add(folder, name="big", base="tiny", licence="mit")


def wait_for_uploads(hub: Hub, number: int) -> None:
    """Wait until so many uploads have ended."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done = sum(one.method == "PUT" and one.status == 200 for one in list(hub.requests))
        if done >= number:
            return
        time.sleep(0.01)
    raise TimeoutError(number)


@pytest.mark.parametrize(
    ("readme", "words"),
    [
        (b"\xff\xfe", "README.md there is not UTF-8"),
        (b"x" * 1_100_000, "README.md there is larger than 1,048,576 bytes"),
        (b"---\na: [\n---\n", "its metadata is no YAML"),
    ],
)
def test_a_card_there_that_cannot_be_renewed(
    pusher: Pusher, hub: Hub, readme: bytes, words: str
) -> None:
    """A README that adreg cannot read through is left alone, and the push with it."""
    hub.create_repo(REPO)
    before = hub.commit(REPO, {"README.md": readme})

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 1
    assert f"error: the model card cannot be written: {words}" in ran.err
    assert "hint: Mend its README.md on the Hub, and push again." in ran.err
    assert before == hub.head(REPO)


def test_a_pull_request_has_nothing_to_tag(pusher: Pusher, hub: Hub) -> None:
    """--create-pr and --tag together are refused before the Hub is asked."""
    ran = pusher.push("team/one", REPO, *OURS, "--create-pr", "--tag", "v1")

    assert ran.code == 1
    error, hint = ran.err.splitlines()
    assert f"not pushed to {REPO}: a pull request has no commit to tag before it is merged" in error
    assert hint == "hint: Leave out --tag or --create-pr."
    assert hub.requests == []


def test_a_lost_answer_that_cannot_be_asked_after_is_told(pusher: Pusher, hub: Hub) -> None:
    """The Hub takes the commit and goes away: that is said, and the next push finds the commit."""
    match = r"POST /api/models/.*/commit/"
    hub.create_repo(REPO)
    hub.faults.append(Fault(match=match, kind="after_commit_drop"))
    hub.faults.append(Fault(match=r"GET /api/models/.*/revision/", kind="drop", skip=1, times=99))
    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 1
    assert "whether the commit was made could not be asked" in ran.err
    assert "hint: Push again: it looks first, and sends nothing twice." in ran.err
    assert pusher.registry.remotes() == ()
    hub.faults.clear()
    again = pusher.push("team/one", REPO, *OURS)
    assert f"is at {REPO}@main already" in again.out
    assert len(hub.commits(REPO)) == 2
    assert len(pusher.registry.remotes()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(match=r"PUT ", kind="status", status=503, times=2),
        Fault(match=r"PUT ", kind="cut", at=1000),
        Fault(match=r"PUT ", kind="drop", times=2),
        Fault(match=r"/lfs/objects/batch", kind="status", status=503),
        Fault(match=r"preupload", kind="drop"),
        Fault(match=r"POST /api/repos/create", kind="status", status=500),
        Fault(match=r"validate-yaml", kind="status", status=429, headers={"Retry-After": "1"}),
        Fault(match=r"GET ", kind="drop", times=2),
    ],
    ids=lambda fault: f"{fault.match} {fault.kind}",
)
def test_what_fails_for_a_moment_is_tried_again(pusher: Pusher, hub: Hub, fault: Fault) -> None:
    """No single failure on the way stops a push, or makes a second commit."""
    hub.faults.append(replace(fault))

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 0, ran.err
    assert any(one.faults for one in hub.requests)
    assert len(hub.commits(REPO)) == 2
