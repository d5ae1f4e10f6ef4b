"""The model card of a merge that is about to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adreg.registry.release.card import CardAdapter, CardBase, CardFacts, model_card
from adreg.registry.release.licences import LicensedPart, release_licence
from adreg.registry.tensors import dtypes

if TYPE_CHECKING:
    from adreg.registry.ops.merge import Ready


def card_of(ready: Ready, name: str) -> str:
    """Return the model card of a merge."""
    base = ready.base
    licence = base.record.facts.licence if base.record else base.base.licence
    adapters = [
        CardAdapter(
            one.name if one.key else one.content.folder.name,
            one.digest,
            weight,
            one.licence,
        )
        for one, weight in zip(ready.adapters, ready.weights, strict=True)
    ]
    parts = [LicensedPart("base", licence)]
    parts += [LicensedPart(one.reference, one.licence) for one in adapters]
    base_name = base.record.name if base.record else base.base.hub_repo or base.base.folder.name
    return model_card(
        CardFacts(
            title=name,
            base=CardBase(
                base_name,
                base.base.layout_digest,
                base.base.hub_repo,
                base.base.revision,
                licence,
            ),
            adapters=tuple(adapters),
            method=ready.recipe.method,
            precision=ready.recipe.precision,
            dtype=ready.plan.dtype or dtypes.NAMES.get(base.base.dtype, base.base.dtype),
            architecture=ready.plan.architecture or base.base.architecture,
            model_type=base.base.model_type,
            licence=release_licence(parts, allow_unknown=True),
            code=tuple(one.name for one in ready.sides if one.name.endswith(".py")),
        )
    )
