"""One adapter out of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra.combine import CombinedAdapter, Settings, combine_specs
from adreg.registry.merge.algebra.mixing import Majority
from adreg.registry.ops import made_adapters
from adreg.registry.ops.context import Context
from adreg.registry.ops.made_adapters import MadeAdapter, Making, Wanted
from adreg.registry.ops.specs import open_version
from adreg.registry.tensors import dtypes


@dataclass(frozen=True, slots=True)
class Combination:
    """How to combine; see ``adreg.registry.merge.algebra.combine`` for the methods.

    ``rank`` and ``energy`` are for methods that cut (``svd``, ``..._svd``): without either,
    the largest rank of the inputs. ``dtype`` is a name such as ``bfloat16``, else the
    inputs' own, float32 where they differ.
    """

    method: str = "cat"
    rank: int | None = None
    energy: float | None = None
    density: float | None = None
    seed: int = 0
    majority: Majority = "total"
    dtype: str | None = None


def combine(
    context: Context, references: Sequence[str], how: Combination, wanted: Wanted
) -> MadeAdapter:
    """Make one adapter out of several, each taken as often as its weight says (``REF=0.5``).

    Raises AdapterNotMade when they do not add up to one, NotFound, NameRefused, Damaged,
    OutputRefused, AlreadyExists, WriteFailed, DiskFull, and what ``add`` raises.
    """
    if not references:
        raise AdapterNotMade(("no adapter was named",), "Name one or more.")
    adapters = [open_version(context, text) for text in references]
    names = [one.name for one in adapters]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise AdapterNotMade(
            (f"{twice[0]} is named twice",), "Name it once, with the sum of the weights."
        )
    given = [one.reference.weight for one in adapters]
    weights = [1.0 if weight is None else weight for weight in given]
    density = how.density
    if density is not None and not 0 < density <= 1:
        reason = f"the density {density:g} is not above 0 and at most 1"
        raise AdapterNotMade((reason,), "Pass --density, the share to keep: 0.5.")
    settings = Settings(
        how.method,
        made_adapters.target(how.rank, how.energy),
        density,
        how.seed,
        how.majority,
        None if how.dtype is None else dtypes.OUTPUTS[how.dtype],
    )
    specs = [one.spec for one in adapters]
    sides, remarks = made_adapters.side_files(specs)
    hints = {spec.base_hint for spec in specs}
    recipe = {
        "adapters": made_adapters.describe(list(zip(adapters, weights, strict=True))),
        **{name: value for name, value in _plain(how).items() if value is not None},
    }
    making = Making(
        action="combine",
        title="A combination of adapters",
        recipe=recipe,
        licence=made_adapters.licence_of(adapters),
        base=made_adapters.base_of(adapters),
        base_repo=hints.pop() if len(hints) == 1 else None,
        inputs=tuple(("an adapter", spec.folder) for spec in specs),
        sides=sides,
        remarks=remarks,
    )

    def write(folder: Path | None, card: str) -> CombinedAdapter:
        return combine_specs(
            list(zip(specs, weights, strict=True)),
            settings,
            folder,
            names=names,
            card=card,
            progress=context.progress,
        )

    return made_adapters.make(context, wanted, making, write)


def _plain(how: Combination) -> dict[str, object]:
    """Return what matters of a combination; a seed matters only where something is drawn."""
    value: dict[str, object] = {
        "method": how.method,
        "rank": how.rank,
        "energy": how.energy,
        "density": how.density,
        "dtype": how.dtype,
    }
    if "dare" in how.method:
        value["seed"] = how.seed
    if "ties" in how.method:
        value["majority"] = how.majority
    return value
