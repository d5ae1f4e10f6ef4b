"""Python files of a base: left where they are, or taken along when asked for, and named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import factory
import pytest

from adreg.registry import Registry
from adreg.registry.merge.recipe import Recipe, RecipeAdapter


@pytest.fixture
def coded(base: Path) -> tuple[Path, Path]:
    """Return a base with code that leaves a mark where it is run, and the mark."""
    mark = base.parent / "mark"
    (base / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Model"}
    (base / "config.json").write_text(json.dumps(config))
    return base, mark


def test_code_stays_behind(coded: tuple[Path, Path], adapter: Path, home: Path) -> None:
    """Without asking, no code is copied, and what names it is told of."""
    recipe = Recipe((RecipeAdapter(str(adapter)),), base=str(coded[0]))
    merged = Registry(home).merge(recipe, output=home / "out")

    assert not list((home / "out").rglob("*.py"))
    assert "not taken over without --allow-code: modeling_evil.py" in " ".join(merged.remarks)
    assert "auto_map names code, which is not followed" in " ".join(merged.remarks)
    assert "Code of others" not in (home / "out" / "README.md").read_text()


def test_code_is_taken_along(coded: tuple[Path, Path], adapter: Path, home: Path) -> None:
    """When asked for, it is copied byte for byte, named in the card, rebuilt, and never run."""
    base, mark = coded
    registry = Registry(home)
    registry.add(adapter, name="a", base=str(base))
    recipe = Recipe((RecipeAdapter("a"),), base=str(base), allow_code=True)
    registry.merge(recipe, output=home / "out", name="m")
    registry.export("m", home / "release", allow_unknown_licence=True)
    registry.rebuild(home / "release" / "adreg.lock.json", output=home / "again")

    code = (base / "modeling_evil.py").read_bytes()
    for folder in ("out", "release", "again"):
        assert code == (home / folder / "modeling_evil.py").read_bytes()
    for folder in ("out", "release"):
        card = (home / folder / "README.md").read_text()
        assert "## Code of others" in card
        assert "`modeling_evil.py`" in card
    assert not mark.exists()
    assert "modeling_evil" not in sys.modules


def test_keys_and_templates_are_told_of_at_add(adapter: Path, base: Path, home: Path) -> None:
    """What would choose code, and a template that is not the base's, stand in the remarks."""
    (base / "chat_template.jinja").write_text("one\ntwo")
    (adapter / "chat_template.jinja").write_text("one\n{{ x.__class__ }}")
    factory.edit_config(adapter, auto_map={"AutoModel": "x.Y"})

    remarks = Registry(home).add(adapter, base=str(base)).remarks

    assert "adapter_config.json: auto_map names code, which is not followed" in remarks
    assert any("is another than the base's: +1 -1" in one for one in remarks)
    assert any("it reaches for __class__" in one for one in remarks)
    assert "-two" in remarks
    assert "+{{ x.__class__ }}" in remarks
