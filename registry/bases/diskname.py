"""From the names of modules in memory to the names of tensors on disk.

PEFT names modules as they stand in the model's memory. Checkpoints may name them with
another prefix: the official gpt2 files lack ``transformer.``, and an adapter trained on
a bare ``AutoModel`` lacks ``bert.``. One rewriting serves a whole adapter, so that no
two of its modules can be mapped by different guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from adreg.registry.tensors.checkpoint import Layout

_EMBEDDINGS = (
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
"""Ends of architectures whose output head is ``lm_head``."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How one adapter's names become names on disk: drop a prefix, or put one before."""

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str:
        """Return the name on disk for a name in memory."""
        return self.add + name.removeprefix(self.drop)


def find_rewriting(names: Iterable[str], layout: Layout) -> Rewriting:
    """Return the rewriting under which most of an adapter's names are in the layout.

    The plain one wins a tie; names that no rewriting finds stay as they are.
    """
    wanted = set(names)
    plain = Rewriting()
    tried = [plain]
    tried += [Rewriting(drop=f"{first}.") for first, _ in _firsts(wanted)]
    tried += [Rewriting(add=f"{first}.") for first, _ in _firsts(t.name for t in layout)]
    scores = [sum(rewriting(name) in layout for name in wanted) for rewriting in tried]
    return tried[scores.index(max(scores))]


def _firsts(names: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(name.partition(".")[0] for name in names).most_common(8)


def find_embedding(layout: Layout) -> str | None:
    """Return the name of the input embedding, if just one tensor can be it."""
    for ending in _EMBEDDINGS:
        found = [t.name for t in layout if t.name == ending or t.name.endswith("." + ending)]
        if len(found) == 1:
            return found[0]
    return None


def head_name(architecture: str | None) -> str | None:
    """Return the name of the output head of an architecture that has one, else None."""
    if architecture is not None and architecture.endswith(_HEADED):
        return "lm_head.weight"
    return None
