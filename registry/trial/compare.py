"""Whether a merged model answers as its base with the adapters on top, within rounding.

Four sets of outputs on the same inputs, all computed in float32: the base's; those of the
base with the adapters put on by PEFT; the same after PEFT merged in float32 and every
weight was rounded to the dtype that the merged checkpoint stores it in; and the merged
checkpoint's. The third is the yardstick: it tells what rounding alone does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adreg.registry.errors import InputRefused
from adreg.registry.progress import SILENT, Progress
from adreg.registry.trial.distance import Distance, distance, spread
from adreg.registry.trial.inputs import inputs_for
from adreg.registry.trial.loading import (
    Subject,
    adapter_name,
    first_line,
    import_packages,
    load,
    put_on,
    quiet,
)

Way = Literal["unmerged", "folded"]
Verdict = Literal["same", "differs", "lost", "nothing"]

PURPOSE = "adreg verify-merge"

FLOOR = 2.0**-16
"""What sums of float32 in another order may do to outputs, as a share of their spread:
the yardstick is never taken to be shorter."""

_SHARE = 0.25
"""How much of the allowance against base and adapters is allowed against the yardstick: the
same sums rounded to the same dtype differ only where float32's last bits decide."""

_LOST = 0.5
"""The share of the adapters' effect beyond which a difference leaves too little of it."""

_OUTPUTS = ("logits", "start_logits", "logits_per_image", "last_hidden_state")
"""What transformers' models call what they say, the first that is there counts."""

_ROUNDED = {"BF16": "bfloat16", "F16": "float16"}
"""torch's names of the types that float32 weights are rounded to."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """An adapter and how many times its delta was taken."""

    subject: Subject
    weight: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A merged checkpoint: where it lies, and the safetensors dtype of each of its tensors."""

    subject: Subject
    dtypes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a merged model is from base and adapters, and from what rounding explains.

    ``way`` is how the reference was computed: by PEFT with the adapters "unmerged", or from
    base weights with PEFT's delta of each adapter "folded" in, weighted, in float32.
    ``spread`` is the standard deviation of the reference's outputs, the unit of all
    distances. ``merged`` and ``rounding`` are from the reference, ``beyond_rounding`` is
    the merged model's from the yardstick, ``effect`` the base's from the reference: None
    where the base has no such outputs.
    """

    way: Way
    inputs: int
    spread: float
    merged: Distance
    rounding: Distance
    beyond_rounding: Distance
    effect: Distance | None

    def verdict(self, tolerance: float) -> Verdict:
        """Return "same" if rounding explains the difference, and what is wrong otherwise.

        ``tolerance`` is how many times the yardstick the difference may be. "nothing": the
        adapters do not change the outputs at all. "lost": rounding, no fault otherwise,
        moved the outputs more than half as far as the adapters do.
        """
        if self.effect is not None and self.effect.largest == 0:
            return "nothing"
        allowed = tolerance * max(self.rounding.rms, FLOOR)
        near = tolerance * max(_SHARE * self.rounding.rms, FLOOR)
        if self.merged.rms > allowed or self.beyond_rounding.rms > near:
            return "differs"
        if self.effect is not None and self.merged.rms > _LOST * self.effect.rms:
            return "lost"
        return "same"


def compare(  # noqa: PLR0913  # the parts, and how to compare them
    base: Subject,
    adapters: Sequence[Weighted],
    merged: Checkpoint,
    *,
    way: Way,
    prompts: Sequence[str] = (),
    seed: int = 0,
    base_answers: bool = True,
    progress: Progress = SILENT,
) -> Comparison:
    """Run base, adapters and merged checkpoint on the same inputs and measure the distances.

    One model is held at a time, two while deltas are "folded". "unmerged" takes several
    adapters or other weights than 1 only for LoRA whose parts are all scaled and added.
    ``base_answers`` is false where the base lacks the head that an adapter brings.

    Raises Incompatible, InputRefused (also for outputs that are not finite), MissingPackage.
    """
    torch, _, _ = import_packages(PURPOSE)
    with quiet(), torch.random.fork_rng():
        model = _load(base)
        given = inputs_for(model, merged.subject.folder, prompts, seed)
        original = _answers(model, given, base)
        progress.advance()
        if way == "unmerged":
            wrapped = _put_on_weighted(model, base, adapters)
            reference = _answers(wrapped, given, base)
            _untie(wrapped)
            names = [adapter_name(number) for number in range(len(adapters))]
            model = wrapped.merge_and_unload(adapter_names=names)
            del wrapped
        else:
            _fold(model, base, adapters)
            reference = _answers(model, given, base)
        progress.advance()
        _round(model, merged.dtypes)
        rounded = _answers(model, given, base)
        del model
        progress.advance()
        answers = _answers(_load(merged.subject), given, merged.subject)
        progress.advance()
    unit = spread(reference.rows)

    def far(one: _Answers, other: _Answers) -> Distance:
        _check_shapes(merged.subject, one, other)
        return distance(one.rows, other.rows, unit=unit, logits=one.logits)

    return Comparison(
        way,
        len(given),
        unit,
        merged=far(reference, answers),
        rounding=far(reference, rounded),
        beyond_rounding=far(rounded, answers),
        effect=far(reference, original) if base_answers else None,
    )


def _load(subject: Subject) -> Any:  # noqa: ANN401
    torch, _, _ = import_packages()
    torch.manual_seed(0)  # a head that the checkpoint lacks gets the same values each time
    return load(subject, torch.float32)


@dataclass(frozen=True, slots=True)
class _Answers:
    """The outputs for each input, (positions, classes) in float32 on the CPU."""

    rows: list[Any]
    logits: bool


def _answers(model: Any, given: Iterable[Mapping[str, Any]], subject: Subject) -> _Answers:  # noqa: ANN401
    """Run a model on each input; raise InputRefused if it cannot, or its outputs are not finite."""
    torch, _, _ = import_packages()
    found, name = [], ""
    # cuDNN convolves in TensorFloat-32 unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        for one in given:
            try:
                outputs = model(**{name: value.to(model.device) for name, value in one.items()})
            except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
                reason = f"it does not run on {', '.join(one)}: {first_line(error)}"
                advice = "Compare it in transformers: what it takes is not known here."
                raise InputRefused(subject.folder, reason, advice) from error
            name = next((name for name in _OUTPUTS if name in outputs), next(iter(outputs)))
            value = outputs[name]
            if name == "start_logits":
                value = torch.cat([value, outputs["end_logits"]])
            found.append(value.flatten(0, -2).float().cpu())
    if not all(bool(one.isfinite().all()) for one in found):
        raise InputRefused(
            subject.folder, f"outputs of {subject.label} are not finite", "Fetch or make it again."
        )
    return _Answers(found, "logits" in name)


def _put_on_weighted(model: Any, base: Subject, adapters: Sequence[Weighted]) -> Any:  # noqa: ANN401
    """Return a PeftModel with all adapters active, each LoRA's scaling times its weight."""
    wrapped = put_on(model, base, [one.subject for one in adapters])
    names = [adapter_name(number) for number in range(len(adapters))]
    if len(adapters) > 1:
        # PeftModel.set_adapter takes one name; the tuner below it takes several.
        wrapped.base_model.set_adapter(names, inference_mode=True)
    for module in wrapped.modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, dict):
            continue
        for name, one in zip(names, adapters, strict=True):
            # A weight of 1 touches nothing, whatever a tuner calls ``scaling``.
            if name in scaling and one.weight != 1:
                scaling[name] *= one.weight
    return wrapped


def _fold(model: Any, base: Subject, adapters: Sequence[Weighted]) -> None:  # noqa: ANN401
    """Add to a model's weights, in place, the weighted deltas that PEFT merges one at a time."""
    torch, _, _ = import_packages()
    _untie(model)
    weights = model.state_dict()
    sums: dict[str, Any] = {}
    for one in adapters:
        wrapped = put_on(_load(base), base, [one.subject])
        _untie(wrapped)
        with torch.no_grad():
            for name, value in wrapped.merge_and_unload().state_dict().items():
                if value.is_floating_point() and not torch.equal(value, weights[name]):
                    delta = one.weight * (value - weights[name])
                    sums[name] = sums[name] + delta if name in sums else delta
        del wrapped
    with torch.no_grad():
        for name, delta in sums.items():
            weights[name].add_(delta)


def _untie(model: Any) -> None:  # noqa: ANN401
    """Give each module parameters of its own.

    Unmerged, an adapter on an embedding leaves a tied head as it was; merged into the
    shared tensor it would change both (peft#2018).
    """
    torch, _, _ = import_packages()
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in seen:
                own = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(module, name, own)
            seen.add(id(parameter))


def _round(model: Any, dtypes: Mapping[str, str]) -> None:  # noqa: ANN401
    """Round weights, in place, to the dtype that a checkpoint stores them in; they stay float32.

    A name in memory may have a prefix that the one on disk has not, or the other way round;
    what is found under neither has the dtype of most tensors.
    """
    torch, _, _ = import_packages()
    most = Counter(dtypes.values()).most_common(1)[0][0]
    prefix = f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, value in model.state_dict().items():
            names = (name, name.removeprefix(prefix), prefix + name)
            code = next((dtypes[one] for one in names if one in dtypes), most)
            if value.is_floating_point() and code in _ROUNDED:
                value.copy_(value.to(getattr(torch, _ROUNDED[code])))


def _check_shapes(subject: Subject, one: _Answers, other: _Answers) -> None:
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        if ours.shape != theirs.shape:
            shapes = f"{tuple(theirs.shape)} and {tuple(ours.shape)}"
            reason = f"its outputs have another shape than those of base and adapters: {shapes}"
            raise InputRefused(subject.folder, reason, "Name its own base with --base.")
        if not math.prod(ours.shape):
            raise InputRefused(subject.folder, "it has no outputs", "Train a head for it.")
