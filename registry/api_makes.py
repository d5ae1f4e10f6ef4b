"""The use cases that make something: merged models, adapters out of others, releases, trials.

They are methods of ``Registry``, kept in a room of their own.
"""

# ruff: noqa: PLC0415  # imported when called: see ``api``

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.registry.errors import MergeRefused

if TYPE_CHECKING:
    from adreg.registry.merge.engines import EngineName
    from adreg.registry.merge.recipe import Recipe
    from adreg.registry.ops.combine import Combination
    from adreg.registry.ops.context import Context
    from adreg.registry.ops.export import Exported
    from adreg.registry.ops.extract import Wish
    from adreg.registry.ops.made_adapters import MadeAdapter, Wanted
    from adreg.registry.ops.merge import Merged
    from adreg.registry.ops.rebuild import Rebuilt
    from adreg.registry.ops.trial import Trial
    from adreg.registry.ops.unmerge import Unmerged
    from adreg.registry.ops.verify_merge import Proof


class Makes(ABC):
    """What ``Registry`` makes."""

    @property
    @abstractmethod
    def _context(self) -> Context:
        """The registry's catalog, store, settings and progress."""

    def merge(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        recipe: Recipe,
        *,
        output: Path | None = None,
        name: str | None = None,
        threads: int | None = None,
        dry_run: bool = False,
        force: bool = False,
        stream: bool = False,
        engine: EngineName = "local",
        ray_address: str | None = None,
    ) -> Merged:
        """Fold a recipe's adapters into its base, in a new folder, and record the model.

        What was made of the same before is found, or copied, and made again only with
        ``force``; a merge of several files that was stopped goes on where it was.
        With ``stream`` a base that is only on the Hub is fetched shard by shard, and let go
        again; HubError may be raised then.
        With the engine "ray" a Ray cluster writes the weight files, ``threads`` CPUs each;
        ``ray_address`` None is what RAY_ADDRESS says, else this machine's own cluster.
        EngineFailed may be raised then.

        Deltas are summed in float32 (the recipe may ask for float64) and rounded once to
        the output's dtype; peak memory does not grow with the model. Raises Incompatible
        and MergeRefused before a byte is written when the result would be wrong.
        """
        from adreg.registry.merge.engines import choose

        if stream and engine != "local":
            raise MergeRefused(
                ("the machines of an engine cannot read a base that is streamed",),
                "Fetch the base to the storage that they share, and leave --stream out.",
            )
        if stream:
            from adreg.registry.hub.client import HubClient
            from adreg.registry.ops.streaming import merge_streamed

            return merge_streamed(
                self._context,
                HubClient(),
                recipe,
                output=output,
                name=name,
                threads=threads,
                dry_run=dry_run,
                force=force,
            )
        from adreg.registry.ops.merge import merge

        return merge(
            self._context,
            recipe,
            output=output,
            name=name,
            threads=threads,
            dry_run=dry_run,
            force=force,
            engine=choose(engine, ray_address=ray_address),
        )

    def verify_merge(  # one argument for each thing that can be asked
        self,
        reference: str,
        *,
        prompts: Iterable[str] = (),
        base: str | None = None,
        tolerance: float = 2.0,
        seed: int = 0,
    ) -> Proof:
        """Run a merged model, and its base with its adapters in PEFT, on the same inputs.

        The verdict and its numbers are in the answer, not raised; nothing is written.
        ``tolerance`` is how many times what rounding alone does a difference may be.
        """
        from adreg.registry.ops.verify_merge import verify_merge

        return verify_merge(
            self._context,
            reference,
            prompts=tuple(prompts),
            base=base,
            tolerance=tolerance,
            seed=seed,
        )

    def unmerge(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        model: str,
        references: Iterable[str],
        *,
        output: Path | None = None,
        name: str | None = None,
        base: str | None = None,
        threads: int | None = None,
        dry_run: bool = False,
    ) -> Unmerged:
        """Subtract adapters from a merged model, in a new folder, and tell what rounding is left.

        Raises AdapterRefused for an adapter that replaces or rescales what was there, such
        as DoRA or modules_to_save: what it took away is not in the model any more.
        """
        from adreg.registry.ops.unmerge import unmerge

        return unmerge(
            self._context,
            model,
            tuple(references),
            output=output,
            name=name,
            base=base,
            threads=threads,
            dry_run=dry_run,
        )

    # -- making adapters

    def combine(self, references: Iterable[str], how: Combination, wanted: Wanted) -> MadeAdapter:
        """Make one adapter out of several, each with its weight (``REF=0.5``).

        ``cat`` is their exact sum, ``svd`` that sum cut to a rank. Raises AdapterNotMade
        for adapters that do not add up to one, DoRA among them.
        """
        from adreg.registry.ops.combine import combine

        return combine(self._context, tuple(references), how, wanted)

    def resize(
        self,
        reference: str,
        wanted: Wanted,
        *,
        rank: int | None = None,
        energy: float | None = None,
        dtype: str | None = None,
    ) -> MadeAdapter:
        """Cut each module of an adapter to its best approximation at a rank, or of an energy."""
        from adreg.registry.ops.resize import resize

        return resize(self._context, reference, wanted, rank=rank, energy=energy, dtype=dtype)

    def extract(self, fine_tune: str, base: str, wish: Wish, wanted: Wanted) -> MadeAdapter:
        """Make the LoRA that is closest to what a fine-tune changed in its base.

        Every change that it does not hold is named in ``lost`` of the answer.
        """
        from adreg.registry.ops.extract import extract

        return extract(self._context, fine_tune, base, wish, wanted)

    # -- releasing

    def export(
        self,
        reference: str,
        output: Path,
        *,
        licence: str | None = None,
        allow_unknown_licence: bool = False,
        dry_run: bool = False,
    ) -> Exported:
        """Write an adapter as the PEFT folder that it was, or a model as a release.

        Raises LicenceUnknown for a model with a part whose licence is not known, unless
        ``licence`` names that of the release, or ``allow_unknown_licence``.
        """
        from adreg.registry.ops.export import export

        return export(
            self._context,
            reference,
            output,
            licence=licence,
            allow_unknown_licence=allow_unknown_licence,
            dry_run=dry_run,
        )

    def rebuild(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        lockfile: Path,
        output: Path,
        *,
        base: str | None = None,
        dry_run: bool = False,
        engine: EngineName = "local",
        ray_address: str | None = None,
    ) -> Rebuilt:
        """Build what a lock file describes, byte for byte; raise NotReproduced if it differs.

        ``engine`` and ``ray_address`` are those of ``merge``.
        """
        from adreg.registry.merge.engines import choose
        from adreg.registry.ops.rebuild import rebuild

        chosen = choose(engine, ray_address=ray_address)
        return rebuild(self._context, lockfile, output, base=base, dry_run=dry_run, engine=chosen)

    def try_out(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        references: Iterable[str],
        prompt: str,
        *,
        base: str | None = None,
        max_new_tokens: int = 64,
        seed: int | None = None,
        chat: bool | None = None,
    ) -> Trial:
        """Ask adapters on their bases, those bases and merged models; each may be a folder too.

        Without ``seed`` the likeliest token is taken each time. ``chat`` is whether the
        chat template is used; None if there is one.
        """
        from adreg.registry.ops.trial import try_out
        from adreg.registry.trial.generate import Question

        question = Question(prompt, max_new_tokens, seed, chat)
        return try_out(self._context, tuple(references), question, base=base)
