"""A LoRA out of a full fine-tune: the best approximation of W' - W, weight by weight."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg.registry.adapters.keys import PREFIX
from adreg.registry.bases.base import Base
from adreg.registry.errors import AdapterNotMade
from adreg.registry.merge.algebra import svd
from adreg.registry.merge.algebra.adapter_config import lora_config
from adreg.registry.merge.algebra.adapter_writer import EMBEDDING, LINEAR, AdapterWriter
from adreg.registry.merge.algebra.combine import CombinedAdapter, ModuleMade
from adreg.registry.merge.algebra.fine_tune import (
    Difference,
    Kind,
    Lost,
    Pair,
    change,
    kind_of,
    pair_up,
)
from adreg.registry.merge.algebra.low_rank import Factors, Target
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.arrays import LARGEST, NUMPY, TensorReader, single_threaded_blas

_SMALL = "it is a norm or a bias; --with-norms stores such whole"


@dataclass(frozen=True, slots=True)
class Extraction:
    """How to extract: what to keep of each weight, and which weights.

    ``modules`` is a regular expression that is searched for in module names.
    ``with_norms`` stores changed norms and biases whole. ``dtype`` is a code (``F32``).
    """

    target: Target
    modules: str | None = None
    with_norms: bool = False
    dtype: str = "F32"


def extract_lora(  # noqa: PLR0913  # the two ends, and how to tell of it
    base: Base,
    full: Base,
    how: Extraction,
    folder: Path | None,
    *,
    card: str = "",
    progress: Progress = SILENT,
) -> CombinedAdapter:
    """Write the LoRA that is closest to a fine-tune's change of its base into a PEFT folder.

    ``folder`` is a staging folder, which the caller publishes; without one all is computed
    and nothing written. Every tensor that differs is in the adapter or in ``lost``. Raises
    AdapterNotMade when nothing differs, or nothing of it can be held.
    """
    pairs, lost = pair_up(base, full)
    work = _Work(base, how, lost)
    pattern = _pattern(how.modules)
    progress.start(f"Extracting from {full.folder.name}", len(pairs), "items")
    try:
        with single_threaded_blas(), TensorReader() as reader, AdapterWriter(folder) as writer:
            for pair in pairs:
                work.take(pair, pattern, reader, writer)
                progress.advance()
            saved = work.store_small(pairs, reader, writer) if how.with_norms else {}
            work.check()
            config = lora_config(
                writer.ranks,
                base=base.hub_repo or str(base.folder),
                task_type=_task(base),
                fan_in_fan_out=work.conv1d,
                revision=base.revision,
                **saved,
            )
            files = writer.finish(config, card)
    finally:
        progress.finish()
    return CombinedAdapter(
        tuple(work.made),
        config,
        writer.parameters,
        writer.nbytes,
        files,
        tuple(work.remarks),
        tuple(work.lost),
    )


@dataclass
class _Work:
    """What was made and what was lost so far."""

    base: Base
    how: Extraction
    lost: list[Lost]
    made: list[ModuleMade] = field(default_factory=list)
    small: list[tuple[Pair, float]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    conv1d: bool = False
    stored: int = 0

    def take(
        self,
        pair: Pair,
        pattern: re.Pattern[str] | None,
        reader: TensorReader,
        writer: AdapterWriter,
    ) -> None:
        """Put a tensor's change into the adapter, or note that it is lost."""
        kind = kind_of(pair, self.base)
        if isinstance(kind, str):
            norm = change(pair, reader)
            if norm and len(pair.shape) == 1 and math.isfinite(norm):
                self.small.append((pair, norm))
            elif norm:
                self._lose(pair, kind, norm)
            return
        if pattern is not None and not pattern.search(pair.module):
            if norm := change(pair, reader):
                self._lose(pair, "it is not targeted", norm)
            return
        dtype = NUMPY[self.how.dtype]
        matrix = Difference(pair, reader)
        _check_finite(pair, svd.square_norm(matrix))
        near = svd.approximate(matrix, self.how.target, pair.name, dtype)
        if near.norm == 0:
            return
        self._check_range(pair, near.factors)
        self.conv1d |= kind is Kind.CONV1D
        self.made.append(
            ModuleMade(pair.module, near.factors.rank, near.norm, near.error, near.reached)
        )
        _put(pair.module, kind, near.factors, writer)
        if pair.head is not None:
            self.remarks.append(
                f"the head is tied to {pair.module}: {pair.head} gets the same change"
            )
            self.made.append(
                ModuleMade(pair.head, near.factors.rank, near.norm, near.error, near.reached)
            )
            _put(pair.head, Kind.LINEAR, near.factors, writer)

    def store_small(
        self, pairs: list[Pair], reader: TensorReader, writer: AdapterWriter
    ) -> dict[str, Any]:
        """Store norms as modules_to_save and biases as trained biases; return config fields.

        PEFT saves a module whole, so a norm brings all its parameters (peft 0.21.2,
        utils/other.py, ``ModulesToSaveWrapper``). A bias of a module that has a LoRA is
        named behind ``base_layer`` (utils/save_and_load.py, ``bias``).
        """
        modules: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            modules[pair.module].append(pair)
        saved, biases = [], False
        changed = {pair.module: pair for pair, _ in self.small}
        for module in changed:
            group = modules[module]
            if all(len(pair.shape) == 1 for pair in group):
                saved.append(module)
                stored = [(f"{PREFIX}{module}.{pair.parameter}", pair) for pair in group]
            else:
                biases = True
                wrapped = f"{module}.base_layer" if module in writer.ranks else module
                stored = [
                    (f"{PREFIX}{wrapped}.{pair.parameter}", pair)
                    for pair, _ in self.small
                    if pair.module == module
                ]
            for key, pair in stored:
                file, info = pair.full
                writer.put(key, reader.read(file.path, info).reshape(info.shape))
                self.stored += 1
        self.small = []
        return {"modules_to_save": saved or None, "bias": "all" if biases else "none"}

    def check(self) -> None:
        """Count what was not stored as lost; refuse an adapter that would hold nothing."""
        self.lost += [Lost(pair.name, _SMALL, norm) for pair, norm in self.small]
        if self.made or self.stored:
            return
        if self.lost:
            first = self.lost[0]
            reason = f"nothing of what differs fits a LoRA: {first.name!r}, {first.reason}"
            raise AdapterNotMade((reason,), "Use the fine-tune as a base of its own.")
        reason = "the fine-tune is the base: no tensor differs"
        raise AdapterNotMade((reason,), "Name the model that it was trained from with --base.")

    def _lose(self, pair: Pair, reason: str, norm: float) -> None:
        self.lost.append(Lost(pair.name, reason, norm if math.isfinite(norm) else None))

    def _check_range(self, pair: Pair, factors: Factors) -> None:
        for array in (factors.b, factors.a):
            if not np.isfinite(array.astype(np.float64)).all():
                code = self.how.dtype
                reason = f"{pair.name!r} has values over {LARGEST[code]:g}, the most of {code}"
                raise AdapterNotMade((reason,), "Pass --dtype float32 or bfloat16.")


def _put(module: str, kind: Kind, factors: Factors, writer: AdapterWriter) -> None:
    """Write U S V of W' - W as PEFT's factors; embeddings and Conv1D hold W transposed."""
    if kind is Kind.LINEAR:
        writer.put_lora(module, LINEAR, factors.a, factors.b)
        return
    parts = EMBEDDING if kind is Kind.EMBEDDING else LINEAR
    writer.put_lora(module, parts, factors.b.T, factors.a.T)


def _check_finite(pair: Pair, total: float) -> None:
    if not math.isfinite(total):
        reason = f"{pair.name!r} has values that are not finite"
        raise AdapterNotMade((reason,), "Fetch or save the fine-tune again.")


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise AdapterNotMade(
            (f"{text!r} is no regular expression: {error}",), "Write it as q_proj|v_proj."
        ) from None


def _task(base: Base) -> str | None:
    """Return PEFT's task, where it does no more than choose a class.

    SEQ_CLS and the like would wrap the head as modules_to_save too (peft_model.py).
    """
    causal = (base.architecture or "").endswith(("ForCausalLM", "LMHeadModel"))
    return "CAUSAL_LM" if causal else None
