"""Renewing adreg's part of a README that may be somebody's: its metadata, and one marked section.

What stands outside the two markers stays, to the byte. Of the front matter only the
fields change that adreg has something to say of; ``tags`` only gain, but for those that
call a folder the base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from adreg.registry.errors import CardRefused

BEGIN = "<!-- adreg:begin: `adreg push` renews what stands from here to adreg:end -->"
END = "<!-- adreg:end -->"

_MOST_FRONT = 1 << 15
_MOST_BRACKETS = 500
_BEGIN = re.compile(r"<!-- adreg:begin\b[^\n]*?-->")
_FRONT = re.compile(r"\A---[ \t]*\n((?:.*\n)*?)---[ \t]*(?:\n|\Z)")
_BASE_TAG = re.compile(r"base_model:(?:[a-z]+:)?(.*)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KEY = re.compile(r"^([A-Za-z_][\w-]*|\"[^\"\n]+\"|'[^'\n]+')[ \t]*:(?=[ \t\n]|$)")


@dataclass(frozen=True, slots=True)
class Part:
    """What adreg says: metadata that must hold, metadata for where there is none, and a text.

    ``tags`` are added to those that are there. ``title`` heads a README that is new.
    """

    title: str
    facts: Mapping[str, Any]
    defaults: Mapping[str, Any]
    tags: tuple[str, ...]
    text: str


def renewed(existing: str | None, part: Part) -> str:
    """Return the README with adreg's part in it; of a result it gives the same result again.

    Raises CardRefused for front matter or markers that cannot be told apart.
    """
    text = part.text.strip().replace("<!-- adreg:", "<! -- adreg:")  # of a strange name
    section = f"{BEGIN}\n\n{text}\n\n{END}"
    if existing is None or not existing.strip():
        front = _dump(_merged({}, part))
        return f"---\n{front}---\n\n# {part.title}\n\n{section}\n"
    windows = "\r\n" in existing
    text = existing.replace("\r\n", "\n").removeprefix("\ufeff")
    front, body = _split(text)
    old = _parse(front)
    new = _merged(old, part)
    if new != old:
        front = _edited(front, old, new)
    text = f"---\n{front}---\n{_with_section(body, section)}"
    return text.replace("\n", "\r\n") if windows else text


def metadata(text: str) -> dict[str, Any]:
    """Return the front matter of a README, empty if it has none; raise CardRefused."""
    return _parse(_split(text.replace("\r\n", "\n").removeprefix("\ufeff"))[0])


def _merged(old: Mapping[str, Any], part: Part) -> dict[str, Any]:
    new = dict(old)
    new |= {n: v for n, v in part.facts.items() if _as_list(old.get(n)) != _as_list(v)}
    new |= {name: value for name, value in part.defaults.items() if old.get(name) is None}
    before = _as_list(old.get("tags"))
    tags = [tag for tag in before if not _names_a_path(tag)]
    tags += [tag for tag in part.tags if tag not in tags]
    if tags != before:
        new["tags"] = tags
    return new


def _names_a_path(tag: object) -> bool:
    """Tell whether a tag calls somebody's folder the base: PEFT 0.21 writes such a tag.

    The Hub makes these tags of ``base_model`` by itself.
    """
    found = _BASE_TAG.match(tag) if isinstance(tag, str) else None
    return found is not None and not _HUB_ID.fullmatch(found[1])


def _as_list(value: Any) -> list[Any]:  # noqa: ANN401  # whatever YAML holds
    """Return what the Hub reads alike: ``x`` and ``[x]``."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _split(text: str) -> tuple[str, str]:
    """Return the front matter without its fences, and what follows it."""
    found = _FRONT.match(text)
    if found is None:
        if text.startswith("---\n"):
            raise CardRefused("its metadata begins with --- and does not end")
        return "", f"\n{text}"
    return found[1], text[found.end() :]


def _parse(front: str) -> dict[str, Any]:
    # PyYAML takes seconds for a few thousand brackets, and aliases can multiply.
    if len(front) > _MOST_FRONT:
        raise CardRefused(f"its metadata is longer than {_MOST_FRONT:,} characters")
    if front.count("[") + front.count("{") > _MOST_BRACKETS:
        raise CardRefused(f"its metadata has more than {_MOST_BRACKETS} brackets")
    try:
        if any(isinstance(one, yaml.AliasToken) for one in yaml.scan(front, yaml.SafeLoader)):
            raise CardRefused("its metadata has aliases (*name)")
        value = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CardRefused(f"its metadata is no YAML: {reason}") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise CardRefused("its metadata is not a list of fields")
    return value


def _edited(front: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the front matter with the changed fields written anew, all other lines as they are."""
    changed = {name: new[name] for name in new if name not in old or old[name] != new[name]}
    lines: list[str] = []
    waiting = dict(changed)
    skipping = False
    for line in front.splitlines(keepends=True):
        if found := _KEY.match(line):
            name = found[1].strip("\"'")
            skipping = name in changed
            if skipping:
                lines.append(_dump({name: waiting.pop(name, changed[name])}))
                continue
        elif skipping and (line[:1] in " \t-" or not line.strip()):
            continue
        else:
            skipping = False
        lines.append(line)
    text = "".join(lines) + (_dump(waiting) if waiting else "")
    # A form that the lines do not show (flow style over lines, a field twice) is written anew.
    try:
        same = yaml.safe_load(text) == dict(new)
    except yaml.YAMLError:
        same = False
    return text if same else _dump(new)


def _dump(fields: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=1000)


def _with_section(body: str, section: str) -> str:
    begins = list(_BEGIN.finditer(body))
    ends = body.count(END)
    if not begins and not ends:
        return f"{body.rstrip()}\n\n{section}\n"
    if len(begins) != 1 or ends != 1 or body.index(END) < begins[0].start():
        raise CardRefused("the markers adreg:begin and adreg:end are not one pair")
    return body[: begins[0].start()] + section + body[body.index(END) + len(END) :]
