"""PEFT's own folder, with its weights as a pickle: adapter_model.bin."""

from __future__ import annotations

from pathlib import Path

from adreg.registry.adapters.files import CONFIG, PICKLE
from adreg.registry.adapters.foreign.form import Converted, check_floats, copied
from adreg.registry.errors import AdapterRefused
from adreg.registry.tensors.header import TensorFile


def convert(folder: Path, file: TensorFile) -> Converted:
    """Return the same configuration and the same tensors, bit for bit, under the same names.

    Names of raw dumps (``.lora_A.default.weight``) stay: ``keys.read_key`` knows them.
    Raises AdapterRefused when the configuration cannot be read or a tensor holds no floats.
    """
    try:
        config = (folder / CONFIG).read_bytes()
    except OSError as error:
        reason = f"{CONFIG!r} cannot be read: {error.strerror}"
        raise AdapterRefused(folder, (reason,), "Make it readable and try again.") from error
    check_floats(folder, file.tensors)
    tensors = {info.name: copied(file, info) for info in file.tensors}
    how = f"the pickle {PICKLE}"
    return Converted(config, tensors, how, folder, frozenset({CONFIG, PICKLE}))
