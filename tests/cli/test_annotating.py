"""`adreg tag`, `alias`, `note`, `metric`, `rename` and `remove`."""

from __future__ import annotations

import json

import pytest
from running import Adreg

from adreg.registry import Registry

pytestmark = pytest.mark.usefixtures("filled")


def test_tag(adreg: Adreg, filled: Registry) -> None:
    """A tag is set, a key that is there gets the new value, and both are told and found."""
    assert adreg("tag", "team/support", "reviewed", "lang=fr").out == (
        "team/support@2: reviewed\nteam/support@2: lang=fr (was lang=de)\n"
    )
    assert adreg("tag", "team/support", "reviewed").out == (
        "team/support@2: it has these tags already\n"
    )
    assert adreg("tag", "team/support", "lang", "--remove").out == (
        "team/support@2: removed lang=fr\n"
    )
    assert [str(tag) for tag in filled.show("team/support").version.marks.tags] == ["reviewed"]


def test_tag_is_all_or_nothing(adreg: Adreg, filled: Registry) -> None:
    """Of several tags none is removed, and nothing enters the history, when one is not there."""
    ran = adreg("tag", "team/support", "lang", "lnag", "--remove")

    assert ran.code == 1
    assert (
        ran.err == ("error: there is no tag of team/support@2 'lnag'\nhint: Did you mean 'lang'?\n")
        or "lnag" in ran.err
    )
    assert [str(tag) for tag in filled.show("team/support").version.marks.tags] == ["lang=de"]
    assert filled.history().entries == ()


def test_alias(adreg: Adreg, filled: Registry) -> None:
    """An alias moves, and says from where; removed, it means nothing."""
    assert adreg("alias", "team/support@2", "prod").out == (
        "team/support@prod is team/support@2 (was team/support@1)\n"
    )
    assert adreg("alias", "team/support@2", "prod").out == (
        "team/support@prod is team/support@2 already\n"
    )
    assert adreg("alias", "team/support", "new").out == "team/support@new is team/support@2\n"
    assert adreg("alias", "team/support", "prod", "--remove").out == (
        "removed @prod, which was team/support@2\n"
    )
    assert adreg("show", "team/support@prod").code == 1
    assert adreg("alias", "team/support", "7").code == 1
    assert len(filled.history().entries) == 3


def test_note_is_found_and_escaped(adreg: Adreg) -> None:
    """A note is found by its words, and cannot steer the terminal."""
    assert adreg("note", "summary", "shorter\x1b[2J").out == "summary@1: noted\n"

    assert adreg("list", "shorter").out.splitlines()[1].startswith("summary@1\t")
    assert "shorter\\x1b[2J" in adreg("show", "summary").out
    assert adreg("note", "summary", "  ").code == 1


def test_metric(adreg: Adreg, filled: Registry) -> None:
    """Metrics are recorded side by side; what is no finite number is a wrong use."""
    ran = adreg("metric", "summary", "accuracy=0.91", "eval/loss=1.5")
    adreg("metric", "summary", "accuracy=0.92")

    assert ran.out == "summary@1: accuracy = 0.91\nsummary@1: eval/loss = 1.5\n"
    found = [(one.name, one.value) for one in filled.show("summary").version.marks.metrics]
    assert found == [("accuracy", 0.91), ("accuracy", 0.92), ("eval/loss", 1.5)]
    for wrong in ("accuracy", "accuracy=nan", "accuracy=high"):
        assert adreg("metric", "summary", wrong).code == 2
    assert adreg("metric", "summary", "../x=1").code == 1


def test_rename(adreg: Adreg, filled: Registry) -> None:
    """A name is given to all versions; one that is taken is refused."""
    assert adreg("rename", "team/support", "help").out == (
        "team/support is help now (2 versions)\n"
    )
    assert str(filled.show("help@prod").version.key) == "help@1"
    assert adreg("rename", "help", "Summary").code == 1
    assert adreg("rename", "help@1", "other").code == 1
    assert adreg("rename", "help", "../other").code == 1


def test_remove_version(adreg: Adreg, filled: Registry) -> None:
    """Removing a version takes its own files from the store, and leaves those that others use."""
    store = filled.settings.store / "models--adreg" / "blobs"
    before = {path.name for path in store.iterdir()}
    weights = filled.show("team/support@2").version.content.files[1].sha256

    ran = adreg("remove", "team/support@2", "--yes")

    assert ran.out == "removed team/support@2\n"
    assert ran.err.startswith("1 file left the store, ")
    assert before - {path.name for path in store.iterdir()} == {weights}
    assert filled.history("team/support@2").entries[0].action == "remove"
    assert adreg("show", "team/support").out.splitlines()[0].endswith("team/support@1")


def test_remove_name_with_models(adreg: Adreg) -> None:
    """What a model was built from goes by force only; the model then still tells of it."""
    refused = adreg("remove", "team/support", "--yes")
    assert refused.code == 1
    assert refused.err.splitlines()[0] == "error: team/support is in use by merged@1"

    ran = adreg("remove", "team/support", "--yes", "--force")

    assert ran.out == "removed team/support@1\nremoved team/support@2\n"
    assert "team/support@1 x 0.5  (removed)" in adreg("show", "merged").out
    assert adreg("list", "--adapters").out.splitlines()[1:][0].startswith("summary@1")


def test_remove_asks(adreg: Adreg, filled: Registry) -> None:
    """Without a terminal to ask on, nothing goes unless --yes; a dry run changes nothing."""
    ran = adreg("remove", "summary")
    assert ran.code == 2
    assert "this would remove summary@1; pass --yes" in ran.err

    assert adreg("remove", "summary", "--dry-run").out == "would remove summary@1\n"
    assert adreg("show", "summary").code == 0
    assert filled.history().entries == ()


def test_remove_model_keeps_its_folder(adreg: Adreg) -> None:
    """A removed model is forgotten, and where it lies is told."""
    assert adreg("remove", "merged", "--yes").err == "its folder stays: /models/merged\n"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["tag", "summary", "x"], "added"),
        (["alias", "summary", "x"], "alias"),
        (["note", "summary", "x"], "text"),
        (["metric", "summary", "x=1"], "metrics"),
        (["rename", "summary", "x"], "new"),
        (["remove", "summary", "--yes"], "blobs"),
        (["remove", "summary", "--dry-run"], "versions"),
        (["history"], "entries"),
        (["show", "summary"], "version"),
        (["completion", "bash"], "script"),
    ],
)
def test_json(adreg: Adreg, arguments: list[str], key: str) -> None:
    """Every command prints one JSON object on request."""
    assert key in json.loads(adreg(*arguments, "--json").out)
