"""Merging into a base on the Hub: each weight file is fetched, merged and let go again."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

from adreg.registry.durable import require_space, write_error
from adreg.registry.errors import BaseRefused, HubDamaged, NotFound
from adreg.registry.hub.answers import Entry
from adreg.registry.hub.client import HubClient
from adreg.registry.hub.download import Downloads, key_of
from adreg.registry.merge.plan import Job, Shard
from adreg.registry.merge.recipe import Recipe
from adreg.registry.merge.run import Work, local
from adreg.registry.merge.shards import ShardWriter, WrittenShard
from adreg.registry.merge.terms import Module
from adreg.registry.names import check_name
from adreg.registry.ops import base_away
from adreg.registry.ops.base_away import OnHub
from adreg.registry.ops.bases import OpenedBase
from adreg.registry.ops.context import Context
from adreg.registry.ops.merge import Merged, base_of, merge
from adreg.registry.ops.specs import OpenedInput, OpenedVersion
from adreg.registry.progress import Progress
from adreg.registry.tensors.quantised.stored import Stored


def merge_streamed(  # noqa: PLR0913  # as ``merge``
    context: Context,
    client: HubClient,
    recipe: Recipe,
    *,
    output: Path | None = None,
    name: str | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Merged:
    """Merge as ``merge`` does; of a base that is only on the Hub no whole copy is made.

    The shards that an output shard is made of are fetched and verified while the one
    before is merged, and removed once no later one needs them. What came and was not used
    is kept for the next try, and nothing once the model is there. A dry run fetches
    headers and small files alone, and keeps nothing.

    Raises what ``merge`` does, and HubError.
    """
    with ExitStack() as exit_:
        if dry_run:
            root = Path(exit_.enter_context(TemporaryDirectory(prefix="adreg-")))
        else:
            root = context.settings.downloads
        stream = _Stream(context, client, root, exit_)
        merged = merge(
            context,
            recipe,
            output=output,
            name=name,
            threads=threads,
            dry_run=dry_run,
            force=force,
            engine=stream.engine,
            find_base=stream.find_base,
        )
        stream.clear()
    return merged


@final
class _Stream:
    """One streamed merge: how its base is found, and how its shards are made."""

    def __init__(self, context: Context, client: HubClient, root: Path, exit_: ExitStack) -> None:
        self._context, self._client, self._root, self._exit = context, client, root, exit_
        self._found: tuple[OnHub, Downloads] | None = None

    def find_base(
        self, context: Context, recipe: Recipe, inputs: Sequence[OpenedInput]
    ) -> OpenedBase:
        """Open the base here, else its headers on the Hub."""
        try:
            return base_of(context, recipe, inputs)
        except (NotFound, BaseRefused):
            text = _name_of(recipe, inputs)
            there = None if text is None else base_away.hub_id(context, text)
            if text is None or there is None:
                raise
        self._client.check_online(there[0])
        check_name(there[0], "the Hub repository")
        downloads = self._exit.enter_context(Downloads.of(self._root, there[0]))
        found = base_away.open_on_hub(
            context, self._client, downloads, there, text, dequantize=recipe.dequantize
        )
        self._found = found, downloads
        return found.opened

    def engine(self, work: Work, progress: Progress) -> Generator[WrittenShard, None, None]:
        """Write the shards one after the other, fetching for the next one meanwhile."""
        if self._found is None:
            yield from local(work, progress)
            return
        found, downloads = self._found
        schedule = Schedule.of(work)
        shelf = _Shelf(self._client, found, downloads)
        shelf.keep_only(schedule.needed)
        sizes = {name: entry.size for name, entry in found.weights.items()}
        here = sum(sizes[name] for name in schedule.needed) - downloads.missing(
            found.weights[name] for name in schedule.needed
        )
        _require_room(work, downloads.folder, schedule.peak(sizes) - here)
        with shelf.fetching() as fetch:
            coming = fetch(schedule.needs[0])
            for number, shard in enumerate(work.shards):
                coming.result()
                if number + 1 < len(work.shards):
                    coming = fetch(schedule.needs[number + 1])
                # A writer of its own: it closes the files, whose room is free only then.
                with ShardWriter(work.plan, work.base, work.specs, work.threads) as writer:
                    written = writer.write(shard, work.folder, progress)
                yield written
                shelf.remove(schedule.last_used(number))

    def clear(self) -> None:
        """Remove all that is left of the base."""
        if self._found is not None:
            found, downloads = self._found
            shutil.rmtree(found.opened.base.folder, ignore_errors=True)
            downloads.discard(found.small)
            _Shelf(self._client, found, downloads).keep_only(frozenset())


@dataclass(frozen=True, slots=True)
class Schedule:
    """The names of the base's weight files that each shard of a work is made of, in order."""

    needs: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, work: Work) -> Schedule:
        """Look up what the jobs read of the base."""
        return cls(tuple(_files_of(work, shard) for shard in work.shards))

    @property
    def needed(self) -> frozenset[str]:
        """All of them."""
        return frozenset().union(*self.needs)

    def last_used(self, number: int) -> frozenset[str]:
        """Return the files that no shard after this one needs."""
        return self.needs[number].difference(*self.needs[number + 1 :])

    def peak(self, sizes: dict[str, int]) -> int:
        """Return the most bytes that are here at once: for a shard, the next, and kept ones."""
        most = 0
        for number in range(len(self.needs)):
            before = frozenset().union(*self.needs[: number + 2])
            after = frozenset().union(*self.needs[number:])
            most = max(most, sum(sizes[name] for name in before & after))
        return most


def _files_of(work: Work, shard: Shard) -> frozenset[str]:
    names: set[str] = set()
    for job in shard.jobs:
        for source in _sources(job):
            if decoder := work.base.decoders.get(source):
                names.update(path.name for path in _paths(decoder))
            else:
                names.add(work.base.layout.places[source][0].path.name)
    return frozenset(names)


def _sources(job: Job) -> Iterator[str]:
    """Give the base's tensors that a job reads."""
    if job.source is not None:
        yield job.source
    for part in job.contributions:
        for term in part.terms:
            if isinstance(term, Module):
                yield from (name for name in (term.weight, term.bias) if name is not None)


def _paths(value: object) -> Iterator[Path]:
    """Give the files that a decoder reads."""
    if isinstance(value, Stored):
        yield value.path
    elif is_dataclass(value):
        for one in fields(value):
            yield from _paths(getattr(value, one.name))


def _require_room(work: Work, folder: Path, parts: int) -> None:
    """Raise DiskFull unless the output and what is fetched find room."""
    output = sum(shard.nbytes for shard in work.shards)
    if folder.stat().st_dev == work.folder.stat().st_dev:
        require_space(work.folder, output + parts)
    else:
        require_space(work.folder, output)
        require_space(folder, parts)


_Fetch = Callable[[frozenset[str]], "Future[None]"]


class _Stopped(Exception):  # no error: how a fetching thread ends
    """The merge ended before what was coming had come."""


@final
class _Shelf:
    """The base's weight files that are here at the moment, in the base's folder."""

    def __init__(self, client: HubClient, found: OnHub, downloads: Downloads) -> None:
        self._client, self._found = client.waiting_by(self._wait), found
        self._downloads = downloads
        self._folder = found.opened.base.folder
        self._headers = {
            file.name: file.read_bytes()
            for file in map(self._folder.joinpath, found.weights)
            if file.is_file()
        }
        self._stop = threading.Event()

    @contextmanager
    def fetching(self) -> Iterator[_Fetch]:
        """Give what starts fetching files, in a thread that ends with the body."""
        with ThreadPoolExecutor(1, thread_name_prefix="adreg-fetch") as pool:
            try:
                yield lambda names: pool.submit(self._fetch, sorted(names))
            finally:
                self._stop.set()

    def keep_only(self, names: frozenset[str]) -> None:
        """Remove what an earlier try fetched and this one does not need."""
        kept = {key_of(self._found.weights[name]) for name in names}
        for name, entry in self._found.weights.items():
            if key_of(entry) not in kept:
                self._drop(name, entry)

    def remove(self, names: frozenset[str]) -> None:
        """Free the room of files."""
        for name in names:
            self._drop(name, self._found.weights[name])

    def _drop(self, name: str, entry: Entry) -> None:
        (self._folder / name).unlink(missing_ok=True)
        whole = self._downloads.folder / key_of(entry)
        for path in (whole, *(whole.with_name(whole.name + end) for end in (".part", ".etag"))):
            path.unlink(missing_ok=True)

    def _fetch(self, names: Sequence[str]) -> None:
        """Fetch files, verify them, and put each in the place of its header."""
        for name in names:
            place = self._folder / name
            if place.is_symlink():
                continue
            entry = self._found.weights[name]
            whole = self._downloads.fetch(
                self._client, self._found.repo, self._found.commit, entry, self._go_on
            )
            try:
                with whole.open("rb") as file:
                    header = file.read(len(self._headers[name]))
                if header != self._headers[name]:
                    target = f"{self._found.repo}/{name}"
                    reason = "the Hub sent another header for it before"
                    raise HubDamaged(target, reason, "Check HF_ENDPOINT and the proxy; try again.")
                place.unlink()
                place.symlink_to(os.path.relpath(whole, place.parent))
            except OSError as error:
                raise write_error(place, error) from error

    def _go_on(self, _: int) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _wait(self, seconds: float) -> None:
        # The Hub may ask for minutes: Ctrl-C must not wait for them.
        if self._stop.wait(seconds):
            raise _Stopped


def _name_of(recipe: Recipe, inputs: Sequence[OpenedInput]) -> str | None:
    """Return what the base is called: by the recipe, by the catalog, or by the adapters."""
    if recipe.base:
        return recipe.base
    adapters = [one for one in inputs if isinstance(one, OpenedVersion)]
    names = {one.record.base.name for one in adapters if one.record and one.record.base}
    names = names or {one.spec.base_hint for one in adapters if one.spec.base_hint}
    return names.pop() if len(names) == 1 else None
