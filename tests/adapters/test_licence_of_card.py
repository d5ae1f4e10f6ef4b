"""The licence that a card declares, and cards that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from adreg.registry.adapters.card import read_licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Card", "apache-2.0"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("\ufeff---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen\n---\n", "qwen"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\ntags: [x]\n---\n", None),
        ("---\n---\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\nlicense: 3\n---\n", None),
        ("---\nlicense: {a: b}\n---\n", None),
        ('---\nlicense: "a\\nb"\n---\n', None),
        ("---\nlicense: " + "x" * 300 + "\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", None),
        ("---\ndate: 2024-13-01\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: 2024-13-01\n---\n", None),
        ("---\nlicense:\n- mit\n\n- apache-2.0\ntags: [x]\n---\n", "mit, apache-2.0"),
        ("---\ntext: |\n  license: mit\n---\n", None),
        ("---\nlicense: " + "[" * 100_000 + "\n---\n", None),
        ("", None),
    ],
)
def test_cards(tmp_path: Path, text: str, licence: str | None) -> None:
    """A broken card is a card without a licence; no tag of YAML makes anything run."""
    (tmp_path / "README.md").write_bytes(text.encode())

    assert licence == read_licence(tmp_path)


def test_no_card(tmp_path: Path) -> None:
    """No card, no licence."""
    assert read_licence(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert read_licence(tmp_path) is None
