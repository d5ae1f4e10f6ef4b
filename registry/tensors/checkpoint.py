"""The tensors of a folder: one file of safetensors or torch.save, or shards with an index.

The index's ``weight_map`` is checked in both directions: each shard holds what the
index says, no more and no less; its values are plain file names in the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adreg.registry import digest, jsonio
from adreg.registry.errors import TensorFileBroken
from adreg.registry.names import collisions, file_fault
from adreg.registry.opening import is_hollow, open_regular
from adreg.registry.tensors.header import TensorFile, TensorInfo, read_header
from adreg.registry.tensors.pickles import read_pickle

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
CHECKPOINTS = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
"""Names of which a checkpoint's folder holds at least one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a checkpoint's headers say: its files in order, its tensors by name."""

    files: tuple[TensorFile, ...]
    places: Mapping[str, tuple[TensorFile, TensorInfo]] = field(repr=False)

    @classmethod
    def of(cls, files: tuple[TensorFile, ...]) -> Layout:
        """Put files together; raise TensorFileBroken when two hold the same name."""
        places: dict[str, tuple[TensorFile, TensorInfo]] = {}
        for file in files:
            for tensor in file.tensors:
                if tensor.name in places:
                    other = places[tensor.name][0].path.name
                    raise TensorFileBroken(file.path, f"{tensor.name!r} stands in {other} too")
                places[tensor.name] = (file, tensor)
        return cls(files, places)

    def __contains__(self, name: object) -> bool:
        """Whether a tensor of this name is there."""
        return name in self.places

    def __getitem__(self, name: str) -> TensorInfo:
        """Return the tensor of this name; raise KeyError."""
        return self.places[name][1]

    def __iter__(self) -> Iterator[TensorInfo]:
        """Give the tensors in the order of their bytes, file by file."""
        for file in self.files:
            yield from file.tensors

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self)

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors."""
        return sum(tensor.count for tensor in self)

    def digest(self) -> str:
        """Return the layout digest: of the sorted names, dtypes and shapes, whatever the shards."""
        return digest.of_value(sorted([t.name, t.dtype, list(t.shape)] for t in self))


def read_layout(folder: Path, sizes: Mapping[str, int] | None = None) -> Layout:
    """Read the headers of a checkpoint folder; raise TensorFileBroken or JsonBroken.

    ``sizes`` are those of the whole files, by name, of which only the headers are there.
    Files of torch.save are read where there are no safetensors, as transformers 5.23 does,
    and by ``read_pickle``, which also raises PickleRefused. A missing checkpoint is
    TensorFileBroken too, with the name of the file that was looked for.
    """
    sizes = {} if sizes is None else sizes
    index = index_of(folder)
    if index is None:
        pickled = not (folder / SINGLE).exists() and (folder / PICKLED).exists()
        return Layout.of((_read(folder / (PICKLED if pickled else SINGLE), sizes),))
    weight_map = jsonio.read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise TensorFileBroken(index, "it has no weight_map")
    shards: dict[str, set[str]] = {}
    suffix = ".safetensors" if index.name == INDEX else ".bin"
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _plain(file, suffix):
            raise TensorFileBroken(index, f"the shard name {file!r} is not a plain file name")
        shards.setdefault(file, set()).add(name)
    for one, other in collisions(shards):
        reason = f"the shards {one!r} and {other!r} are one file on macOS and Windows"
        raise TensorFileBroken(index, reason)
    layout = Layout.of(tuple(_read(folder / file, sizes) for file in sorted(shards)))
    for file in layout.files:
        _compare(index, file, shards[file.path.name])
    return layout


def index_of(folder: Path) -> Path | None:
    """Return the index that ``read_layout`` reads, None where it reads a single file."""
    if (folder / INDEX).exists():
        return folder / INDEX
    if any((folder / name).exists() for name in (SINGLE, PICKLED)):
        return None
    return folder / PICKLED_INDEX if (folder / PICKLED_INDEX).exists() else None


def _read(path: Path, sizes: Mapping[str, int]) -> TensorFile:
    if path.suffix != ".bin":
        return read_header(path, sizes.get(path.name))
    try:
        with open_regular(path) as file:
            hollow = is_hollow(file.fileno())
    except OSError as error:
        raise TensorFileBroken(path, error.strerror or str(error)) from error
    if hollow:
        raise TensorFileBroken(path, "hardly any of its bytes are there: it has holes")
    return read_pickle(path)


def _plain(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and not name.startswith(".") and file_fault(name) is None


def _compare(index: Path, file: TensorFile, promised: set[str]) -> None:
    held = {tensor.name for tensor in file.tensors}
    if missing := sorted(promised - held):
        raise TensorFileBroken(index, f"{file.path.name} does not hold {missing[0]!r}")
    if extra := sorted(held - promised):
        raise TensorFileBroken(
            index, f"{file.path.name} holds {extra[0]!r}, which it does not name"
        )
