"""The methods by name: what each takes, and a choice of one with its parameters.

The flavour is in the name. Without a prefix it is mergekit's: signs are elected on
weighted deltas, and what a random choice drops is made good by matching the L1 norm.
``peft_`` is PEFT's: signs are elected before the weights, and random choices divide by
the density; it is the arithmetic of PEFT's ``*_svd`` combinations before their SVD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

Sign = Literal["total", "frequency"]
Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What a method is and takes, for help, docs and checks.

    ``parameters`` gives each parameter's default; None where the user must choose.
    ``inputs`` is the least and the largest number of deltas (None: any). With
    ``uses_base`` W takes part, not only the deltas. With ``whole_rows`` a tile must hold
    whole rows, and a tensor of one column must be one tile: elements are ranked in rows.
    """

    summary: str
    source: str
    parameters: Mapping[str, Value | None] = field(default_factory=dict)
    inputs: tuple[int, int | None] = (1, None)
    uses_base: bool = False
    whole_rows: bool = False


_SUM: Final = {"normalize": False, "lambda": 1.0}
_TIES: Final = {"density": None, "sign": "total", "normalize": True, "rescale": False}
_DARE: Final = {"density": None, "seed": 0, "normalize": False, "rescale": True}
_CRUMBS: Final = {"density": None, "gamma": 0.01, "normalize": False, "rescale": False}
_DELLA: Final = {"density": None, "epsilon": 0.15, "seed": 0, "rescale": True}

METHODS: Final[Mapping[str, MethodInfo]] = MappingProxyType(
    {
        "linear": MethodInfo(
            "the weighted sum of the deltas", "Ilharco et al., arXiv 2212.04089", dict(_SUM)
        ),
        "task_arithmetic": MethodInfo(
            "the weighted sum of the deltas, as mergekit names it",
            "Ilharco et al., arXiv 2212.04089; mergekit 0.1.5",
            dict(_SUM),
        ),
        "ties": MethodInfo(
            "the largest elements of each delta, and of those the ones whose sign wins",
            "Yadav et al., arXiv 2306.01708; mergekit 0.1.5",
            {**_TIES, "lambda": 1.0},
        ),
        "dare_linear": MethodInfo(
            "a random choice of each delta's elements, scaled to its L1 norm, summed",
            "Yu et al., arXiv 2311.03099; mergekit 0.1.5",
            {**_DARE, "lambda": 1.0},
        ),
        "dare_ties": MethodInfo(
            "a random choice of each delta's elements, then the sign that wins",
            "Yu et al., arXiv 2311.03099; mergekit 0.1.5",
            {**_DARE, "sign": "total", "lambda": 1.0},
        ),
        "della": MethodInfo(
            "a random choice that favours large elements of a row, then the sign that wins",
            "Deep et al., arXiv 2406.11617; mergekit 0.1.5",
            {**_DELLA, "sign": "total", "normalize": True, "lambda": 1.0},
            whole_rows=True,
        ),
        "della_linear": MethodInfo(
            "a random choice that favours large elements of a row, summed",
            "Deep et al., arXiv 2406.11617; mergekit 0.1.5",
            {**_DELLA, "normalize": False, "lambda": 1.0},
            whole_rows=True,
        ),
        "breadcrumbs": MethodInfo(
            "each delta without its very largest and its small elements, summed",
            "Davari and Belilovsky, arXiv 2312.06795; mergekit 0.1.5",
            {**_CRUMBS, "lambda": 1.0},
        ),
        "breadcrumbs_ties": MethodInfo(
            "each delta without its very largest and its small elements, then the sign that wins",
            "Davari and Belilovsky, arXiv 2312.06795; mergekit 0.1.5",
            {**_CRUMBS, "sign": "total", "lambda": 1.0},
        ),
        "sce": MethodInfo(
            "elements on which the deltas differ most, weighted by their squares,"
            " of the sign that wins",
            "Wan et al., arXiv 2408.07990; mergekit 0.1.5",
            {"density": 1.0, "sign": "total"},
            inputs=(2, None),
        ),
        "slerp": MethodInfo(
            "between two models (or the base and one) on the sphere, each tensor as one vector",
            "Shoemake, SIGGRAPH 1985; mergekit 0.1.5",
            {"t": 0.5},
            inputs=(1, 2),
            uses_base=True,
        ),
        "nuslerp": MethodInfo(
            "between two deltas on the sphere, at the share of the second weight",
            "mergekit 0.1.5, nuslerp with nuslerp_flatten",
            inputs=(2, 2),
        ),
        "model_stock": MethodInfo(
            "the mean delta, shrunk by how far the deltas point apart",
            "Jang et al., arXiv 2403.19522; mergekit 0.1.5",
            inputs=(2, None),
        ),
        "karcher": MethodInfo(
            "the mean of the models on the sphere, each tensor as one vector",
            "arXiv 2603.04972; mergekit 0.1.5",
            uses_base=True,
        ),
        "peft_ties": MethodInfo(
            "PEFT's ties_svd before its SVD: signs elected before the weights,"
            " divided by how many agree",
            "Yadav et al., arXiv 2306.01708; peft 0.21.2, utils/merge_utils.py",
            {"density": None, "sign": "total"},
        ),
        "peft_dare_linear": MethodInfo(
            "PEFT's dare_linear_svd before its SVD: a random choice, divided by the density",
            "Yu et al., arXiv 2311.03099; peft 0.21.2, utils/merge_utils.py",
            {"density": None, "seed": 0},
        ),
        "peft_dare_ties": MethodInfo(
            "PEFT's dare_ties_svd before its SVD: a random choice, then as peft_ties",
            "Yu et al., arXiv 2311.03099; peft 0.21.2, utils/merge_utils.py",
            {"density": None, "sign": "total", "seed": 0},
        ),
        "peft_magnitude_prune": MethodInfo(
            "PEFT's magnitude_prune_svd before its SVD: the largest elements, summed",
            "peft 0.21.2, utils/merge_utils.py",
            {"density": None},
        ),
    }
)
"""Each method by its name, in the order in which help lists them."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its parameters; what is left None becomes the method's default.

    ``density``: the share of a tensor's elements that is kept, over 0 and at most 1;
    ``epsilon``: how far della's chance to keep an element spreads around it;
    ``gamma``: the share of the largest elements that breadcrumbs drops;
    ``lambda_``: a factor on the outcome; ``t``: 0 is slerp's first model, 1 its second;
    ``seed``: of the random choices; ``normalize``: divide by the sum of the weights,
    without their signs, that took part; ``rescale``: give each delta the L1 norm again
    that it had before elements were dropped;
    ``sign``: elected by the sum of the elements ("total") or of their signs ("frequency").

    Raises ValueError, with the parameter's name first, for a parameter that the method
    does not take, one that it needs, or one out of its range.
    """

    name: str
    density: float | None = None
    epsilon: float | None = None
    gamma: float | None = None
    lambda_: float | None = None
    t: float | None = None
    seed: int | None = None
    normalize: bool | None = None
    rescale: bool | None = None
    sign: Sign | None = None

    def __post_init__(self) -> None:
        """Fill in the defaults, then check."""
        if self.name not in METHODS:
            raise ValueError(f"method: {self.name!r} is none of {', '.join(METHODS)}")
        taken = METHODS[self.name].parameters
        for place in fields(self)[1:]:
            parameter = place.name.rstrip("_")
            given = getattr(self, place.name)
            if parameter not in taken:
                if given is not None:
                    takes = ", ".join(taken) or "no parameters"
                    raise ValueError(f"{parameter}: {self.name} takes {takes}")
            elif given is None:
                if taken[parameter] is None:
                    raise ValueError(f"{parameter}: {self.name} needs one, such as 0.5")
                object.__setattr__(self, place.name, taken[parameter])
            else:
                _check(parameter, given)
        self._check_spread()

    def _check_spread(self) -> None:
        if self.epsilon is None or self.density is None or self.density == 1:
            return
        if self.density + self.epsilon >= 1 or self.density - self.epsilon <= 0:
            raise ValueError(
                f"epsilon: density {self.density} minus and plus epsilon {self.epsilon}"
                " must lie between 0 and 1"
            )

    def check_inputs(self, count: int) -> None:
        """Raise ValueError when the method cannot combine ``count`` deltas."""
        least, most = METHODS[self.name].inputs
        if count >= least and (most is None or count <= most):
            return
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        if least == most:
            wanted = str(least)
        raise ValueError(f"adapters: {self.name} combines {wanted}, not {count}")

    def settings(self) -> dict[str, Value]:
        """Return the parameters that the method takes, by the names that users write."""
        return {name: getattr(self, _field(name)) for name in METHODS[self.name].parameters}


def _field(parameter: str) -> str:
    return "lambda_" if parameter == "lambda" else parameter


def _check(parameter: str, value: object) -> None:
    if parameter == "sign":
        if value not in {"total", "frequency"}:
            raise ValueError(f"sign: {value!r} is neither 'total' nor 'frequency'")
    elif parameter in {"normalize", "rescale"}:
        if not isinstance(value, bool):
            raise ValueError(f"{parameter}: {value!r} is neither true nor false")
    elif parameter == "seed":
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"seed: {value!r} is not a whole number from 0 up")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError(f"{parameter}: {value!r} is not a number")
    elif parameter == "density" and not 0 < value <= 1:
        raise ValueError(f"density: {value} is not over 0 and at most 1")
    elif parameter in {"epsilon", "gamma", "t"} and not 0 <= value <= 1:
        raise ValueError(f"{parameter}: {value} is not from 0 to 1")
