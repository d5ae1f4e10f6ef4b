"""An adapter cut to another rank."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.errors import AdapterNotMade, NameRefused
from adreg.registry.merge.algebra.combine import CombinedAdapter, Settings, combine_specs
from adreg.registry.ops import made_adapters
from adreg.registry.ops.context import Context
from adreg.registry.ops.made_adapters import MadeAdapter, Making, Wanted
from adreg.registry.ops.specs import open_version
from adreg.registry.tensors import dtypes


def resize(  # noqa: PLR0913  # one argument for each thing that can be asked
    context: Context,
    reference: str,
    wanted: Wanted,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str | None = None,
) -> MadeAdapter:
    """Cut each module of an adapter to the best approximation of a rank, or of an energy.

    ``energy`` is the share of the squared norm of a module's delta that is kept, each
    module at the smallest rank that has it. A module whose rank is smaller already keeps
    it. Raises AdapterNotMade, and what ``combine`` raises.
    """
    wish = made_adapters.target(rank, energy)
    if wish is None:
        raise AdapterNotMade(
            ("neither a rank nor an energy was given",), "Pass --rank or --energy."
        )
    adapter = open_version(context, reference)
    if adapter.reference.weight is not None:
        reason = "a weight means nothing here"
        raise NameRefused("the reference", reference, reason, "Leave out '=' and the weight.")
    code = None if dtype is None else dtypes.OUTPUTS[dtype]
    sides, _ = made_adapters.side_files([adapter.spec])
    asked = {"rank": rank, "energy": energy, "dtype": dtype}
    making = Making(
        action="resize",
        title="An adapter at another rank",
        recipe={
            "adapters": made_adapters.describe([(adapter, 1.0)]),
            **{name: value for name, value in asked.items() if value is not None},
        },
        licence=made_adapters.licence_of([adapter]),
        base=made_adapters.base_of([adapter]),
        base_repo=adapter.spec.base_hint,
        inputs=(("the adapter", adapter.spec.folder),),
        sides=sides,
    )

    def write(folder: Path | None, card: str) -> CombinedAdapter:
        return combine_specs(
            [(adapter.spec, 1.0)],
            Settings("svd", wish, dtype=code),
            folder,
            names=[adapter.name],
            card=card,
            progress=context.progress,
        )

    return made_adapters.make(context, wanted, making, write)
