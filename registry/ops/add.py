"""Taking an adapter in: read in one pass, checked, copied into the store, recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adreg.registry.errors import AdregError
from adreg.registry.names import Tag, check_alias, check_name
from adreg.registry.ops.adding import Added, Origin, Wishes, default_name
from adreg.registry.ops.bases import OpenedBase, open_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.intake import Intake
from adreg.registry.ops.leftovers import take_back

__all__ = ["Added", "Origin", "Wishes", "add", "add_read", "default_name"]


def add(  # noqa: PLR0913  # one argument for each thing that can be said of an adapter
    context: Context,
    path: Path,
    *,
    name: str | None = None,
    base: str | None = None,
    tags: Sequence[Tag] = (),
    aliases: Sequence[str] = (),
    note: str | None = None,
    licence: str | None = None,
    convert_pickle: bool = False,
    alpha: float | None = None,
    component: str | None = None,
    dry_run: bool = False,
) -> Added:
    """Take in the adapter at ``path``: a new one, or the next version of a known name.

    A PEFT folder is taken as it is; what ``adapters/foreign`` reads is converted to one,
    a pickle only with ``convert_pickle``. ``alpha`` and ``component`` are for formats that
    do not hold the one, or hold several of the other.

    The same bytes again make no second version; what is said of them is noted all the
    same. ``base`` is what ``open_base`` takes, and is recorded too; without it the base
    that the adapter names is looked for in the catalog and the Hugging Face cache. On
    any error nothing is recorded and nothing is left in the store. Raises NameRefused,
    what ``read_adapter`` and ``incoming`` raise, Incompatible, NotFound, BaseRefused,
    AlreadyExists for the name of a model, InputRefused, WriteFailed, DiskFull, CatalogError.
    """
    marked = (tuple(tags), tuple(aliases), note, licence)
    wishes = Wishes(name, base, *marked, convert_pickle, alpha, component)
    if name is not None:
        check_name(name)
    for alias in aliases:
        check_alias(alias)
    if not dry_run:
        take_back(context)
    opened = open_base(context, base) if base is not None else None
    return add_read(context, path, wishes, opened, dry_run=dry_run)


def add_read(
    context: Context, path: Path, wishes: Wishes, opened: OpenedBase | None, *, dry_run: bool
) -> Added:
    """Do what ``add`` does once its wishes are checked and its base is open."""
    with Intake(context, dry_run=dry_run) as intake:
        intake.put(path, wishes, opened, context.progress)
        (done,) = intake.commit()
        if isinstance(done, AdregError):
            raise done
        return done
