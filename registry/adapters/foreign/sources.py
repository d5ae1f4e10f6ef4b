"""Opening a file of tensors, whatever it was saved with; no pickle unless the user said so."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.adapters.foreign.npz import read_npz
from adreg.registry.errors import AdapterRefused, PickleRefused
from adreg.registry.tensors.header import TensorFile, read_header
from adreg.registry.tensors.pickles import read_pickle

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""How files that torch.save wrote end."""

SUFFIXES = (".safetensors", ".npz", *PICKLES)

_ADVICE = (
    "Pass --convert-pickle to read it with a reader that can build nothing but tensors,"
    " and to store it as safetensors."
)


def open_tensors(path: Path, *, convert_pickle: bool) -> TensorFile:
    """Return where the tensors of a file lie.

    Raises PickleRefused for a pickle unless ``convert_pickle``, AdapterRefused when it
    holds none, TensorFileBroken.
    """
    if path.suffix == ".npz":
        file = read_npz(path)
    elif path.suffix in PICKLES:
        if not convert_pickle:
            reason = "its weights are only there as a pickle, which could run code"
            raise PickleRefused(path, reason, _ADVICE)
        file = read_pickle(path)
    else:
        file = read_header(path)
    if not file.tensors:
        reason = "its weights file holds no tensors: the training run saved an empty adapter"
        raise AdapterRefused(path, (reason,), "Train or fetch the adapter again.")
    return file
