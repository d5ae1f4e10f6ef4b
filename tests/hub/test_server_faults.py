"""Each fault of the Hub for tests is what it says, and strikes as often as it was told."""

from __future__ import annotations

import http.client
import json
import time
from urllib.parse import urlsplit

import pytest
from hubserver import Fault, Hub

DATA = bytes(range(1, 256)) * 8_000  # no NUL: regular to the Hub; two pieces on the wire


class Asker:
    """One who asks, with what came of the last request."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.headers: dict[str, str] = {}

    def __call__(
        self, path: str, method: str = "GET", body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Return status and body; a status of 0 if no answer came, the body as far as it came."""
        line = http.client.HTTPConnection(urlsplit(self._hub.endpoint).netloc, timeout=20)
        try:
            line.request(method, path, body, {"Authorization": "Bearer hf_alice"})
            answer = line.getresponse()
            self.headers = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, answer.read()
        except http.client.IncompleteRead as error:
            return -1, error.partial
        except (http.client.RemoteDisconnected, ConnectionError):
            return 0, b""
        finally:
            line.close()

    def commit(self, **header: str) -> tuple[int, bytes]:
        """Commit one file."""
        lines = [
            {"key": "header", "value": {"summary": "mine", **header}},
            {"key": "file", "value": {"path": "mine.txt", "content": "mine"}},
        ]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        return self("/api/models/org/a/commit/main", "POST", body)


@pytest.fixture
def ask(hub: Hub) -> Asker:
    """Return one who asks a Hub with a regular file of 2 MB."""
    hub.add_user("alice", "hf_alice")
    hub.create_repo("org/a")
    hub.commit("org/a", {"data.txt": b"x" + DATA})
    hub.commit("org/a", {"w.safetensors": DATA})
    return Asker(hub)


FILE = "/org/a/resolve/main/data.txt"
WHOLE = b"x" + DATA


@pytest.mark.parametrize("at", [0, 1, 1_500_000])
def test_cut(hub: Hub, ask: Asker, at: int) -> None:
    """The line breaks after exactly so many bytes, once; the head had promised all."""
    hub.faults.append(Fault(match="data.txt", kind="cut", at=at))

    assert (-1, WHOLE[:at]) == ask(FILE)
    assert str(len(WHOLE)) == ask.headers["content-length"]
    assert (200, WHOLE) == ask(FILE)
    assert [["cut"], []] == [request.faults for request in hub.requests]
    assert at == hub.requests[0].bytes_sent


@pytest.mark.parametrize("at", [0, 1_500_000])
def test_corrupt(hub: Hub, ask: Asker, at: int) -> None:
    """One byte is wrong, and nothing else."""
    hub.faults.append(Fault(match="data.txt", kind="corrupt", at=at))
    status, body = ask(FILE)

    assert (200, len(WHOLE)) == (status, len(body))
    assert [at] == [index for index, byte in enumerate(body) if byte != WHOLE[index]]


@pytest.mark.parametrize("at", [0, 1_500_000])
def test_short(hub: Hub, ask: Asker, at: int) -> None:
    """The answer is well formed, and too short."""
    hub.faults.append(Fault(match="data.txt", kind="short", at=at))

    assert (200, WHOLE[:at]) == ask(FILE)
    assert str(at) == ask.headers["content-length"]


def test_etag(hub: Hub, ask: Asker) -> None:
    """ETag and X-Linked-Etag have their form, and are wrong."""
    hub.faults.append(Fault(match="HEAD", kind="etag", times=2))
    ask(FILE, "HEAD")
    assert '"' + "0" * 40 + '"' == ask.headers["etag"]
    ask("/org/a/resolve/main/w.safetensors", "HEAD")
    assert '"' + "0" * 64 + '"' == ask.headers["x-linked-etag"]
    ask(FILE, "HEAD")
    assert '"' + "0" * 40 + '"' != ask.headers["etag"]


def test_status(hub: Hub, ask: Asker) -> None:
    """So many requests that match are answered with the status and headers, after those let by."""
    hub.faults.append(
        Fault(match="^GET .*data", kind="status", times=2, skip=1, headers={"Retry-After": "7"})
    )
    said = [(ask(FILE)[0], ask.headers.get("retry-after")) for _ in range(4)]

    assert [(200, None), (429, "7"), (429, "7"), (200, None)] == said


@pytest.mark.parametrize(("kind", "status"), [("after_commit_500", 500), ("after_commit_drop", 0)])
def test_after_commit(hub: Hub, ask: Asker, kind: str, status: int) -> None:
    """The commit stands, though its sender heard otherwise."""
    before = hub.head("org/a")
    hub.faults.append(Fault(match="/commit/", kind=kind))  # type: ignore[arg-type]

    assert status == ask.commit(parentCommit=before)[0]
    assert [before, None] != [hub.head("org/a"), None]
    assert b"mine" == hub.files("org/a")["mine.txt"]
    assert 412 == ask.commit(parentCommit=before)[0]


def test_race(hub: Hub, ask: Asker) -> None:
    """Someone else's commit comes first: 412 for who named a parent, below for others."""
    before = hub.head("org/a")
    hub.faults.append(Fault(match="/commit/main", kind="race", times=2))

    assert 412 == ask.commit(parentCommit=before)[0]
    assert "mine.txt" not in hub.files("org/a")
    assert 200 == ask.commit()[0]
    assert {"mine.txt", "race.txt"} <= set(hub.files("org/a"))
    assert 5 + 1 == len(hub.commits("org/a"))


def test_drop(hub: Hub, ask: Asker) -> None:
    """No answer comes, and nothing was done."""
    before = hub.head("org/a")
    hub.faults.append(Fault(match="POST", kind="drop"))

    assert (0, b"") == ask.commit()
    assert before == hub.head("org/a")
    assert 200 == ask.commit()[0]


def test_slow(hub: Hub, ask: Asker) -> None:
    """The answer starts late, and comes no faster than so many bytes a second."""
    hub.faults.append(Fault(match="data", kind="slow", seconds=0.2, at=5_000_000))
    start = time.monotonic()

    assert (200, WHOLE) == ask(FILE)
    assert 0.5 < time.monotonic() - start


def test_cut_on_the_way_up(hub: Hub, ask: Asker) -> None:
    """An upload breaks after so many bytes, and leaves nothing behind."""
    hub.faults.append(Fault(match="PUT", kind="cut", at=100_000))
    oid = "5a" * 32
    body = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": len(DATA)}]})
    _, said = ask("/org/a.git/info/lfs/objects/batch", "POST", body.encode())
    where = urlsplit(json.loads(said)["objects"][0]["actions"]["upload"]["href"])

    assert 0 == ask(f"{where.path}?{where.query}", "PUT", DATA)[0]
    assert 100_000 < hub.requests[-1].bytes_received < len(DATA)
    assert 400 == ask(f"{where.path}?{where.query}", "PUT", DATA)[0]  # not the digest it was for
    deadline = time.monotonic() + 5
    objects = hub.root / "objects"
    while list(objects.glob("incoming-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [] == list(objects.glob("incoming-*"))
