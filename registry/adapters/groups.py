"""Do the tensors of an adapter fit each other and its configuration? All faults at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from adreg.registry.adapters.config import ConfigFields, rank_of, rows_of
from adreg.registry.adapters.keys import Meaning, read_key, without_repeats
from adreg.registry.adapters.spec import AdapterTensor, LoraSettings, Part
from adreg.registry.adapters.tuners import Tuner
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.header import TensorInfo

_PAIRS = ((Part.LORA_A, Part.LORA_B), (Part.EMBEDDING_A, Part.EMBEDDING_B))
_FACTORS = frozenset(part for pair in _PAIRS for part in pair)
_GATHER = "a run with ZeRO-3 or FSDP saves such when it does not gather its weights first"

Group = Mapping[Part, AdapterTensor]


def read_tensors(
    infos: Iterable[TensorInfo], tuner: Tuner
) -> tuple[tuple[AdapterTensor, ...], list[str]]:
    """Give each tensor its meaning, sorted by key; return the reasons for those without."""
    tensors: list[AdapterTensor] = []
    unknown: dict[str, list[str]] = defaultdict(list)
    reasons: list[str] = []
    first: dict[tuple[str, Part, str, int], str] = {}
    wrapped: list[tuple[str, Meaning]] = []
    for info in sorted(without_repeats(infos), key=lambda info: info.name):
        try:
            meaning = read_key(info.name, tuner)
        except ValueError as error:
            unknown[str(error)].append(info.name)
            continue
        place = (meaning.module, meaning.part, meaning.parameter, meaning.depth)
        if place in first:
            reasons.append(f"the tensors {first[place]!r} and {info.name!r} mean the same")
            continue
        first[place] = info.name
        left_to_peft = tuner.through_peft and meaning.part is Part.TUNER
        if info.dtype not in dtypes.FLOATS and not left_to_peft:
            reasons.append(f"the tensor {info.name!r} is {info.dtype}, not a float type")
        if meaning.wraps and meaning.parameter not in {"bias", "in_proj_bias"}:
            wrapped.append((info.name, meaning))
        tensors.append(
            AdapterTensor(
                info.name, meaning.module, meaning.part, meaning.parameter, info, meaning.depth
            )
        )
    carriers = {tensor.module for tensor in tensors if tensor.part is not Part.FULL}
    for key, meaning in wrapped:
        # PEFT saves the base matrix along only with targeted embeddings and heads
        # (utils/save_and_load.py, "DEAL WITH EMBEDDINGS"), never inside a numbered layer.
        in_layer = any(part.isdigit() for part in meaning.module.split("."))
        if meaning.parameter != "weight" or in_layer or meaning.module not in carriers:
            reasons.append(f"the tensor {key!r} is a copy of the base's, from a raw dump")
    for reason, names in unknown.items():
        those = f"the tensor {names[0]!r} is"
        if len(names) > 1:
            those = f"the tensors {names[0]!r} and {len(names) - 1} more are"
        reasons.append(f"{those} not understood: {reason}")
    return tuple(tensors), reasons


def check_tensors(tensors: Iterable[AdapterTensor], fields: ConfigFields) -> list[str]:
    """Return a reason for each fault of shapes, pairs and ranks; none means that all is well."""
    wraps: dict[tuple[str, int], dict[Part, AdapterTensor]] = defaultdict(dict)
    tensors = tuple(tensors)
    reasons: list[str] = []
    for tensor in tensors:
        if tensor.part is Part.ROWS:
            reasons += _check_rows(tensor, fields)
        elif tensor.part not in {Part.FULL, Part.TUNER}:
            wraps[tensor.module, tensor.depth][tensor.part] = tensor
    if not tensors:
        return ["its weights file holds no tensors: the training run saved an empty adapter"]
    if all(tensor.part is Part.FULL for tensor in tensors) and fields.targets and not fields.whole:
        said = "it has no tensors of an adapter, though its configuration names target_modules"
        return [f"{said}: {tensors[0].key!r} and the like are whole parameters"]
    for (module, _), group in wraps.items():
        # Ranks of stacked experts are known where the base says how many there are.
        lora = None if _is_stack(module, fields.parameters) else fields.lora
        reasons += _check_pairs(module, group) or _check_group(module, group, lora)
    groups = {f"{module}{'.base_layer' * n}": group for (module, n), group in wraps.items()}
    if fields.lora is not None:
        reasons += _check_whole(groups, fields.lora)
    return reasons


def _is_stack(module: str, parameters: tuple[str, ...]) -> bool:
    parents = {parameter.rpartition(".")[0] for parameter in parameters}
    return any(
        not parent or module == parent or module.endswith(f".{parent}") for parent in parents
    )


def _check_rows(tensor: AdapterTensor, fields: ConfigFields) -> list[str]:
    shape, rows = tensor.info.shape, rows_of(fields.rows, tensor.module)
    if rows is None:
        return [f"the configuration does not say which rows {tensor.key!r} replaces"]
    if len(shape) != 2 or shape[0] != len(rows):
        fault = f"has the shape {_text(shape)}, and the configuration numbers {len(rows)} rows"
        return [f"the tensor {tensor.key!r} {fault}"]
    return []


def _check_pairs(module: str, group: Group) -> list[str]:
    reasons = []
    found = [pair for pair in _PAIRS if pair[0] in group or pair[1] in group]
    if not found:
        names = ", ".join(sorted(repr(tensor.key) for tensor in group.values()))
        return [f"{module!r} has {names} but neither lora_A nor lora_B"]
    if len(found) > 1:
        reasons.append(f"{module!r} has the tensors of a linear layer and of an embedding")
    for a, b in found:
        for there, missing in ((a, b), (b, a)):
            if there in group and missing not in group:
                reasons.append(f"{module!r} has {there.value} but no {missing.value}")
    for part in _FACTORS & group.keys():
        shape = group[part].info.shape
        if len(shape) < 2 or 0 in shape:
            reasons.append(
                f"the tensor {group[part].key!r} has the shape {_text(shape)},"
                f" not two dimensions above 0: {_GATHER}"
            )
        elif len(shape) > 2 and part in {Part.EMBEDDING_A, Part.EMBEDDING_B}:
            reasons.append(
                f"the tensor {group[part].key!r} has the shape {_text(shape)}, not two dimensions"
            )
    return sorted(reasons)


def _check_group(module: str, group: Group, lora: LoraSettings | None) -> list[str]:
    a, b = next((group[a], group[b]) for a, b in _PAIRS if a in group)
    shape_a, shape_b = a.info.shape, b.info.shape
    if len(shape_a) != len(shape_b):
        return [f"{module!r} has A {_text(shape_a)} and B {_text(shape_b)}: not one kind of layer"]
    rank = shape_a[0]
    if shape_b[1] != rank:
        if len(shape_a) > 2 and rank % shape_b[1] == 0:
            fault = "is a grouped convolution, which PEFT cannot merge either"
        else:
            fault = "has another rank in A than in B"
        return [f"{module!r} {fault}: A {_text(shape_a)}, B {_text(shape_b)}"]
    reasons = []
    if set(shape_b[2:]) - {1}:
        reasons.append(f"{module!r} has B {_text(shape_b)}, whose kernel is not of size 1")
    if lora is not None and (wanted := rank_of(lora, a.owner)) != rank:
        reasons.append(
            f"{module!r} has rank {rank} in its tensors and {wanted} in the configuration"
        )
    out = shape_b[0]
    expected = (out,) if len(shape_b) == 2 else (1, out, *shape_b[2:])
    wants = {Part.MAGNITUDE: expected, Part.LORA_BIAS: (out,)}
    for part, shape in wants.items():
        if part in group and group[part].info.shape != shape:
            reasons.append(
                f"the tensor {group[part].key!r} has the shape {_text(group[part].info.shape)},"
                f" not {_text(shape)}"
            )
    return reasons


def _check_whole(groups: Mapping[str, Group], lora: LoraSettings) -> list[str]:
    """Compare what the configuration says of all modules with what the tensors say."""
    reasons = []
    # PEFT's lora_bias is of linear and convolution layers only; embeddings have none.
    linear = {module: group for module, group in groups.items() if Part.LORA_B in group}
    for name, said, part, modules in (
        ("use_dora", lora.use_dora, Part.MAGNITUDE, groups),
        ("lora_bias", lora.lora_bias, Part.LORA_BIAS, linear),
    ):
        having = [module for module, group in modules.items() if part in group]
        if not said and having:
            reasons.append(f"{having[0]!r} has {part.value}, but {name} is not set")
        if said:
            reasons += [
                f"{module!r} has no {part.value}, but {name} is set"
                for module, group in modules.items()
                if part not in group
            ]
    return reasons


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
