"""Reading YAML so that each value's line is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from adreg.registry.errors import InputRefused, RecipeRefused

_MAX_BYTES = 1 << 20

# A tag with a text that does not fit it, as in `!!timestamp x`, makes PyYAML 6 run into these.
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, AttributeError, KeyError, TypeError)
"""What PyYAML raises for a text that it cannot read."""

LineOf = Callable[[tuple[str | int, ...]], int]
"""From keys and places in lists to the line (from 1) of what they lead to."""


def read_yaml(path: Path) -> tuple[dict[str, Any], LineOf]:
    """Return a YAML file's map and where its values stand.

    Raises InputRefused for a file that cannot be read, RecipeRefused for what is no map
    of fields, or names a field twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise RecipeRefused(path, f"it is larger than {_MAX_BYTES:,} bytes")
        text = data.decode("utf-8")
        # A few lines of aliases can stand for billions of values, and no recipe needs them.
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                mark = event.start_mark
                line = None if mark is None else mark.line + 1
                raise RecipeRefused(path, "it uses an alias (*name)", line=line)
        root = yaml.compose(text, yaml.SafeLoader)
        value = yaml.safe_load(text)
    except OSError as error:
        raise InputRefused(path, error.strerror or str(error)) from error
    except UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        raise RecipeRefused(path, "it is not valid YAML", line=line) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RecipeRefused(path, "it is not a map of fields")
    _check_once(path, root)
    return value, lambda where: _line(root, where)


def _line(node: yaml.Node | None, where: tuple[str | int, ...]) -> int:
    """Return the line of the deepest part of a path that is there."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in where:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = node.value[step] if step < len(node.value) else None
            line = line if found is None else found.start_mark.line + 1
        if found is None:
            return line
        node = found
    return line


def _check_once(path: Path, node: yaml.Node | None) -> None:
    # PyYAML takes the last of two equal keys, silently.
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise RecipeRefused(path, f"the field {key.value!r} stands twice", line=line)
            seen.add(key.value)
            _check_once(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_once(path, value)
