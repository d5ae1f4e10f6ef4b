"""Whatever the bytes: an answer or an error of adreg's, in five seconds and 256 MiB.

A short form by itself; ``ADREG_FUZZ_EXAMPLES`` says how many bytes each reader is given.
What was found once stands in corpus/READER/ and is tried every time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fuzz.conftest import bounded
from fuzz.mutate import mutated
from fuzz.readers import Reader, readers
from hypothesis import HealthCheck, Phase, given, settings

from adreg.cli.escape import escape
from adreg.registry.errors import AdregError

EXAMPLES = int(os.environ.get("ADREG_FUZZ_EXAMPLES", "60"))
CORPUS = Path(__file__).with_name("corpus")
NAMES = (
    *("adapter_config", "card", "config", "foreign", "gguf", "header", "index", "lock"),
    *("mlx_config", "names", "npz", "pickle", "recipe", "search", "template", "weights"),
)


@pytest.fixture(scope="session")
def every(honest: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """Return all readers, on copies of their own."""
    root = tmp_path_factory.mktemp("fuzz")
    base = shutil.copytree(honest[0], root / "base")
    shutil.copytree(honest[1], root / "made" / "adapter")
    return readers(root / "made", base, shutil.copytree(honest[1], root / "configured"))


def check(reader: Reader, data: bytes) -> None:
    """Fail unless the bytes are read, or refused in words that can be printed."""
    try:
        with bounded():
            reader.read(data)
    except AdregError as error:
        assert escape(error.sentence).isprintable()  # noqa: PT017  # not raising is right too
        assert escape(error.hint).isprintable()  # noqa: PT017


def test_names(every: dict[str, Reader]) -> None:
    """Each reader is tried."""
    assert NAMES == tuple(sorted(every))


@pytest.mark.parametrize("name", NAMES)
def test_honest_bytes(every: dict[str, Reader], name: str) -> None:
    """What the fuzzing begins from is in order, or is refused for what it says, not how."""
    for seed in every[name].seeds:
        check(every[name], seed)


@pytest.mark.parametrize("name", NAMES)
def test_corpus(every: dict[str, Reader], name: str) -> None:
    """What was found before stays mended."""
    for path in sorted((CORPUS / name).glob("*")):
        check(every[name], path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_spoiled_bytes(every: dict[str, Reader], name: str) -> None:
    """Honest bytes with faults are read or refused."""
    reader = every[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES <= 60,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=mutated(reader.seeds, reader.words))
    def run(data: bytes) -> None:
        check(reader, data)

    run()
