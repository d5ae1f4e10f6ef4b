"""`adreg push` against a real Hub server, in processes of its own, by the unmodified Hub client."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
from pathlib import Path

import pytest
from hubserver import Hub
from huggingface_hub import ModelCard
from pushing import TOKEN, Pusher

from adreg.registry.progress import Progress
from adreg.registry.release.readme import BEGIN, END

pytestmark = pytest.mark.filterwarnings(
    # huggingface_hub 2.4 gives httpx2 a file in the old way (lfs.py, _upload_single_part).
    "ignore:Use .content=:DeprecationWarning"
)

REPO = "alice/support-lora"
BASE = "org/tiny-llama"
OURS = ("--base-model", BASE)


def content(file: bytes | Path) -> bytes:
    """Return the bytes of a file as the Hub gave it."""
    return file if isinstance(file, bytes) else file.read_bytes()


def sha(file: bytes | Path) -> str:
    """Return the SHA-256 of a file as the Hub gave it."""
    return hashlib.sha256(content(file)).hexdigest()


def stored(pusher: Pusher, reference: str) -> dict[str, str]:
    """Return the digests of a version's files but the card, by name."""
    files = pusher.registry.show(reference).version.content.files
    return {one.name: one.sha256 for one in files if one.name != "README.md"}


def test_an_adapter_arrives_in_one_commit(pusher: Pusher, hub: Hub) -> None:
    """Every stored file is there bit for bit, in one commit on the first, with a valid card."""
    ran = pusher.push("team/one", REPO, *OURS, "--json")

    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert done["commit"] == hub.head(REPO)
    assert (done["created"], done["new"], done["base_model"]) == (True, True, BASE)
    assert len(hub.commits(REPO)) == 2
    there = hub.files(REPO, done["commit"])
    side = {".gitattributes", "README.md"}
    assert stored(pusher, "team/one") == {n: sha(f) for n, f in there.items() if n not in side}
    card = ModelCard(content(there["README.md"]).decode())
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (BASE, "adapter")
    assert (data["library_name"], data["license"]) == ("peft", "apache-2.0")
    assert pusher.registry.show("team/one").version.key.digest in card.text
    assert str(pusher.shop.base) not in card.content
    assert not hub.is_private(REPO)


def test_the_same_again_makes_no_commit(pusher: Pusher, hub: Hub) -> None:
    """A second push finds every file there, sends none, and records nothing new."""
    first = json.loads(pusher.push("team/one", REPO, *OURS, "--json").out)
    pusher.asked()

    again = pusher.push("team/one", REPO, *OURS)

    assert again.code == 0, again.err
    assert f"team/one@1 is at {REPO}@main already, commit {first['commit']}" in again.out
    asked = pusher.asked()
    assert all(one.startswith("GET ") for one in asked), asked
    assert len(asked) == 2  # what is there, and the card
    assert first["commit"] == hub.head(REPO)
    assert len(pusher.registry.remotes()) == 1
    assert len([e for e in pusher.registry.history().entries if e.action == "push"]) == 1


def test_a_model_arrives_as_a_release(bot: Pusher, hub: Hub, tmp_path: Path) -> None:
    """A merged model has card, lock and checksums; sha256sum and adreg rebuild agree with them."""
    ran = bot.push("bot", "alice/bot", *OURS, "--tag", "v1", "--json")

    assert ran.code == 0, ran.err
    there = hub.files("alice/bot", "main")
    folder = tmp_path / "got"
    for name, file in there.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(file))
    assert stored(bot, "bot").items() <= {n: sha(f) for n, f in there.items()}.items()
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, check=True)
    data = ModelCard(content(there["README.md"]).decode()).data.to_dict()
    assert data["base_model"] in (BASE, [BASE])
    assert (data["base_model_relation"], data["library_name"]) == ("merge", "transformers")
    rebuilt = bot.run("rebuild", str(folder / "adreg.lock.json"), "-o", str(tmp_path / "again"))
    assert rebuilt.code == 0, rebuilt.err
    assert json.loads((folder / "adreg.lock.json").read_text())["base"]["repo"] == BASE
    assert hub.head("alice/bot", "v1") == hub.head("alice/bot")


def test_what_others_have_there_stays(pusher: Pusher, hub: Hub) -> None:
    """Other files, and in README.md all but our part, are as they were; a licence too."""
    theirs = "---\nlicense: mit\nlanguage: de\n---\n\n# Mine\n\nWords.\n"
    hub.create_repo(REPO)
    hub.commit(REPO, {"README.md": theirs.encode(), "notes.txt": b"notes", "sub/a.bin": b"\0" * 99})

    ran = pusher.push("team/one", REPO, *OURS)

    assert ran.code == 0, ran.err
    assert "the card there says the licence is mit, the catalog apache-2.0" in ran.err
    there = hub.files(REPO, "main")
    assert (content(there["notes.txt"]), content(there["sub/a.bin"])) == (b"notes", b"\0" * 99)
    card = content(there["README.md"]).decode()
    before, section = card.split(BEGIN)
    assert before.endswith("---\n\n# Mine\n\nWords.\n\n")
    assert section.endswith(f"{END}\n")
    assert "This adapter is released under `mit`." in section
    data = ModelCard(card).data.to_dict()
    assert (data["license"], data["language"], data["base_model"]) == ("mit", "de", BASE)

    edited = card.replace("Words.", "Other words.") + "\nAfter.\n"
    hub.commit(REPO, {"README.md": edited.encode()})
    again = pusher.push("team/one", REPO, *OURS, "--license", "apache-2.0")
    assert again.code == 0, again.err
    renewed = content(hub.files(REPO, "main")["README.md"]).decode()
    put_right = edited.replace("license: mit", "license: apache-2.0").replace(
        "`mit`", "`apache-2.0`"
    )
    assert renewed == put_right


def test_a_dry_run_sends_nothing(pusher: Pusher, hub: Hub) -> None:
    """It tells what would be sent; the Hub is looked at, and asked about the card."""
    ran = pusher.push("team/one", REPO, *OURS, "--dry-run", "--json")

    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert (done["commit"], done["created"], done["dry_run"]) == (None, True, True)
    assert {"README.md", "adapter_model.safetensors"} <= {one["name"] for one in done["sent"]}
    asked = pusher.asked()
    assert [one for one in asked if not one.startswith("GET ")] == ["POST /api/validate-yaml"]
    assert not hub.exists(REPO)
    assert pusher.registry.remotes() == ()


def test_the_next_version_replaces_what_adreg_put_there(pusher: Pusher, hub: Hub) -> None:
    """What the catalog knows to be its own is replaced, by the other version's files alone."""
    pusher.push("team/one", REPO, *OURS)

    ran = pusher.push("team/two", REPO, *OURS)

    assert ran.code == 0, ran.err
    names = stored(pusher, "team/two")
    there = hub.files(REPO, "main")
    assert names == {name: sha(there[name]) for name in names}
    assert len(hub.commits(REPO)) == 3


def test_a_private_repository(pusher: Pusher, hub: Hub) -> None:
    """--private makes a private one, goes on with it, and refuses one that is public."""
    assert pusher.push("team/one", REPO, *OURS, "--private").code == 0
    assert hub.is_private(REPO)
    assert pusher.push("team/two", REPO, *OURS, "--private").code == 0
    hub.create_repo("alice/open")
    before = hub.head("alice/open")

    ran = pusher.push("team/one", "alice/open", *OURS, "--private")

    assert ran.code == 1
    assert ran.err.splitlines() == [
        "error: team/one@1 is not pushed to alice/open: that repository is public",
        "hint: Make it private in its settings on the Hub, or leave out --private.",
    ]
    assert before == hub.head("alice/open")


def test_a_branch_of_its_own(pusher: Pusher, hub: Hub) -> None:
    """--revision makes the branch at main's commit, and main stays as it is."""
    hub.create_repo(REPO)
    main = hub.head(REPO)

    ran = pusher.push("team/one", REPO, *OURS, "--revision", "next", "-m", "My words")

    assert ran.code == 0, ran.err
    assert main == hub.head(REPO)
    newest, first = hub.commits(REPO, "next")
    assert (newest.message, first.oid) == ("My words", main)


def test_a_pull_request(pusher: Pusher, hub: Hub) -> None:
    """--create-pr leaves the branch as it is and tells its address; again makes no other."""
    hub.create_repo(REPO)
    main = hub.head(REPO)

    ran = pusher.push("team/one", REPO, *OURS, "--create-pr", "--json")

    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert done["revision"] == "refs/pr/1"
    assert done["pull_request"].startswith(hub.endpoint)
    assert main == hub.head(REPO)
    assert done["commit"] == hub.head(REPO, "refs/pr/1")
    again = json.loads(pusher.push("team/one", REPO, *OURS, "--create-pr", "--json").out)
    assert (again["revision"], again["commit"]) == ("refs/pr/1", done["commit"])


def test_a_tag_is_never_moved(pusher: Pusher, hub: Hub) -> None:
    """A tag names the commit; the same push again is fine, another commit under it is refused."""
    assert pusher.push("team/one", REPO, *OURS, "--tag", "v1").code == 0
    first = hub.head(REPO)
    assert first == hub.head(REPO, "v1")
    assert pusher.push("team/one", REPO, *OURS, "--tag", "v1").code == 0

    ran = pusher.push("team/two", REPO, *OURS, "--tag", "v1")

    assert ran.code == 1
    assert f"its tag v1 names commit {first[:12]} already" in ran.err
    assert "hint: Choose another --tag, or delete that one on the Hub." in ran.err
    assert (first, first) == (hub.head(REPO), hub.head(REPO, "v1"))


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_the_token_stays_in_the_request(pusher: Pusher, tmp_path: Path, xet: bool) -> None:
    """No output, error, card, catalog, log or other file holds it, whether a push works or not."""
    with Hub(tmp_path / "another", xet=xet) as hub:
        hub.add_user("alice", TOKEN)
        pusher.hub = hub
        pusher.xet = xet
        runs = [
            pusher.push("team/one", REPO, *OURS),
            pusher.push("team/one", "bob/not-mine", *OURS, "--json"),
            pusher.push("team/one", REPO, *OURS, token=f"{TOKEN}-wrong"),
            pusher.run("history", "--json"),
            pusher.run("show", "team/one"),
        ]
        assert runs[0].code == 0, runs[0].err
        assert runs[2].code == 1
        assert all(TOKEN not in ran.out + ran.err for ran in runs)
        assert all(TOKEN.encode() not in content(f) for f in hub.files(REPO, "main").values())
        names = stored(pusher, "team/one")
        assert names == {name: sha(hub.files(REPO, "main")[name]) for name in names}
    for path in [*pusher.home.rglob("*"), *(pusher.home.parent / "hf-home").rglob("*")]:
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


class Counting(Progress):
    """Remembers what it hears of each task."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.told: list[list[int]] = []

    def start(self, title: str, total: int, unit: str = "bytes") -> None:
        """Begin a task."""
        del unit
        self.tasks.append((title, total))
        self.told.append([])

    def advance(self, amount: int = 1) -> None:
        """Add to it."""
        self.told[-1].append(amount)


@pytest.mark.parametrize("way", ["lfs", "multipart", "xet"])
def test_each_way_of_upload_tells_how_far_it_is(
    pusher: Pusher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """By LFS, in parts, and by Xet the bytes arrive, are told once, and nothing else is drawn."""
    heard = Counting()
    bars = importlib.import_module("huggingface_hub.utils.tqdm")
    monkeypatch.setattr(bars, "progress_bar_states", {})  # transformers switched them off
    monkeypatch.setattr("adreg.cli.progress.Bar", lambda **_: heard)
    monkeypatch.setattr(heard, "close", lambda: None, raising=False)
    with Hub(
        tmp_path / "another", xet=way == "xet", multipart=3000 if way == "multipart" else None
    ) as hub:
        hub.add_user("alice", TOKEN)
        pusher.hub, pusher.xet = hub, way == "xet"

        ran = pusher.push("team/one", REPO, *OURS)

        assert ran.code == 0, ran.err
        names = stored(pusher, "team/one")
        there = hub.files(REPO, "main")
        assert names == {name: sha(there[name]) for name in names}
    uploads = [n for n, (title, _) in enumerate(heard.tasks) if title == f"Uploading to {REPO}"]
    assert len(uploads) == 1
    weights = len(content(there["adapter_model.safetensors"]))
    told, (_, total) = heard.told[uploads[0]], heard.tasks[uploads[0]]
    assert sum(told) == total
    assert sum(told[:-1]) == weights  # the last is the rest, that goes with the commit
    assert [line for line in ran.err.splitlines() if "is pushed as it is" not in line] == []
