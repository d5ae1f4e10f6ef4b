"""One way to speak to the Hub: its session, its token, its retries, and its errors as ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import constants, get_token
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    get_session,
    httpx,  # httpx for huggingface_hub 1, httpx2 for 2
)

from adreg.registry.errors import (
    AdregError,
    HubBusy,
    HubDamaged,
    HubError,
    HubNoAccess,
    HubOffline,
    UnknownRepo,
)
from adreg.registry.hub import translation
from adreg.registry.hub.answers import Entry, RepoInfo, read_info, read_tree
from adreg.registry.names import check_name

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Response = Any  # httpx.Response, whichever httpx it is

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""What huggingface_hub's http_backoff tries again too (2.4, utils/_http.py)."""

_HUB = "huggingface.co"

_LONGEST_WAIT = 600.0
"""Seconds; a Hub that asks for more than that is left alone."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often to try and how long to wait, in seconds, doubling up to ``most``.

    ``unreachable`` is for connections that are not even opened: mostly there is no network.
    """

    tries: int = 6
    first: float = 0.5
    most: float = 8.0
    unreachable: int = 3

    def wait(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30))


class HubClient:
    """Requests to one endpoint; making one touches no network.

    Every method raises HubError or one below it, and nothing else.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        offline: bool | None = None,
        backoff: Backoff | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Take the endpoint, the token and the mode of the environment, unless they are given.

        HF_ENDPOINT, HF_TOKEN or what `hf auth login` stored, HF_HUB_OFFLINE. The token is
        sent to the endpoint alone, and stands in no error.
        """
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip(
            "/"
        )
        self._given = token
        self.offline = constants.HF_HUB_OFFLINE if offline is None else offline
        self.backoff = backoff or Backoff()
        self._sleep = sleep or time.sleep

    @property
    def token(self) -> str | None:
        """The token: the one given, else the usual one; raise HubNoAccess for what is none.

        A header cannot hold every text, and what refuses to send it may quote it.
        """
        implicit = self._given is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
        token = (get_token() if implicit else self._given) or None
        if token is not None and not (token.isascii() and token.isprintable()):
            reason = "the token has characters that no token has"
            raise HubNoAccess(self.site, reason, "Set HF_TOKEN anew, or log in again.")
        return token

    @property
    def site(self) -> str:
        """The endpoint as it may be shown and kept: without a name and password in it."""
        scheme, slashes, rest = self.endpoint.rpartition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"

    @property
    def api(self) -> HfApi:
        """huggingface_hub's own client with the same endpoint and token; see ``guarded``."""
        # A fifth of a second to import, which a pull does without.
        from huggingface_hub import HfApi  # noqa: PLC0415

        # False, or it would look for a token itself.
        token = self.token or False
        return HfApi(self.endpoint, token, "adreg", version("adreg"))

    @contextmanager
    def guarded(self, target: str) -> Iterator[None]:
        """Let what huggingface_hub raises in the body out as one of our errors."""
        self.check_online(target)
        try:
            yield
        except AdregError:
            raise
        except httpx.HTTPError as error:
            response = getattr(error, "response", None)
            if response is not None:
                raise self._refusal(response, target) from error
            raise self._unreachable(error, target) from error
        except OfflineModeIsEnabled as error:
            raise _offline(target) from error

    def waiting_by(self, sleep: Callable[[float], object]) -> HubClient:
        """Return such a client that waits by another function, which may raise to end it."""
        return HubClient(
            self.endpoint, self._given, offline=self.offline, backoff=self.backoff, sleep=sleep
        )

    def check_online(self, target: str) -> None:
        """Raise HubOffline in offline mode, HubError for an endpoint that is no address."""
        if self.offline:
            raise _offline(target)
        if not _is_address(self.endpoint):
            reason = "HF_ENDPOINT is no address of a Hub"
            advice = "It looks like https://huggingface.co: mend or unset it."
            raise HubError(target, reason, advice)

    def url(self, path: str) -> str:
        """Return the address of a path, which must be quoted; an address stays as it is."""
        return path if "://" in path else f"{self.endpoint}/{path.lstrip('/')}"

    def request(  # noqa: PLR0913  # one argument for each part of a request
        self,
        method: Method,
        path: str,
        *,
        target: str,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
        allowed: frozenset[int] = frozenset(),
    ) -> Response:
        """Send one request and return its whole answer, tried again while that may help.

        ``target`` is what an error names. ``retry`` false: once only, for what must not
        be done twice. ``allowed`` are statuses that are returned too, not raised.
        """
        failures = 0
        while True:
            try:
                self.check_online(target)
                response = get_session().request(
                    method,
                    self.url(path),
                    params=params,
                    json=json,
                    content=content,
                    headers=self._headers(path, headers),
                    timeout=constants.HF_HUB_ETAG_TIMEOUT * 3,
                )
            except httpx.HTTPError as error:
                failure: HubError = self._unreachable(error, target)
                failures += 1
                self._pause(failure, failures, retry=retry)
                continue
            except OfflineModeIsEnabled as error:
                raise _offline(target) from error
            if response.status_code < 300 or response.status_code in allowed:
                return response
            failure = self._refusal(response, target)
            failures += 1
            self._pause(failure, failures, translation.asked_wait(response.headers), retry=retry)

    @contextmanager
    def stream(
        self, path: str, *, target: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[Response]:
        """Open one GET whose body the caller reads; nothing is tried again here.

        Raises what ``request`` does, also when reading the body fails; ``retry_after`` of
        the error's cause is for ``pause``.
        """
        self.check_online(target)
        session = get_session()
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            with session.stream(
                "GET",
                self.url(path),
                headers=self._headers(path, asked),
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ) as response:
                if response.status_code >= 300 and response.status_code != 416:
                    response.read()
                    failure = self._refusal(response, target)
                    failure.__cause__ = Wait(translation.asked_wait(response.headers))
                    raise failure
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error, target) from error
        except OfflineModeIsEnabled as error:
            raise _offline(target) from error

    def pause(self, failure: HubError, failures: int) -> None:
        """Wait as long as is right after so many failures in a row, or raise the last one."""
        asked = failure.__cause__.seconds if isinstance(failure.__cause__, Wait) else None
        self._pause(failure, failures, asked)

    # -- looking

    def info(self, repo: str, revision: str = "main") -> RepoInfo:
        """Return a repository at a revision, with its files and their hashes: one request.

        Raises NameRefused, UnknownRepo, UnknownRevision, HubNoAccess, HubOffline, HubBusy.
        """
        target = repo if revision == "main" else f"{repo}@{revision}"
        path = f"api/models/{repo_path(repo)}/revision/{quote(revision, safe='')}"
        answer = self.request("GET", path, target=target, params={"blobs": "true"})
        return read_info(_json(answer, target), repo, target)

    def tree(self, repo: str, commit: str) -> tuple[Entry, ...]:
        """Return all files of a commit with their hashes. Raises as ``info``."""
        target = f"{repo}@{commit}"
        path = f"api/models/{repo_path(repo)}/tree/{quote(commit, safe='')}"
        pages = self.pages(path, target, {"recursive": "true"})
        return tuple(one for page in pages for one in read_tree(page, target))

    def pages(self, path: str, target: str, params: Mapping[str, Any]) -> Iterator[Any]:
        """Give the pages of a listing, each as its JSON (``Link: rel="next"``, RFC 8288)."""
        following: str | None = path
        asked: Mapping[str, Any] | None = params
        while following is not None:
            answer = self.request("GET", following, target=target, params=asked)
            yield _json(answer, target)
            following = answer.links.get("next", {}).get("url")
            if following is not None:
                following = self._on_endpoint(following, target)
            asked = None

    def exists(self, repo: str) -> bool:
        """Whether there is such a repository that this token may see."""
        try:
            self.request("GET", f"api/models/{repo_path(repo)}", target=repo)
        except UnknownRepo:
            return False
        return True

    def read(self, repo: str, commit: str, name: str, most: int = 16 << 20) -> bytes:
        """Return a small file of a commit; raise UnknownFile, HubDamaged if it is larger."""
        target = f"{repo}@{commit[:12]}/{name}"
        failures = 0
        while True:
            data = bytearray()
            try:
                with self.stream(file_path(repo, commit, name), target=target) as response:
                    for piece in response.iter_bytes():
                        data += piece
                        if len(data) > most:
                            raise HubDamaged(target, f"it is larger than {most:,} bytes")
            except HubError as error:
                failures += 1
                self.pause(error, failures)
            else:
                return bytes(data)

    def _on_endpoint(self, url: str, target: str) -> str:
        """Return an address of the next page on the endpoint, which a mirror may not name."""
        try:
            parts = urlsplit(urljoin(self.endpoint + "/", url))
        except ValueError as error:
            raise HubDamaged(target, "its listing goes on at no address") from error
        if _origin(parts.geturl()) == _origin(self.endpoint):
            return parts.geturl()
        if parts.netloc != urlsplit(constants.ENDPOINT).netloc and parts.netloc != _HUB:
            raise HubError(target, f"its listing goes on at another host, {parts.netloc}")
        return f"{self.endpoint}{parts.path}?{parts.query}"

    def _pause(
        self, failure: HubError, failures: int, asked: float | None = None, *, retry: bool = True
    ) -> None:
        tries = self.backoff.tries
        if isinstance(failure, HubOffline):
            tries = self.backoff.unreachable
        again = isinstance(failure, HubBusy | HubOffline) and not self.offline
        if not retry or not again or failures >= tries:
            raise failure
        if asked is not None and asked > _LONGEST_WAIT:
            failure.advice = f"It asks to wait {asked:,.0f} seconds: try again after that."
            raise failure
        self._sleep(self.backoff.wait(failures) if asked is None else asked)

    def _headers(self, path: str, more: Mapping[str, str] | None) -> dict[str, str]:
        # Not huggingface_hub's build_hf_headers: it may ask the Hub who runs it, one request more.
        agent = f"adreg/{version('adreg')}; hf_hub/{version('huggingface_hub')}"
        headers = {"User-Agent": agent, **(more or {})}
        token = self.token
        if token and _origin(self.url(path)) == _origin(self.endpoint):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _refusal(self, response: Response, target: str) -> HubError:
        return translation.of_response(
            response.status_code,
            response.headers,
            response.content,
            target,
            endpoint=self.site,
            with_token=self.token is not None,
            retried=response.status_code in RETRIED,
        )

    def _unreachable(self, error: Exception, target: str) -> HubError:
        host = urlsplit(self.site).netloc
        said = str(error).strip().splitlines()
        reason = (said[0] if said else type(error).__name__)[:200]
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            advice = "Check the network, HF_ENDPOINT and the proxy; what is stored works without."
            return HubOffline(target, f"{host} cannot be reached: {reason}", advice)
        advice = "Try again: what was fetched so far is kept."
        return HubBusy(target, f"the connection to {host} broke off: {reason}", advice)


class Wait(Exception):  # it rides along as the cause of one
    """How many seconds the Hub asked to wait, None when it did not say."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def repo_path(repo: str) -> str:
    """Return a repository's part of an address; raise NameRefused for what names none."""
    return quote(check_name(repo, "the Hub repository"))


def file_path(repo: str, commit: str, name: str) -> str:
    """Return the address of a file's bytes at a commit, below the endpoint."""
    return f"{repo_path(repo)}/resolve/{quote(commit, safe='')}/{quote(name)}"


def _json(answer: Response, target: str) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        reason = "the answer of the Hub is no JSON"
        advice = "Check HF_ENDPOINT: a proxy or another site may answer in its place."
        raise HubDamaged(target, reason, advice, answer.status_code) from error


def _offline(target: str) -> HubOffline:
    return HubOffline(
        target,
        "offline mode is on (HF_HUB_OFFLINE), so the Hub is not asked",
        "Unset HF_HUB_OFFLINE; what is stored already works without the Hub.",
    )


def _is_address(endpoint: str) -> bool:
    """Tell whether an endpoint can be asked at all; one without a scheme is refused later."""
    try:
        httpx.URL(endpoint)
        _ = urlsplit(endpoint).port
    except (ValueError, httpx.InvalidURL):
        return False
    return True


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
