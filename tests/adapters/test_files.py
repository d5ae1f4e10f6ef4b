"""Which files go with an adapter, and which links are followed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from adreg.registry.adapters.peft_folder import find_adapters, read_adapter
from adreg.registry.errors import AdapterRefused


def test_files_kept_and_left_out(adapter: Path) -> None:
    """Tokenizer, template, card and licence stay; everything else is named with a reason."""
    kept = ["LICENSE", "NOTICE.txt", "added_tokens.json", "chat_template.jinja", "config.json"]
    kept += ["merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json"]
    kept += ["tokenizer.model", "tokenizer_config.json", "vocab.json", "generation_config.json"]
    left = {
        "optimizer.pt": "a pickle, which could run code",
        "training_args.bin": "a pickle, which could run code",
        "rng_state.pth": "a pickle, which could run code",
        "handler.py": "code",
        "trainer_state.json": "not part of an adapter",
        "model.safetensors": "not part of an adapter",
        "new_embeddings.safetensors": "vLLM's extra embedding rows, which PEFT does not read",
        ".gitattributes": "hidden",
    }
    for name in [*kept, *left]:
        (adapter / name).write_text("{}" if name.endswith("onfig.json") else name)
    for name in ("additional_chat_templates/tool.jinja", "checkpoint-5/adapter_config.json"):
        (adapter / name).parent.mkdir()
        (adapter / name).write_text(name)

    spec = read_adapter(adapter)

    names = {file.name for file in spec.files}
    assert names == {
        *kept,
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "additional_chat_templates/tool.jinja",
    }
    assert {**left, "checkpoint-5/": "a folder of its own"} == dict(spec.left_out)


@pytest.mark.parametrize("name", ["tokenizer\n.json", "x\x1b[2J", "a\\b.json", "bad\udcff.txt"])
def test_control_characters_in_names(adapter: Path, name: str) -> None:
    """A name that could steer a terminal or be a path elsewhere is refused, printably."""
    (adapter / name).write_text("{}")

    with pytest.raises(AdapterRefused, match="characters that are not allowed") as caught:
        read_adapter(adapter)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_link_out_of_the_folder(adapter: Path, name: str) -> None:
    """A link to a file elsewhere could bring in what the sender does not own."""
    outside = adapter.parent / "outside"
    (adapter / name).rename(outside)
    (adapter / name).symlink_to(outside)

    with pytest.raises(AdapterRefused, match="is a link out of"):
        read_adapter(adapter)


def test_link_to_nothing_and_in_a_circle(adapter: Path) -> None:
    """Links that lead nowhere are named."""
    (adapter / "tokenizer.json").symlink_to("missing")
    (adapter / "vocab.json").symlink_to("vocab.json")

    with pytest.raises(AdapterRefused) as caught:
        read_adapter(adapter)
    assert caught.value.reasons == (
        "'tokenizer.json' is a link to nothing",
        "'vocab.json' is a link to nothing",
    )


def test_link_inside_the_folder(adapter: Path) -> None:
    """A link that stays in the folder is its target."""
    (adapter / "LICENSE").symlink_to("README.md")

    digests = {file.name: file.sha256 for file in read_adapter(adapter).files}

    assert digests["README.md"] == digests["LICENSE"]


def test_link_to_the_folder(adapter: Path) -> None:
    """The folder itself may be reached by a link."""
    link = adapter.parent / "link"
    link.symlink_to(adapter)

    assert read_adapter(link).folder == link


def test_hub_cache(adapter: Path) -> None:
    """In the Hub's cache files are links to blobs of the same repository, and to no other."""
    home = adapter.parent / "hub" / "models--o--lora"
    snapshot = home / "snapshots" / ("a" * 40)
    for below in (snapshot, snapshot / "deep"):
        below.mkdir(parents=True)
        for path in adapter.iterdir():
            blob = home / "blobs" / path.name
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(path, blob)
            (below / path.name).symlink_to(os.path.relpath(blob, below))

    assert read_adapter(snapshot).parameters == read_adapter(snapshot / "deep").parameters

    other = home.parent / "models--o--other" / "blobs" / "b"
    other.parent.mkdir(parents=True)
    shutil.copy(adapter / "README.md", other)
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to(other)
    with pytest.raises(AdapterRefused, match=r"'README\.md' is a link out of its folder"):
        read_adapter(snapshot)


def test_pipe(adapter: Path) -> None:
    """A pipe would be waited on for ever."""
    (adapter / "README.md").unlink()
    os.mkfifo(adapter / "README.md")

    with pytest.raises(AdapterRefused, match=r"'README\.md' is not a regular file"):
        read_adapter(adapter)


def test_find_adapters(adapter: Path) -> None:
    """Folders at any depth are found in order; hidden ones and links are not entered."""
    root = adapter.parent / "all"
    for name in ("b", "a", "a/checkpoint-10", "a/checkpoint-9", "x/y/z", ".cache/c"):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(adapter / "adapter_config.json", root / name)
    (root / "link").symlink_to(adapter)
    (root / "circle").symlink_to(root)

    found = [path.relative_to(root).as_posix() for path in find_adapters(root)]

    assert found == ["a", "a/checkpoint-10", "a/checkpoint-9", "b", "x/y/z"]
    assert list(find_adapters(adapter)) == [adapter]
    assert list(find_adapters(root / "missing")) == []
