"""Modules that PEFT's own layers merge, one at a time, on stubs of the model.

A stub is a tree of empty modules with real layers under their full names: PEFT wraps
them as it would the model's, loads the adapter's tensors, and merges. What PEFT 0.21.2
gives for a module does not depend on the rest of the model, but for kinds that share
tensors between modules: their stub has all modules that the adapter targets, with
weights that take no memory until their turn comes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from adreg.registry.adapters.keys import PREFIX, ROOT
from adreg.registry.adapters.spec import AdapterSpec, AdapterTensor, Part
from adreg.registry.adapters.tuners import LORA
from adreg.registry.bases.placement import Kind
from adreg.registry.errors import MergeRefused
from adreg.registry.merge.terms import Module
from adreg.registry.tensors.arrays import Array, TensorReader

SHARED = frozenset({"VERA", "PVERA", "RANDLORA", "UNILORA", "TINYLORA", "VBLORA"})
"""Kinds whose modules share tensors, whether or not the adapter's file has them, and need
nothing of the other modules but their shapes. Kinds that are not known and share tensors
get all weights at once."""

REPEATED = 64 << 20
"""The most elements of a weight that is computed a second time in float64: 2 GiB of memory or
so (W, what PEFT makes of it, and copies), and twice to three times the time."""

_UNSET = (
    "task_type",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "trainable_token_indices",
    "target_parameters",
    "base_model_name_or_path",
    "auto_mapping",
)
"""Settings that choose modules, which are chosen here."""

_TORCH_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

Shapes = Mapping[str, tuple[int, ...]]
"""The base's tensors by name on disk."""


class PeftModules:
    """What PEFT makes of the modules of some adapters."""

    def __init__(  # noqa: PLR0913, PLR0917  # what it takes from, and how
        self,
        specs: Mapping[int, AdapterSpec],
        modules: Mapping[int, Mapping[str, Module]],
        shapes: Shapes,
        reader: TensorReader,
        read: Callable[[str], Array],
        dtype: np.dtype[Any],
    ) -> None:
        """Build nothing yet. ``modules`` are those of each adapter, by name.

        ``read`` returns a whole tensor of the base in its own shape, as ``dtype``.
        """
        self._specs, self._modules, self._shapes = specs, modules, shapes
        self._reader, self._read, self._dtype = reader, read, dtype
        self._shared: dict[int, Any] = {}
        self._wide: PeftModules | None = None

    def check(self) -> None:
        """Raise MergeRefused for an adapter that PEFT does not take in whole.

        Done with weights that take no memory, so that it is known before a byte is written.
        """
        for number, modules in self._modules.items():
            shared = self._is_shared(number)
            with _quiet():
                chosen = modules if shared else self._samples(number, modules)
                self._build(number, chosen, None, trial=True)

    def _samples(self, adapter: int, modules: Mapping[str, Module]) -> dict[str, Module]:
        """Return one module of each kind and shape: some kinds decompose each that is built."""
        shapes: dict[str, list[tuple[str, tuple[int, ...]]]] = {name: [] for name in modules}
        for tensor in self._specs[adapter].tensors:
            if tensor.module in shapes:
                shapes[tensor.module].append((tensor.parameter, tensor.info.shape))
        found: dict[object, tuple[str, Module]] = {}
        for name, term in modules.items():
            like = (term.layer, self._shapes[term.weight], term.bias is None, str(shapes[name]))
            found.setdefault(like, (name, term))
        return dict(found.values())

    def unrepeatable(self, adapter: int, term: Module) -> str | None:
        """Return why a module is not computed again in float64; None where it is."""
        kind = self._specs[adapter].peft_type
        if self._is_shared(adapter) and kind not in SHARED:
            return f"PEFT computes {kind} with all modules in memory, which float64 doubles"
        count = math.prod(self._shapes[term.weight])
        if count > REPEATED:
            return f"PEFT's {kind} is computed again of {REPEATED >> 20} Mi elements at most"
        return None

    def wide(self, read: Callable[[str], Array]) -> PeftModules:
        """Return the same in float64, made once; ``read`` returns the base's tensors so."""
        if self._wide is None:
            wide = np.dtype(np.float64)
            self._wide = PeftModules(
                self._specs, self._modules, self._shapes, self._reader, read, wide
            )
        return self._wide

    def compute(self, adapter: int, term: Module) -> Array:
        """Return the module's weight or bias as PEFT merges it, in its own shape."""
        with _quiet():
            if self._is_shared(adapter):
                return self._compute_shared(adapter, term)
            model = self._build(adapter, {term.module: term}, self._reader_for(adapter, term))
            self._widen(model)
            try:
                merged = model.merge_and_unload(safe_merge=True)
            except Exception as error:
                raise self._refusal(adapter, term.module, error) from error
            return self._result(merged.get_submodule(term.module), term)

    def _compute_shared(self, adapter: int, term: Module) -> Array:
        import torch  # noqa: PLC0415  # 1.5 s that only these kinds need

        if adapter not in self._shared:
            alone = self._specs[adapter].peft_type in SHARED
            read = None if alone else self._read
            self._shared[adapter] = self._build(adapter, self._modules[adapter], read)
        model = self._shared[adapter]
        self._widen(model)
        layer = model.base_model.model.get_submodule(term.module)
        base_layer = layer.get_base_layer()
        bias = getattr(base_layer, "bias", None)
        kept = base_layer.weight.data, None if bias is None else bias.data
        read = self._reader_for(adapter, term)
        base_layer.weight.data = torch.from_numpy(read(term.weight))
        if term.bias is not None:
            base_layer.bias.data = torch.from_numpy(read(term.bias))
        try:
            layer.merge(safe_merge=True)
        except Exception as error:
            raise self._refusal(adapter, term.module, error) from error
        result = self._result(base_layer, term)
        layer.merged_adapters.clear()
        base_layer.weight.data = kept[0]
        if kept[1] is not None:
            base_layer.bias.data = kept[1]
        return result

    def _reader_for(self, adapter: int, term: Module) -> Callable[[str], Array]:
        """Return what reads W and the bias: the adapter's own where it brings one."""
        if term.given is None:
            return self._read
        spec = self._specs[adapter]
        info = next(t.info for t in spec.tensors if t.key == term.given)
        brought = self._reader.read(spec.weights.path, info).astype(self._dtype)
        name = term.weight if term.parameter == "weight" else term.bias
        return lambda asked: brought.reshape(info.shape) if asked == name else self._read(asked)

    def _is_shared(self, adapter: int) -> bool:
        spec = self._specs[adapter]
        return spec.peft_type in SHARED or any(
            t.part is Part.TUNER and not t.module for t in spec.tensors
        )

    def _widen(self, model: Any) -> None:  # noqa: ANN401  # torch is not imported here
        if self._dtype != np.float64:
            return
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point() and value.element_size() < 8:
                # What stands in for a weight must go on taking no memory: as many bytes as the
                # model has would be made of it.
                stands_in = value.numel() > 1 and not any(value.stride())
                one = value.data.flatten()[:1] if stands_in else value.data
                value.data = one.double().expand(value.shape)

    def _result(self, layer: Any, term: Module) -> Array:  # noqa: ANN401  # a torch module
        outcome = layer.weight if term.parameter == "weight" else layer.bias
        return np.asarray(outcome.detach().contiguous().numpy(), self._dtype)

    def _build(
        self,
        adapter: int,
        modules: Mapping[str, Module],
        read: Callable[[str], Array] | None,
        *,
        trial: bool = False,
    ) -> Any:  # noqa: ANN401  # a PeftModel
        """Return a stub with these modules, wrapped by PEFT, the adapter's tensors loaded."""
        from peft import PeftModel  # noqa: PLC0415  # 4 s that only these kinds need

        spec = self._specs[adapter]
        first = next(iter(modules))
        try:
            stub = _stub(modules, self._shapes, read)
            config = _configuration(spec, list(modules))
            if trial and spec.peft_type == LORA:
                config.init_lora_weights = True  # the others compute with W
            model = PeftModel(stub, config)
            self._load(spec, modules, model)
        except MergeRefused:
            raise
        except Exception as error:
            raise self._refusal(adapter, first, error) from error
        model.eval()
        return model

    def _load(
        self,
        spec: AdapterSpec,
        modules: Mapping[str, Module],
        model: Any,  # noqa: ANN401  # a PeftModel
    ) -> None:
        from peft import set_peft_model_state_dict  # noqa: PLC0415

        tensors = [t for t in spec.tensors if t.part is Part.TUNER]
        state = {
            _peft_key(t): self._tensor(spec, t)
            for t in tensors
            if not t.module or t.module in modules
        }
        result: Any = set_peft_model_state_dict(model, state)
        # A shared parameter goes by several names, of which the file has one.
        prefix, absent = model.base_model.prefix, set(result.missing_keys)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        loaded = {id(value) for name, value in parameters.items() if name not in absent}
        missing = [
            name
            for name, value in parameters.items()
            if name in absent and f".{prefix}" in f".{name}" and id(value) not in loaded
        ]
        if result.unexpected_keys or missing:
            key = (result.unexpected_keys or missing)[0]
            fault = "has no place for" if result.unexpected_keys else "misses"
            raise MergeRefused(
                (f"PEFT's {spec.peft_type} {fault} {key!r}",),
                "The adapter's configuration and its tensors do not belong together.",
            )

    def _tensor(self, spec: AdapterSpec, tensor: AdapterTensor) -> Any:  # noqa: ANN401  # a tensor
        import torch  # noqa: PLC0415

        info = tensor.info
        dtype = getattr(torch, _TORCH_DTYPES[info.dtype])
        if info.count == 0:
            return torch.empty(info.shape, dtype=dtype)
        buffer = bytearray(info.nbytes)
        self._reader.read_into(spec.weights.path, info.start, memoryview(buffer))
        return torch.frombuffer(buffer, dtype=dtype).reshape(info.shape)

    def _refusal(self, adapter: int, module: str, error: Exception) -> MergeRefused:
        spec = self._specs[adapter]
        said = " ".join(str(error).split())[:300] or type(error).__name__
        return MergeRefused(
            (f"PEFT cannot merge {spec.peft_type} into {module!r}: {said}",),
            "Use the adapter with PEFT, unmerged.",
        )


def _peft_key(tensor: AdapterTensor) -> str:
    if not tensor.module:
        return ROOT + tensor.parameter
    return f"{PREFIX}{tensor.module}.{tensor.parameter}"


def _configuration(spec: AdapterSpec, modules: list[str]) -> Any:  # noqa: ANN401  # a PeftConfig
    from peft import PeftConfig  # noqa: PLC0415

    values = {key: value for key, value in spec.config.items() if key not in _UNSET}
    if spec.peft_type == "IA3":
        wanted = values.get("feedforward_modules") or []
        values["feedforward_modules"] = [
            m
            for m in modules
            if any(t.module == m and t.info.shape[0] == 1 for t in spec.tensors) and wanted
        ]
    config = PeftConfig.from_peft_type(**values)
    config.target_modules = modules
    config.inference_mode = True
    return config


def _stub(
    modules: Mapping[str, Module], shapes: Shapes, read: Callable[[str], Array] | None
) -> Any:  # noqa: ANN401  # a torch module
    import torch  # noqa: PLC0415

    root = torch.nn.Module()
    for name, term in modules.items():
        parent = root
        *parents, leaf = name.split(".")
        for part in parents:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, _layer(term, shapes, read))
    return root


def _layer(term: Module, shapes: Shapes, read: Callable[[str], Array] | None) -> Any:  # noqa: ANN401
    """Return a real layer that holds the base's weight and bias, or stands in for it."""
    import torch  # noqa: PLC0415
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    shape = shapes[term.weight]
    has_bias = term.bias is not None
    with torch.device("meta"):
        match term.layer:
            case Kind.EMBEDDING:
                layer: Any = torch.nn.Embedding(shape[0], shape[1])
            case Kind.CONV1D:
                layer = Conv1D(shape[1], shape[0])
            case Kind.CONVOLUTION:
                kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
                make: Any = kinds[len(shape) - 3]
                layer = make(shape[1], shape[0], shape[2:], bias=has_bias)
            case _:
                layer = torch.nn.Linear(shape[1], shape[0], bias=has_bias)
    for parameter, name in (("weight", term.weight), ("bias", term.bias)):
        if name is None:
            if getattr(layer, parameter, None) is not None:
                setattr(layer, parameter, None)
            continue
        if read is None:
            # Rows of one shared number: a shape without memory.
            value = torch.full((1,), 1 / math.sqrt(shape[-1])).expand(shapes[name])
        else:
            value = torch.from_numpy(_narrowed(read(name)))
        setattr(layer, parameter, torch.nn.Parameter(value, requires_grad=False))
    return layer


def _narrowed(weight: Array) -> Array:
    """Return a weight in float32, which PEFT builds with; as it is where that would round it."""
    narrow = np.asarray(weight, np.float32)
    return narrow if np.array_equal(narrow, weight, equal_nan=True) else weight


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PEFT's warnings to itself, and torch on one thread: its sums' bits depend on it."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
