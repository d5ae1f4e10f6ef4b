"""The search language, from text to a tree: ``rank>=16 and (type:dora or not tag:old)``.

    search  = all, { "or", all }
    all     = one, { [ "and" ], one }
    one     = "not", one | "(", search, ")" | FIELD, OPERATOR, VALUE | WORD
    OPERATOR = ":" | "=" | "!=" | "<" | "<=" | ">" | ">="

A word alone must stand in the name, a tag or a note. Quotes hold what has spaces, or
is one of the words of the language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from adreg.registry.errors import SearchRefused

Operator = Literal[":", "=", "!=", "<", "<=", ">", ">="]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<bracket>[()])
      | (?P<field>[A-Za-z_][\w.-]*)\s*(?P<operator><=|>=|!=|[:=<>])\s*
      | "(?P<quoted>(?:[^"\\]|\\.)*)"
      | (?P<word>[^\s()"]+)
    )""",
    re.VERBOSE,
)
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Word:
    """A word that stands alone; ``start`` is its place in the text."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field against a value; ``start`` is the field's place, ``at`` the value's."""

    field: str
    operator: Operator
    value: str
    start: int
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """What must not hold."""

    one: Node


@dataclass(frozen=True, slots=True)
class All:
    """What must hold together."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Of what at least one must hold."""

    parts: tuple[Node, ...]


Node = Word | Comparison | Not | All | Either


@dataclass(frozen=True, slots=True)
class _Token:
    kind: Literal["(", ")", "and", "or", "not", "field", "value"]
    text: str
    start: int
    operator: str = ""


def parts(node: Node) -> tuple[Node, ...]:
    """Return what must hold together for a search to hold."""
    return node.parts if isinstance(node, All) else (node,)


def parse(text: str) -> Node:
    """Return the tree of a search; raise SearchRefused, which points at the character."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.place = 0

    def whole(self) -> Node:
        if not self.tokens:
            raise SearchRefused(self.text, 0, "nothing is searched for")
        node = self.search(0)
        if (token := self.peek()) is not None:
            raise SearchRefused(self.text, token.start, "this ')' closes nothing")
        return node

    def peek(self) -> _Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def search(self, depth: int) -> Node:
        parts = [self.all(depth)]
        while (token := self.peek()) is not None and token.kind == "or":
            self.place += 1
            parts.append(self.all(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def all(self, depth: int) -> Node:
        parts = [self.one(depth)]
        while (token := self.peek()) is not None and token.kind not in {"or", ")"}:
            if token.kind == "and":
                self.place += 1
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self, depth: int) -> Node:
        token = self.peek()
        if token is None:
            raise SearchRefused(self.text, len(self.text), "something is missing at the end")
        if depth > _MAX_DEPTH:
            raise SearchRefused(self.text, token.start, "it is nested too deeply")
        self.place += 1
        if token.kind == "not":
            return Not(self.one(depth + 1))
        if token.kind == "(":
            node = self.search(depth + 1)
            if (closing := self.peek()) is None or closing.kind != ")":
                raise SearchRefused(self.text, token.start, "this '(' is not closed")
            self.place += 1
            return node
        if token.kind == "value":
            return Word(token.text, token.start)
        if token.kind == "field":
            return self.comparison(token)
        raise SearchRefused(self.text, token.start, f"{token.text!r} has nothing before it")

    def comparison(self, token: _Token) -> Comparison:
        value = self.peek()
        end = token.start + len(token.text) + len(token.operator)
        if value is None or value.kind != "value":
            at = end if value is None else value.start
            raise SearchRefused(self.text, at, f"a value must follow {token.text}{token.operator}")
        self.place += 1
        operator: Operator = token.operator  # type: ignore[assignment]  # _TOKEN has no others
        return Comparison(token.text.lower(), operator, value.text, token.start, value.start)


def _tokens(text: str) -> Iterator[_Token]:
    place, after_field = 0, False
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            at = place + len(text[place:]) - len(text[place:].lstrip())
            raise SearchRefused(text, at, "this quote is not closed")
        place = match.end()
        if match["bracket"]:
            kind: Literal["(", ")"] = "(" if match["bracket"] == "(" else ")"
            yield _Token(kind, match["bracket"], match.start("bracket"))
        elif match["field"] and not after_field:
            yield _Token("field", match["field"], match.start("field"), match["operator"])
            after_field = True
            continue
        elif match["quoted"] is not None:
            value = re.sub(r"\\(.)", r"\1", match["quoted"])
            yield _Token("value", value, match.start("quoted") - 1)
        else:
            # What looks like another field is the value of the one before: created>10:30.
            start = match.start("word") if match["word"] else match.start("field")
            end = start + len(re.match(r"[^\s()\"]+", text[start:])[0])  # type: ignore[index]
            word, place = text[start:end], end
            lowered = word.lower()
            if lowered in {"and", "or", "not"} and not after_field:
                yield _Token(lowered, word, start)  # type: ignore[arg-type]  # one of the three
            else:
                yield _Token("value", word, start)
        after_field = False
