"""Adapters of another vocabulary than the base's: what they must bring, and what follows."""

from __future__ import annotations

from adreg.registry.adapters.spec import AdapterTensor
from adreg.registry.bases.base import Base
from adreg.registry.bases.diskname import EMBEDDINGS, find_embedding, find_head, head_name
from adreg.registry.bases.fit_heads import TASKS
from adreg.registry.bases.placement import Fitting, Kind, Placement

_ADVICE = "save it again with save_embedding_layers=True, from the model of that vocabulary"


def vocabulary(base: Base) -> dict[str, int]:
    """Return the tensors with a row or element for each token, and the dimension of those.

    They are the input embedding, its copies, the output head (whether the checkpoint holds
    it or not) and the biases of heads.
    """
    embedding = find_embedding(base.layout, base.memory)
    if embedding is None:
        return {}
    shape = base.layout[embedding].shape
    found = {embedding: 0}
    head = find_head(base.memory, base.architecture) or head_name(base.architecture)
    if head is not None and (base.tied or head in base.layout):
        found[head] = 0
    for tensor in base.layout:
        numbered = any(part.isdigit() for part in tensor.name.split("."))
        if tensor.shape == shape and tensor.name.endswith(EMBEDDINGS) and not numbered:
            found[tensor.name] = 0
        if tensor.name.endswith("bias") and not numbered and tensor.shape[-1:] == shape[:1]:
            found[tensor.name] = len(tensor.shape) - 1
    return found


def _dimensions(state: Fitting) -> dict[str, int]:
    # Found once: a wrong base asks for it with each of thousands of modules.
    if state.vocabulary is None:
        state.vocabulary = vocabulary(state.base)
    return state.vocabulary


def is_resized(
    state: Fitting, target: str, shape: tuple[int, ...], brought: tuple[int, ...]
) -> bool:
    """Whether a whole tensor differs from the base's in nothing but its vocabulary."""
    dimension = _dimensions(state).get(target)
    if dimension is None or len(shape) != len(brought):
        return False
    rest = [n for n in range(len(shape)) if n != dimension]
    return brought[dimension] > 0 and all(shape[n] == brought[n] for n in rest)


def lacks_matrix(state: Fitting, target: str, tensor: AdapterTensor, brought: int) -> str | None:
    """Return the fault of a tensor for another vocabulary without the matrix; None if it is none.

    ``brought`` is the number of tokens that it is for.
    """
    base = state.base
    embedding = state.embedding
    dimension = _dimensions(state).get(target)
    if dimension is None or embedding is None or brought == (rows := _rows(base, embedding)):
        return None
    return (
        f"{tensor.key!r} is for a vocabulary of {brought}, the base's {target!r} has {rows},"
        f" and the adapter does not bring that matrix: {_ADVICE}"
    )


def check_vocabulary(state: Fitting) -> None:
    """Hold that all tensors of the vocabulary have one size when an adapter changes it."""
    base = state.base
    if not state.resized:
        return
    head = None
    if any(p.source is None and p.target not in base.layout for p in state.placements):
        # With a head of its own the model has no output head, which falls away at the merge.
        head = find_head(base.memory, base.architecture) if _is_classifier(state) else None
    sizes: dict[str, int] = {}
    for name, dimension in _dimensions(state).items():
        if name == head:
            continue
        if name in state.resized:
            sizes[name] = state.resized[name][dimension]
        elif name in base.layout:
            sizes[name] = base.layout[name].shape[dimension]
    first, size = next((n, s) for n, s in sizes.items() if n in state.resized)
    state.faults += [
        f"the adapter brings {first!r} with {size} rows and leaves {name!r} at {other}: {_ADVICE}"
        for name, other in sizes.items()
        if other != size
    ]


def follow_tie(state: Fitting) -> None:
    """Let the other side of a tie be the matrix that the adapter saved along, without its delta.

    The one parameter of both sides is the matrix under PEFT's wrappers, so what was saved
    along of the base is on both; what modules_to_save names was a copy for one side.
    """
    base = state.base
    head = find_head(base.memory, base.architecture) or head_name(base.architecture)
    embedding = find_embedding(base.layout, base.memory)
    if not base.tied or head is None or embedding is None or _is_classifier(state):
        return
    whole = {p.target: p.tensors[0] for p in state.placements if p.kind is Kind.FULL}
    sides = [side for side in (embedding, head) if side in whole]
    if len(sides) != 1:
        return
    tensor, other = whole[sides[0]], head if sides[0] == embedding else embedding
    saved = {name.rpartition(".")[2] for name in state.spec.modules_to_save}
    if state.spec.config.get("ensure_weight_tying"):
        if sides[0] in state.resized:
            state.resized[other] = tensor.info.shape
        return  # the plan lets the head follow all that is done to the embedding
    resized = sides[0] in state.resized
    wrapped = any(p.target == sides[0] and p.kind is not Kind.FULL for p in state.placements)
    if tensor.module.rpartition(".")[2] not in saved:
        if wrapped and not resized:
            return  # it is the base's own, perhaps in fewer bits
        if resized:
            state.resized[other] = tensor.info.shape
        source = None if resized else embedding
        state.placements.append(Placement(Kind.FULL, other, source, (), also=(tensor,)))
    elif resized:
        state.faults.append(
            f"{tensor.key!r} has {tensor.info.shape[0]} rows and {other!r}, which was tied to it"
            f" and not trained with it, {_rows(base, embedding)}: {_ADVICE}"
        )


def _is_classifier(state: Fitting) -> bool:
    return state.spec.task_type in TASKS


def _rows(base: Base, embedding: str) -> int:
    return base.layout[embedding].shape[0]
