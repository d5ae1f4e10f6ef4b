"""Programs that others wrote find a Hub in the Hub for tests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hubserver import Hub
from hubserver.clients import contents, environment, folder_contents, hf, python

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# A\n",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "deep/er/notes with space.txt": "sincère\n".encode(),
    "empty.txt": b"",
    "w.safetensors": random.Random(0).randbytes(3_000_000),  # noqa: S311
}


def filled(folder: Path) -> Path:
    """Return a folder with FILES in it."""
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def hub_token(hub: Hub, user: str) -> str:
    """Return the token of a user who is new."""
    hub.add_user(user, f"hf_{user}")
    return f"hf_{user}"


@pytest.mark.parametrize("xet", [False, True])
def test_hf_command(tmp_path: Path, xet: bool) -> None:
    """`hf upload` and `hf download` bring a folder there and back, bit for bit."""
    with Hub(tmp_path / "hub-xet", xet=xet) as hub:
        home, source = tmp_path / "home", filled(tmp_path / "source")
        token = hub_token(hub, "alice")
        said = hf(hub, home, "upload", "alice/a", str(source), token=token, xet=xet)
        assert hub.head("alice/a") in said
        assert FILES == contents(hub, "alice/a")

        again = tmp_path / "again"
        hf(hub, tmp_path / "home2", "download", "alice/a", "--local-dir", str(again), xet=xet)
        assert FILES == folder_contents(again)
        puts = [request for request in hub.requests if request.method == "PUT"]
        assert (0 if xet else 1) == len(puts)


def test_git_lfs(hub: Hub, tmp_path: Path) -> None:
    """git-lfs sends an object, is told the next time that it is there, and fetches it."""
    if not shutil.which("git-lfs"):
        pytest.skip("git-lfs is not installed")
    hub.add_user("alice", "hf_alice")
    hub.create_repo("alice/a")
    data = FILES["w.safetensors"]
    oid = hashlib.sha256(data).hexdigest()
    url = hub.endpoint.replace("http://", "http://alice:hf_alice@") + "/alice/a.git/info/lfs"

    def git(folder: Path, *arguments: str, data: bytes | None = None) -> bytes:
        """Run git in a folder that knows our server."""
        settings = ["-c", f"lfs.url={url}", "-c", "lfs.locksverify=false", "-c", "user.name=a"]
        done = subprocess.run(
            ["git", *settings, "-c", "user.email=a@b.c", *arguments],
            cwd=folder,
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in one, two:
        folder.mkdir()
        git(folder, "init", "-q")
        git(folder, "remote", "add", "origin", url.removesuffix("/info/lfs"))
    pointer = git(one, "lfs", "clean", "w.safetensors", data=data)
    for _ in range(2):
        git(one, "lfs", "push", "--object-id", "origin", oid)
    assert 1 == len([request for request in hub.requests if request.method == "PUT"])
    assert data == (hub.root / "objects" / oid[:2] / oid).read_bytes()
    assert data == git(two, "lfs", "smudge", "w.safetensors", data=pointer)


def test_javascript_client(hub: Hub, tmp_path: Path) -> None:
    """The npm client makes a repo, uploads by LFS, lists and downloads."""
    modules = os.environ.get("HUGGINGFACE_HUB_JS", "")
    if not shutil.which("node") or not Path(modules, "@huggingface", "hub").is_dir():
        pytest.skip("HUGGINGFACE_HUB_JS names no node_modules with @huggingface/hub in it")
    hub.add_user("alice", "hf_alice")
    source = filled(tmp_path / "source")
    script = tmp_path / "client.mjs"
    (tmp_path / "node_modules").symlink_to(Path(modules).resolve())
    script.write_text(
        """
import {createRepo, uploadFiles, listFiles, downloadFile} from "@huggingface/hub";
import {readFileSync, writeFileSync} from "node:fs";
const [hubUrl, source, out] = process.argv.slice(2);
const common = {hubUrl, accessToken: "hf_alice", repo: {type: "model", name: "alice/a"}};
await createRepo(common);
const names = ["README.md", "adapter_config.json", "w.safetensors"];
await uploadFiles({...common, commitTitle: "From JavaScript", useXet: false,
  files: names.map((path) => ({path, content: new Blob([readFileSync(`${source}/${path}`)])}))});
const seen = [];
for await (const file of listFiles({...common, recursive: true})) seen.push(file.path);
console.log(seen.join(" "));
const got = await downloadFile({...common, path: "w.safetensors", xet: false});
writeFileSync(out, Buffer.from(await got.arrayBuffer()));
"""
    )
    out = tmp_path / "out"
    done = subprocess.run(
        ["node", str(script), hub.endpoint, str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ["README.md", "adapter_config.json", "w.safetensors"]
    assert [".gitattributes", *names] == done.stdout.split()
    assert {name: FILES[name] for name in names} == contents(hub, "alice/a")
    assert FILES["w.safetensors"] == out.read_bytes()
    assert "From JavaScript" == hub.commits("alice/a")[0].message


def test_olah_in_front(hub: Hub, tmp_path: Path) -> None:
    """The olah mirror stands in front: a client behind the mirror gets the same bytes."""
    interpreter = os.environ.get("OLAH_PYTHON", sys.executable)
    if interpreter == sys.executable and importlib.util.find_spec("olah") is None:
        pytest.skip("olah is not installed here, and OLAH_PYTHON names no other Python")
    hub.create_repo("org/a")
    hub.commit("org/a", FILES)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [interpreter, "-m", "olah.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--hf-scheme", "http", "--hf-netloc", hub.endpoint.removeprefix("http://")]
    lfs = hub.cdn.removeprefix("http://")
    command += ["--hf-lfs-netloc", lfs, "--repos-path", str(tmp_path / "mirror")]
    log = (tmp_path / "olah.log").open("wb")
    mirror = subprocess.Popen(
        command, cwd=tmp_path, stdout=log, stderr=log, env=environment(hub, tmp_path / "olah")
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert mirror.poll() is None, (tmp_path / "olah.log").read_text()
            time.sleep(0.1)
        code = f"""
        answer = snapshot_download("org/a", endpoint="http://127.0.0.1:{port}")
        """
        assert FILES == folder_contents(Path(python(hub, tmp_path / "home", code)))
        assert hub.requests, "olah asked nothing"
    finally:
        mirror.terminate()
        mirror.wait(20)
        log.close()
