"""What ``adreg pull`` refuses: the words, the next step, and that nothing is registered."""

from __future__ import annotations

from pathlib import Path

import factory
import pytest
from hubserver import Hub
from huggingface_hub import constants
from running import Adreg, Ran

from adreg.registry import Registry

CONFIG = b'{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}'


def told(ran: Ran, home: Path) -> str:
    """Return what an error says; nothing is registered and nothing of it is in the store."""
    assert (1, "") == (ran.code, ran.out)
    assert not Registry().list().rows
    assert not list((home / "store").rglob("*.safetensors"))
    assert not list(home.glob("store/*/blobs/*"))
    return ran.err


def put(hub: Hub, files: dict[str, bytes | Path], repo: str = "alice/odd") -> str:
    """Make a repository with these files."""
    hub.create_repo(repo)
    hub.commit(repo, files)
    return repo


def test_an_unknown_repository(online: Hub, home: Path, adreg: Adreg) -> None:
    """It, or a private one of somebody else's: the two look the same."""
    assert (
        "error: alice/missing: there is no such repository on the Hub, or it is private\n"
        "hint: Check its name, and whether this token may read it.\n"
    ) == told(adreg("pull", "alice/missing"), home)
    assert online.requests


def test_a_private_repository_without_a_token(
    online: Hub, adapter_repo: str, home: Path, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token the way to one is named; with one it works."""
    online._repo(adapter_repo).private = True
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))

    assert (
        "error: alice/support: there is no such repository on the Hub, or it is private\n"
        "hint: Check its name; if it is private, log in with `hf auth login`, or set HF_TOKEN.\n"
    ) == told(adreg("pull", adapter_repo), home)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert 0 == adreg("pull", adapter_repo).code


def test_a_token_that_is_stored(
    online: Hub, adapter_repo: str, home: Path, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `hf auth login` stored is used where HF_TOKEN is not set."""
    online._repo(adapter_repo).private = True
    monkeypatch.delenv("HF_TOKEN")
    (home / "token").write_text("hf_alice")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))

    assert 0 == adreg("pull", adapter_repo).code


def test_a_token_that_is_wrong(
    online: Hub, adapter_repo: str, home: Path, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that the Hub does not know is told so, and is not shown."""
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    text = told(adreg("pull", adapter_repo), home)

    assert text.startswith("error: alice/support: the Hub does not accept this token\nhint: Get a")
    assert f"{online.endpoint}/settings/tokens, then log in with" in text
    assert "hf_stranger" not in text


def test_a_gated_repository(
    online: Hub, adapter_folder: Path, home: Path, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gated repository names the page where access is asked for."""
    online.create_repo("alice/gated", gated="manual")
    online.commit("alice/gated", {p.name: p for p in adapter_folder.iterdir() if p.is_file()})
    monkeypatch.setenv("HF_TOKEN", "hf_reader")

    assert (
        "error: alice/gated/README.md: it is gated: its owner gives access\n"
        f"hint: Accept its terms at {online.endpoint}/alice/gated.\n"
    ) == told(adreg("pull", "alice/gated"), home)
    online.grant("alice/gated", "reader")
    assert 0 == adreg("pull", "alice/gated").code


def test_an_unknown_revision(online: Hub, adapter_repo: str, home: Path, adreg: Adreg) -> None:
    """A branch, tag or commit that is not there."""
    assert (
        "error: alice/support@v9: there is no such revision\n"
        f"hint: Look at its page on the Hub: {online.endpoint}/alice/support\n"
    ) == told(adreg("pull", f"{adapter_repo}@v9"), home)


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        ({}, "the repository is empty", "Pull it once it has an adapter."),
        (
            {"config.json": b"{}", "model.safetensors": b"x"},
            "it is a full model, not an adapter",
            "A base: `hf download alice/odd`.",
        ),
        (
            {"pytorch_lora_weights.safetensors": b"x"},
            "no folder of it holds an adapter_config.json",
            "Fetch `hf download alice/odd pytorch_lora_weights.safetensors`; `adreg add` converts",
        ),
        (
            {"data.csv": b"1"},
            "no folder of it holds an adapter_config.json",
            "Look at its page on the Hub.",
        ),
        (
            {"adapter_config.json": CONFIG},
            "it has an adapter_config.json but no adapter_model.safetensors",
            "It may be in another revision: look at its page on the Hub.",
        ),
        (
            {"adapter_config.json": CONFIG, "adapter_model.bin": b"x"},
            "its weights are only there as a pickle, adapter_model.bin",
            "Pass --convert-pickle, which reads it as nothing but tensors.",
        ),
        (
            {"adapter_config.json": CONFIG, "../adapter_model.safetensors": b"x"},
            "its file name '../adapter_model.safetensors' leads out of the folder",
            "Do not use this repository; tell its owner or the Hub.",
        ),
        (
            {
                "adapter_config.json": CONFIG,
                "adapter_model.safetensors": b"x",
                "LICENSE.MD": b"x",
                "LICENSE.md": b"y",
            },
            "its file names 'LICENSE.MD' and 'LICENSE.md' differ in case alone",
            "They are one file on some systems: ask its owner.",
        ),
    ],
)
def test_a_repository_that_is_no_adapter(  # noqa: PLR0917
    online: Hub, home: Path, adreg: Adreg, files: dict[str, bytes | Path], words: str, hint: str
) -> None:
    """What there is instead is named, from the list of files: none is fetched."""
    text = told(adreg("pull", put(online, files)), home)

    assert text.startswith(f"error: alice/odd: {words}\nhint: {hint}")
    assert [] == [one for one in online.requests if "/resolve/" in one.path]


def test_a_pickle_that_is_asked_for(
    online: Hub, adapter_folder: Path, tmp_path: Path, adreg: Adreg
) -> None:
    """--convert-pickle brings it as nothing but tensors."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file  # noqa: PLC0415

    torch.save(load_file(adapter_folder / "adapter_model.safetensors"), tmp_path / "weights.bin")
    config = adapter_folder / "adapter_config.json"
    put(online, {"adapter_config.json": config, "adapter_model.bin": tmp_path / "weights.bin"})

    ran = adreg("pull", "alice/odd", "--convert-pickle")

    assert 0 == ran.code
    stored = Registry()._context.store.folder(Registry().show("alice/odd").version.key.digest)
    assert "adapter_model.safetensors" in {path.name for path in stored.iterdir()}


def test_an_adapter_that_is_broken_is_named_by_its_place_on_the_hub(
    online: Hub, home: Path, adreg: Adreg
) -> None:
    """The right bytes of a wrong adapter are refused as `adreg add` refuses them."""
    put(online, {"adapter_config.json": CONFIG, "adapter_model.safetensors": b"not tensors"})

    text = told(adreg("pull", "alice/odd"), home)

    assert text.startswith("error: alice/odd/adapter_model.safetensors: ")
    assert str(home) not in text


def test_the_wrong_base(
    online: Hub, adapter_repo: str, home: Path, tmp_path: Path, adreg: Adreg
) -> None:
    """An adapter that does not fit the base is refused under its name on the Hub."""
    other = factory.make_base(tmp_path / "other", "gpt2")

    text = told(adreg("pull", adapter_repo, "--base", str(other)), home)

    assert text.startswith("error: alice/support does not fit ")
    assert online.requests


def test_a_folder_without_an_adapter(
    online: Hub, adapter_repo: str, home: Path, adreg: Adreg
) -> None:
    """--subfolder names a folder with an adapter."""
    assert (
        "error: alice/support: there is no adapter in its folder 'last'\n"
        "hint: Name one with --subfolder, or pass --all: .\n"
    ) == told(adreg("pull", adapter_repo, "--subfolder", "last"), home)
    assert 1 == len(online.requests)


@pytest.mark.parametrize("name", ["support", "a/b/c", "../x", "alice/", "alice/sup port"])
def test_a_name_that_the_hub_cannot_have(online: Hub, home: Path, adreg: Adreg, name: str) -> None:
    """A name that is none is refused before anybody is asked."""
    text = told(adreg("pull", name), home)

    assert text.startswith("error: the Hub reference ")
    assert not online.requests


def test_offline_mode(
    adapter_repo: str, online: Hub, home: Path, adreg: Adreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline mode is told, and nobody is asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert (
        "error: alice/support: offline mode is on (HF_HUB_OFFLINE), so the Hub is not asked\n"
        "hint: Unset HF_HUB_OFFLINE; what is stored already works without the Hub.\n"
    ) == told(adreg("pull", adapter_repo), home)
    assert not online.requests


def test_no_network(adapter_repo: str, online: Hub, home: Path, adreg: Adreg) -> None:
    """A Hub that cannot be reached is told, with what to check."""
    online.stop()

    text = told(adreg("pull", adapter_repo), home)

    host = online.endpoint.removeprefix("http://")
    assert text.startswith(f"error: alice/support: {host} cannot be reached: ")
    assert text.endswith(
        "hint: Check the network, HF_ENDPOINT and the proxy; what is stored works without.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name repositories, or one of --from, --all-from and --update"),
        (("a/b", "--from", "x"), "name repositories, or one of --from, --all-from and --update"),
        (("a/b", "--filter", "x"), "--filter is for --all-from"),
        (("--update", "--base", "x"), "--update keeps names and bases: leave out 'base'"),
        (("--from", "/nowhere"), "--from /nowhere: "),
    ],
)
def test_a_wrong_use(online: Hub, adreg: Adreg, arguments: tuple[str, ...], words: str) -> None:
    """What makes no sense together is a wrong use, exit 2."""
    ran = adreg("pull", *arguments)

    assert 2 == ran.code
    assert f"error: {words}" in ran.err
    assert not online.requests
