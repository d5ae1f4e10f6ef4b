"""Pulls in bad weather: lines that break, wrong bytes, kills and full disks."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from hubserver import Fault, Hub
from hubserver.faults import Kind
from pulling import large_adapter, moments, part_size, put, sent, start, stored_digests
from running import Adreg

from adreg.registry import Registry
from adreg.registry.digest import of_file
from adreg.registry.hub.client import Backoff

MIB = 1 << 20
KINDS: tuple[Kind, ...] = ("cut", "corrupt", "short", "etag", "status", "drop")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="session")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter of 12 MB."""
    return large_adapter(tmp_path_factory.mktemp("large") / "lora", 12 * 10**6)


@pytest.fixture
def large(online: Hub, large_folder: Path) -> str:
    """Return the repository of the adapter of 12 MB."""
    return put(online, large_folder)


def check(home: Path, folder: Path) -> None:
    """The store has the adapter's bytes and no others."""
    assert {of_file(path) for path in folder.iterdir()} == stored_digests(home)


@pytest.mark.parametrize("kind", ["cut", "short"])
def test_a_line_that_breaks_is_gone_on_with(  # noqa: PLR0917
    online: Hub, large: str, home: Path, large_folder: Path, adreg: Adreg, kind: str
) -> None:
    """The rest alone is asked for, with If-Range: no byte comes twice."""
    online.faults.append(Fault("GET /cdn/", kind, at=5 * MIB, times=1))  # type: ignore[arg-type]

    ran = adreg("pull", large)

    assert 0 == ran.code
    check(home, large_folder)
    first, second = [one for one in online.requests if one.path.startswith("/cdn/")]
    assert "range" not in first.headers
    begin = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 4 * MIB < begin <= 5 * MIB
    assert second.headers["if-range"].startswith('"')
    assert second.bytes_sent == (large_folder / WEIGHTS).stat().st_size - begin


@pytest.mark.parametrize("path", ["GET /cdn/", "GET /alice/large/resolve/.*/adapter_config"])
def test_wrong_bytes_are_fetched_again(  # noqa: PLR0917
    online: Hub, large: str, home: Path, large_folder: Path, adreg: Adreg, path: str
) -> None:
    """One flipped byte, in a large file or in a small one, never gets in."""
    online.faults.append(Fault(path, "corrupt", at=20, times=1))

    assert 0 == adreg("pull", large).code
    check(home, large_folder)


def test_bytes_that_stay_wrong(online: Hub, large: str, home: Path, adreg: Adreg) -> None:
    """After three whole downloads with wrong bytes the pull says so; nothing is registered."""
    online.faults.append(Fault("GET /cdn/", "corrupt", at=20, times=99))

    ran = adreg("pull", large)

    assert (
        "error: alice/large/adapter_model.safetensors: the bytes that come are not those of"
        " the Hub's digest (3 times)\n"
        "hint: Check HF_ENDPOINT and the proxy, and try again: nothing was registered.\n"
    ) == ran.err
    assert (1, 3) == (ran.code, len([one for one in online.requests if "/cdn/" in one.path]))
    assert not Registry().list().rows
    assert not stored_digests(home)


def test_a_changed_etag_starts_from_the_beginning(
    online: Hub, large: str, home: Path, large_folder: Path, adreg: Adreg
) -> None:
    """A server that has another file by now sends all of it, which is checked as ever."""
    online.faults.append(Fault("GET /cdn/", "etag", times=1))
    online.faults.append(Fault("GET /cdn/", "cut", at=MIB, times=1))

    assert 0 == adreg("pull", large).code
    check(home, large_folder)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(
    online: Hub, adapter_repo: str, adreg: Adreg, status: int
) -> None:
    """A status that passes costs a wait, on the API and on files."""
    online.faults.append(Fault("GET /api/models", "status", status=status, times=2))
    online.faults.append(Fault("GET .*/resolve/", "status", status=status, times=2))

    assert 0 == adreg("pull", adapter_repo).code


def test_the_wait_that_the_hub_asks_for(
    online: Hub, adapter_repo: str, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retry-After is waited for, to the second."""
    waits: list[float] = []
    monkeypatch.setattr("adreg.registry.hub.client.time.sleep", waits.append)
    headers = {"Retry-After": "7"}
    online.faults.append(Fault("GET /api/models", "status", headers=headers, times=1))
    online.faults.append(Fault("GET /cdn/", "status", headers=headers, times=1))

    assert 0 == adreg("pull", adapter_repo).code
    assert [7.0, 7.0] == waits


def test_a_hub_that_stays_busy(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """After six tries the pull gives up, and says what to do."""
    online.faults.append(Fault("GET /api/models", "status", status=429, times=99))

    ran = adreg("pull", adapter_repo)

    assert (1, 6) == (ran.code, len(online.requests))
    assert ran.err.startswith("error: alice/support: too many requests for the Hub")
    assert ran.err.endswith(
        "\nhint: Wait some minutes and try again; with a token the limits are wider.\n"
    )


def test_a_repository_that_changes_meanwhile(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """A new commit during the pull does not mix in; a commit that is gone is told."""
    first = online.head(adapter_repo)
    online.faults.append(Fault(f"GET .*resolve/{first}/adapter_config", "status", status=404))
    online.faults[-1].headers = {"X-Error-Code": "RevisionNotFound"}

    ran = adreg("pull", adapter_repo)

    assert 1 == ran.code
    assert (
        "error: alice/support: it changed while it was pulled: adapter_config.json is gone\n"
        "hint: Pull it again; what was fetched so far is kept.\n"
    ) == ran.err
    assert not Registry().list().rows
    assert 0 == adreg("pull", adapter_repo).code


def test_a_full_disk_keeps_what_came(
    online: Hub, large: str, small_disk: Path, adreg: Adreg, large_folder: Path
) -> None:
    """The room is looked at before a byte comes; nothing is registered."""
    del large_folder
    ran = adreg("--home", str(small_disk / "home"), "pull", large)

    assert 1 == ran.code
    assert "there is not enough room" in ran.err
    assert 0 == sent(online)


def test_a_disk_that_fills_up_meanwhile(
    online: Hub,
    large: str,
    small_disk: Path,
    adreg: Adreg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came before the disk was full is kept; nothing is registered."""
    monkeypatch.setattr("adreg.registry.ops.pull.require_space", lambda *_: None)
    home = small_disk / "home"

    ran = adreg("--home", str(home), "pull", large)

    assert 1 == ran.code
    assert "No space left on device" in ran.err
    assert MIB < part_size(home)
    assert 1 == len([one for one in online.requests if one.path.startswith("/cdn/")])
    assert not Registry(home).list().rows


def test_a_kill_at_any_moment(online: Hub, large: str, home: Path, large_folder: Path) -> None:
    """After kill -9 what had come is not fetched again, and the bytes are right."""
    size = (large_folder / WEIGHTS).stat().st_size
    online.faults.append(Fault("GET /cdn/", "slow", at=12 * MIB, times=99))
    kept, begins = 0, list[str | None]()
    for goal in sorted(moments(5, seed=5)):
        process = start(online, home, "pull", large)
        while part_size(home) < goal * size and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert part_size(home) >= kept
        kept = part_size(home)
        assert not Registry().list().rows
        begins = [one.headers.get("range") for one in online.requests if "/cdn/" in one.path]
    before = sent(online)
    online.requests.clear()
    online.faults.clear()

    process = start(online, home, "pull", large, "--json")
    out, err = process.communicate(timeout=60)

    assert (0, size - kept) == (process.returncode, sent(online)), err
    assert (
        size - kept + len((large_folder / "adapter_config.json").read_bytes())
        >= (json.loads(out)["pulled"][0]["fetched"])
    )
    assert all(one is not None for one in begins[1:])
    assert before >= kept
    check(home, large_folder)


def test_two_pulls_at_once(online: Hub, large: str, home: Path, large_folder: Path) -> None:
    """Two processes do not clash, and fetch it once."""
    both = [start(online, home, "pull", large) for _ in range(2)]
    ended = [(one.communicate(timeout=60), one.returncode) for one in both]

    assert [0, 0] == [code for _, code in ended], ended
    assert 1 == len([one for one in online.requests if one.path.startswith("/cdn/")])
    assert 1 == len(Registry().list().rows)
    check(home, large_folder)


def test_pulls_in_a_storm(  # noqa: PLR0917
    online: Hub,
    adapter_folder: Path,
    large_folder: Path,
    tmp_path: Path,
    adreg: Adreg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 30 pulls with faults at random none registers a wrong byte; most end well."""
    monkeypatch.setattr(Backoff, "wait", lambda self, failures: 0.0)  # noqa: ARG005
    chance = random.Random(30)  # noqa: S311  # for repeatable tests
    online.create_repo("alice/small")
    small = {p.name: p for p in adapter_folder.iterdir() if p.is_file()}
    online.commit("alice/small", small)
    put(online, large_folder)
    wanted = {
        "alice/small": {of_file(path) for name, path in small.items() if name != "optimizer.pt"},
        "alice/large": {of_file(path) for path in large_folder.iterdir()},
    }
    well = 0
    for number in range(30):
        online.faults.clear()
        for _ in range(chance.randrange(1, 5)):
            kind = chance.choice(KINDS)
            match = chance.choice(["GET /api", "GET .*/resolve/", "GET /cdn/"])
            at, skip = chance.randrange(1, 10**7), chance.randrange(3)
            status = chance.choice([429, 500, 503])
            online.faults.append(
                Fault(match, kind, at=at, times=chance.randrange(1, 4), skip=skip, status=status)
            )
        repo = "alice/large" if number % 3 == 0 else "alice/small"
        home = tmp_path / f"home-{number}"
        ran = adreg("--home", str(home), "pull", repo)
        assert ran.code in {0, 1}, ran
        if ran.code == 0:
            assert wanted[repo] == stored_digests(home)
            well += 1
        else:
            assert not Registry(home).list().rows
            assert not stored_digests(home)
    assert well >= 25
