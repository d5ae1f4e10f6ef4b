"""The tables in docs/ that are made of the code, of the tests and of the installed PEFT.

``python tests/docs_tables.py`` writes them anew, each between ``<!-- NAME: ... -->`` and
``<!-- end -->``; tests/docs compares. Only the words about a kind or a setting stand here.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import architectures
from peft import LoraConfig
from peft.utils import PeftType

from adreg.registry.adapters import products
from adreg.registry.adapters.refusals import INITIALISATIONS, SETTINGS
from adreg.registry.adapters.tuners import LORA, NATIVE, REFUSED, refused_type, tuner_of, variants
from adreg.registry.merge.algebra import combine, mixing
from adreg.registry.merge.deltas.through_peft import SHARED
from adreg.registry.merge.methods.method import METHODS, MethodInfo, Value

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"

FORMULAS: Mapping[str, str] = {
    "LORA": "W + s B A, s = alpha/r, or alpha/√r (rsLoRA); DoRA scales the outcome's rows",
    "ADALORA": "W + s P diag(E) Q, s = alpha/(init_r + 10⁻⁵)",
    "LOHA": "W + s (B₁ A₁) ∘ (B₂ A₂), s = alpha/r",
    "LOKR": "W + s W₁ ⊗ W₂, each whole or a product, s = alpha/r",
    "IA3": "rows of W and of the bias times l, or columns of W in feed-forward modules",
    "LN_TUNING": "norms taken whole from the adapter",
    "TRAINABLE_TOKENS": "the trained rows of an embedding, and of a head tied to it",
}
"""What kinds that adreg computes itself do to a weight."""

UNDERSTOOD: Mapping[str, str] = {
    "r": "the rank; 8 where it is missing",
    "lora_alpha": "the scale, alpha/r; 8 where it is missing",
    "rank_pattern": "the rank of single modules; the first pattern that matches counts, as in PEFT",
    "alpha_pattern": "the alpha of single modules, likewise",
    "use_rslora": "the scale is alpha/√r, with each module's own r and alpha",
    "use_dora": "DoRA: of linear layers, Conv1D, embeddings and convolutions",
    "lora_bias": "a bias of B, added to the layer's",
    "bias": "`all` and `lora_only`: trained biases take the place of the base's",
    "modules_to_save": "taken whole from the adapter; a head that the base lacks is added",
    "trainable_token_indices": "single rows of an embedding; both sides of a tie",
    "ensure_weight_tying": "on a tied base the one delta goes to both sides of the tie, once",
    "target_parameters": "fused experts, one parameter of a module or several",
    "layer_replication": "a deeper model is written, each copy of a layer with its own delta",
    "fan_in_fan_out": "not believed: whether W is (in, out) is told by the base",
    "init_lora_weights": "see below",
}
"""Settings of LoRA that adreg understands itself, unless ``SETTINGS`` refuses them."""

NOTHING_TO_MERGE = (
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
)
"""Settings that choose modules (which the tensors' names tell), name things, or are over when
training begins."""

ON_THE_WAY_IN: Mapping[str, str] = {
    "enable_lora": "PEFT 0.1's merged linear layers: an ordinary LoRA is made of them",
}
"""Settings that PEFT has no more, of adapters that are converted when they are added."""

INITIAL: Mapping[str, str] = {
    "true, false, gaussian, orthogonal, eva, mica": "LoRA's own tensors alone: an ordinary LoRA",
    "pissa, olora": "a part of W, computed from W alone, is taken away at load: of linear layers"
    " and Conv1D; decomposed again in float64, in blocks",
}
"""What initialisations that are merged do."""


def kinds() -> list[str]:
    """Return the kinds of adapter that the installed PEFT has, and those that it had."""
    return sorted({str(kind.value) for kind in PeftType} | set(REFUSED))


@cache
def module_of(path: str) -> ModuleType:
    """Import a file of tests, for the cases that it has."""
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_cases", TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tuner_cases() -> dict[str, list[str]]:
    """Return the cases that are compared with PEFT's merge, by kind."""
    cases: Any = module_of("merge/test_tuners.py")
    plain = {"LN_TUNING": "norms", "TRAINABLE_TOKENS": "an embedding"}
    found = {kind: [plain.get(kind, "linear layers")] for kind in cases.KINDS}
    for name, (kind, _, _) in cases.LAYERS.items():
        found.setdefault(kind, []).append(name)
    more: Any = module_of("merge/test_against_peft.py")
    found.setdefault(LORA, []).append(f"{len(more.CASES)} more layers and settings")
    return found


def native_kinds() -> str:
    """Return the table of kinds that adreg computes itself."""
    rows = []
    for kind in (kind for kind in kinds() if kind in NATIVE):
        partly = kind in products._SETS  # what ``is_native`` asks
        others = "PEFT's layer" if partly else "-"
        if kind == LORA:
            others = "PEFT's layer for variants"
        rows.append((f"`{kind}`", FORMULAS[kind], others, _cases(kind)))
    return _table(("kind", "what it makes of W", "other layers", "compared with PEFT"), rows)


def peft_kinds() -> str:
    """Return the table of kinds that PEFT's layer merges."""
    rows = []
    for kind in (kind for kind in kinds() if kind not in NATIVE and kind not in REFUSED):
        notes = ["modules share tensors"] * (kind in SHARED)
        if reason := refused_type({"peft_type": kind}):
            notes.append(f"some are refused: {reason}")
        rows.append((f"`{kind}`", "; ".join(notes) or "-", _cases(kind)))
    return _table(("kind", "remarks", "compared with PEFT"), rows)


def refused_kinds() -> str:
    """Return the table of kinds that are refused, with why."""
    rows = [(f"`{kind}`", REFUSED[kind]) for kind in kinds() if kind in REFUSED]
    return _table(("kind", "why"), rows)


def lora_settings() -> str:
    """Return the table of LoRA's settings: each field of LoraConfig, and old ones."""
    understood = {name: UNDERSTOOD[name] for name in UNDERSTOOD if name not in SETTINGS}
    rows = [(f"`{name}`", "adreg", words) for name, words in understood.items()]
    rows += [(f"`{name}`", "adreg", words) for name, words in ON_THE_WAY_IN.items()]
    for name in sorted(filter(through_peft, LoraConfig.__dataclass_fields__)):
        rows.append((f"`{name}`", "PEFT's layer", variants({name: {}})[0]))
    refused = sorted(set(SETTINGS) - set(ON_THE_WAY_IN))
    rows += [(f"`{name}`", "refused", SETTINGS[name]) for name in refused]
    nothing = ", ".join(f"`{name}`" for name in NOTHING_TO_MERGE)
    rows.append((nothing, "-", "nothing to merge"))
    return _table(("setting", "merged by", "what it is"), rows)


def initialisations() -> str:
    """Return the table of values of init_lora_weights."""
    rows = []
    for names, words in INITIAL.items():
        first = names.split(", ")[-1]
        peft = tuner_of({"peft_type": "LORA", "init_lora_weights": first}).through_peft
        values = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append((values, "PEFT's layer" if peft else "adreg", words))
    for name, reason in INITIALISATIONS.items():
        shown = name + "N" * name.endswith("_")
        rows.append((f"`{shown}`", "refused", f"it {reason}"))
    return _table(("`init_lora_weights`", "merged by", "what it changes"), rows)


def through_peft(setting: str) -> bool:
    """Whether PEFT's layer merges a LoRA that has a setting."""
    return setting not in SETTINGS and bool(variants({setting: {}}))


def methods_on_deltas() -> str:
    """Return the table of methods on full deltas."""
    rows = [
        (
            f"`{name}`",
            info.summary + _remark(info),
            _count(info.inputs),
            _parameters(info.parameters),
            flavour(name, info),
            info.source,
        )
        for name, info in METHODS.items()
    ]
    return _table(("method", "what it is", "inputs", "parameters", "flavour", "source"), rows)


def flavour(name: str, info: MethodInfo) -> str:
    """Return whose arithmetic a method on deltas is."""
    if name.startswith("peft_"):
        return "PEFT"
    return "mergekit" if "mergekit" in info.source else "the plain sum"


def methods_on_factors() -> str:
    """Return the table of methods that make one adapter."""
    rows = []
    for name in combine.METHODS:
        short = name.removeprefix("factors_").removeprefix("peft_").removesuffix("_svd")
        mix = mixing.MIXES.get(short)
        takes = [] if name == "cat" or name.startswith("factors_") else ["rank", "energy"]
        if mix is not None:
            takes += ["**density**"] * (mix.pruning != "none")
            takes += ["seed"] * (mix.pruning == "random")
            takes += ["sign"] * mix.elects
        theirs = name.removeprefix("factors_").removeprefix("peft_")
        acts = "A and B apart" if name.startswith("factors_") else "the deltas"
        exact = {"cat": "exactly their sum", "svd": "the sum cut to a rank"}.get(
            name, "no sum of deltas" if name.startswith("factors_") else "cut to a rank"
        )
        shown = ", ".join(_code(one) for one in takes) or "-"
        peft = "`svd`, `linear_svd`" if name == "svd" else f"`{theirs}`"
        rows.append((f"`{name}`", peft, acts, exact, shown))
    head = ("method", "PEFT's `combination_type`", "acts on", "the outcome is", "parameters")
    return _table(head, rows)


def kinds_of_bases() -> str:
    """Return the list of model classes that are merged and compared with PEFT's merge."""
    kinds = architectures.KINDS.values()
    listed = ", ".join(sorted({f"`{kind.architecture}`" for kind in kinds}))
    return textwrap.fill(f"{listed}.", 100, break_on_hyphens=False) + "\n"


BLOCKS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "native kinds": ("tuners.md", native_kinds),
    "kinds through PEFT": ("tuners.md", peft_kinds),
    "refused kinds": ("tuners.md", refused_kinds),
    "settings of LoRA": ("tuners.md", lora_settings),
    "initialisations": ("tuners.md", initialisations),
    "architectures": ("bases.md", kinds_of_bases),
    "methods on deltas": ("methods.md", methods_on_deltas),
    "methods on factors": ("methods.md", methods_on_factors),
}
"""Each block by the name in its marker: the file in docs/, and what writes it."""


def rewritten(text: str, name: str, block: str) -> str:
    """Return a document with one block in place of what stood between its markers."""
    before, found, rest = text.partition(f"<!-- {name}: ")
    marker, closed, rest = rest.partition("-->\n")
    _, ended, after = rest.partition("<!-- end -->")
    if not (found and closed and ended):
        raise ValueError(f"the document has no block {name!r}")
    return f"{before}{found}{marker}{closed}\n{block}\n{ended}{after}"


def main() -> None:
    """Write all blocks anew."""
    for name, (file, make) in BLOCKS.items():
        path = DOCS / file
        path.write_text(rewritten(path.read_text(), name, make()))
        sys.stdout.write(f"{path.name}: {name}\n")


def _cases(kind: str) -> str:
    return "; ".join(tuner_cases().get(kind, ())) or "-"


def _code(name: str) -> str:
    """Return a parameter's name as code; bold stays around it."""
    return f"**`{name.strip('*')}`**" if name.startswith("*") else f"`{name}`"


def _remark(info: MethodInfo) -> str:
    return "; W takes part" * info.uses_base


def _count(inputs: tuple[int, int | None]) -> str:
    least, most = inputs
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _parameters(parameters: Mapping[str, Value | None]) -> str:
    def one(name: str, default: Value | None) -> str:
        if default is None:
            return _code(f"**{name}**")
        shown = str(default).lower() if isinstance(default, bool) else default
        return f"`{name}` {shown}"

    return ", ".join(one(*item) for item in parameters.items()) or "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
