"""The Hub for tests speaks to the unmodified huggingface_hub client."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hubserver import Hub
from hubserver.clients import contents, folder_contents, python

CARD = b"---\nlicense: mit\nbase_model: org/base\ntags: [lora]\n---\n# A\n"
FILES = {
    "README.md": CARD,
    "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "org/base"}',
    "adapter_model.safetensors": bytes(range(256)) * 1000,
    "deep/er/notes.txt": "sincère\n".encode(),
}


@pytest.fixture
def stocked(hub: Hub) -> Hub:
    """A Hub with one user and one repo."""
    hub.add_user("alice", "hf_alice")
    hub.create_repo("alice/a")
    hub.commit("alice/a", FILES, "Add the adapter")
    return hub


def test_info(stocked: Hub, tmp_path: Path) -> None:
    """The client reads commit, author, card, tags, gate, sizes and digests of a repo."""
    code = """
    info = api.model_info("alice/a", files_metadata=True)
    answer = [info.sha, info.author, info.private, info.gated, info.card_data.license, info.tags,
        info.config["peft"]["base_model_name_or_path"], info.last_modified is not None,
        {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}]
    """
    sha, author, private, gated, licence, tags, base, dated, files = python(
        stocked, tmp_path / "home", code
    )

    assert [stocked.head("alice/a"), "alice", False, False] == [sha, author, private, gated]
    assert ["mit", "org/base", True] == [licence, base, dated]
    assert {"peft", "safetensors", "lora", "base_model:adapter:org/base", "license:mit"} <= set(
        tags
    )
    large = FILES["adapter_model.safetensors"]
    assert [len(large), hashlib.sha256(large).hexdigest()] == [
        files["adapter_model.safetensors"][0],
        files["adapter_model.safetensors"][2],
    ]
    # git hash-object README.md
    assert (
        hashlib.sha1(b"blob %d\0" % len(CARD) + CARD, usedforsecurity=False).hexdigest()
        == files["README.md"][1]
    )


@pytest.mark.parametrize("xet", [False, True])
def test_downloads(tmp_path: Path, xet: bool) -> None:
    """snapshot_download and hf_hub_download give the very bytes, by CDN and by Xet."""
    with Hub(tmp_path / "hub-xet", xet=xet) as hub:
        hub.create_repo("alice/a")
        hub.commit("alice/a", FILES)
        code = """
        answer = [snapshot_download("alice/a"),
            hf_hub_download("alice/a", "deep/er/notes.txt", revision="main", force_download=True)]
        """
        snapshot, one = python(hub, tmp_path / "home", code, xet=xet)

        assert FILES == folder_contents(Path(snapshot))
        assert FILES["deep/er/notes.txt"] == Path(one).read_bytes()
        assert xet is not any(request.path.startswith("/cdn/") for request in hub.requests)
        assert xet is any("xet-read-token" in request.path for request in hub.requests)


@pytest.mark.parametrize("xet", [False, True])
def test_create_commit(tmp_path: Path, xet: bool) -> None:
    """create_commit adds, deletes and copies in one commit; what is there is not sent again."""
    with Hub(tmp_path / "hub-xet", xet=xet) as hub:
        hub.add_user("alice", "hf_alice")
        code = """
        api.create_repo("alice/a")
        add = lambda path, data: CommitOperationAdd(path, data)
        w = b"w" * 70000
        first = api.create_commit("alice/a", [add("w.safetensors", w), add("c.json", b"1"),
            add("d/x.txt", b"x"), add("d/y.txt", b"y")], commit_message="one")
        second = api.create_commit("alice/a", [add("c.json", b"2"), CommitOperationDelete("d/"),
            CommitOperationCopy("w.safetensors", "v.safetensors"), add("u.safetensors", w)],
            commit_message="two", commit_description="why", parent_commit=first.oid)
        third = api.create_commit("alice/a", [add("c.json", b"2")], commit_message="no change")
        try:
            api.create_commit("alice/a", [add("c.json", b"3")], commit_message="late",
                parent_commit=first.oid)
        except HfHubHTTPError as error:
            late = error.response.status_code
        answer = [first.oid, second.oid, third.oid, late,
            [[c.title, c.message, c.authors] for c in api.list_repo_commits("alice/a")]]
        """
        first, second, third, late, history = python(
            hub, tmp_path / "home", code, "hf_alice", xet=xet
        )

        assert [second, second, 412] == [third, hub.head("alice/a"), late]
        weights = b"w" * 70000
        assert {
            "w.safetensors": weights,
            "c.json": b"1",
            "d/x.txt": b"x",
            "d/y.txt": b"y",
        } == contents(hub, "alice/a", first)
        assert {
            "c.json": b"2",
            "w.safetensors": weights,
            "v.safetensors": weights,
            "u.safetensors": weights,
        } == contents(hub, "alice/a")
        assert [["two", "why", ["alice"]], ["one", "", ["alice"]]] == history[:2]
        sent = [request for request in hub.requests if request.method == "PUT"]
        assert (0 if xet else 1) == len(sent)


def test_multipart(tmp_path: Path) -> None:
    """A large file goes in parts where the server wants parts, and arrives whole."""
    with Hub(tmp_path / "hub-parts", multipart=100_000) as hub:
        hub.add_user("alice", "hf_alice")
        code = """
        api.create_repo("alice/a")
        api.upload_file(path_or_fileobj=bytes(range(256)) * 1000, path_in_repo="w.safetensors",
            repo_id="alice/a")
        """
        python(hub, tmp_path / "home", code, "hf_alice")

        assert {"w.safetensors": bytes(range(256)) * 1000} == contents(hub, "alice/a")
        parts = [r.bytes_received for r in hub.requests if r.method == "PUT"]
        assert [100_000, 100_000, 56_000] == parts


def test_tree_and_paths(stocked: Hub, tmp_path: Path) -> None:
    """The tree is listed flat, deep and below a folder, in pages; paths tell their last commit."""
    many = {f"many/{index:04}.txt": b"" for index in range(1100)}
    stocked.commit("alice/a", many, "Many")
    code = """
    tree = lambda *a, **k: [item.path for item in api.list_repo_tree("alice/a", *a, **k)]
    paths = api.get_paths_info("alice/a", ["README.md", "deep", "none"], expand=True)
    try:
        tree("nowhere")
    except EntryNotFoundError as error:
        lost = type(error).__name__
    answer = [tree(), len(tree(recursive=True)), tree("deep", recursive=True), lost,
        [[p.path, p.last_commit.title] for p in paths],
        len(tree("many", expand=True)) ]
    """
    flat, count, below, lost, paths, expanded = python(stocked, tmp_path / "home", code)

    assert sorted([".gitattributes", "many", "deep", *(p for p in FILES if "/" not in p)]) == flat
    assert 1 + len(FILES) + 2 + 1 + 1100 == count
    assert ["deep/er", "deep/er/notes.txt"] == below
    assert "RemoteEntryNotFoundError" == lost
    assert [["README.md", "Add the adapter"], ["deep", "Add the adapter"]] == paths
    assert 1100 == expanded
    assert any("cursor=" in request.path for request in stocked.requests)


def test_branches_tags_and_pull_requests(stocked: Hub, tmp_path: Path) -> None:
    """Branches and tags come and go; a pull request has a ref of its own and leaves main alone."""
    code = """
    add = lambda data: [CommitOperationAdd("new.txt", data)]
    api.create_branch("alice/a", branch="try/it")
    api.create_tag("alice/a", tag="v1", tag_message="first")
    made = api.create_commit("alice/a", add(b"1"), commit_message="on a branch", revision="try/it")
    pull = api.create_commit("alice/a", add(b"2"), commit_message="please", create_pr=True)
    more = api.create_commit("alice/a", add(b"3"), commit_message="also", revision="refs/pr/1")
    clash = []
    for make in [lambda: api.create_branch("alice/a", branch="try/it"),
                 lambda: api.create_tag("alice/a", tag="v1"),
                 lambda: api.model_info("alice/a", revision="v9")]:
        try:
            make()
        except HfHubHTTPError as error:
            clash.append(error.response.status_code)
    refs = api.list_repo_refs("alice/a", include_pull_requests=True)
    api.delete_tag("alice/a", tag="v1")
    api.delete_branch("alice/a", branch="try/it")
    after = api.list_repo_refs("alice/a")
    path = hf_hub_download("alice/a", "new.txt", revision="refs/pr/1")
    answer = [made.oid, more.oid, pull.pr_url, pull.pr_num, clash,
        [[r.ref, r.target_commit] for r in refs.branches + refs.tags + refs.pull_requests],
        [r.ref for r in after.branches + after.tags], open(path).read()]
    """
    head = stocked.head("alice/a")
    made, more, url, number, clash, refs, after, text = python(
        stocked, tmp_path / "home", code, "hf_alice"
    )

    assert [409, 409, 404] == clash
    assert [f"{stocked.endpoint}/alice/a/discussions/1", 1] == [url, number]
    assert [
        ["refs/heads/main", head],
        ["refs/heads/try/it", made],
        ["refs/tags/v1", head],
        ["refs/pr/1", more],
    ] == refs
    assert ["refs/heads/main"] == after
    assert head == stocked.head("alice/a")
    assert "3" == text


def test_lists(hub: Hub, tmp_path: Path) -> None:
    """list_models finds by author, words, base and tags, in pages; private ones are hidden."""
    for index in range(5):
        hub.create_repo(f"org/adapter-{index}")
        hub.commit(f"org/adapter-{index}", {"README.md": CARD, "adapter_config.json": b'{"r": 1}'})
    hub.create_repo("org/plain")
    hub.create_repo("else/other")
    hub.create_repo("org/secret", private=True)
    hub.add_user("alice", "hf_alice")
    code = """
    ids = lambda **k: sorted(m.id for m in api.list_models(**k))
    answer = [ids(author="org", token=False), ids(author="org"), ids(search="OTHER"),
        ids(filter="base_model:adapter:org/base", token=False),
        ids(filter=["lora", "peft"], limit=2),
        [m.sha for m in api.list_models(author="else", expand=["sha"])]]
    """
    anonymous, all_of, word, adapters, two, shas = python(hub, tmp_path / "home", code, "hf_alice")

    five = [f"org/adapter-{index}" for index in range(5)]
    assert [*five, "org/plain"] == anonymous
    assert [*five, "org/plain", "org/secret"] == all_of
    assert ["else/other"] == word
    assert five == adapters
    assert 2 == len(two)
    assert [hub.head("else/other")] == shas


def test_upload_folder_and_settings(hub: Hub, tmp_path: Path) -> None:
    """A repo is made, filled from a folder, hidden, and deleted."""
    hub.add_user("alice", "hf_alice")
    folder = tmp_path / "folder"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    code = f"""
    url = api.create_repo("alice/a", private=True)
    api.upload_folder(repo_id="alice/a", folder_path={str(folder)!r})
    hidden = api.repo_exists("alice/a", token=False)
    api.update_repo_settings("alice/a", private=False)
    answer = [url.repo_id, hidden, api.repo_exists("alice/a", token=False), api.whoami()["name"]]
    """
    assert ["alice/a", False, True, "alice"] == python(hub, tmp_path / "home", code, "hf_alice")
    assert FILES == contents(hub, "alice/a")

    python(hub, tmp_path / "home", 'api.delete_repo("alice/a")', "hf_alice")
    assert not hub.exists("alice/a")


def test_who_may(hub: Hub, tmp_path: Path) -> None:
    """Missing, hidden, gated, read-only, another's and a bad token: each as the client expects."""
    hub.add_user("alice", "hf_alice")
    hub.add_user("bob", "hf_bob")
    hub.add_user("carol", "hf_carol", write=False)
    hub.create_repo("alice/hidden", private=True)
    hub.create_repo("alice/gated", gated="manual")
    hub.commit("alice/gated", {"c.json": b"{}"})
    hub.grant("alice/gated", "carol")
    code = """
    def seen(function, *a, **k):
        try:
            function(*a, **k)
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            response = getattr(error, "response", None)
            return [type(error).__name__, response.status_code if response is not None else 0]
    file = lambda token: seen(api.hf_hub_download, "alice/gated", "c.json", token=token)
    answer = [
        seen(api.model_info, "alice/none", token=False),
        seen(api.model_info, "alice/none", token="hf_bob"),
        seen(api.model_info, "alice/hidden", token="hf_bob"),
        seen(api.model_info, "alice/hidden", token="hf_alice"),
        seen(api.model_info, "alice/gated", token=False),
        file(False), file("hf_bob"), file("hf_carol"), file("hf_alice"),
        seen(api.create_repo, "carol/x", token="hf_carol"),
        seen(api.create_repo, "alice/x", token="hf_bob"),
        seen(api.create_repo, "alice/gated", token="hf_alice"),
        seen(api.whoami, token="hf_nobody"),
        seen(api.upload_file, path_or_fileobj=b"1", path_in_repo="c", repo_id="alice/gated",
             token="hf_carol"),
    ]
    """
    assert [
        ["RepositoryNotFoundError", 401],
        ["RepositoryNotFoundError", 404],
        ["RepositoryNotFoundError", 404],
        None,
        None,
        ["GatedRepoError", 401],
        ["GatedRepoError", 403],
        None,
        None,
        ["HfHubHTTPError", 403],
        ["HfHubHTTPError", 403],
        ["HfHubHTTPError", 409],
        ["HfHubHTTPError", 401],
        ["HfHubHTTPError", 403],
    ] == python(hub, tmp_path / "home", code)


def test_cards(hub: Hub, tmp_path: Path) -> None:
    """A card with a path as base model, or an unknown licence, is refused; nothing changes."""
    hub.add_user("alice", "hf_alice")
    hub.create_repo("alice/a")
    head = hub.head("alice/a")
    code = """
    answer = []
    for head in ["base_model: ./local/base", "license: my-own", "base_model: [/tmp/x]", "a: [",
        "license: mit"]:
        try:
            card = f"---\\n{head}\\n---\\n".encode()
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/a")
            answer.append("")
        except ValueError as error:
            answer.append(str(error))
    """
    path, licence, listed, broken, good = python(hub, tmp_path / "home", code, "hf_alice")

    assert '"base_model" with value "./local/base" is not valid' in path
    assert '"license" must be one of [' in licence
    assert '"base_model[0]" with value "/tmp/x" is not valid' in listed
    assert "Invalid YAML" in broken
    assert "" == good
    assert [head] == [commit.oid for commit in hub.commits("alice/a")][1:]
