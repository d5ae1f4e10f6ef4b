"""The registry as one object: every use case, a method each.

Each method imports its use case when it is called: the command line makes a Registry
for every command, and `adreg list` must not wait for what `adreg merge` needs.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.registry.api_hub import Shares
from adreg.registry.api_makes import Makes
from adreg.registry.progress import SILENT, Progress
from adreg.registry.settings import Settings

if TYPE_CHECKING:
    from adreg.registry.catalog.records import BaseRecord, ListQuery
    from adreg.registry.ops.add import Added
    from adreg.registry.ops.add_tree import TreeAdded
    from adreg.registry.ops.annotate import Aliased, Measured, Noted, Tagged
    from adreg.registry.ops.backup import BackedUp
    from adreg.registry.ops.bases import BaseAdded, BaseShown
    from adreg.registry.ops.check import Checked
    from adreg.registry.ops.context import Context
    from adreg.registry.ops.gc import Swept
    from adreg.registry.ops.history import History
    from adreg.registry.ops.listing import Listing
    from adreg.registry.ops.remove import Removed
    from adreg.registry.ops.rename import Renamed
    from adreg.registry.ops.repair import Repaired
    from adreg.registry.ops.restore import Restored
    from adreg.registry.ops.show import Shown
    from adreg.registry.ops.verify import Verified


class Registry(Makes, Shares):
    """A catalog of adapters, bases and models, the store of their files, and what is done to them.

    Making one touches no disk. A ``reference`` is ``NAME[@VERSION|@ALIAS]`` or
    ``hf://OWNER/REPO[@REVISION]``; a name alone means its newest version. Every method
    does one thing wholly or not at all, and raises only ``adreg.registry.errors``.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        settings: Settings | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Open the registry in ``home``, else the one that the environment names.

        ``home`` takes the place of ADREG_HOME; ADREG_DATABASE_URL counts all the same.
        """
        if settings is None:
            environ = dict(os.environ)
            if home is not None:
                environ["ADREG_HOME"] = str(home)
            settings = Settings.from_environment(environ)
        self.settings = settings
        self._progress = progress
        self._made: Context | None = None

    @property
    def _context(self) -> Context:
        from adreg.registry.ops.context import Context

        if self._made is None:
            self._made = Context.of(self.settings, self._progress)
        return self._made

    # -- looking

    def list(self, query: ListQuery | None = None) -> Listing:
        """Return a page of adapters and models, all of them without a query.

        Only the newest version of each name, unless the query asks for all.
        """
        from adreg.registry.catalog.records import ListQuery
        from adreg.registry.ops.listing import listing

        return listing(self._context, query or ListQuery())

    def show(self, reference: str) -> Shown:
        """Return all that is known of a version, its lineage too; raise NotFound."""
        from adreg.registry.ops.show import show

        return show(self._context, reference)

    def history(self, reference: str | None = None, limit: int | None = None) -> History:
        """Return what was done, newest first: to all, to a name, or to one version."""
        from adreg.registry.ops.history import history

        return history(self._context, reference, limit)

    # -- annotating

    def tag(self, reference: str, tags: Iterable[str]) -> Tagged:
        """Set tags, ``KEY`` or ``KEY=VALUE``; raise NameRefused or NotFound."""
        from adreg.registry.ops.annotate import tag

        return tag(self._context, reference, tags)

    def untag(self, reference: str, tags: Iterable[str]) -> Tagged:
        """Remove tags by their keys; raise NotFound unless all of them are there."""
        from adreg.registry.ops.annotate import untag

        return untag(self._context, reference, tags)

    def alias(self, reference: str, name: str) -> Aliased:
        """Let an alias name this version, and tell which it named before."""
        from adreg.registry.ops.annotate import alias

        return alias(self._context, reference, name)

    def unalias(self, reference: str, name: str) -> Aliased:
        """Remove an alias of the reference's name; raise NotFound."""
        from adreg.registry.ops.annotate import unalias

        return unalias(self._context, reference, name)

    def note(self, reference: str, text: str) -> Noted:
        """Leave a remark on a version."""
        from adreg.registry.ops.annotate import note

        return note(self._context, reference, text)

    def metric(self, reference: str, metrics: Mapping[str, float]) -> Measured:
        """Record measured numbers, which must be finite; earlier ones stay."""
        from adreg.registry.ops.annotate import metric

        return metric(self._context, reference, metrics)

    def rename(self, old: str, new: str) -> Renamed:
        """Rename an adapter or model with all its versions; raise AlreadyExists."""
        from adreg.registry.ops.rename import rename

        return rename(self._context, old, new)

    def remove(self, reference: str, *, force: bool = False, dry_run: bool = False) -> Removed:
        """Remove a version, or a bare name with all its versions; raise InUse unless forced."""
        from adreg.registry.ops.remove import remove

        return remove(self._context, reference, force=force, dry_run=dry_run)

    # -- taking in and checking

    def add(  # noqa: PLR0913  # one argument for each thing that can be said of an adapter
        self,
        path: Path,
        *,
        name: str | None = None,
        base: str | None = None,
        tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        note: str | None = None,
        licence: str | None = None,
        convert_pickle: bool = False,
        alpha: float | None = None,
        component: str | None = None,
        dry_run: bool = False,
    ) -> Added:
        """Take in an adapter, as a new one or as the next version of a known name.

        ``base`` is a base's name, its folder, or OWNER/REPO of the Hugging Face cache;
        the adapter must fit it. The same bytes again make no second version. What PEFT did
        not write is converted: a pickle only with ``convert_pickle``; ``alpha`` and
        ``component`` where the format does not say the one or holds several of the other.
        """
        from adreg.registry.names import Tag
        from adreg.registry.ops.add import add

        return add(
            self._context,
            path,
            name=name,
            base=base,
            tags=[Tag.parse(one) for one in tags],
            aliases=list(aliases),
            note=note,
            licence=licence,
            convert_pickle=convert_pickle,
            alpha=alpha,
            component=component,
            dry_run=dry_run,
        )

    def add_tree(  # noqa: PLR0913  # as ``add``
        self,
        root: Path,
        *,
        name: str | None = None,
        base: str | None = None,
        tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        note: str | None = None,
        licence: str | None = None,
        convert_pickle: bool = False,
        dry_run: bool = False,
    ) -> TreeAdded:
        """Take in every adapter below a folder; those that are refused are in the answer.

        Names come from the paths; ``name`` is the team of all of them instead.
        """
        from adreg.registry.names import Tag
        from adreg.registry.ops.add_tree import add_tree

        return add_tree(
            self._context,
            root,
            name=name,
            base=base,
            tags=[Tag.parse(one) for one in tags],
            aliases=list(aliases),
            note=note,
            licence=licence,
            convert_pickle=convert_pickle,
            dry_run=dry_run,
        )

    def add_base(
        self,
        text: str,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        licence: str | None = None,
        dequantize: bool = False,
    ) -> BaseAdded:
        """Record a base, a folder or OWNER/REPO of the Hugging Face cache; copy nothing."""
        from adreg.registry.ops.bases import add_base

        return add_base(
            self._context,
            text,
            name=name,
            aliases=aliases,
            licence=licence,
            dequantize=dequantize,
        )

    def bases(self) -> tuple[BaseRecord, ...]:
        """Return all bases, by name."""
        from adreg.registry.ops.bases import list_bases

        return list_bases(self._context)

    def base(self, name: str) -> BaseShown:
        """Return all that is known of a base; raise NotFound."""
        from adreg.registry.ops.bases import show_base

        return show_base(self._context, name)

    def check(self, reference: str, base: str | None = None) -> Checked:
        """Judge an adapter, in the catalog or in a folder, against a base.

        Without ``base``, against the one that is recorded for it or that it names.
        """
        from adreg.registry.ops.check import check

        return check(self._context, reference, base)

    def verify(self, reference: str | None = None) -> Verified:
        """Hash a version or model again, or all of them; damage is in the answer, not raised."""
        from adreg.registry.ops.verify import verify

        return verify(self._context, reference)

    def repair(self, reference: str | None = None, sources: Iterable[Path] = ()) -> Repaired:
        """Verify, and get what is damaged again by its digest from wherever it still is.

        ``sources`` are folders to look in first: another registry's home, or one with the
        files. Then come the folder that it was added from and its copies on the Hub.
        What was damaged goes to quarantine.
        """
        from adreg.registry.hub.client import HubClient
        from adreg.registry.ops.repair import repair

        return repair(self._context, HubClient, reference, tuple(sources))

    # -- keeping

    def gc(
        self, grace: float | None = None, *, dry_run: bool = False, quarantine: bool = False
    ) -> Swept:
        """Remove what nothing refers to and nobody has touched for ``grace`` seconds, a day."""
        from adreg.registry.ops.gc import GRACE, gc

        seconds = GRACE if grace is None else grace
        return gc(self._context, seconds, dry_run=dry_run, quarantine=quarantine)

    def backup(self, target: Path) -> BackedUp:
        """Write the catalog and all stored files into one new file, while others go on."""
        from adreg.registry.ops.backup import backup

        return backup(self._context, target)

    def restore(self, source: Path, *, replace: bool = False) -> Restored:
        """Fill this registry from a backup, once all of it is checked.

        One that holds something is only replaced if asked, and kept aside.
        """
        from adreg.registry.ops.restore import restore

        return restore(self._context, source, replace=replace)

    # -- merging
