"""What comes along with weights and is not arithmetic: code, keys that choose it, templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from adreg.registry.adapters.refusals import steering
from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.adapters.templates import changes, read_templates
from adreg.registry.bases.base import CONFIG, Base
from adreg.registry.merge.output import SideFile

_TEMPLATED = ("tokenizer_config.json", "chat_template.", "additional_chat_templates/")


def of_merge(base: Base, sides: Sequence[SideFile]) -> Iterator[str]:
    """Tell of the base's code, of keys that are not followed, and of templates that change."""
    if base.code_files:
        files = ", ".join(base.code_files)
        yield f"code of the base is not taken over without --allow-code: {files}"
    for key in steering(base.config):
        yield f"{CONFIG} of the base: {key}, which is not followed"
    changed = {
        side.path.parents[side.name.count("/")] for side in sides if _is_templated(side.name)
    }
    for folder in sorted(changed - {base.folder}):
        yield from _changes(base.folder, folder)


def of_adapter(spec: AdapterSpec, base: Base | None) -> Iterator[str]:
    """Tell of keys that are not followed, and of templates that are not the base's."""
    for name, key in spec.not_followed:
        yield f"{name}: {key}, which is not followed"
    if base is not None and any(_is_templated(file.name) for file in spec.files):
        yield from _changes(base.folder, spec.folder)


def _is_templated(name: str) -> bool:
    return name.startswith(_TEMPLATED)


def _changes(base: Path, folder: Path) -> Iterator[str]:
    for change in changes(read_templates(base), read_templates(folder)):
        yield change.summary
        yield from change.diff
