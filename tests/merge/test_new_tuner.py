"""A kind of adapter that a later PEFT may bring, registered as PEFT's own kinds are.

The tuners here stand in no table of adreg's: each is a real one, with PEFT's base classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import factory
import peft
import pytest
import torch
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import PeftType, register_peft_method
from safetensors.torch import load_file
from torch import nn

from adreg.registry import Registry
from adreg.registry.adapters.tuners import NATIVE, REFUSED
from adreg.registry.errors import AdregError
from adreg.registry.merge.recipe import Recipe, RecipeAdapter

TARGETS = ["q_proj", "down_proj"]


@dataclass
class OuterConfig(peft.PeftConfig):
    """The configuration of both tuners here: their own ``strength``, and what all have."""

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    strength: float = 3.0
    kind: ClassVar[str] = "OUTER"

    def __post_init__(self) -> None:
        """Say which kind it is, as PEFT's configurations do."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(self.kind)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


@dataclass
class SharedConfig(OuterConfig):
    """The same for the tuner whose modules share a vector."""

    kind: ClassVar[str] = "OUTSHARED"


@dataclass
class RenamedConfig(OuterConfig):
    """The first one under a name that its parameters do not begin with, as LOHA's are."""

    kind: ClassVar[str] = "RANKONE"


class OuterLinear(nn.Module, BaseTunerLayer):
    """W + strength |W| outer(u, v): |W|, its largest element, makes the delta depend on W."""

    adapter_layer_names = ("outer_u", "outer_v")

    def __init__(self, base_layer: Any, name: str, config: OuterConfig) -> None:
        """Wrap a linear layer."""
        super().__init__()
        self.base_layer = base_layer
        self.strength: dict[str, float] = {}
        self.outer_u, self.outer_v = nn.ParameterDict(), nn.ParameterDict()
        self._disable_adapters, self.merged_adapters = False, []
        self._active_adapter = name
        self.update_layer(name, config)

    def update_layer(self, name: str, config: OuterConfig) -> None:
        """Add an adapter that changes nothing yet."""
        weight: Any = self.get_base_layer().weight
        rows, columns = weight.shape
        self.strength[name] = config.strength
        self.outer_u[name] = nn.Parameter(torch.zeros(rows))
        self.outer_v[name] = nn.Parameter(torch.ones(columns))
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, name: str) -> Any:
        """Return a tensor (out, in)."""
        weight: Any = self.get_base_layer().weight
        delta = torch.outer(self.outer_u[name], self.outer_v[name])
        return self.strength[name] * weight.abs().max() * delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT002  # PEFT's
        """Add the delta to the base layer's weight."""
        del safe_merge
        for name in check_adapters_to_merge(self, adapter_names):
            weight: Any = self.get_base_layer().weight
            weight.data = weight.data + self.get_delta_weight(name).to(weight.dtype)
            self.merged_adapters.append(name)


class OuterModel(BaseTuner):
    """A tuner each of whose modules has tensors of its own."""

    prefix = "outer_"
    tuner_layer_cls: type[OuterLinear] = OuterLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # as PEFT's

    def _create_and_replace(  # noqa: PLR0917  # PEFT's signature
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del current_key, parameter_name
        made = self.make(target, adapter_name, peft_config)
        self._replace_module(parent, target_name, made, target)

    def make(self, target: nn.Module, name: str, config: OuterConfig) -> nn.Module:
        """Return the layer in a module's place."""
        return OuterLinear(target, name, config)


class SharedLinear(OuterLinear):
    """The same with a v that all modules share, cut to the module's columns."""

    adapter_layer_names = ("outshared_u", "outshared_v")

    def __init__(
        self, base_layer: Any, name: str, config: OuterConfig, shared: nn.ParameterDict
    ) -> None:
        """Wrap a linear layer."""
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.strength = {name: config.strength}
        self.outshared_u, self.outshared_v = nn.ParameterDict(), shared
        self._disable_adapters, self.merged_adapters = False, []
        self._active_adapter = name
        self.outshared_u[name] = nn.Parameter(torch.zeros(len(base_layer.weight)))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, name: str) -> Any:
        """Return a tensor (out, in)."""
        weight: Any = self.get_base_layer().weight
        v = self.outshared_v[name][: weight.shape[1]]
        delta = torch.outer(self.outshared_u[name], v)
        return self.strength[name] * weight.abs().max() * delta


class SharedModel(OuterModel):
    """A tuner that keeps what its modules share on itself, as VB-LoRA does its vector bank."""

    prefix = "outshared_"
    tuner_layer_cls = SharedLinear
    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        del model, config
        self.outshared_v = nn.ParameterDict({adapter_name: nn.Parameter(torch.ones(256))})

    def make(self, target: nn.Module, name: str, config: OuterConfig) -> nn.Module:
        """Return the layer in a module's place."""
        return SharedLinear(target, name, config, self.outshared_v)


Register = Callable[..., None]
_TABLES = (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
)


@pytest.fixture
def register() -> Iterator[Register]:
    """What registers a kind by PEFT's own function, for this test alone.

    The function wants a member of the enum PeftType, which a release of PEFT would have in
    its source; here the enum is grown from outside, and cut back after the test.
    """
    grown: Any = PeftType
    names = list(grown._member_names_)

    def add(name: str, config: type, model: type) -> None:
        kind: Any = str.__new__(grown, name)
        kind._name_ = kind._value_ = name
        setattr(grown, name, kind)  # before it is a member: an enum's members cannot be set
        grown._member_map_[name] = grown._value2member_map_[name] = kind
        grown._member_names_.append(name)
        prefix: str = model.prefix  # type: ignore[attr-defined]
        register_peft_method(name=name.lower(), config_cls=config, model_cls=model, prefix=prefix)

    yield add
    for name in grown._member_names_[len(names) :]:
        for table in _TABLES:
            table.pop(grown(name), None)
        del grown._member_map_[name], grown._value2member_map_[name]
        delattr(grown, name)
    grown._member_names_[:] = names


def make(base: Path, out: Path, config: peft.PeftConfig) -> Path:
    """Wrap a base with PEFT, give the trained parameters values, and save it by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(factory.load_base(base, torch.float32), config)
        generator = torch.Generator().manual_seed(3)
        for _, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        wrapped.save_pretrained(str(out))
    return out


def merge(home: Path, base: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    """Return adreg's merge, with sums in float64."""
    registry = Registry(home)
    registry.add(adapter, name="new", base=str(base))
    recipe = Recipe((RecipeAdapter("new"),), base=str(base), precision="float64")
    registry.merge(recipe, output=out, name="merged")
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "model"),
    [(OuterConfig, OuterModel), (SharedConfig, SharedModel), (RenamedConfig, OuterModel)],
    ids=["apart", "shared", "under another name"],
)
def test_a_new_kind_is_merged_without_a_line_of_ours(
    tmp_path: Path, home: Path, register: Register, config: Any, model: Any
) -> None:
    """A kind that adreg has never heard of merges as PEFT merges it, shared tensors too."""
    assert config.kind not in {*NATIVE, *REFUSED}
    register(config.kind, config, model)
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", config(target_modules=TARGETS, strength=0.5))

    ours = merge(home, base, adapter, tmp_path / "out")

    theirs = factory.load_adapter(base, adapter, dtype=torch.float32).double()
    exact = theirs.merge_and_unload(safe_merge=True).state_dict()
    before = load_file(base / "model.safetensors")
    changed = {key.split(".")[-2] for key in ours if not torch.equal(ours[key], before[key])}
    assert changed == set(TARGETS)
    for key, tensor in ours.items():
        assert torch.allclose(tensor.double(), exact[key].double(), rtol=1e-6, atol=1e-7), key


def test_why_there_is_no_worst_error(tmp_path: Path, home: Path, register: Register) -> None:
    """Modules that share tensors of a kind not known are not merged twice: the report says so."""
    register("OUTSHARED", SharedConfig, SharedModel)
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", SharedConfig(target_modules=TARGETS))

    merged = Registry(home).merge(Recipe((RecipeAdapter(str(adapter)),), str(base)), name="new")

    said = "PEFT computes OUTSHARED with all modules in memory, which float64 doubles"
    assert {(None, said)} == {(one.worst_ulps, one.unmeasured) for one in merged.report}


def test_the_formula_is_the_tuners_own(tmp_path: Path, home: Path, register: Register) -> None:
    """Each merged weight is W + strength |W| outer(u, v), computed here from the files."""
    register("OUTER", OuterConfig, OuterModel)
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", OuterConfig(target_modules=TARGETS, strength=0.5))

    ours = merge(home, base, adapter, tmp_path / "out")

    before = load_file(base / "model.safetensors")
    trained = load_file(adapter / "adapter_model.safetensors")
    for key in (key for key in before if key.split(".")[-2] in TARGETS):
        module = "base_model.model." + key.removesuffix(".weight")
        u, v = (trained[f"{module}.outer_{one}"].double() for one in "uv")
        w = before[key].double()
        assert torch.allclose(
            ours[key].double(), w + 0.5 * w.abs().max() * torch.outer(u, v), rtol=1e-6, atol=1e-7
        )


def test_a_new_kind_needs_a_peft_that_has_it(
    tmp_path: Path, home: Path, register: Register
) -> None:
    """Where the installed PEFT does not know the kind, the merge is refused and names it."""
    register("OUTER", OuterConfig, OuterModel)
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", OuterConfig(target_modules=TARGETS))
    factory.edit_config(adapter, peft_type="OUTERMOST")
    spell(adapter, "outermost_")

    with pytest.raises(AdregError, match="OUTERMOST"):
        merge(home, base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_under_names_that_peft_does_not_know(
    tmp_path: Path, home: Path, register: Register
) -> None:
    """Tensors of a targeted module that PEFT's layer has no place for are not passed over."""
    register("OUTER", OuterConfig, OuterModel)
    base = factory.make_base(tmp_path / "base", "llama", dtype=torch.float32)
    adapter = make(base, tmp_path / "adapter", OuterConfig(target_modules=TARGETS))
    spell(adapter, "rank_one_")

    with pytest.raises(AdregError, match="PEFT's OUTER has no place for"):
        merge(home, base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spell(adapter: Path, prefix: str) -> None:
    """Rename the tuner's tensors."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace("outer_", prefix)] = tensors.pop(key)

    factory.edit_tensors(adapter, edit)
