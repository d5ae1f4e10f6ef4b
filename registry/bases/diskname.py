"""From the names of an adapter's modules to the tensors on disk.

PEFT names modules as they stand in the model's memory, of the transformers that it was
trained with. Checkpoints may name them with another prefix (the official gpt2 files lack
``transformer.``, an adapter trained on a bare ``AutoModel`` lacks ``bert.``), and adapters
of transformers 4 have older names than its successor. One rewriting serves a whole
adapter, so that no two of its modules can be mapped by different guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from adreg.registry.bases.memory import Memory, Piece, Pieces
from adreg.registry.bases.renames import architecture as known_architecture
from adreg.registry.tensors.checkpoint import Layout

EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tokens_embed.weight",
    "shared.weight",
    "tok_embeddings.weight",
)
"""Input embeddings by their last two names, in transformers 5.23's models."""

_HEADED = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of architectures whose output head is ``lm_head``, where no table has them."""

_LANGUAGE = ("model.language_model.", "language_model.model.", "language_model.", "model.")
"""Where the text model of a vision-language model stood in transformers 4.x and 5, and where
it stands on its own; 4.52 moved it (transformers#38627)."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How one adapter's names become names on disk: drop a prefix, or put one before."""

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str:
        """Return the name on disk for a name in memory."""
        return self.add + name.removeprefix(self.drop)


def _firsts(names: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(name.partition(".")[0] for name in names).most_common(8)


@dataclass(frozen=True, slots=True)
class Naming:
    """How one adapter's names are read: by one rewriting, as names in memory or on disk.

    ``guessed`` says that neither the names nor the model's own conversions tell it;
    ``rival`` is another guess that is as good and finds other tensors.
    """

    rewrite: Callable[[str], str]
    find: Callable[[str], Pieces | None]
    guessed: bool = True
    rival: Naming | None = None

    def __call__(self, name: str) -> Pieces | None:
        """Return the tensors on disk for a name, None when there are none."""
        return self.find(self.rewrite(name))


def resolve(names: Iterable[str], pieces: Mapping[str, Pieces | None], layout: Layout) -> Naming:
    """Return the reading of an adapter's names under which most of them are in the base.

    Names in memory win a tie, then names on disk, then those that the model's own
    conversions make of older names, then a prefix dropped, added or exchanged. Two names
    that a reading takes for the same tensor count once. What it returns for a name is
    None both for a parameter that is nowhere and for one that pieces cannot express;
    ``pieces`` holds the latter.
    """
    wanted = set(names)
    best, most = Naming(str, pieces.get, guessed=False), -1
    readings = list(_readings(wanted, pieces, layout))
    for naming in readings:
        score = _score(naming, wanted, most)
        if score > most:
            best, most = naming, score
        if most == len(wanted):
            break
    if best.guessed and most > 0:
        mine = {name: best(name) for name in wanted}
        for other in readings[readings.index(best) + 1 :]:
            # A score that is not above most - 1 comes back as some number not above it.
            if _score(other, wanted, most - 1) == most and mine != {n: other(n) for n in wanted}:
                return replace(best, rival=other)
    return best


def _score(naming: Naming, names: set[str], least: int) -> int:
    """Return how many parameters a reading finds, or a number that is not above ``least``."""
    found: set[Pieces] = set()
    spare = len(names) - least
    for name in names:
        pieces = naming(name)
        before = len(found)
        if pieces:
            found.add(pieces)
        spare -= len(found) == before
        if spare <= 0:
            break
    return len(found)


def _readings(
    names: set[str], pieces: Mapping[str, Pieces | None], layout: Layout
) -> Iterable[Naming]:
    def on_disk(name: str) -> Pieces | None:
        return (Piece(name),) if name in layout else None

    rewritings: list[Callable[[str], str]] = [str]
    if isinstance(pieces, Memory):
        rewritings.append(pieces.renamed)
    rewritings += [Rewriting(drop=f"{first}.") for first, _ in _firsts(names)]
    rewritings += [Rewriting(add=f"{first}.") for first, _ in _firsts(pieces)]
    rewritings += [Rewriting(add=f"{first}.") for first, _ in _firsts(t.name for t in layout)]
    rewritings += [Exchange(old, new) for old in _LANGUAGE for new in _LANGUAGE if old != new]
    told = 2 if isinstance(pieces, Memory) else 1
    for number, rewriting in enumerate(rewritings):
        yield Naming(rewriting, pieces.get, guessed=number >= told)
        yield Naming(rewriting, on_disk, guessed=number >= told)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prefix in the place of another; names without it stay as they are."""

    old: str
    new: str

    def __call__(self, name: str) -> str:
        """Return the name with the prefix exchanged."""
        return self.new + name.removeprefix(self.old) if name.startswith(self.old) else name


def find_embedding(layout: Layout, memory: Memory | None = None) -> str | None:
    """Return the name on disk of the input embedding, if just one tensor can be it.

    With ``memory`` it is that of the architecture, where transformers 5.23 has it.
    """
    if memory is not None and memory.kind and memory.kind.embedding:
        name = _one(memory, memory.kind.embedding)
        if name is not None:
            return name
    for ending in EMBEDDINGS:
        found = [t.name for t in layout if t.name == ending or t.name.endswith("." + ending)]
        if len(found) == 1:
            return found[0]
    return None


def head_name(architecture: str | None) -> str | None:
    """Return the name in memory of an architecture's output head, None without one."""
    known = known_architecture(architecture)
    if known is not None:
        return known.head
    if architecture is not None and architecture.endswith(_HEADED):
        return "lm_head.weight"
    return None


def find_head(memory: Memory, architecture: str | None) -> str | None:
    """Return the name on disk of the output head, None when the checkpoint does not hold it."""
    name = head_name(architecture)
    return None if name is None else _one(memory, name)


def _one(memory: Memory, name: str) -> str | None:
    found = memory.get(name)
    return found[0].name if found and len(found) == 1 else None
