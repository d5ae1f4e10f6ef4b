"""What the Hub for tests says on the wire: ranges, conditions, redirects, headers, the log."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hubserver import Hub

SMALL = b"0123456789"
LARGE = bytes(range(256)) * 20_000


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Make one request on a connection of its own; follow nothing."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        line.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = line.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        line.close()


@pytest.fixture
def address(hub: Hub) -> str:
    """Return where the files of a repo are."""
    hub.create_repo("org/a")
    hub.commit("org/a", {"c.json": SMALL, "w.safetensors": LARGE})
    return f"{hub.endpoint}/org/a/resolve/main"


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-99", 206, SMALL, "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("lines=1-2", 200, SMALL, None),
    ],
)
def test_range(
    address: str, wanted: str, status: int, body: bytes, content_range: str | None
) -> None:
    """A range is given as RFC 9110 says, 206 or 416; one that is not understood is left aside."""
    told, headers, sent = ask(f"{address}/c.json", Range=wanted)

    assert (status, body, content_range) == (told, sent, headers.get("content-range"))
    assert str(len(body)) == headers["content-length"]


def test_if_range(address: str) -> None:
    """A range of a file that has changed since is the whole file."""
    etag = ask(f"{address}/c.json", "HEAD")[1]["etag"]

    assert (206, b"9") == ask(f"{address}/c.json", Range="bytes=9-", If_Range=etag)[::2]
    assert (200, SMALL) == ask(f"{address}/c.json", Range="bytes=9-", If_Range='"old"')[::2]
    assert 304 == ask(f"{address}/c.json", If_None_Match=etag)[0]


def test_a_large_file_is_elsewhere(hub: Hub, address: str) -> None:
    """A large file's digest and size stand on the redirect; the CDN has an ETag of its own."""
    status, headers, body = ask(f"{address}/w.safetensors", "HEAD")

    assert (302, b"") == (status, body)
    assert hub.head("org/a") == headers["x-repo-commit"]
    assert str(len(LARGE)) == headers["x-linked-size"]
    where = headers["location"]
    assert urlsplit(where).netloc != urlsplit(address).netloc
    told, there, sent = ask(where)
    assert (200, LARGE) == (told, sent)
    assert headers["x-linked-etag"] != there["etag"]
    assert (206, LARGE[-5:]) == ask(where, Range="bytes=-5", If_Range=there["etag"])[::2]


def test_a_signed_address_ends(address: str) -> None:
    """An address on the CDN that was changed, or not signed, opens nothing."""
    where = ask(f"{address}/w.safetensors", "HEAD")[1]["location"]

    assert 403 == ask(where.replace("Expires=1", "Expires=2"))[0]
    assert 403 == ask(where.split("?")[0])[0]


def test_what_is_missing(hub: Hub, address: str) -> None:
    """Each kind of 404 has the code by which clients know it."""
    entry = ask(f"{address}/none")
    revision = ask(f"{address.replace('main', 'v9')}/c.json")

    assert (404, "EntryNotFound") == (entry[0], entry[1]["x-error-code"])
    assert hub.head("org/a") == entry[1]["x-repo-commit"]
    assert (404, "RevisionNotFound") == (revision[0], revision[1]["x-error-code"])
    gone = ask(f"{hub.endpoint}/org/none/resolve/main/c.json")
    assert (401, "RepoNotFound") == (gone[0], gone[1]["x-error-code"])


def test_revisions(hub: Hub, address: str) -> None:
    """A branch, a tag, a full ref, a commit and a short commit all name a revision."""
    old = hub.head("org/a")
    hub.tag("org/a", "v/1")
    hub.commit("org/a", {"c.json": b"new"}, branch="next")
    hub.commit("org/a", {"c.json": b"newer"})
    start = address.removesuffix("main")
    said = [
        ask(f"{start}{name}/c.json")[2]
        for name in ("main", "next", "v%2F1", "refs%2Fheads%2Fnext", old, old[:8])
    ]

    assert [b"newer", b"new", SMALL, b"new", SMALL, SMALL] == said


def test_the_log(hub: Hub, address: str) -> None:
    """Every request is written down in order, with status and bytes."""
    ask(f"{address}/c.json", "HEAD")
    ask(f"{address}/c.json?x=1", Range="bytes=1-3")
    ask(f"{address}/none", Authorization="Bearer nobody")
    path = "/org/a/resolve/main"

    assert [
        ("HEAD", f"{path}/c.json", 200, 0),
        ("GET", f"{path}/c.json?x=1", 206, 3),
        (
            "GET",
            f"{path}/none",
            401,
            len(b'{"error":"Invalid credentials in Authorization header"}'),
        ),
    ] == [(r.method, r.path, r.status, r.bytes_sent) for r in hub.requests]
    assert "bytes=1-3" == hub.requests[1].headers["range"]


def test_storage_outlives_the_server(tmp_path: Path) -> None:
    """A second server over the same folder has the repos, refs and bytes of the first."""
    with Hub(tmp_path / "kept") as first:
        first.create_repo("org/a")
        oid = first.commit("org/a", {"w.safetensors": LARGE, "c.json": SMALL})
        first.tag("org/a", "v1")
    with Hub(tmp_path / "kept") as second:
        assert oid == second.head("org/a") == second.head("org/a", "v1")
        assert SMALL == ask(f"{second.endpoint}/org/a/resolve/v1/c.json")[2]
        assert SMALL == second.files("org/a")["c.json"]
