"""What a pickle of torch may name, and what stands for it here: nothing of torch's.

The names are among those that torch 2.13 allows with ``weights_only=True``
(_weights_only_unpickler.py, _get_allowed_globals), and fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAX_DIMENSIONS = 16


class Forbidden(ValueError):
    """A pickle asks for something that only code could give."""


@dataclass(frozen=True, slots=True, eq=False)
class ElementType:
    """A torch dtype or storage class by its name; ``code`` is safetensors', None without one."""

    name: str
    code: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """``count`` elements of a type under ``key``, whatever device they lay on."""

    kind: ElementType
    key: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A view of a storage: ``offset`` and ``strides`` in elements of ``kind``."""

    storage: Storage
    kind: ElementType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """Something known that holds no weights, such as a device."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """What stands for a name that a pickle may call."""

    name: str
    call: Callable[[tuple[Any, ...]], Any]


class Ordered(dict[Any, Any]):
    """A dict that was an OrderedDict: only this may carry attributes."""


def _ordered(arguments: tuple[Any, ...]) -> Ordered:
    made = Ordered()
    if not arguments:
        return made
    pairs = arguments[0]  # Python 2 wrote its items here
    if not isinstance(pairs, list):
        raise ValueError("an OrderedDict is made from no list")  # noqa: TRY004  # a fault of the data
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("an OrderedDict is made from no pairs")
        set_item(made, pair[0], pair[1])
    pairs.clear()  # else a call of two bytes would copy it, as often as a pickle likes
    return made


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = (arguments[n] for n in range(4))
    if not isinstance(storage, Storage):
        raise ValueError("a tensor is made from no storage")  # noqa: TRY004  # a fault of the data
    if not (naturals((offset,)) and naturals(shape) and naturals(strides)):
        raise ValueError("a tensor has an impossible offset, shape or strides")
    if len(shape) != len(strides):
        raise ValueError("a tensor has another number of strides than of dimensions")
    return StoredTensor(storage, storage.kind, offset, shape, strides)


def _tensor_2(arguments: tuple[Any, ...]) -> StoredTensor:
    _check_metadata(arguments[6:])
    return _tensor(arguments)


def _tensor_3(arguments: tuple[Any, ...]) -> StoredTensor:
    _check_metadata(arguments[7:])
    tensor, kind = _tensor(arguments), arguments[6]
    if not isinstance(kind, ElementType):
        raise ValueError("a tensor has no element type")  # noqa: TRY004  # a fault of the data
    return StoredTensor(tensor.storage, kind, tensor.offset, tensor.shape, tensor.strides)


def _check_metadata(rest: tuple[Any, ...]) -> None:
    # torch.conj and torch.Tensor.imag set a bit instead of computing: the bytes are then not
    # the values (torch 2.13, _utils.py, set_tensor_metadata).
    if any(rest):
        raise Forbidden("a tensor is a lazy negation or conjugate, whose bytes are not its values")


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    tensor: object = arguments[0]
    if not isinstance(tensor, StoredTensor):
        raise ValueError("a parameter is made from no tensor")  # noqa: TRY004  # a fault of the data
    return tensor


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    shape = arguments[0]
    if not naturals(shape):
        raise ValueError("a torch.Size holds no sizes")
    size: tuple[int, ...] = shape
    return size


def naturals(value: object) -> bool:
    """Tell whether this is a tuple of sizes, few enough for the dimensions of a tensor."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 63
            for item in value
        )
    )


def set_item(target: object, key: object, value: object) -> None:
    """Set an item of a dict that does not have it yet; raise Forbidden or ValueError."""
    if not isinstance(target, dict):
        raise ValueError("its pickle sets an item of no dict")  # noqa: TRY004  # a fault of the data
    # The hash of a tuple of tuples can take for ever.
    if not isinstance(key, str | int):
        raise Forbidden("a dict of its pickle has a key that is neither text nor a number")
    if key in target:
        raise ValueError(f"the key {shown(key)} stands twice in its pickle")
    target[key] = value


def shown(name: object) -> str:
    """Return the beginning of a text or number of a pickle, without control characters."""
    text = str(name)[:100]
    return text if text.isprintable() else repr(text)


_STORAGES: dict[str, str | None] = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ComplexDoubleStorage": None,
    "ComplexFloatStorage": "C64",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "QInt32Storage": None,
    "QInt8Storage": None,
    "QUInt2x4Storage": None,
    "QUInt4x2Storage": None,
    "QUInt8Storage": None,
    "ShortStorage": "I16",
    "UntypedStorage": "U8",
}

_DTYPES: dict[str, str | None] = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    "complex128": None,
    "complex64": "C64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}

_FUNCTIONS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_2,
    "torch._utils._rebuild_tensor_v3": _tensor_3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": lambda _: Inert("torch.device"),
}

NAMES: dict[str, Function | ElementType] = {
    **{name: Function(name, call) for name, call in _FUNCTIONS.items()},
    **{
        f"{module}.{name}": ElementType(name, code)
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, code in _STORAGES.items()
    },
    **{f"torch.{name}": ElementType(name, code) for name, code in _DTYPES.items()},
}
"""All that a pickle may name; nothing here is torch's."""
