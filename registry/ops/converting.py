"""From a path that a user names to a PEFT folder: foreign formats are converted on the way in."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adreg.registry.adapters.files import CONFIG, WEIGHTS, sort_files
from adreg.registry.adapters.foreign import door
from adreg.registry.adapters.foreign.form import BaseView, Converted, Made, Said, check_unused
from adreg.registry.bases.base import Base
from adreg.registry.durable import FileWriter, Staging, copy_file, require_space, write_error
from adreg.registry.errors import AdapterRefused, InputRefused
from adreg.registry.ops.context import Context
from adreg.registry.tensors.arrays import NUMPY, TensorReader
from adreg.registry.tensors.encode import Entry, encode_header


@dataclass(frozen=True, slots=True)
class Incoming:
    """An adapter on its way in: ``folder`` holds PEFT's form, ``origin`` is what was named.

    ``converted`` says what it was, None when PEFT wrote it. ``left_out`` are files of the
    origin that did not come along, each with the reason.
    """

    origin: Path
    folder: Path
    converted: str | None = None
    remarks: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


@contextmanager
def incoming(context: Context, path: Path, said: Said, *, dry_run: bool) -> Iterator[Incoming]:
    """Give the PEFT folder of what lies at ``path``, converted first if need be.

    A converted folder is the same bytes each time, lies in the store's staging place (a
    dry run's in the system's), and goes away at the end. Raises what ``door.convert``
    does, AdapterRefused for wishes that mean nothing here, WriteFailed, DiskFull. What
    the body raises of the converted folder is raised of ``path``.
    """
    if said.alpha is not None and (said.alpha == 0 or not math.isfinite(said.alpha)):
        reason = f"--alpha is {said.alpha:g}, which makes no scale"
        raise AdapterRefused(path, (reason,), "Give the lora_alpha of the training.")
    converted = door.convert(path, said)
    if converted is None:
        check_unused(path, said, "--alpha", "--component")
        yield Incoming(path, path)
        return
    with ExitStack() as stack:
        folder = _place(context, stack, dry_run=dry_run)
        left_out = _write(context, path, converted, folder)
        how, remarks = converted.how, converted.remarks
        try:
            yield Incoming(path, folder, how, remarks, left_out)
        except (InputRefused, AdapterRefused) as error:
            if not error.path.is_relative_to(folder):
                raise
            raise replace(error, path=path) from error


def view_of(base: Base | None) -> BaseView | None:
    """Return what the formats may know of a base."""
    if base is None:
        return None
    return BaseView(base.config, {info.name: info.shape for info in base.layout})


def _place(context: Context, stack: ExitStack, *, dry_run: bool) -> Path:
    if dry_run:
        try:
            made = tempfile.TemporaryDirectory(prefix="adreg-")
        except OSError as error:
            raise write_error(Path(tempfile.gettempdir()), error) from error
        return Path(stack.enter_context(made))
    # Never published; that of a killed process goes with the store's own leftovers.
    staging = Staging(context.store.root / "staging" / "converted")
    return stack.enter_context(staging).folder


def _write(
    context: Context, path: Path, converted: Converted, folder: Path
) -> tuple[tuple[str, str], ...]:
    """Write the PEFT folder; return the files of the origin that are left out."""
    beside: Mapping[str, Path] = {}
    left_out: list[tuple[str, str]] = []
    if converted.folder is not None:
        files = _sort(converted.folder, path)
        own = {CONFIG, WEIGHTS} | converted.used
        beside = {name: file for name, file in files[0].items() if name not in own}
        left_out = [one for one in files[1] if one[0] not in converted.used]
        left_out += [
            (name, "not what was converted")
            for name in sorted({CONFIG, WEIGHTS} & files[0].keys() - converted.used)
        ]
    _write_weights(context, path, converted.tensors, folder / WEIGHTS)
    with FileWriter(folder / CONFIG) as writer:
        writer.write(converted.config)
    for name, file in sorted(beside.items()):
        target = folder / name
        try:
            target.parent.mkdir(exist_ok=True)
            copy_file(file, target, name)
        except OSError as error:
            reason = f"{name!r} cannot be read: {error.strerror}"
            raise AdapterRefused(path, (reason,), "Make it readable and try again.") from error
    return tuple(left_out)


def _sort(folder: Path, path: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    try:
        files = sort_files(folder)
    except OSError as error:
        raise InputRefused(folder, error.strerror or str(error)) from error
    if files.reasons:
        advice = "Copy the files themselves into the folder."
        raise AdapterRefused(path, tuple(files.reasons), advice)
    return files.kept, files.left_out


def _write_weights(context: Context, path: Path, tensors: Mapping[str, Made], target: Path) -> None:
    """Write a safetensors file, the wider types first so that all begin at their alignment."""
    entries = sorted(
        (Entry(name, made.dtype, made.shape) for name, made in tensors.items()),
        key=lambda entry: (-_width(entry.dtype), entry.name),
    )
    total = sum(entry.nbytes for entry in entries)
    require_space(target.parent, total)
    context.progress.start(f"Converting {path.name}", total)
    try:
        with TensorReader() as reader, FileWriter(target) as writer:
            writer.write(encode_header(entries, {"format": "pt"}))
            for entry in entries:
                begin = writer.size
                for block in tensors[entry.name].blocks(reader):
                    data = np.ascontiguousarray(block).view(np.uint8).data
                    writer.write(data)
                    context.progress.advance(len(data))
                if writer.size - begin != entry.nbytes:
                    raise AssertionError(entry.name)  # a fault of the format's own code
    finally:
        context.progress.finish()


def _width(dtype: str) -> int:
    known = NUMPY.get(dtype)
    return 0 if known is None else known.itemsize
