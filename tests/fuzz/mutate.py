"""Spoiling honest bytes: flips, cuts, repeats, and the words and numbers that readers trip over."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import strategies as st

NUMBERS = [b"0", b"-1", b"1e400", b"9" * 30, b"9" * 5000, b"1" + b"0" * 19, b"2147483648", b"0.5"]
NUMBERS += [b"9223372036854775807", b"18446744073709551616", b"NaN", b"-Infinity", b"true", b"null"]
JSON_WORDS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a":1,', b"\\u0000", b"\\ud800", b"\\"]
JSON_WORDS += [b"[" * 3000, b'{"a":' * 3000, b"../../x", b"C:", b"\x00", b"\xff", b"\x1b[2J", b"//"]
YAML_WORDS = [b"&a [*a]", b"*a", b"<<: ", b"!!python/object:os.system ", b"!!set {", b"- ", b"? "]
YAML_WORDS += [b"2020-13-45", b"!!binary x", b"!!omap [", b"0x", b"1:99:99", b"---\n", b"%YAML 9\n"]
YAML_WORDS += [b"{" * 200, b"[" * 400, b"\t", b"!!float x", b"!!timestamp x", b"{{}: 1}", b"[a]: 1"]
SEARCH_WORDS = [b"(", b")", b"not ", b" or ", b" and ", b">=", b":", b'"', b"\\", b"rank>=", b"%"]
SEARCH_WORDS += [b"tag:", b"created>", b"not " * 500, b"(" * 500, b"9" * 400, b"\x00", b"_", b"'"]
NAME_WORDS = [b"@", b"=", b"/", b"..", b"hf://", b"~", b".", b"\x00", b"\\", b"=nan", b"=1e400"]
NAME_WORDS += [b"latest", b"a" * 300, b"\xc3\xa9", b"\xed\xa0\x80", b"\n", b"1" * 5000, b"full:"]
TEMPLATE_WORDS = [b"{% generation %}", b"{{", b"{%", b"%}", b"{#", b"|", b".__class__", b"(" * 200]
TEMPLATE_WORDS += [
    b"{% endfor %}",
    b"{% if ",
    b"{% set a = ",
    b"not " * 400,
    b"9**9**9",
    b"-" * 900,
]
BINARY_WORDS = [
    bytes(8),
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"GGUF",
    b"PK\x03\x04",
]
BINARY_WORDS += [(1 << n).to_bytes(8, "little") for n in (16, 24, 31, 32, 40, 48, 62)]

Edit = Callable[[bytes], bytes]


def _flip(place: float, value: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + bytes([value]) + data[at + 1 :]

    return edit


def _insert(place: float, word: bytes, *, over: bool) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + word + data[at + (len(word) if over else 0) :]

    return edit


def _cut(place: float, length: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + data[at + length :]

    return edit


def _repeat(place: float, length: int, times: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + data[at : at + length] * times + data[at:]

    return edit


def _number(which: float, value: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        found = [match.span() for match in re.finditer(rb"-?\d+", data)]
        if not found:
            return data
        start, end = found[int(which * len(found))]
        return data[:start] + value + data[end:]

    return edit


def mutated(seeds: list[bytes], words: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of honest bytes with one to six faults, and now and then of any bytes."""
    place = st.floats(0, 1, exclude_max=True)
    edits = st.one_of(
        st.builds(_flip, place, st.integers(0, 255)),
        st.builds(_insert, place, st.sampled_from(words), over=st.booleans()),
        st.builds(_cut, place, st.integers(1, 40)),
        st.builds(_cut, place, st.just(1 << 30)),
        st.builds(_repeat, place, st.integers(1, 60), st.sampled_from([1, 2, 50])),
        st.builds(_number, place, st.sampled_from(NUMBERS)),
    )

    def spoil(seed: bytes, chosen: list[Edit]) -> bytes:
        for edit in chosen:
            seed = edit(seed)
        return seed[: 1 << 20]

    spoiled = st.builds(spoil, st.sampled_from(seeds), st.lists(edits, min_size=1, max_size=6))
    return st.one_of(spoiled, spoiled, spoiled, spoiled, st.binary(max_size=300))
