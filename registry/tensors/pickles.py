"""Files of torch.save as files of tensors, read without torch and without running a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from adreg.registry.errors import PickleRefused, TensorFileBroken
from adreg.registry.tensors import dtypes
from adreg.registry.tensors.header import TensorFile, TensorInfo
from adreg.registry.tensors.torch_file import ZIP, Saved, read_legacy, read_zip
from adreg.registry.tensors.torch_names import (
    ElementType,
    Forbidden,
    Inert,
    StoredTensor,
    shown,
)

_AGAIN = "Fetch or save the file again."
_RESAVE = (
    "If you trust its source, load it there where it came from and save its state_dict()"
    " with save_pretrained or safetensors."
)

_NOT_PICKLES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "it is a git-lfs pointer, not the weights",
        "Fetch it with `git lfs pull`.",
    ),
    (b"<", "it is a web page, not the weights", "Fetch the file itself; it may need a login."),
    (b"{", "it is text, not weights", _AGAIN),
    (b"GGUF", "it is GGUF under another name", "Use the checkpoint that it was made from."),
    (b"\x89HDF", "it is HDF5 under another name", "Use the checkpoint that torch saved."),
    (b"\x1f\x8b", "it is compressed with gzip", "Unpack it first."),
)
"""How files begin that are no pickles, what they are, and what to do."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save the weights beside other things."""


def read_pickle(path: Path) -> TensorFile:
    """Read where the tensors of a torch.save file lie, as a safetensors header would say it.

    Both formats of torch.save, of any device. No name of the pickle is imported or called.
    ``start`` and ``end`` of each tensor count from the file's begin, so that a TensorReader
    reads it by slices; tied tensors have the same range. A state dict under one of WRAPPERS
    is unwrapped. Values that hold no weights (numbers, text) are left out; their keys stand
    in ``metadata["left_out"]``, separated by commas.

    Raises PickleRefused for a pickle that asks for code or holds what no safetensors file
    could, TensorFileBroken for a file that is cut short, lies, or is no pickle at all.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            saved = _read(path, file, size)
            return _tensor_file(path, size, saved)
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    except Forbidden as error:
        raise PickleRefused(path, str(error), _RESAVE) from None
    except ValueError as error:
        raise TensorFileBroken(path, str(error), _AGAIN) from None


def _read(path: Path, file: BinaryIO, size: int) -> Saved:
    head = file.read(512)
    if not head:
        raise ValueError("it is empty")
    if (
        not head.startswith(b"\x80")
        and head[8:9] == b"{"
        and int.from_bytes(head[:8], "little") < size
    ):
        raise TensorFileBroken(
            path, "it is safetensors under another name", "Rename it to end in .safetensors."
        )
    for start, what, advice in _NOT_PICKLES:
        if head.lstrip().startswith(start):
            raise TensorFileBroken(path, what, advice)
    if head[257:262] == b"ustar":
        raise Forbidden("it is a tar archive, as torch before 0.1.10 saved")
    return read_zip(file) if head.startswith(ZIP) else read_legacy(file)


def _tensor_file(path: Path, size: int, saved: Saved) -> TensorFile:
    state, left_out = _state_dict(saved.value)
    tensors = []
    for name, value in state.items():
        if isinstance(value, StoredTensor):
            tensors.append(_info(name, value, saved.places))
        elif _is_plain(value):
            left_out.append(str(name))
        else:
            raise Forbidden(f"its value {shown(name)!r} is neither a tensor nor a number or text")
    if not tensors:
        what = ": what was saved was an empty dict" if saved.value == {} else ""
        raise ValueError(f"it holds no tensors{what}")
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end, tensor.name))
    metadata = {"left_out": ", ".join(sorted(left_out))} if left_out else {}
    return TensorFile(path, size, tuple(tensors), metadata)


def _state_dict(value: object) -> tuple[Mapping[object, object], list[str]]:
    """Return the dict of tensors, and the keys beside it that hold none."""
    if not isinstance(value, dict):
        raise Forbidden("it holds no dict of tensors")
    if any(isinstance(one, StoredTensor) for one in value.values()):
        return value, []
    inner = [key for key in value if next(_tensors_in(value[key]), None) is not None]
    if not inner:
        return {}, []
    if len(inner) > 1:
        raise Forbidden(f"it holds tensors under several keys: {', '.join(map(shown, inner[:5]))}")
    if inner[0] not in WRAPPERS or not isinstance(value[inner[0]], dict):
        raise Forbidden(
            f"it holds tensors only below {shown(inner[0])!r}, which is no known state dict"
        )
    return value[inner[0]], [str(key) for key in value if key != inner[0]]


def _tensors_in(value: object) -> Iterator[StoredTensor]:
    """Give each tensor at any depth; without recursion, each object looked at once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, StoredTensor):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, dict) else one)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str | ElementType | Inert)


def _info(name: object, tensor: StoredTensor, places: Mapping[str, tuple[int, int]]) -> TensorInfo:
    # The same rule as for safetensors: names become keys, messages and paths of plans.
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise Forbidden(f"the tensor name {str(name)[:100]!r} is not allowed")
    if "/" in name or "\\" in name or ".." in name:
        raise Forbidden(f"the tensor name {name[:100]!r} is not allowed")
    code, stored = tensor.kind.code, tensor.storage.kind.code
    if code is None or stored is None:
        kind = tensor.kind.name if code is None else tensor.storage.kind.name
        raise Forbidden(f"the tensor {name!r} has the type {kind}, which safetensors does not have")
    if not _in_order(tensor.shape, tensor.strides):
        raise Forbidden(f"the tensor {name!r} is a view whose elements do not lie in order")
    place = places.get(tensor.storage.key)
    if place is None:
        raise ValueError(f"the bytes of the tensor {name!r} are not there")
    end = place[0] + tensor.storage.count * dtypes.BITS[stored] // 8
    if end > place[1]:
        raise ValueError(f"the storage of the tensor {name!r} claims more bytes than the file has")
    start = place[0] + tensor.offset * dtypes.BITS[code] // 8
    info = TensorInfo(name, code, tensor.shape, start, start + dtypes.nbytes(code, tensor.shape))
    if info.end > end:
        raise ValueError(f"the tensor {name!r} reaches beyond its storage")
    return info


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether the elements lie as C has them; the stride of a length of 1 says nothing."""
    if 0 in shape:
        return True
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True
