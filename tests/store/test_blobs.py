"""The store keeps what it was given, says what became of it, and lets go of nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from adreg.registry import digest
from adreg.registry.digest import FileDigest, of_files
from adreg.registry.errors import InputRefused
from adreg.registry.store.blobs import Store
from adreg.registry.store.publication import Leftover

CONTENT = {"weights.bin": b"w" * 3000, "chat_templates/tool.jinja": b"{{ x }}", "empty": b""}


def fill(folder: Path) -> tuple[str, tuple[FileDigest, ...]]:
    """Write the files and return the digest of all and of each."""
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    files = tuple(
        FileDigest(name, digest.of_bytes(data), len(data)) for name, data in sorted(CONTENT.items())
    )
    return of_files(files), files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose folder does not exist yet."""
    return Store(tmp_path / "store")


@pytest.fixture
def held(store: Store, tmp_path: Path) -> tuple[str, tuple[FileDigest, ...]]:
    """A version that is in the store."""
    sha, files = fill(tmp_path / "source")
    publish(store, sha, files, tmp_path / "source")
    return sha, files


def publish(
    store: Store,
    sha: str,
    files: tuple[FileDigest, ...],
    source: Path,
    then: Callable[[], object] = lambda: None,
) -> None:
    """Take a folder in, and do what comes after it moved in."""
    with store.publication() as publication:
        named = {file.name: source / file.name for file in files}
        assert files == publication.take(named, {}, lambda _: None)
        publication.draw(sha, files)
        publication.sync()
        publication.settle(sha)
        then()


def tree(folder: Path) -> list[str]:
    """Return the names of all that is below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_version_reads_as_the_folder_it_came_from(
    store: Store, held: tuple[str, tuple[FileDigest, ...]]
) -> None:
    """A snapshot has every file, under its name, with its bytes."""
    folder = store.folder(held[0])

    assert CONTENT == {name: (folder / name).read_bytes() for name in CONTENT}
    assert store.holds(*held)
    assert () == store.verify(*held)


def test_what_is_stored_is_a_copy_that_nobody_writes_to(
    store: Store, held: tuple[str, tuple[FileDigest, ...]], tmp_path: Path
) -> None:
    """A blob is a file of its own, read-only, and a snapshot's link is relative."""
    named = {file.name: file.sha256 for file in held[1]}
    blob = store.blob(named["weights.bin"])
    link = store.folder(held[0]) / "chat_templates/tool.jinja"

    assert 1 == blob.stat().st_nlink
    assert 0o444 == stat.S_IMODE(blob.stat().st_mode)
    assert not (tmp_path / "source/weights.bin").samefile(blob)
    assert f"../../../blobs/{named['chat_templates/tool.jinja']}" == os.readlink(link)  # noqa: PTH115  # its text
    assert [] == tree(store.root / "staging")


@pytest.mark.parametrize("size", [3000, 9 << 20])
def test_a_file_that_changes_while_it_is_copied_is_refused(
    store: Store, tmp_path: Path, size: int
) -> None:
    """Bytes that were written while others were read never come in."""
    (tmp_path / "weights.bin").write_bytes(b"w" * size)

    def change(_: int) -> None:
        with (tmp_path / "weights.bin").open("r+b") as file:
            file.write(b"W")
        os.utime(tmp_path / "weights.bin")

    with (
        store.publication() as publication,
        pytest.raises(InputRefused, match=r"weights\.bin: it changed while it was read"),
    ):
        publication.take({"weights.bin": tmp_path / "weights.bin"}, {}, change)

    assert (frozenset(), frozenset()) == store.stored()
    assert [] == tree(store.root / "staging")


def test_each_byte_is_seen_once_and_in_order(store: Store, tmp_path: Path) -> None:
    """What watches a file is shown all of it in pieces, small or large."""
    small, large = os.urandom(3000), os.urandom((9 << 20) + 5)
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "large").write_bytes(large)
    seen: dict[str, list[bytes]] = {"small": [], "large": []}
    heard: list[int] = []

    with store.publication() as publication:
        files = publication.take(
            {name: tmp_path / name for name in seen},
            {name: pieces.append for name, pieces in seen.items()},
            heard.append,
        )
        placed = {file.name: publication.place(file).read_bytes() for file in files}

    assert {"small": small, "large": large} == placed
    assert placed == {name: b"".join(pieces) for name, pieces in seen.items()}
    assert {file.name: file.sha256 for file in files} == {
        name: digest.of_bytes(data) for name, data in placed.items()
    }
    assert len(small) + len(large) == sum(heard)


def test_a_file_that_is_gone_while_it_is_copied_is_refused(store: Store, tmp_path: Path) -> None:
    """A source that vanishes is named."""
    sha, files = fill(tmp_path / "source")
    (tmp_path / "source/empty").unlink()

    with pytest.raises(InputRefused, match="empty: No such file"):
        publish(store, sha, files, tmp_path / "source")


def test_each_fault_is_named(
    store: Store, held: tuple[str, tuple[FileDigest, ...]], tmp_path: Path
) -> None:
    """A flipped bit, a short file, a missing one and an extra one are told apart."""
    del tmp_path
    blobs = {file.name: store.blob(file.sha256) for file in held[1]}
    weights, template, empty = (blobs[name] for name in CONTENT)
    for blob in (weights, template):
        blob.chmod(0o644)
    weights.write_bytes(b"w" * 2999 + b"v")
    template.write_bytes(b"{{")
    empty.unlink()
    (store.folder(held[0]) / "new.txt").write_text("?")
    heard: list[int] = []

    faults = store.verify(*held, heard.append)

    assert [
        ("chat_templates/tool.jinja", "truncated"),
        ("empty", "missing"),
        ("new.txt", "extra"),
        ("weights.bin", "damaged"),
    ] == [(fault.name, fault.kind) for fault in faults]
    assert 3007 == sum(heard)
    assert not store.holds(*held)


@pytest.mark.parametrize("kind", ["gone", "elsewhere", "file"])
def test_a_broken_link_of_a_snapshot_is_named(
    store: Store, held: tuple[str, tuple[FileDigest, ...]], kind: str, tmp_path: Path
) -> None:
    """A whole blob under no name, or under a link that leads elsewhere, is a fault."""
    link = store.folder(held[0]) / "weights.bin"
    link.unlink()
    if kind == "elsewhere":
        link.symlink_to(tmp_path / "source/weights.bin")
    elif kind == "file":
        link.write_bytes(CONTENT["weights.bin"])

    (fault,) = store.verify(*held)

    assert ("weights.bin", "missing" if kind == "gone" else "damaged") == (fault.name, fault.kind)


def test_taking_in_the_same_again_mends_it(
    store: Store, held: tuple[str, tuple[FileDigest, ...]], tmp_path: Path
) -> None:
    """A damaged blob and a broken snapshot are replaced by the new copy."""
    named = {file.name: file.sha256 for file in held[1]}
    blob = store.blob(named["weights.bin"])
    blob.chmod(0o644)
    blob.write_bytes(b"?" * 3000)
    (store.folder(held[0]) / "empty").unlink()

    publish(store, *held, tmp_path / "source")

    assert () == store.verify(*held)


def test_discard_removes_what_it_is_told_to(
    store: Store, held: tuple[str, tuple[FileDigest, ...]]
) -> None:
    """Blobs and snapshots that are named go, others stay, and what is gone is no fault."""
    first, *others = [file.sha256 for file in held[1]]

    store.discard([first, "0" * 64], [held[0], "1" * 64])

    assert (frozenset(others), frozenset()) == store.stored()


def test_what_a_failed_commit_leaves_is_offered_to_be_taken_back(
    store: Store, held: tuple[str, tuple[FileDigest, ...]], tmp_path: Path
) -> None:
    """Only what newly came in is offered, and it is offered again until it is dealt with."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more/weights.bin").write_bytes(CONTENT["weights.bin"])
    (tmp_path / "more/new").write_bytes(b"new")
    new = FileDigest("new", digest.of_bytes(b"new"), 3)
    known = next(file for file in held[1] if file.name == "weights.bin")
    files = (new, known)
    with pytest.raises(ZeroDivisionError):
        publish(store, of_files(files), files, tmp_path / "more", then=lambda: 1 / 0)
    offered: list[tuple[Leftover, ...]] = []

    def refuse(leftovers: tuple[Leftover, ...]) -> None:
        offered.append(leftovers)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.take_back(refuse)
    done = store.take_back(offered.append)

    assert [(Leftover((new.sha256,), (of_files(files),)),)] * 2 == offered
    assert (1, 0) == (done, store.take_back(offered.append))
    assert [] == tree(store.root / "staging")


def test_what_is_on_its_way_in_is_not_taken_for_a_leftover(store: Store, tmp_path: Path) -> None:
    """The staging folder of a process that lives is left alone."""
    sha, files = fill(tmp_path / "source")
    with store.publication() as publication:
        named = {file.name: tmp_path / "source" / file.name for file in files}
        publication.take(named, {}, lambda _: None)
        publication.draw(sha, files)
        assert 0 == store.take_back(lambda _: pytest.fail("it lives"))
        publication.sync()
        publication.settle(sha)

    assert () == store.verify(sha, files)
