"""A pickle machine that can build numbers, text, lists, dicts and descriptions of tensors.

It interprets the opcodes that torch.save writes in protocols 2 to 5 and calls nothing that
a pickle names: the few names it knows stand for functions of torch_names.py. It does not
recurse, so depth costs nothing; each opcode takes a bounded time and adds a bounded number
of bytes, beyond those that it reads. The opcodes and their arguments: Python 3.13,
pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, final

from adreg.registry.tensors.torch_names import (
    NAMES,
    ElementType,
    Forbidden,
    Function,
    Ordered,
    Storage,
    naturals,
    set_item,
    shown,
)

MAX_BYTES = 64 << 20
"""The longest pickle: a hundred thousand tensors take about 20 MB."""

MAX_OPERATIONS = 2_000_000
"""The most opcodes of a pickle: a tensor takes about 35, and an opcode at most some 200 bytes."""

_MAX_INTEGER = 32


@final
class Bounded:
    """A file read from where it stands, refusing to give more than ``limit`` bytes."""

    def __init__(self, file: BinaryIO, limit: int = MAX_BYTES) -> None:
        self._file = file
        self._left = limit

    def read(self, count: int) -> bytes:
        """Return just ``count`` bytes; raise ValueError where there are fewer."""
        if count > self._left:
            raise ValueError("its pickle is longer than any of torch's")
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("its pickle is cut short")
        self._left -= count
        return data

    def line(self) -> str:
        """Return the text up to the next newline, at most 200 bytes of it."""
        data = self._file.readline(min(200, self._left))
        if not data.endswith(b"\n"):
            raise ValueError("its pickle is cut short or holds a name that is too long")
        self._left -= len(data)
        return data[:-1].decode()


_NUMBERS: dict[bytes, struct.Struct] = {
    b"K": struct.Struct("<B"),
    b"M": struct.Struct("<H"),
    b"J": struct.Struct("<i"),
    b"G": struct.Struct(">d"),
}
_TEXTS: dict[bytes, struct.Struct] = {
    b"X": struct.Struct("<I"),
    b"\x8c": struct.Struct("<B"),
    b"\x8d": struct.Struct("<Q"),
    b"U": struct.Struct("<B"),  # Python 2's text
    b"T": struct.Struct("<I"),
}
_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}


@final
class Machine:
    """Interprets one pickle of ``source``; ``load`` may be called once."""

    def __init__(self, source: Bounded) -> None:
        self._source = source
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        """Each storage as it was first referred to."""

    def load(self) -> object:
        """Return what the pickle describes, the file left behind its end.

        Raises Forbidden for a name or an opcode that no file of tensors needs, and
        ValueError for a pickle that is broken.
        """
        try:
            return self._run()
        except (IndexError, TypeError, KeyError, UnicodeError) as error:
            raise ValueError("its pickle is broken") from error

    def _run(self) -> object:
        read = self._source.read
        for _ in range(MAX_OPERATIONS):
            opcode = read(1)
            if opcode == b".":
                return self._stack.pop()
            if opcode in _NUMBERS:
                layout = _NUMBERS[opcode]
                self._stack.append(layout.unpack(read(layout.size))[0])
            elif opcode in _TEXTS:
                layout = _TEXTS[opcode]
                data = read(layout.unpack(read(layout.size))[0])
                self._stack.append(data.decode("utf-8", "surrogatepass"))
            elif opcode in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode])
            elif step := self._STEPS.get(opcode):
                step(self)
            else:
                raise Forbidden(f"its pickle has the operation {opcode!r}, which no tensor needs")
        raise ValueError("its pickle is longer than any of torch's")

    def _number(self, layout: str) -> int:
        size = struct.calcsize(layout)
        number: int = struct.unpack(layout, self._source.read(size))[0]
        return number

    def _integer(self, layout: str) -> None:
        size = self._number(layout)
        if size > _MAX_INTEGER:  # the hash of a long one takes long, each time
            raise ValueError("its pickle holds an impossible number")
        data = self._source.read(size)
        self._stack.append(int.from_bytes(data, "little", signed=True))

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple_since_mark(self) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError(count)
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("its pickle appends to no list")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError(len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            set_item(self._stack[-1], key, value)

    def _find(self, module: str, name: str) -> None:
        found = NAMES.get(f"{module}.{name}")
        if found is None:
            raise Forbidden(f"its pickle asks for {shown(module)}.{shown(name)}, which is code")
        self._stack.append(found)

    def _find_on_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names something by no text")  # noqa: TRY004  # a fault of the data
        self._find(module, name)

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise Forbidden("its pickle calls what is no function of tensors")
        self._stack.append(function.call(arguments))

    def _build(self) -> None:
        # The attributes of an OrderedDict: `_metadata` of nn.Module.state_dict, versions only.
        state = self._stack.pop()
        if not isinstance(self._stack[-1], Ordered) or not isinstance(state, dict):
            raise Forbidden("its pickle sets attributes of what has none")

    def _storage(self) -> None:
        # torch 2.13, serialization.py, persistent_id: five fields, six in the older format.
        fields = self._stack.pop()
        if not isinstance(fields, tuple) or len(fields) not in {5, 6} or fields[0] != "storage":
            raise Forbidden("its pickle refers to something outside that is no storage")
        _, kind, key, location, count = fields[:5]
        if len(fields) == 6 and fields[5] is not None:
            raise Forbidden("it holds views of storages, as torch before 0.4 saved them")
        if not isinstance(kind, ElementType) or not isinstance(key, str):
            raise Forbidden("its pickle refers to a storage in an unknown way")
        if not isinstance(location, str) or not naturals((count,)):
            raise ValueError("a storage has an impossible place or size")
        storage = Storage(kind, key, count)
        self.storages.setdefault(key, storage)
        self._stack.append(storage)

    _STEPS: ClassVar[dict[bytes, Callable[[Machine], object]]] = {
        b"\x80": lambda self: self._number("<B"),  # the protocol
        b"\x95": lambda self: self._number("<Q"),  # a frame
        b"\x8a": lambda self: self._integer("<B"),
        b"\x8b": lambda self: self._integer("<I"),
        b"(": _mark,
        b"]": lambda self: self._stack.append([]),
        b"}": lambda self: self._stack.append({}),
        b"t": _tuple_since_mark,
        b"\x85": lambda self: self._tuple(1),
        b"\x86": lambda self: self._tuple(2),
        b"\x87": lambda self: self._tuple(3),
        b"a": lambda self: self._append([self._stack.pop()]),
        b"e": lambda self: self._append(self._since_mark()),
        b"s": lambda self: self._set([self._stack.pop(-2), self._stack.pop()]),
        b"u": lambda self: self._set(self._since_mark()),
        b"q": lambda self: self._put(self._number("<B")),
        b"r": lambda self: self._put(self._number("<I")),
        b"\x94": lambda self: self._put(len(self._memo)),
        b"h": lambda self: self._get(self._number("<B")),
        b"j": lambda self: self._get(self._number("<I")),
        b"c": lambda self: self._find(self._source.line(), self._source.line()),
        b"\x93": _find_on_stack,
        b"R": _call,
        b"b": _build,
        b"Q": _storage,
    }
