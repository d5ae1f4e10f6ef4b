"""What adreg writes of each refusal: one line that says what is wrong, one that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import pytest
from running import Adreg

from adreg.registry import Registry

USAGE: dict[str, tuple[list[str], str, str]] = {
    "no command": (["mrge"], "there is no command 'mrge'. Did you mean 'merge'?", "adreg"),
    "strange command": (["xyzzy"], "there is no command 'xyzzy'", "adreg"),
    "rank": (
        ["list", "--rank", "x"],
        "invalid value for '--rank': 'x' is not a rank: write 16, 8-64, '>=16' or '<16'",
        "adreg list",
    ),
    "metric": (
        ["metric", "team/support", "loss"],
        "'loss' is not NAME=VALUE with a finite number",
        "adreg metric",
    ),
    "verify": (["verify"], "name one version, or pass --all", "adreg verify"),
    "resize": (
        ["resize", "summary", "--name", "x"],
        "say how small: --rank, --energy, or both",
        "adreg resize",
    ),
    "extract": (
        ["extract", "x", "--base", "y", "--name", "z"],
        "say how large: --rank, --energy, or both",
        "adreg extract",
    ),
    "nowhere": (
        ["combine", "summary", "team/support"],
        "say where it goes: -o DIR, --name NAME, or both",
        "adreg combine",
    ),
    "nothing to merge": (
        ["merge"],
        "name at least one adapter, or a recipe file with --recipe",
        "adreg merge",
    ),
    "recipe": (
        ["merge", "summary", "--parameter", "t=1"],
        "t: linear takes normalize, lambda",
        "adreg merge",
    ),
    "parameter": (
        ["merge", "summary", "--parameter", "t"],
        "--parameter 't' is not NAME=VALUE",
        "adreg merge",
    ),
    "value": (
        ["merge", "summary", "--parameter", "t=["],
        "--parameter 't=[' has no plain value",
        "adreg merge",
    ),
    "weight": (
        ["merge", "summary", "--weight", "q_proj"],
        "--weight: 'q_proj' is not PATTERN=WEIGHT",
        "adreg merge",
    ),
    "remove": (
        ["remove", "summary"],
        "this would remove summary@1; pass --yes to do it",
        "adreg remove",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_use(adreg: Adreg, filled: Registry, case: str) -> None:
    """The exit code is 2, nothing is on stdout, and the hint names the command's help."""
    arguments, words, command = USAGE[case]
    before = filled.history()

    ran = adreg(*arguments)
    error, hint = ran.err.strip().split("\n")

    assert (2, "") == (ran.code, ran.out)
    assert error.startswith("error: ")
    assert words in error
    assert f"hint: See `{command} --help`." == hint
    assert before == filled.history()


KNOWN: dict[str, tuple[list[str], str, str]] = {
    "model": (
        ["show", "merged", "--config"],
        "there is no adapter configuration of 'merged@1'",
        "It is a model: leave out --config.",
    ),
    "history": (
        ["history", "nobody"],
        "there is no history of 'nobody'",
        "`adreg list` shows all names.",
    ),
    "alias": (
        ["alias", "summary", "7"],
        "the alias '7' is not allowed: all digits mean a version number",
        "Choose a word, such as prod.",
    ),
    "note": (
        ["note", "summary", " "],
        "the note '' is not allowed: it is empty",
        "Say something in it.",
    ),
    "in use": (
        ["remove", "team/support", "--yes"],
        "team/support is in use by merged@1",
        "Remove those first, or pass --force: then they can no longer be rebuilt from here.",
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_errors(adreg: Adreg, filled: Registry, case: str) -> None:
    """The exit code is 1; people get two lines, scripts the same words as one object."""
    del filled
    arguments, words, hint = KNOWN[case]

    ran, told = adreg(*arguments), adreg(*arguments, "--json")

    assert (1, "", f"error: {words}\nhint: {hint}\n") == (ran.code, ran.out, ran.err)
    said = json.loads(told.err)
    assert (1, "", words, hint) == (told.code, told.out, said["message"], said["hint"])


def test_damage(adreg: Adreg, filled: Registry) -> None:
    """Each fault stands in one line on stdout, the refusal with its hint on stderr."""
    key = filled.show("summary").version.key
    folder = filled._context.store.folder(key.digest)
    (folder / "adapter_model.safetensors").resolve().unlink()

    ran = adreg("verify", "summary")
    error, hint = ran.err.strip().split("\n")

    assert 1 == ran.code
    assert "summary@1: adapter_model.safetensors is missing" in ran.out
    assert "error: damage found: summary@1: adapter_model.safetensors is missing" == error
    assert hint.startswith("hint: Add the adapter again from its source")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return factory.make_base(tmp_path_factory.mktemp("words") / "base")


def proven(adreg: Adreg, base: Path, adapter: Path, *spoil: str) -> tuple[int, list[str]]:
    """Merge an adapter, put the base's weights in the model's place if told, and compare."""
    merged = adreg("merge", str(adapter), "--base", str(base), "--name", "bot", "--json")
    if spoil:
        shutil.copy(base / "model.safetensors", json.loads(merged.out)["folder"])
    ran = adreg("verify-merge", "bot", "--prompt", "the cat")
    return ran.code, [line for line in ran.err.split("\n") if line.startswith(("error", "hint"))]


def test_models_that_are_not_proven(adreg: Adreg, base: Path, tmp_path: Path) -> None:
    """A model that answers otherwise, and how to find out why."""
    adapter = factory.make_adapter(base, tmp_path / "it")

    code, (error, hint) = proven(adreg, base, adapter, "the base's weights")

    assert 1 == code
    assert error.startswith("error: bot@1: it does not answer as its base with the adapters does")
    assert hint.startswith("hint: Run `adreg verify` on it, see that the base is still the same")


def test_effects_that_rounding_takes_away(adreg: Adreg, base: Path, tmp_path: Path) -> None:
    """An adapter that is smaller than the steps of bfloat16 is lost."""
    adapter = factory.make_adapter(base, tmp_path / "it")
    factory.edit_tensors(adapter, lambda tensors: [tensors[k].mul_(0.03) for k in tensors])

    code, (error, hint) = proven(adreg, base, adapter)

    assert 1 == code
    assert error.startswith("error: bot@1: rounding moved its answers more than half as far as")
    assert "hint: Merge with --dtype float32, or train the adapters longer." == hint


def test_effects_that_no_answer_shows(adreg: Adreg, base: Path, tmp_path: Path) -> None:
    """An adapter of a token that is not in the prompt changes nothing there."""
    adapter = factory.make_adapter(
        base, tmp_path / "it", target_modules=["q_proj"], trainable_token_indices=[95]
    )
    factory.edit_tensors(
        adapter, lambda tensors: [tensors[k].zero_() for k in tensors if "lora_B" in k]
    )

    code, lines = proven(adreg, base, adapter)

    assert (
        1,
        [
            "error: bot@1: the adapters do not change what the base answers",
            "hint: Check that they were trained.",
        ],
    ) == (code, lines)
