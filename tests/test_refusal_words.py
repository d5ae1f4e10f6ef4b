"""Refusals of names, of places to write to and of lock files: what is wrong, and what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unprivileged import unreadable

from adreg.registry.digest import FileDigest
from adreg.registry.durable import Staging, check_target, require_space, write_error
from adreg.registry.errors import AdregError, InUse, LicenceUnknown, NameRefused, OutputRefused
from adreg.registry.names import Reference, Tag, check_alias, check_name
from adreg.registry.release.licences import LicensedPart, check_licence, release_licence
from adreg.registry.release.lock import Lock, LockedAdapter, LockedBase, LockedModel, read_lock
from adreg.registry.store.faults import find_fault

LETTERS = "Use letters, digits, '.', '_' and '-', starting with a letter or digit."
WEIGHT = "Write it as REF=0.5."

NAMES: list[tuple[Callable[[str], object], str, str, str]] = [
    (
        check_name,
        "a/b/c",
        "the name 'a/b/c' is not allowed: it has more than one '/'",
        "TEAM/NAME.",
    ),
    (check_name, "", "the name '' is not allowed: it is empty", LETTERS),
    (check_name, "a..b", "the name 'a..b' is not allowed: it contains '..'", LETTERS),
    (check_name, "a.", "the name 'a.' is not allowed: it ends with '.'", LETTERS),
    (check_name, "ä", "has a character that is not allowed, or is longer than 96", LETTERS),
    (check_alias, "a b", "the alias 'a b' is not allowed: it has a character", LETTERS),
    (
        check_alias,
        "7",
        "the alias '7' is not allowed: all digits mean a version number",
        "as prod.",
    ),
    (check_alias, "latest", "it always means the newest version", "another word, such as prod."),
    (Tag.parse, "a b", "the tag 'a b' is not allowed: it has a character", LETTERS),
    (
        Tag.parse,
        "a=\n",
        r"the tag 'a=\n' is not allowed: its value has control characters or is too long",
        "Behind the '=' goes printable text of at most 1024 characters.",
    ),
    (Reference.parse, "x@y@z", "the version or alias 'y@z' is not allowed: it has a", LETTERS),
    (
        Reference.parse,
        "./\0",
        r"the path './\x00' is not allowed: it has a NUL character",
        "Name a file or folder that exists.",
    ),
    (
        Reference.parse,
        "~no-one-here/x",
        "the path '~no-one-here/x' is not allowed: there is no home of this user",
        "Write the folder out in full.",
    ),
    (Reference.parse, "a=much", "'a=much' does not end in a number", WEIGHT),
    (
        Reference.parse,
        "a=inf",
        "the weight 'inf' is not allowed: it is not a finite number",
        WEIGHT,
    ),
    (
        Reference.parse,
        "hf://a",
        "the Hub reference 'hf://a' is not allowed: it is not hf://OWNER/REPO",
        "Write it as hf://OWNER/REPO or hf://OWNER/REPO@REVISION.",
    ),
    (
        Reference.parse,
        "hf://a/b@../x",
        "the revision '../x' is not allowed: it is no name of a branch, tag or commit",
        "Use letters, digits, '.', '_', '-' and '/', such as main or refs/pr/3.",
    ),
    (
        check_licence,
        "a\nb",
        r"the licence 'a\nb' is not allowed: it is not an identifier such as apache-2.0",
        "Use one of the Hub's identifiers, such as apache-2.0, mit or llama3, or other.",
    ),
]


@pytest.mark.parametrize(("check", "text", "words", "hint"), NAMES)
def test_names(check: Callable[[str], object], text: str, words: str, hint: str) -> None:
    """The text and the rule that it breaks stand in one sentence, what to write in another."""
    with pytest.raises(NameRefused) as refused:
        check(text)

    assert words in refused.value.sentence
    assert hint in refused.value.hint


def test_licences_that_are_not_known() -> None:
    """Parts without a licence are named, with the two ways on."""
    parts = [LicensedPart("adapter a@1", None), LicensedPart("base b", "mit")]

    with pytest.raises(LicenceUnknown) as refused:
        release_licence(parts)

    assert "no licence is known for adapter a@1" == refused.value.sentence
    assert "Give it with --license, or pass --allow-unknown-license" in refused.value.hint


def test_what_is_in_use() -> None:
    """What holds a thing is named, with how to go on."""
    error = InUse("team/support", ("merged@1",))

    assert "team/support is in use by merged@1" == error.sentence
    assert "Remove those first, or pass --force" in error.hint


FREE = "Name a folder that does not exist yet."


def test_places_to_write_to(tmp_path: Path) -> None:
    """A file, a folder with something in it, and one that came meanwhile are told apart."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused) as refused:
        check_target(tmp_path / "file")
    assert f"cannot write to {tmp_path / 'file'}: a file is there" == refused.value.sentence
    assert FREE == refused.value.hint

    with pytest.raises(OutputRefused, match="the folder is not empty") as refused:
        check_target(tmp_path)
    assert FREE == refused.value.hint

    with Staging(tmp_path / "out") as staging:
        (staging.folder / "x").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").touch()
        with pytest.raises(OutputRefused, match="something is there by now") as refused:
            staging.publish()
    assert FREE == refused.value.hint
    assert ["theirs"] == [path.name for path in (tmp_path / "out").iterdir()]


def test_what_the_system_says(tmp_path: Path) -> None:
    """A full disk tells what is needed, where it is known; other failures that nothing is left."""
    full = write_error(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    other = write_error(tmp_path, OSError(errno.EFBIG, "File too large"))
    with pytest.raises(AdregError) as refused:
        require_space(tmp_path, 1 << 60)

    assert f"writing {tmp_path} failed: No space left on device" == full.sentence
    assert "Make room on that disk and try again; nothing half-written is left." == full.hint
    assert f"writing {tmp_path} failed: File too large" == other.sentence
    assert "nothing half-written is left; mend the cause and try again." in other.hint
    assert f"writing {tmp_path} failed: there is not enough room" == refused.value.sentence
    assert f"{1 << 60:,} bytes are needed and " in refused.value.hint
    assert "are free: make room there, or write to another disk." in refused.value.hint


FILE = FileDigest("model.safetensors", "ab" * 32, 10)
LOCK = Lock(
    adreg="0.1.0",
    engine={"numpy": "2.0"},
    model=LockedModel("m", "bfloat16", "LlamaForCausalLM", "llama"),
    recipe={"base": "b"},
    base=LockedBase(("b",), "cd" * 32, "ef" * 32, files=(FILE,)),
    adapters=(LockedAdapter("a", 1, "01" * 32, 0.5, None, (), (FILE,)),),
    files=(FILE,),
)
AGAIN = "Take it again from the release."

LOCKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "newer": ({"schema": 2}, "its schema is 2, this adreg reads 1", "Install a newer adreg."),
    "no schema": ({"schema": None}, "its schema is None, this adreg reads 1", AGAIN),
    "unknown": ({"more": 1}, "more is not known", AGAIN),
    "text": ({"adreg": "\x1b"}, "adreg is not a printable text", AGAIN),
    "object": ({"recipe": []}, "recipe is not an object", AGAIN),
    "objects": ({"adapters": [1]}, "adapters is not a list of objects", AGAIN),
    "texts": (
        {"base": {**json.loads(LOCK.to_json())["base"], "names": [1]}},
        "base.names is not a list of texts",
        AGAIN,
    ),
    "nothing": ({"adapters": []}, "it has no adapters or no files", AGAIN),
}


@pytest.mark.parametrize("case", LOCKS)
def test_lock_files(tmp_path: Path, case: str) -> None:
    """The file and the field stand in one sentence, the way on in another."""
    change, words, hint = LOCKS[case]
    path = tmp_path / "adreg.lock.json"
    path.write_text(json.dumps({**json.loads(LOCK.to_json()), **change}))

    with pytest.raises(AdregError) as refused:
        read_lock(path)

    assert f"{path}: {words}" == refused.value.sentence
    assert hint == refused.value.hint


def test_a_lock_file_that_is_no_json(tmp_path: Path) -> None:
    """What is no JSON is a broken lock file too."""
    path = tmp_path / "adreg.lock.json"
    path.write_text("{")

    with pytest.raises(AdregError, match="it is not valid JSON: Expecting") as refused:
        read_lock(path)

    assert AGAIN == refused.value.hint


def test_faults_of_stored_files(tmp_path: Path) -> None:
    """A stored file that differs is told with both sizes or both digests, or what hinders."""
    (tmp_path / "x").write_bytes(b"12345")

    def fault(size: int) -> str:
        return str(find_fault(tmp_path / "x", FileDigest("x", "ab" * 32, size)))

    assert "x is truncated (5 of 1,000 bytes)" == fault(1000)
    assert "x is damaged (5 bytes instead of 4)" == fault(4)
    assert "x is damaged (SHA-256 5994471abb01 instead of abababababab)" == fault(5)
    with unreadable(tmp_path, "x") as folder:
        hindered = find_fault(folder / "x", FileDigest("x", "ab" * 32, 5))
    assert "x is unreadable (Permission denied)" == str(hindered)
    (tmp_path / "x").unlink()
    assert "x is missing" == fault(5)
