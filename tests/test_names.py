"""The grammar of names and references."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adreg.registry.errors import NameRefused
from adreg.registry.names import Reference, Tag, check_alias, check_name, suggest_name


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder that holds just the folders 'run 1' and 'a=b'."""
    (tmp_path / "run 1").mkdir()
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)


REFERENCES: dict[str, dict[str, object]] = {
    "support": {"name": "support"},
    "team/support": {"name": "team/support"},
    "team/support@3": {"name": "team/support", "selector": "3"},
    "team/support@prod": {"name": "team/support", "selector": "prod"},
    "support@latest=0.7": {"name": "support", "selector": "latest", "weight": 0.7},
    "support=1": {"name": "support", "weight": 1.0},
    "support=-.5": {"name": "support", "weight": -0.5},
    "support=1e-3": {"name": "support", "weight": 0.001},
    "support=0": {"name": "support", "weight": 0.0},
    "hf://Owner/repo": {"hub": "Owner/repo"},
    "hf://Owner/repo@v1.0": {"hub": "Owner/repo", "selector": "v1.0"},
    "hf://Owner/repo@refs/pr/3=2": {"hub": "Owner/repo", "selector": "refs/pr/3", "weight": 2.0},
    "./run": {"path": Path("run")},
    "./support@3": {"path": Path("support@3")},
    "/a/b=0.5": {"path": Path("/a/b"), "weight": 0.5},
    "..": {"path": Path("..")},
    "run 1": {"path": Path("run 1")},
    "a=b": {"path": Path("a=b")},
}


@pytest.mark.parametrize("text", REFERENCES)
def test_a_reference(text: str) -> None:
    """A text that the grammar knows is read as what it means, and nothing more."""
    fields: dict[str, object] = {
        "name": "",
        "hub": "",
        "path": None,
        "selector": "",
        "weight": None,
    }
    read = Reference.parse(text)

    assert fields | REFERENCES[text] == {field: getattr(read, field) for field in fields}
    assert text == read.text


def test_a_folder_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A leading ~ is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / "run" == Reference.parse("~/run").path


def test_numbers() -> None:
    """A selector of digits is a version number; an alias is not."""
    assert 12 == Reference.parse("a@12").number
    assert Reference.parse("a@v12").number is None
    assert Reference.parse("a").number is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "=0.5",
        "@",
        "a@",
        "@prod",
        "a/b/c",
        "a//b",
        "a/",
        "a b",
        "-a",
        "a..b",
        "a.",
        "a@b@c",
        "a@b/c",
        "a=heavy",
        "a=nan",
        "a=inf",
        "a=-inf",
        "a=",
        "ä",
        "a\n",
        "a\x1b",
        "x" * 97,
        "x" * 5000,
        "x" * 5000 + "=a",
        "./\0",
        "~nobody-of-this-name/run",
        "hf://",
        "hf://owner",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/b@../x",
        "hf://a/b@ ",
    ],
)
def test_no_reference(text: str) -> None:
    """A text that the grammar does not know is NameRefused, with a reason and a hint."""
    with pytest.raises(NameRefused) as raised:
        Reference.parse(text)

    assert raised.value.reason
    assert raised.value.hint


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("ab1/@=.-~hf:\\ \0", max_size=12))
def test_any_text(text: str) -> None:
    """Whatever the text, it is read or NameRefused: no other error comes out."""
    try:
        read = Reference.parse(text)
    except NameRefused:
        return

    assert 1 == sum([bool(read.name), bool(read.hub), read.path is not None])


@settings(deadline=None)
@given(st.text(max_size=120))
def test_suggested_names(text: str) -> None:
    """Whatever a folder is called, the name made of it is allowed."""
    assert check_name(suggest_name(text))


def test_suggestions() -> None:
    """A suggested name keeps what it can of the folder's."""
    assert "My-run-3" == suggest_name("My run (3)")
    assert "checkpoint-500" == suggest_name("checkpoint-500")
    assert "adapter" == suggest_name("...")


@pytest.mark.parametrize("alias", ["prod", "v1.2", "a1", "2026-11-24"])
def test_an_alias(alias: str) -> None:
    """An alias that cannot be taken for a version number is allowed."""
    assert alias == check_alias(alias)


@pytest.mark.parametrize("alias", ["", "3", "latest", "a/b", "a b", "..", "a@b"])
def test_no_alias(alias: str) -> None:
    """An alias that means something else, or cannot be written in a reference, is refused."""
    with pytest.raises(NameRefused):
        check_alias(alias)


@pytest.mark.parametrize("text", ["smoke", "lang=de", "note=a = b", "empty="])
def test_a_tag(text: str) -> None:
    """A tag is a key, or a key with any printable value, and prints as it was read."""
    tag = Tag.parse(text)

    assert text.rstrip("=") == str(tag)
    assert tag == Tag.parse(str(tag))


@pytest.mark.parametrize("text", ["", "=x", "a b", "a=\x1b", "a=" + "x" * 1025])
def test_no_tag(text: str) -> None:
    """A tag without a key, or with a value that a terminal should not see, is refused."""
    with pytest.raises(NameRefused):
        Tag.parse(text)
