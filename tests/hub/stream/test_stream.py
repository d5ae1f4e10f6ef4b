"""``adreg merge --stream``: a base that is only on the Hub, merged as it comes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import factory
import pytest
import torch
from hubserver import Fault, Hub
from hubserver.clients import environment
from huggingface_hub import constants, snapshot_download
from running import Adreg
from streaming import REPO, Weights

from adreg.registry import Registry
from adreg.registry.errors import NotFound

BASE = f"hf://{REPO}"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder but the card, which names the base."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


def left_over(home: Path) -> list[Path]:
    """Return the files with anything in them that are kept of bases."""
    return [p for p in (home / "downloads").rglob("*") if p.is_file() and p.stat().st_size]


@pytest.fixture
def local(base_folder: Path, adapter_folder: Path, tmp_path: Path, adreg: Adreg) -> Path:
    """Return the same merge, of the base in its folder."""
    out = tmp_path / "local"
    arguments = [str(adapter_folder), "--base", str(base_folder), "-o", str(out), "--name", "local"]
    assert adreg("merge", *arguments).code == 0
    return out


@pytest.fixture
def stream(adapter_folder: Path) -> list[str]:
    """Return the arguments of a streamed merge; ``-o`` is left to add."""
    return ["merge", str(adapter_folder), "--base", BASE, "--stream", "--name", "streamed"]


@pytest.mark.parametrize("size", ["as the base's", "6KB", "30KB"])
def test_the_bytes_are_those_of_a_local_merge(  # noqa: PLR0917  # fixtures
    weights: Weights,
    base_folder: Path,
    adapter_folder: Path,
    adreg: Adreg,
    tmp_path: Path,
    size: str,
) -> None:
    """Weights, index, configuration and tokenizer are the same however shards are cut."""
    cut = [] if size.startswith("as") else ["--max-shard-size", size]
    outs = tmp_path / "local", tmp_path / "streamed"
    ways = [str(base_folder)], [BASE, "--stream", "--force"]

    for out, way in zip(outs, ways, strict=True):
        ran = adreg("merge", str(adapter_folder), "-o", str(out), *cut, "--base", *way)
        assert 0 == ran.code, ran.err

    assert files_of(outs[0]) == files_of(outs[1])
    assert sorted(weights.sizes) == sorted(weights.fetched())
    assert len(weights.sizes) >= 5


def test_the_model_answers_as_the_adapter_on_the_base(  # noqa: PLR0917  # fixtures
    weights: Weights,
    stream: list[str],
    base_folder: Path,
    adapter_folder: Path,
    adreg: Adreg,
    tmp_path: Path,
) -> None:
    """Transformers loads what was made, and PEFT on the base is the judge of its answers."""
    del weights
    inputs = factory.example_inputs("llama")

    assert adreg(*stream, "--dtype", "float32", "-o", str(tmp_path / "out")).code == 0

    with torch.no_grad():
        mine = factory.load_base(tmp_path / "out", torch.float32)(**inputs).logits
        theirs = factory.load_adapter(base_folder, adapter_folder, torch.float32)(**inputs).logits
    assert torch.allclose(theirs, mine, atol=1e-4), (theirs - mine).abs().max()


def test_nothing_of_the_base_stays_and_it_is_known_by_its_commit(
    weights: Weights, stream: list[str], adreg: Adreg, home: Path, tmp_path: Path
) -> None:
    """The catalog has the Hub id, the commit and all digests, and a place where nothing is."""
    ran = adreg(*stream, "--json", "-o", str(tmp_path / "out"))

    shown = Registry().base(REPO)
    facts = shown.record.facts
    assert (REPO, weights.hub.head(REPO), False, "apache-2.0") == (
        facts.hub_repo,
        facts.revision,
        shown.present,
        facts.licence,
    )
    assert REPO == json.loads(ran.out)["base"]
    digests = {one.path: one.sha256 for one in shown.files}
    assert weights.names == {digests[name]: name for name in weights.sizes}
    assert all(digests.values())
    assert not left_over(home)
    assert not (tmp_path / "cache").exists()


def test_a_base_is_where_it_was_recorded_once_the_cache_has_it(
    weights: Weights, stream: list[str], adreg: Adreg, tmp_path: Path, adapter_folder: Path
) -> None:
    """What `hf download` fetches later lies in the recorded place: its name merges locally."""
    assert adreg(*stream, "-o", str(tmp_path / "out")).code == 0
    snapshot_download(
        REPO,
        endpoint=weights.hub.endpoint,
        cache_dir=tmp_path / "cache",
        revision=weights.hub.head(REPO),
    )
    weights.hub.requests.clear()

    again = ["merge", str(adapter_folder), "--force", "--base", REPO, "-o", str(tmp_path / "two")]
    ran = adreg(*again)

    assert (0, []) == (ran.code, weights.hub.requests)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "two")


@contextmanager
def watched(blobs: Path, weights: Weights) -> Iterator[list[int]]:
    """Measure the weights in a folder all the time; the body may read what was seen."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            total = 0
            for sha256 in weights.names:
                for path in blobs.glob(f"sha256-{sha256}*"):
                    with suppress(FileNotFoundError):
                        total += path.stat().st_size
            seen.append(total)
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_two_shards_at_most_are_on_the_disk(
    weights: Weights, stream: list[str], adreg: Adreg, home: Path, tmp_path: Path
) -> None:
    """At no moment is more here than the shard that is merged and the one that comes."""
    blobs = home / "downloads/models--alice--base/blobs"
    sizes = list(weights.sizes.values())
    pairs = [one + other for one, other in itertools.pairwise(sizes)]
    for sha256 in weights.names:  # slow enough to be seen
        weights.hub.faults.append(Fault(f"GET /cdn/.*{sha256}", "slow", 200_000, times=9))

    with watched(blobs, weights) as seen:
        assert adreg(*stream, "-o", str(tmp_path / "out")).code == 0

    assert max(sizes) < max(seen) <= max(pairs) < sum(sizes)


def test_after_kill_9_only_the_rest_is_fetched(  # noqa: PLR0917  # fixtures
    weights: Weights, stream: list[str], local: Path, adreg: Adreg, home: Path, tmp_path: Path
) -> None:
    """Shards whose outputs were finished are not fetched again, and the bytes are the same."""
    third = sorted(weights.sizes)[2]
    # Its header is asked for before.
    slow = Fault(f"GET /cdn/.*{weights.address(third)}", "slow", 2_000, times=9, skip=1)
    weights.hub.faults.append(slow)
    out = tmp_path / "out"
    env = environment(weights.hub, tmp_path / "hf") | {"ADREG_HOME": str(home)}
    env |= {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "adreg.cli", *stream, "-o", str(out)], env=env
    ) as child:
        deadline = time.monotonic() + 60
        while not _journaled(tmp_path) >= 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    assert -signal.SIGKILL == child.returncode
    assert not out.exists()
    weights.hub.faults.clear()
    weights.hub.requests.clear()

    ran = adreg(*stream, "-o", str(out))

    assert 0 == ran.code, ran.err
    assert sorted(weights.sizes)[2:] == sorted(weights.fetched())
    assert "went on where it was stopped: 2 of 5 files were done" in ran.out + ran.err
    assert files_of(local) == files_of(out)
    assert not left_over(home)


def _journaled(folder: Path) -> int:
    """Return how many files the journals in a folder say are finished."""
    return sum(
        max(0, path.read_bytes().count(b"\n") - 1)
        for path in folder.glob(".out.adreg-*")
        if path.is_file() and not path.name.endswith(".lock")
    )


def test_a_damaged_shard_stops_it_and_what_was_finished_is_kept(  # noqa: PLR0917  # fixtures
    weights: Weights, stream: list[str], local: Path, adreg: Adreg, home: Path, tmp_path: Path
) -> None:
    """Nothing is published; once the Hub is well again, the finished shards are not fetched."""
    third, out = sorted(weights.sizes)[2], tmp_path / "out"
    address = f"GET /cdn/.*{weights.address(third)}"
    weights.hub.faults.append(Fault(address, "corrupt", 5_000, times=99))

    ran = adreg(*stream, "-o", str(out))

    first, second = ran.err.splitlines()
    assert (1, f"{REPO}/{third}: the bytes that come are not those") == (
        ran.code,
        first.removeprefix("error: ").partition(" of the Hub")[0],
    )
    assert second
    assert not out.exists()
    with pytest.raises(NotFound):
        Registry().show("streamed")
    weights.hub.faults.clear()
    weights.hub.requests.clear()

    assert 0 == adreg(*stream, "-o", str(out)).code

    assert set(sorted(weights.sizes)[2:]) >= set(weights.fetched())
    assert files_of(local) == files_of(out)
    assert not left_over(home)


def test_a_dry_run_fetches_no_weights_and_writes_nothing(  # noqa: PLR0917  # fixtures
    weights: Weights, stream: list[str], adreg: Adreg, home: Path, tmp_path: Path, local: Path
) -> None:
    """The plan is that of the local base, from headers; the home is as it was."""
    before = sorted(home.rglob("*"))

    ran = adreg(*stream, "--dry-run", "--force", "--json", "-o", str(tmp_path / "out"))

    told = json.loads(ran.out)
    planned = {one["file"] for one in told["tensors"]}
    assert (0, True, REPO) == (ran.code, told["dry_run"], told["base"])
    assert planned == {path.name for path in local.glob("*.safetensors")}
    assert not weights.fetched()
    assert 0 < weights.bytes_of_headers() < sum(weights.sizes.values()) / 2
    assert before == sorted(home.rglob("*"))


def test_what_was_made_of_the_same_is_not_fetched_again(
    weights: Weights, stream: list[str], adreg: Adreg, tmp_path: Path
) -> None:
    """A second streamed merge finds the first by the base's digests, and copies it."""
    assert adreg(*stream, "-o", str(tmp_path / "one")).code == 0
    weights.hub.requests.clear()

    assert adreg(*stream, "-o", str(tmp_path / "two")).code == 0

    assert not weights.fetched()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_release_of_it_is_rebuilt_once_the_cache_has_the_base(
    weights: Weights, stream: list[str], adreg: Adreg, tmp_path: Path, adapter_folder: Path
) -> None:
    """Without the base, export says how to get it; with it, the lock file gives the same bytes."""
    assert adreg("add", str(adapter_folder), "--name", "one").code == 0
    stream[1] = "one"
    assert adreg(*stream, "-o", str(tmp_path / "out")).code == 0
    release, again = str(tmp_path / "release"), str(tmp_path / "again")
    export = ["export", "streamed", "-o", release, "--allow-unknown-license"]

    refused = adreg(*export)
    snapshot_download(REPO, endpoint=weights.hub.endpoint, cache_dir=tmp_path / "cache")
    done = adreg(*export), adreg("rebuild", f"{release}/adreg.lock.json", "-o", again)

    assert (1, 0, 0) == (refused.code, *(one.code for one in done)), done
    assert "merge with --stream" in refused.err
    assert files_of(tmp_path / "release") == files_of(tmp_path / "again")


def test_by_its_name_it_is_streamed_again_and_nothing_else_uses_it(
    weights: Weights, stream: list[str], adreg: Adreg, tmp_path: Path, adapter_folder: Path
) -> None:
    """The recorded base is fetched at its commit with --stream; without, the way is told."""
    assert adreg(*stream, "-o", str(tmp_path / "one")).code == 0
    commit = weights.hub.head(REPO)
    weights.hub.commit(REPO, {"config.json": b"{}"})
    again = ["merge", str(adapter_folder), "--base", REPO, "--force", "-o", str(tmp_path / "two")]

    refused, done = adreg(*again), adreg(*again, "--stream")

    assert (1, 0) == (refused.code, done.code), done.err
    assert f"the base {REPO} is not in the Hugging Face cache" in refused.err
    assert f"`hf download {REPO} --revision {commit}`, or merge with --stream." in refused.err
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert 1 == len(Registry().bases())


def test_a_base_in_the_cache_is_taken_from_there(
    weights: Weights, stream: list[str], local: Path, adreg: Adreg, tmp_path: Path
) -> None:
    """No request is made for what lies here already, and it stays."""
    snapshot_download(REPO, endpoint=weights.hub.endpoint, cache_dir=tmp_path / "cache")
    weights.hub.requests.clear()

    assert adreg(*stream, "--force", "-o", str(tmp_path / "out")).code == 0

    assert not weights.hub.requests
    assert files_of(local) == files_of(tmp_path / "out")
    assert list((tmp_path / "cache").rglob("model-*.safetensors"))


def test_offline_it_says_so(
    weights: Weights, stream: list[str], adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HF_HUB_OFFLINE nobody is asked, and the error names the mode."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    ran = adreg(*stream)

    assert 1 == ran.code
    assert f"{REPO}: offline mode is on (HF_HUB_OFFLINE), so the Hub is not asked" in ran.err
    assert not weights.hub.requests


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(
    online: Hub, adapter_folder: Path, adreg: Adreg
) -> None:
    """--stream makes no Hub id of a path."""
    ran = adreg("merge", str(adapter_folder), "--base", "./nowhere", "--stream")

    assert (1, []) == (ran.code, online.requests)
    assert "./nowhere" in ran.err
