"""What the Hub answers when it refuses, as our errors: by status and X-Error-Code, never by text.

The codes are those that huggingface_hub 2.4 knows (utils/_http.py, hf_raise_for_status).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from adreg.registry.errors import (
    HubBusy,
    HubConflict,
    HubError,
    HubNoAccess,
    UnknownFile,
    UnknownRepo,
    UnknownRevision,
)

_BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  # a sentence of the Hub's
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_LIMIT = re.compile(r";\s*r=(\d+)\s*;\s*t=(\d+)")


def of_response(  # noqa: PLR0913  # the parts of an answer, and of who asked
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    target: str,
    *,
    endpoint: str,
    with_token: bool,
    retried: bool = False,
) -> HubError:
    """Return the error that an answer of the Hub means; ``body`` is read for its message alone."""
    code = headers.get("X-Error-Code", "")
    said = message(headers, body)
    mind = f" ({said})" if said else ""
    if code == "GatedRepo":
        page = f"{endpoint}/{_repo(target)}"
        advice = f"Accept its terms at {page}" + ("." if with_token else f", then {_LOG_IN}.")
        return HubNoAccess(target, "it is gated: its owner gives access", advice, status)
    if code in {"RevisionNotFound", "EntryNotFound"}:
        kind, what = _MISSING[code]
        advice = f"Look at its page on the Hub: {endpoint}/{_repo(target)}"
        return kind(target, f"there is no such {what}", advice, status)
    if status == 401 and headers.get("X-Error-Message") == _BAD_TOKEN:
        advice = f"Get a new one at {endpoint}/settings/tokens, then {_LOG_IN}."
        return HubNoAccess(target, "the Hub does not accept this token", advice, status)
    if code == "RepoNotFound" or status in {401, 404}:
        return _unknown(status, target, with_token=with_token)
    if status == 403:
        advice = f"First {_LOG_IN}."
        if with_token:
            advice = f"Use a token with that right: {endpoint}/settings/tokens, then {_LOG_IN}."
        return HubNoAccess(target, f"access is denied{mind}", advice, status)
    return _other(status, target, mind, retried=retried)


_MISSING = {
    "RevisionNotFound": (UnknownRevision, "revision"),
    "EntryNotFound": (UnknownFile, "file"),
}


def _repo(target: str) -> str:
    """Return ``OWNER/REPO`` of a target, which may be a revision or a file of one."""
    return "/".join(target.partition("@")[0].split("/")[:2])


def _unknown(status: int, target: str, *, with_token: bool) -> UnknownRepo:
    # A private repository of somebody else's looks the same.
    reason = "there is no such repository on the Hub, or it is private"
    advice = f"Check its name; if it is private, {_LOG_IN}."
    if with_token:
        advice = "Check its name, and whether this token may read it."
    return UnknownRepo(target, reason, advice, status)


def _other(status: int, target: str, mind: str, *, retried: bool) -> HubError:
    if retried:
        return _busy(status, target, mind)
    if status in {409, 412}:
        advice = "Look at what is there now, and try again."
        return HubConflict(target, f"it is not as expected{mind}", advice, status)
    return HubError(target, f"the Hub refuses it with {status}{mind}", "", status)


def _busy(status: int, target: str, mind: str) -> HubBusy:
    if status == 429:
        advice = "Wait some minutes and try again; with a token the limits are wider."
        return HubBusy(target, f"too many requests for the Hub{mind}", advice, status)
    advice = "Try again later; what was fetched so far is kept."
    return HubBusy(target, f"the Hub fails with {status}{mind}", advice, status)


def message(headers: Mapping[str, str], body: bytes) -> str:
    """Return what the Hub says of a refusal, one printable line of at most 200 characters."""
    said: object = headers.get("X-Error-Message", "")
    if not said:
        try:
            value = json.loads(body[: 1 << 16])
            said = value.get("error") or value.get("message") if isinstance(value, dict) else ""
        except (ValueError, RecursionError):
            said = ""
    text = said if isinstance(said, str) else ""
    kept = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(kept.split())[:200].rstrip(".")


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the Hub asks to wait, None when it does not say.

    ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3), or the window of a spent
    ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers, as the Hub sends it).
    """
    limit = _LIMIT.search(headers.get("RateLimit", ""))
    if limit and limit[1] == "0":
        return float(limit[2])
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
