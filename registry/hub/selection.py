"""Which files of a repository make an adapter: by their names and sizes, before one is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from adreg.registry.adapters.files import CONFIG, KEPT, PICKLE, WEIGHTS
from adreg.registry.errors import HubError, HubNotFound, NotAnAdapter, PickleRefused
from adreg.registry.hub.answers import Entry

_OTHER_WEIGHTS = ("adapters.safetensors", "adapters.npz")
"""mlx-lm's, which are converted on the way in."""

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Selected:
    """One adapter of a repository: its folder there, empty at the top, and its files by name."""

    subfolder: str
    files: dict[str, Entry]

    @property
    def bytes(self) -> int:
        """The bytes of all its files."""
        return sum(entry.size for entry in self.files.values())


def adapters_of(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the folders that hold an adapter_config.json, the top first; hidden ones do not."""
    folders = [str(PurePosixPath(one.path).parent) for one in entries if _name(one) == CONFIG]
    shown = [
        one for one in folders if not any(p.startswith(".") for p in one.split("/")) or one == "."
    ]
    return tuple(sorted("" if one == "." else one for one in shown))


def choose(
    target: str, folders: tuple[str, ...], subfolder: str | None, *, every: bool
) -> tuple[str, ...]:
    """Return which of a repository's adapters are meant; all only when ``every`` says so.

    Without a word the one at the top is, else the only one. Raises HubNotFound, HubError.
    """
    if every and subfolder is None:
        return folders
    if subfolder is not None:
        wanted = subfolder.strip("/")
        if wanted in folders:
            return (wanted,)
        raise HubNotFound(target, f"there is no adapter in its folder {wanted!r}", _offer(folders))
    if "" in folders:
        return ("",)
    if len(folders) == 1:
        return folders
    raise HubError(target, f"it holds {len(folders)} adapters", _offer(folders))


def no_adapter(target: str, entries: Iterable[Entry]) -> NotAnAdapter:
    """Return the error of a repository without an adapter, which tells what it holds instead."""
    repo = target.partition("@")[0]
    names = {_name(one) for one in entries}
    loose = sorted(name for name in names if name.endswith((".safetensors", ".gguf")))
    reason, advice = f"no folder of it holds an {CONFIG}", "Look at its page on the Hub."
    if not names - {".gitattributes", "README.md"}:
        reason, advice = "the repository is empty", "Pull it once it has an adapter."
    elif any(name.startswith(("model", "pytorch_model")) for name in names):
        reason, advice = "it is a full model, not an adapter", f"A base: `hf download {repo}`."
    elif loose:
        advice = f"Fetch `hf download {repo} {loose[0]}`; `adreg add` converts that file."
    return NotAnAdapter(Path(target), reason, advice)


def select(target: str, entries: Iterable[Entry], folder: str, *, convert_pickle: bool) -> Selected:
    """Return what of a folder belongs to its adapter.

    Raises HubError for names that must not be written, HubNotFound without weights,
    PickleRefused when they are a pickle that was not asked for.
    """
    _check_names(target, entries)
    start = f"{folder}/" if folder else ""
    inside = {e.path.removeprefix(start): e for e in entries if e.path.startswith(start)}
    files = {
        name: entry
        for name, entry in inside.items()
        if any(
            fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in KEPT
        )
    }
    if WEIGHTS not in files:
        others = [name for name in _OTHER_WEIGHTS if name in inside]
        if not others and PICKLE in inside:
            if not convert_pickle:
                raise PickleRefused(
                    _shown_path(target, folder),
                    f"its weights are only there as a pickle, {PICKLE}",
                    "Pass --convert-pickle, which reads it as nothing but tensors.",
                )
            others = [PICKLE]
        if not others:
            advice = "It may be in another revision: look at its page on the Hub."
            raise HubNotFound(target, f"it has an {CONFIG} but no {WEIGHTS}", advice)
        files |= {name: inside[name] for name in others}
    _check_case(target, files)
    return Selected(folder, files)


def _check_names(target: str, entries: Iterable[Entry]) -> None:
    for entry in entries:
        parts = entry.path.split("/")
        if not entry.path.isprintable() or "\\" in entry.path or {"", ".", ".."} & {*parts}:
            advice = "Do not use this repository; tell its owner or the Hub."
            raise HubError(target, f"its file name {entry.path!r} leads out of the folder", advice)


def _check_case(target: str, names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            reason = f"its file names {other!r} and {name!r} differ in case alone"
            raise HubError(target, reason, "They are one file on some systems: ask its owner.")


def _name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]


def _offer(folders: tuple[str, ...]) -> str:
    shown = ", ".join(one or "." for one in folders[:_SHOWN])
    more = f", and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
    if not folders:
        return "Look at its page on the Hub."
    return f"Name one with --subfolder, or pass --all: {shown}{more}"


def _shown_path(target: str, folder: str) -> Path:
    return Path(target.partition("@")[0], folder)
