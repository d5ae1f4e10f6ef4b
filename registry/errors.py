"""Every error that leaves adreg, each with its facts as attributes.

    AdregError
    ├── NameRefused            a name, alias, tag or reference that the grammar forbids
    ├── NotFound               a reference that the catalog does not know
    ├── AlreadyExists          a name that is taken
    ├── InUse                  something that a model was built from
    ├── InputRefused           a file or folder that cannot be taken in
    │   ├── NotAnAdapter       no PEFT adapter in this folder
    │   ├── PickleRefused      a pickle that is not asked for, or asks for more than tensors
    │   ├── TensorFileBroken   a file of tensors that lies or is cut short
    │   ├── JsonBroken         a JSON file that cannot be read as what it should be
    │   ├── AdapterRefused     an adapter whose configuration and tensors disagree
    │   ├── BaseRefused        a folder that is no usable base checkpoint
    │   └── RecipeRefused      a recipe file with a mistake in it
    ├── Incompatible           an adapter that does not fit a base
    ├── MergeRefused           a merge that would be wrong, refused before a byte is written
    ├── AdapterNotMade         an adapter that cannot be made of what was given
    ├── OutputRefused          a place that must not be written to
    ├── WriteFailed            the disk said no
    │   └── DiskFull
    ├── LicenceUnknown         a release whose licences are not known
    ├── Damaged                stored bytes that are not what was recorded
    ├── LockBroken             a lock file that cannot be rebuilt from
    ├── NotReproduced          a rebuild whose bytes differ from the lock file
    ├── NotProven              a merged model that does not answer as base and adapters do
    ├── CatalogError           the catalog cannot be used
    │   └── CatalogTooNew      it was written by a newer adreg
    └── MissingPackage         an optional package is needed

``str(error)`` is one line that says what is wrong and with what; ``error.hint``
is one line that says what to do. Nobody matches on the text: the facts are
attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class AdregError(Exception):
    """The base of every error that adreg raises on purpose."""

    @property
    def sentence(self) -> str:
        """What is wrong, and with what; one line."""
        raise TypeError(type(self).__name__)

    @property
    def hint(self) -> str:
        """What to do next; one line, empty when there is nothing to advise."""
        return ""

    def __str__(self) -> str:
        """The sentence, so that a traceback reads like the command line."""
        return self.sentence

    def facts(self) -> dict[str, Any]:
        """The facts by name, as plain JSON values."""
        facts: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]  # every concrete error is a dataclass
            value = getattr(self, field.name)
            facts[field.name] = str(value) if isinstance(value, Path) else value
        return facts


def _several(reasons: tuple[str, ...], shown: int = 5) -> str:
    rest = len(reasons) - shown
    text = "; ".join(reasons[:shown])
    return f"{text}; and {rest} more" if rest > 0 else text


@dataclass(eq=False)
class NameRefused(AdregError):
    """A name, alias, tag or reference that the grammar forbids."""

    what: str
    text: str
    reason: str

    @property
    def sentence(self) -> str:
        """Say which name and which rule."""
        return f"{self.what} {self.text!r} is not allowed: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what is allowed."""
        if self.what == "the weight":
            return "Write it as REF=0.5."
        return "Use letters, digits, '.', '_' and '-', starting with a letter or digit."


@dataclass(eq=False)
class NotFound(AdregError):
    """Something the catalog does not know; ``close`` holds the nearest known names."""

    what: str
    text: str
    close: tuple[str, ...] = ()
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say what was looked for."""
        return f"there is no {self.what} {self.text!r}"

    @property
    def hint(self) -> str:
        """Offer the nearest names."""
        if self.close:
            return "Did you mean " + " or ".join(repr(name) for name in self.close) + "?"
        return self.advice


@dataclass(eq=False)
class AlreadyExists(AdregError):
    """A name that is taken by something else."""

    what: str
    text: str
    advice: str = "Choose another name."

    @property
    def sentence(self) -> str:
        """Say what is taken."""
        return f"the {self.what} {self.text!r} exists already"

    @property
    def hint(self) -> str:
        """Say how to go on."""
        return self.advice


@dataclass(eq=False)
class InUse(AdregError):
    """Something cannot go because models were built from it."""

    text: str
    users: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the models that hold it."""
        return f"{self.text} is in use by {_several(self.users)}"

    @property
    def hint(self) -> str:
        """Say how to force it."""
        return "Remove those first, or pass --force: then they can no longer be rebuilt from here."


@dataclass(eq=False)
class InputRefused(AdregError):
    """A file or folder that cannot be taken in."""

    path: Path
    reason: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say which path and why."""
        return f"{self.path}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class NotAnAdapter(InputRefused):
    """No PEFT adapter in this folder."""


@dataclass(eq=False)
class PickleRefused(InputRefused):
    """A pickle of weights that may not be read, or that asks for more than tensors."""


@dataclass(eq=False)
class TensorFileBroken(InputRefused):
    """A file of tensors that lies about itself, is cut short, or is something else."""


@dataclass(eq=False)
class JsonBroken(InputRefused):
    """A JSON file that cannot be read as what it should be."""


@dataclass(eq=False)
class AdapterRefused(AdregError):
    """An adapter whose configuration and tensors disagree; all the reasons at once."""

    path: Path
    reasons: tuple[str, ...]
    advice: str = "Save the adapter again with save_pretrained, and add that folder."

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"{self.path}: {_several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class BaseRefused(InputRefused):
    """A folder that is no usable base checkpoint."""


@dataclass(eq=False)
class RecipeRefused(InputRefused):
    """A recipe file with a mistake in it; ``line`` counts from 1, None where it cannot be told."""

    advice: str = "`adreg merge --help` shows a recipe, docs/recipes.md all that it can say."
    line: int | None = None

    @property
    def sentence(self) -> str:
        """Say which file, which line and why."""
        place = str(self.path) if self.line is None else f"{self.path}, line {self.line}"
        return f"{place}: {self.reason}"


@dataclass(eq=False)
class Incompatible(AdregError):
    """An adapter that does not fit a base; the first offending tensors are named."""

    adapter: str
    base: str
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the first offending tensors."""
        return f"{self.adapter} does not fit {self.base}: {_several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Point at the base that the adapter was made for."""
        return "Pass the base that it was trained on with --base; `adreg show` names it."


@dataclass(eq=False)
class MergeRefused(AdregError):
    """A merge that would be wrong or do nothing."""

    reasons: tuple[str, ...]
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"not merged: {_several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class AdapterNotMade(AdregError):
    """An adapter that cannot be made of what was given, refused before a byte is written."""

    reasons: tuple[str, ...]
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Name the first reasons."""
        return f"no adapter was made: {_several(self.reasons)}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class OutputRefused(AdregError):
    """A place that must not be written to."""

    path: Path
    reason: str
    advice: str = "Name a folder that does not exist yet."

    @property
    def sentence(self) -> str:
        """Say which place and why."""
        return f"cannot write to {self.path}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say where to write instead."""
        return self.advice


@dataclass(eq=False)
class WriteFailed(AdregError):
    """The operating system refused a write; nothing was published."""

    path: Path
    reason: str

    @property
    def sentence(self) -> str:
        """Say where and what the system said."""
        return f"writing {self.path} failed: {self.reason}"

    @property
    def hint(self) -> str:
        """Say that nothing is half done."""
        return (
            "Nothing was recorded and nothing half-written is left; mend the cause and try again."
        )


@dataclass(eq=False)
class DiskFull(WriteFailed):
    """There is not enough room; sizes in bytes, -1 where unknown."""

    needed: int = -1
    free: int = -1

    @property
    def hint(self) -> str:
        """Say how much room is needed."""
        if self.needed < 0:
            return "Make room on that disk and try again; nothing half-written is left."
        return (
            f"{self.needed:,} bytes are needed and {self.free:,} are free:"
            " make room, or choose another disk with -o."
        )


@dataclass(eq=False)
class LicenceUnknown(AdregError):
    """A release needs the licences of its parts, and some are not known."""

    parts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the parts without a licence."""
        return f"no licence is known for {_several(self.parts)}"

    @property
    def hint(self) -> str:
        """Say how to give one or go on without."""
        return "Give it with --license, or pass --allow-unknown-license to release all the same."


@dataclass(eq=False)
class Damaged(AdregError):
    """Stored bytes that are not what was recorded; one line a fault."""

    faults: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Name the first faults."""
        return f"damage found: {_several(self.faults)}"

    @property
    def hint(self) -> str:
        """Say how to get the bytes again."""
        return "Add the adapter again from its source, or rebuild the model from its lock file."


@dataclass(eq=False)
class LockBroken(InputRefused):
    """A lock file that cannot be rebuilt from."""


@dataclass(eq=False)
class NotReproduced(AdregError):
    """A rebuild whose bytes differ from what the lock file promises."""

    files: tuple[str, ...]
    cause: str

    @property
    def sentence(self) -> str:
        """Name the files that differ."""
        return f"the rebuild differs from the lock file in {_several(self.files)}"

    @property
    def hint(self) -> str:
        """Name the likely cause."""
        return self.cause


@dataclass(eq=False)
class NotProven(AdregError):
    """A merged model that does not answer as its base with the adapters does.

    ``verdict`` is "differs", "lost" or "nothing".
    """

    model: str
    verdict: str
    reason: str
    advice: str

    @property
    def sentence(self) -> str:
        """Say which model and what is wrong with it."""
        return f"{self.model}: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class CatalogError(AdregError):
    """The catalog cannot be used; ``where`` is its file or URL, without a password."""

    where: str
    reason: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Say which catalog and why."""
        return f"the catalog {self.where} cannot be used: {self.reason}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        return self.advice


@dataclass(eq=False)
class CatalogTooNew(CatalogError):
    """The catalog was written by a newer adreg; it is left untouched."""


@dataclass(eq=False)
class MissingPackage(AdregError):
    """A package is needed that is not installed."""

    package: str
    purpose: str

    @property
    def sentence(self) -> str:
        """Say what needs it."""
        return f"{self.purpose} needs the package {self.package}"

    @property
    def hint(self) -> str:
        """Say how to install it."""
        return f"pip install {self.package}"
