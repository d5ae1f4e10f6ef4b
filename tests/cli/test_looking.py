"""`adreg list`, `show` and `history`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Adreg

from adreg.registry import Registry

pytestmark = pytest.mark.usefixtures("filled")


def names(out: str) -> list[str]:
    """Return the first column of a piped table, without its header."""
    return [line.split("\t")[0] for line in out.splitlines()[1:]]


def test_list_piped(adreg: Adreg, filled: Registry) -> None:
    """Into a pipe a listing is a header and tab-separated lines, whole, with raw values."""
    ran = adreg("list", "team")

    size = filled.list().rows[-1].bytes
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out == (
        "name\ttype\trank\tbase\tsize\tadded\taliases\ttags\n"
        f"team/support@2\tLORA\t16\tsmollm2\t{size}\t2026-11-02T12:00:00+00:00\t\tlang=de\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["merged@1", "summary@1", "team/support@2"]),
        (["--all"], ["merged@1", "summary@1", "team/support@2"]),
        (["--adapters"], ["summary@1", "team/support@2"]),
        (["--models"], ["merged@1"]),
        (["--versions", "--adapters"], ["summary@1", "team/support@1", "team/support@2"]),
        (["--base", "smollm2"], ["merged@1", "team/support@2"]),
        (["--type", "lora"], ["summary@1", "team/support@2"]),
        (["--rank", "16"], ["team/support@2"]),
        (["--rank", "8-32"], ["team/support@2"]),
        (["--rank", ">=16"], ["summary@1", "team/support@2"]),
        (["--rank", ">16"], ["summary@1"]),
        (["--rank", "<16"], []),
        (["--rank", "<=16", "--versions"], ["team/support@1", "team/support@2"]),
        (["--tag", "lang"], ["team/support@2"]),
        (["--tag", "lang=fr"], []),
        (["SUPPORT", "de"], ["team/support@2"]),
        (["--sort", "rank"], ["team/support@2", "summary@1", "merged@1"]),
        (["--sort", "date", "--reverse"], ["merged@1", "summary@1", "team/support@2"]),
        (["--sort", "size", "--reverse", "--limit", "1"], ["merged@1"]),
    ],
)
def test_list_filters(adreg: Adreg, arguments: list[str], expected: list[str]) -> None:
    """Every filter, order and limit chooses what its help says."""
    assert names(adreg("list", *arguments).out) == expected


def test_list_limit_says_what_is_left_out(adreg: Adreg) -> None:
    """A listing that was cut says on stderr how many more there are, unless quiet."""
    assert adreg("list", "--limit", "1").err == "2 more; --limit 0 shows all\n"
    assert adreg("-q", "list", "--limit", "1").err == ""
    assert adreg("list", "--limit", "0").err == ""


def test_list_json(adreg: Adreg) -> None:
    """--json gives every row with all its fields, times in ISO form, and the total."""
    found = json.loads(adreg("list", "--json", "--limit", "1", "--sort", "rank").out)

    assert found["total"] == 3
    assert found["rows"][0]["key"]["name"] == "team/support"
    assert found["rows"][0]["tags"] == [{"key": "lang", "value": "de"}]
    assert found["rows"][0]["created_at"] == "2026-11-02T12:00:00+00:00"


def test_list_bad_rank(adreg: Adreg) -> None:
    """A rank that is none of the forms is a wrong use, and the forms are named."""
    ran = adreg("list", "--rank", "many")

    assert ran.code == 2
    assert "write 16, 8-64, '>=16' or '<16'" in ran.err


def test_show_adapter(adreg: Adreg) -> None:
    """`show` tells what an adapter is, where it came from, and what was built from it."""
    lines = adreg("show", "team/support@prod").out.splitlines()
    shown = dict(line.split("  ", 1) for line in lines if line[0] != " ")
    told = {name.strip(): value.strip() for name, value in shown.items()}

    assert told["name"] == "team/support@1  (not the newest version)"
    assert told["rank"] == "8"
    assert told["targets"] == "q_proj v_proj (4 modules)"
    assert told["base"] == "smollm2 (LlamaForCausalLM, /bases/smollm2)"
    assert told["sources"] == f"hf://someone/support-lora at {'a' * 40}"
    assert told["went into"] == "merged@1"


def test_show_model(adreg: Adreg) -> None:
    """`show` tells what a model was built from, with the weights."""
    assert "built from  team/support@1 x 0.5" in adreg("show", "merged").out


def test_show_hub_reference(adreg: Adreg) -> None:
    """A Hub reference means the version that came from that repository."""
    found = json.loads(adreg("show", "hf://someone/support-lora", "--json").out)

    assert found["version"]["key"]["number"] == 1


def test_show_config(adreg: Adreg) -> None:
    """--config prints the configuration as it was, and nothing else."""
    assert adreg("show", "summary", "--config").out.rstrip("\n") == '{"r": 8}'
    assert adreg("show", "merged", "--config").code == 1


@pytest.mark.parametrize(
    ("reference", "error", "hint"),
    [
        ("team/suport", "there is no adapter or model 'team/suport'", "'team/support'"),
        ("team/support@prd", "there is no version 'team/support@prd'", "'team/support@prod'"),
        ("team/support@9", "there is no version 'team/support@9'", "'team/support@2'"),
        ("hf://some/one", "there is no version from the Hub repository", "adreg list"),
        ("./nowhere", "nowhere: a name from the catalog is needed here", "adreg add nowhere"),
        ("summary=0.5", "the reference 'summary=0.5' is not allowed: a weight", "Leave out"),
        ("a\x1b[31mb", "it has a character that is not allowed", "Use letters"),
    ],
)
def test_show_what_is_not_there(adreg: Adreg, reference: str, error: str, hint: str) -> None:
    """A reference that means nothing is told in one line, with one line on what to do."""
    ran = adreg("show", reference)

    first, second = ran.err.splitlines()
    assert ran.code == 1
    assert ran.out == ""
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second
    assert "\x1b" not in ran.err


def test_show_folder_that_was_added(adreg: Adreg, tmp_path: Path) -> None:
    """A folder that an adapter was added from is answered with the adapter's name."""
    ran = adreg("show", str(tmp_path / "run-2"))

    assert "It was added as team/support@2: use that name." in ran.err


def test_history_follows_renames(adreg: Adreg) -> None:
    """The history of a name holds what was done to its versions and under its old names."""
    adreg("tag", "team/support@1", "old")
    adreg("rename", "team/support", "help")
    adreg("note", "help", "good")

    entries = json.loads(adreg("history", "help", "--json").out)["entries"]

    assert [(one["action"], one["subject"]) for one in entries] == [
        ("note", "help@2"),
        ("rename", "help"),
        ("tag", "team/support@1"),
    ]
    assert [
        one["action"] for one in json.loads(adreg("history", "help@1", "--json").out)["entries"]
    ] == ["tag"]


def test_history_limit_and_unknown(adreg: Adreg) -> None:
    """History is cut at the limit and says so; a name that never was is an error."""
    adreg("tag", "summary", "a")
    adreg("tag", "summary", "b")

    ran = adreg("history", "--limit", "1")
    assert len(ran.out.splitlines()) == 2
    assert ran.err == "there is more; --limit 0 shows all\n"
    assert adreg("history", "nobody").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["list", "--rank", "9" * 5000], 2, "is not a rank"),
        (["list", "--limit", "9" * 30], 1, "too large"),
        (["history", "--limit", "9" * 30], 1, "too large"),
        (["history", "summary", "--limit", "9" * 30], 1, "too large"),
        (["show", f"summary@{'9' * 30}"], 1, "there is no version"),
    ],
)
def test_numbers_beyond_all_bounds(
    adreg: Adreg, arguments: list[str], code: int, words: str
) -> None:
    """A number that no catalog can hold is an error in words, not a traceback."""
    ran = adreg(*arguments)

    assert ran.code == code
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert "Traceback" not in ran.err
