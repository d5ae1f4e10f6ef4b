"""Getting damaged files again, by their digest, from wherever they still are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.bases import hf_cache
from adreg.registry.catalog import remotes, sources, versions
from adreg.registry.catalog.records import VersionKey
from adreg.registry.digest import FileDigest
from adreg.registry.errors import HubError, InputRefused
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.download import Downloads
from adreg.registry.ops import history
from adreg.registry.ops.context import Context
from adreg.registry.ops.verify import Verified, VersionVerified, verify
from adreg.registry.store.faults import Fault, FaultKind, find_fault
from adreg.registry.store.mending import mend_blob, mend_snapshot

_LINK = "the store itself"
_MODEL = "a model is built again, by `adreg merge` or from its lock file by `adreg rebuild`"


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of one fault: where the right bytes came from, or why there are none."""

    reference: str
    name: str
    kind: FaultKind
    repaired: bool
    source: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of each fault, and what verifying found after that."""

    mended: tuple[Mended, ...]
    verified: Verified


def repair(
    context: Context,
    connect: Callable[[], HubClient],
    reference: str | None = None,
    folders: Iterable[Path] = (),
) -> Repaired:
    """Verify, and put right bytes in the place of wrong ones, which go to quarantine.

    A file is looked for in ``folders`` (homes of other registries, or folders with the
    files), where the version was added from, in the Hugging Face cache, and on the Hub at
    the commits that are recorded; it counts only if its SHA-256 is the recorded one. What
    cannot be repaired is in the answer. Raises NotFound, NameRefused, WriteFailed, DiskFull.
    """
    found = verify(context, reference)
    work = _Work(context, connect, tuple(folders))
    mended = [one for version in found.versions if version.faults for one in work.mend(version)]
    return Repaired(tuple(mended), verify(context, reference) if mended else found)


class _Work:
    """One repair; a file that several versions share is got once."""

    def __init__(
        self, context: Context, connect: Callable[[], HubClient], folders: tuple[Path, ...]
    ) -> None:
        self._context, self._connect, self._folders = context, connect, folders
        self._client: HubClient | None = None
        self._done: dict[str, str] = {}

    def mend(self, version: VersionVerified) -> Iterator[Mended]:
        """Repair one version as far as it goes."""
        key = version.key
        if key.kind == "model":
            for fault in version.faults:
                yield Mended(str(key), fault.name, fault.kind, repaired=False, reason=_MODEL)
            return
        with self._context.catalog.read() as connection:
            files = versions.files(connection, key.id)
        by_name = {file.name: file for file in files}
        links = []
        for fault in version.faults:
            file = by_name.get(fault.name)
            if file is None or fault.path != self._context.store.blob(file.sha256):
                links.append(fault)
            else:
                yield self._mend_file(key, file, fault)
        # Of a file that is damaged too, verifying does not tell that its link is wrong.
        with self._context.catalog.write() as connection:
            if versions.find_by_digest(connection, "adapter", key.digest) is not None:
                mend_snapshot(self._context.store.root, key.digest, files)
                if links:
                    names = [fault.name for fault in links]
                    history.write(connection, history.now(), "repair", str(key), names=names)
                    connection.commit()
        for fault in links:
            yield Mended(str(key), fault.name, fault.kind, repaired=True, source=_LINK)

    def _mend_file(self, key: VersionKey, file: FileDigest, fault: Fault) -> Mended:
        told = str(key), file.name, fault.kind
        if (source := self._done.get(file.sha256)) is not None:
            return Mended(*told, repaired=True, source=source)
        reasons: list[str] = []
        with ExitStack() as stack:
            for source, path in self._candidates(key, file, reasons, stack):
                if self._put(key, file, source, path, reasons):
                    self._done[file.sha256] = source
                    return Mended(*told, repaired=True, source=source)
        reason = "; ".join(dict.fromkeys(reasons)) or "no source of it is known"
        return Mended(*told, repaired=False, reason=reason)

    def _put(
        self, key: VersionKey, file: FileDigest, source: str, path: Path, reasons: list[str]
    ) -> bool:
        """Stage a candidate, and let it take the bad one's place if it is the very file."""
        context = self._context
        if fault := find_fault(path, file):
            gone = fault.kind == "missing"
            reasons.append(f"{source} is gone" if gone else f"{source} is another file by now")
            return False
        with context.store.publication() as publication:
            try:
                (taken,) = publication.take({file.name: path}, {}, lambda _: None)
            except InputRefused as error:
                reasons.append(error.sentence)
                return False
            if taken.sha256 != file.sha256:
                reasons.append(f"{source} changed while it was read")
                return False
            publication.sync()
            with context.catalog.write() as connection:
                if versions.find_by_digest(connection, "adapter", key.digest) is None:
                    reasons.append("it was removed meanwhile")
                    return False
                mend_blob(context.store.root, file.sha256, publication.place(taken))
                at = history.now()
                detail = {"file": file.name, "sha256": file.sha256, "source": source}
                history.write(connection, at, "repair", str(key), **detail)
                connection.commit()
        return True

    def _candidates(
        self, key: VersionKey, file: FileDigest, reasons: list[str], stack: ExitStack
    ) -> Iterator[tuple[str, Path]]:
        """Give where the file may be, near ones first: the Hub is asked if none of them had it."""
        for folder in self._folders:
            near = [one for one in _in_folder(folder, file) if one.is_file()]
            yield from ((str(one), one) for one in near)
            if not near:
                reasons.append(f"{folder} has no such file")
        with self._context.catalog.read() as connection:
            known = sources.of(connection, key.id)
            copies = remotes.of(connection, key)
        for one in known:
            if one.kind == "path":
                path = Path(one.location)
                path = path / file.name if path.is_dir() else path
                yield str(path), path
        places = [_place(one.location, one.revision or "") for one in known if one.kind == "hub"]
        places += [(one.repo, one.subfolder, one.commit) for one in copies]
        for repo, inside, commit in dict.fromkeys(places):
            cached = hf_cache.find_snapshot(hf_cache.default_cache(), repo, commit or None)
            if cached is not None and (path := cached / inside / file.name).is_file():
                yield str(path), path
        for place in dict.fromkeys(places):
            yield from self._on_hub(*place, file, reasons, stack)

    def _on_hub(  # noqa: PLR0913, PLR0917  # a place, what is wanted of it, and who hears
        self,
        repo: str,
        inside: str,
        commit: str,
        file: FileDigest,
        reasons: list[str],
        stack: ExitStack,
    ) -> Iterator[tuple[str, Path]]:
        wanted = "/".join(part for part in (inside, file.name) if part)
        source = f"hf://{repo}@{commit[:12]}/{wanted}"
        try:
            client = self._client = self._client or self._connect()
            entries = client.tree(repo, commit)
            same = [one for one in entries if one.sha256 == file.sha256]
            named = [one for one in entries if one.path == wanted and one.sha256 is None]
            entry = next((one for one in same + named if one.size == file.size), None)
            if entry is None:
                reasons.append(f"{source} is another file, or none")
                return
            downloads = stack.enter_context(Downloads.of(self._context.settings.downloads, repo))
            path = downloads.fetch(client, repo, commit, entry, lambda _: None)
            stack.callback(downloads.discard, [entry])
        except HubError as error:
            reasons.append(error.sentence)
            return
        yield source, path


def _place(location: str, commit: str) -> tuple[str, str, str]:
    """Split ``OWNER/REPO/FOLDER`` into the repository and the folder in it."""
    parts = location.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:]), commit


def _in_folder(folder: Path, file: FileDigest) -> Iterator[Path]:
    """Give where a file would lie: in a registry's home, in a store, or under its name."""
    for way in ("store/models--adreg/blobs", "models--adreg/blobs", "blobs"):
        yield folder / way / file.sha256
    yield folder / file.name
