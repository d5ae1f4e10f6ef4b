"""The Hub's answers in adreg's words, and how long adreg waits for it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hubserver import Fault, Hub
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported lazily

from adreg.registry.errors import HubBusy, HubDamaged, HubError, HubNoAccess
from adreg.registry.hub import translation
from adreg.registry.hub.answers import read_info, read_tree
from adreg.registry.hub.client import Backoff, HubClient

COMMIT = "a" * 40


def refusal(
    status: int, *, code: str = "", said: str = "", with_token: bool = True, retried: bool = False
) -> HubError:
    """Return what an answer means."""
    return translation.of_response(
        status,
        {"X-Error-Code": code},
        json.dumps({"error": said}).encode(),
        "a/b@main",
        endpoint="https://hub",
        with_token=with_token,
        retried=retried,
    )


@pytest.mark.parametrize(
    ("error", "kind", "sentence", "hint"),
    [
        (
            refusal(403, said="No write access."),
            "HubNoAccess",
            "a/b@main: access is denied (No write access)",
            (
                "Use a token with that right: https://hub/settings/tokens, then log in with"
                " `hf auth login`, or set HF_TOKEN."
            ),
        ),
        (
            refusal(403, with_token=False),
            "HubNoAccess",
            "a/b@main: access is denied",
            "First log in with `hf auth login`, or set HF_TOKEN.",
        ),
        (
            refusal(412, said="moved"),
            "HubConflict",
            "a/b@main: it is not as expected (moved)",
            "Look at what is there now, and try again.",
        ),
        (
            refusal(400, said="a\x1b[31m\nb"),
            "HubError",
            "a/b@main: the Hub refuses it with 400 (a [31m b)",
            "",
        ),
        (
            refusal(404, code="EntryNotFound"),
            "UnknownFile",
            "a/b@main: there is no such file",
            "Look at its page on the Hub: https://hub/a/b",
        ),
        (
            refusal(503, retried=True),
            "HubBusy",
            "a/b@main: the Hub fails with 503",
            "Try again later; what was fetched so far is kept.",
        ),
    ],
)
def test_refusals(error: HubError, kind: str, sentence: str, hint: str) -> None:
    """Status and code decide; the Hub's own words come along on one printable line."""
    assert (kind, sentence, hint) == (type(error).__name__, error.sentence, error.hint)


def test_the_wait_that_is_asked_for() -> None:
    """Seconds, a date, or the window of a spent limit; nothing is nothing."""
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)

    assert 12.0 == translation.asked_wait({"Retry-After": "12"})
    assert 28 < (translation.asked_wait({"Retry-After": soon}) or 0) <= 30
    assert 55.0 == translation.asked_wait({"RateLimit": '"api";r=0;t=55'})
    assert translation.asked_wait({"RateLimit": '"api";r=9;t=55'}) is None
    assert translation.asked_wait({"Retry-After": "soon"}) is None
    assert translation.asked_wait({}) is None


def test_waits_double_up_to_the_most() -> None:
    """Each failure in a row waits twice as long, but never more than eight seconds."""
    assert [0.5, 1, 2, 4, 8, 8] == [Backoff().wait(number) for number in range(1, 7)]


@pytest.mark.usefixtures("adapter_repo")
def test_a_wait_that_is_too_long(online: Hub) -> None:
    """A Hub that asks for an hour is not waited for."""
    online.faults.append(Fault("GET /api", "status", headers={"Retry-After": "3600"}))
    slept: list[float] = []

    with pytest.raises(HubBusy) as caught:
        HubClient(sleep=slept.append).info("alice/support")

    assert "It asks to wait 3,600 seconds: try again after that." == caught.value.hint
    assert not slept


@pytest.mark.usefixtures("adapter_repo")
def test_a_line_that_breaks_off_again_and_again(online: Hub) -> None:
    """The way to the Hub is named, and that what came is kept."""
    online.faults.append(Fault("GET /api", "drop", times=99))

    with pytest.raises(HubBusy) as caught:
        HubClient().info("alice/support")

    host = online.endpoint.removeprefix("http://")
    assert caught.value.sentence.startswith(f"alice/support: the connection to {host} broke off: ")
    assert "Try again: what was fetched so far is kept." == caught.value.hint


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([], "it names no commit"),
        ({"sha": "main"}, "it names no commit"),
        (
            {"sha": COMMIT, "siblings": [{"rfilename": "x", "blobId": "y", "size": 1}]},
            "'x' has no git blob id",
        ),
        (
            {"sha": COMMIT, "siblings": [{"rfilename": "x", "blobId": COMMIT, "size": -1}]},
            "'x' has no name or no size",
        ),
        (
            {"sha": COMMIT, "siblings": [{"rfilename": "x", "blobId": COMMIT, "lfs": {}}]},
            "'x' has no SHA-256",
        ),
    ],
)
def test_answers_that_are_not_the_hubs(value: object, what: str) -> None:
    """An answer without commit, digests and sizes is not used."""
    with pytest.raises(HubDamaged) as caught:
        read_info(value, "a/b", "a/b")

    assert f"a/b: the answer of the Hub cannot be used: {what}" == caught.value.sentence
    assert "Check HF_ENDPOINT: a proxy or another site may answer in its place." == (
        caught.value.hint
    )


def test_a_tree_that_is_no_list() -> None:
    """A tree is a list of objects."""
    with pytest.raises(HubDamaged, match="its tree is no list"):
        read_tree({}, "a/b")


def test_the_tree_agrees_with_the_files_of_the_info(online: Hub, adapter_repo: str) -> None:
    """Both ways to the list of files give the same paths, sizes and digests."""
    client = HubClient()
    info = client.info(adapter_repo)

    assert info.files is not None
    assert sorted(info.files, key=lambda one: one.path) == sorted(
        client.tree(adapter_repo, info.commit), key=lambda one: one.path
    )
    assert info.commit == online.head(adapter_repo)


@pytest.mark.parametrize("token", ["hf_secret\x0bx", "hf_s\N{LATIN SMALL LETTER E WITH ACUTE}cret"])
def test_a_token_that_no_header_holds_stands_in_no_error(online: Hub, token: str) -> None:
    """It is refused in our words before it is sent, and not shown."""
    with pytest.raises(HubNoAccess) as caught:
        HubClient(token=token).info("alice/support")

    assert "the token has characters that no token has" in caught.value.sentence
    assert "cret" not in str(caught.value)
    assert not online.requests


@pytest.mark.parametrize("endpoint", ["http://[bad", "http://localhost:port", "http://a\x01b"])
@pytest.mark.usefixtures("online")
def test_an_endpoint_that_is_no_address(endpoint: str) -> None:
    """What HF_ENDPOINT can be is an error of ours, not of what parses it."""
    with pytest.raises(HubError, match="HF_ENDPOINT is no address of a Hub"):
        HubClient(endpoint).info("alice/support")


def test_a_password_in_the_endpoint_is_not_shown(online: Hub) -> None:
    """Neither in an error nor in the address that is kept of a copy."""
    host = online.endpoint.removeprefix("http://")
    client = HubClient(f"http://me:secret@{host}")

    assert online.endpoint == client.site
    online.faults.append(Fault("GET /api", "drop", times=99))
    with pytest.raises(HubBusy) as caught:
        client.info("alice/support")
    assert f"the connection to {host} broke off" in caught.value.sentence
    assert "secret" not in f"{caught.value.sentence} {caught.value.hint}"


def test_a_listing_that_goes_on_at_no_address(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A next page whose address cannot be read is the Hub's fault, told in our words."""
    answer = httpx.Response(200, json=[], headers={"Link": '<http://[bad>; rel="next"'})
    client = HubClient()
    monkeypatch.setattr(client, "request", lambda *_, **__: answer)

    with pytest.raises(HubDamaged, match="its listing goes on at no address"):
        list(client.pages("api/models", "alice", {}))
    assert not online.requests
