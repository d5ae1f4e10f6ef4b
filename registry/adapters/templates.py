"""Chat templates: which ones a folder holds, whether they can be read, and how two folders differ.

A template is a program of somebody else's (CVE-2024-34359). Here it is parsed, by jinja2's
ImmutableSandboxedEnvironment with the tags that transformers adds (5.23,
utils/chat_template_utils.py), and never rendered.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry import jsonio
from adreg.registry.errors import JsonBroken
from adreg.registry.opening import open_regular

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser

DEFAULT = "default"
"""The name of the one that is used when none is asked for."""

_FOLDER = "additional_chat_templates"
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 100
_MAX_LINE = 300
_MAX_LINES = 4000


@dataclass(frozen=True, slots=True)
class TemplateChange:
    """A template of one folder that another has otherwise: ``diff`` are lines of a unified diff.

    ``fault`` tells why the new one cannot be used, None if it can.
    """

    name: str
    diff: tuple[str, ...]
    fault: str | None = None

    @property
    def summary(self) -> str:
        """One line: ``the chat template 'default' is another than the base's: +3 -1 lines``."""
        added = sum(line.startswith("+") for line in self.diff)
        gone = sum(line.startswith("-") for line in self.diff)
        text = f"the chat template {self.name!r} is another than the base's: +{added} -{gone} lines"
        return f"{text}; {self.fault}" if self.fault else text


def read_templates(folder: Path) -> dict[str, str]:
    """Return the chat templates of a folder by name, as transformers 5.23 finds them.

    Files win over what tokenizer_config.json says. What cannot be read is left out: whoever
    takes the files over says what is wrong with them.
    """
    found = _of_config(folder / "tokenizer_config.json")
    if (text := _of_json(folder / "chat_template.json")) is not None:
        found[DEFAULT] = text
    if (text := _text(folder / "chat_template.jinja")) is not None:
        found[DEFAULT] = text
    more = folder / _FOLDER
    for path in sorted(more.glob("*.jinja")) if more.is_dir() else ():
        if (text := _text(path)) is not None:
            found[path.stem] = text
    return found


def changes(base: Mapping[str, str], new: Mapping[str, str]) -> tuple[TemplateChange, ...]:
    """Return how the templates of ``new`` differ from the base's, by name; the same ones not."""
    return tuple(
        TemplateChange(name, tuple(_diff(base.get(name, ""), text)), template_fault(text))
        for name, text in sorted(new.items())
        if base.get(name) != text
    )


def template_fault(text: str) -> str | None:
    """Return why a template cannot be parsed, or what it reaches for; None if it is in order."""
    if len(text) > _MAX_BYTES:
        return f"it is longer than {_MAX_BYTES:,} characters"
    if _nested(text) > _MAX_DEPTH:
        return "it is nested too deeply"
    # Start-up: 60 ms, and only a template needs it.
    import jinja2.ext  # noqa: PLC0415
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(jinja2.ext.Extension):
        """transformers' ``{% generation %}``, which marks what the assistant says."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    try:
        tree = environment.parse(text)
        private = sorted(set(_private(tree)))
    except TemplateSyntaxError as error:
        return f"line {error.lineno} is no template: {_shown(str(error.message))}"
    except (RecursionError, ValueError, OverflowError):
        return "it is no template"
    return f"it reaches for {', '.join(private[:3])}" if private else None


def _private(tree: nodes.Template) -> Iterator[str]:
    """Give the names of Python's insides that a template asks for, as attribute, key or text."""
    from jinja2 import nodes  # noqa: PLC0415  # start-up

    for one in tree.find_all(nodes.Getattr):
        if one.attr.startswith("_"):
            yield _shown(one.attr)
    for text in tree.find_all(nodes.Const):
        if isinstance(text.value, str) and text.value[:2] == "__" == text.value[-2:]:
            yield _shown(text.value)


def _nested(text: str) -> int:
    """Return how deep brackets and blocks stand in each other, at most."""
    depth = deepest = 0
    for sign in text:
        if sign in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ")]}":
            depth -= 1
    return deepest


def _diff(old: str, new: str) -> Iterator[str]:
    before, after = old.splitlines(), new.splitlines()
    if len(before) + len(after) > _MAX_LINES:  # difflib can take quadratic time
        yield f"-{len(before):,} lines"
        yield f"+{len(after):,} lines"
        return
    for line in list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]:
        yield line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


def _shown(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def _of_config(path: Path) -> dict[str, str]:
    value = _object(path).get("chat_template")
    if isinstance(value, str):
        return {DEFAULT: value}
    pairs = value if isinstance(value, list) else []
    return {
        one["name"]: one["template"]
        for one in pairs
        if isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("template"), str)
    }


def _of_json(path: Path) -> str | None:
    value = _object(path).get("chat_template")
    return value if isinstance(value, str) else None


def _object(path: Path) -> dict[str, Any]:
    try:
        return jsonio.read_object(path)
    except JsonBroken:
        return {}


def _text(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            return file.read(_MAX_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
