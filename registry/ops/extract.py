"""A LoRA out of a full fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.bases.base import read_base
from adreg.registry.catalog import series, show, versions
from adreg.registry.errors import AdapterNotMade, Damaged, NameRefused
from adreg.registry.merge.algebra.combine import CombinedAdapter
from adreg.registry.merge.algebra.extract import Extraction, extract_lora
from adreg.registry.names import Reference
from adreg.registry.ops import made_adapters
from adreg.registry.ops.bases import OpenedBase, open_base
from adreg.registry.ops.context import Context
from adreg.registry.ops.made_adapters import MadeAdapter, Making, Wanted
from adreg.registry.release.licences import normal
from adreg.registry.tensors import dtypes


@dataclass(frozen=True, slots=True)
class Wish:
    """What to keep of a fine-tune.

    Each weight is cut to ``rank``, or to the smallest rank that holds the share ``energy``
    of its squared change, or both. ``modules`` is a regular expression searched for in the
    names of modules. ``with_norms`` stores changed norms and biases whole.
    """

    rank: int | None = None
    energy: float | None = None
    modules: str | None = None
    with_norms: bool = False
    dtype: str = "float32"


def extract(context: Context, fine_tune: str, base: str, wish: Wish, wanted: Wanted) -> MadeAdapter:
    """Make the LoRA that is closest to what a fine-tune changed in its base.

    ``fine_tune`` is a folder, OWNER/REPO of the Hugging Face cache, or a model of the
    catalog; ``base`` what ``open_base`` takes. What the LoRA does not hold is in ``lost``.
    Raises AdapterNotMade when nothing differs or fits, NotFound, BaseRefused, OutputRefused,
    AlreadyExists, WriteFailed, DiskFull, and what ``add`` raises.
    """
    target = made_adapters.target(wish.rank, wish.energy)
    if target is None:
        raise AdapterNotMade(
            ("neither a rank nor an energy was given",), "Pass --rank or --energy."
        )
    opened = open_base(context, base)
    full = _open(context, fine_tune)
    how = Extraction(target, wish.modules, wish.with_norms, dtypes.OUTPUTS[wish.dtype])
    asked = {
        "rank": wish.rank,
        "energy": wish.energy,
        "modules": wish.modules,
        "with_norms": wish.with_norms or None,
        "dtype": wish.dtype,
    }
    making = Making(
        action="extract",
        title="A LoRA out of a fine-tune",
        recipe={
            "fine_tune": full.base.hub_repo or full.text,
            "fine_tune_layout": full.base.layout_digest,
            "base": opened.base.hub_repo or (opened.record.name if opened.record else None),
            "base_layout": opened.base.layout_digest,
            **{name: value for name, value in asked.items() if value is not None},
        },
        licence=normal(full.base.licence),
        base=base,
        base_repo=opened.base.hub_repo,
        inputs=(("the base", opened.base.folder), ("the fine-tune", full.base.folder)),
    )

    def write(folder: Path | None, card: str) -> CombinedAdapter:
        return extract_lora(
            opened.base, full.base, how, folder, card=card, progress=context.progress
        )

    return made_adapters.make(context, wanted, making, write)


def _open(context: Context, text: str) -> OpenedBase:
    """Open a fine-tune; its text is what the recipe calls it, never a path."""
    model = _model(context, text)
    if model is not None:
        key, folder = model
        if not folder.is_dir():
            raise Damaged((f"{key}: its folder {folder} is gone",))
        return OpenedBase(read_base(folder), None, key)
    opened = open_base(context, text)
    return OpenedBase(opened.base, opened.record, opened.base.folder.name)


def _model(context: Context, text: str) -> tuple[str, Path] | None:
    """Return the model of the catalog that a text names; bases and folders are none."""
    try:
        reference = Reference.parse(text)
    except NameRefused:  # OWNER/REPO@a/branch is a base's grammar
        return None
    with context.catalog.read() as connection:
        found = series.find(connection, reference.name) if reference.name else None
        if found is None or found.kind != "model":
            return None
        key = versions.resolve(connection, reference)
        return str(key), show.model(connection, key).facts.location
