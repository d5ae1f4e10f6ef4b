"""A merged checkpoint's folder: weights and index, configuration, tokenizer, templates, card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from adreg.registry.adapters.spec import AdapterSpec
from adreg.registry.bases.base import CONFIG, Base
from adreg.registry.bases.replicated import deepened
from adreg.registry.digest import FileDigest
from adreg.registry.durable import FileWriter, Staging, copy_file
from adreg.registry.errors import InputRefused, MergeRefused
from adreg.registry.merge.config import merged_config
from adreg.registry.merge.journal import Journal
from adreg.registry.merge.plan import Plan
from adreg.registry.merge.report import REPORT, total
from adreg.registry.merge.run import Engine, MergeReport, local, run
from adreg.registry.merge.shards import check_modules
from adreg.registry.progress import SILENT, Progress
from adreg.registry.tensors.checkpoint import INDEX

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "additional_chat_templates/*",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
)
"""Files of a tokenizer and its templates, as an adapter may bring them along."""


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file that is taken over as it is: its name, and where it lies."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Written:
    """All files of a merged checkpoint, and what the merge did."""

    files: tuple[FileDigest, ...]
    report: MergeReport


def side_files(base: Base, specs: Sequence[AdapterSpec], tokenizer: str) -> tuple[SideFile, ...]:
    """Choose the files that are taken over: the base's, and the adapters' tokenizer over them.

    An adapter was trained with the tokenizer that it brings, so that one counts; but
    only if all adapters that bring one agree. ``tokenizer`` "base" leaves theirs out,
    "adapter" insists on one. Raises MergeRefused when there is none, or they differ.
    """
    chosen = {name: SideFile(name, base.folder / name) for name in base.side_files}
    if tokenizer == "base":
        return tuple(chosen[name] for name in sorted(chosen))
    brought = [(spec, _tokenizer_of(spec)) for spec in specs]
    brought = [(spec, files) for spec, files in brought if files]
    agree = len({files for _, files in brought}) == 1
    if tokenizer == "adapter" and not agree:
        reason = "the adapters' tokenizers differ" if brought else "no adapter brings a tokenizer"
        raise MergeRefused((reason,), "Pass --tokenizer base.")
    if agree:
        spec, files = brought[0]
        if any(file.name.startswith("tokenizer") for file in files):
            # One tokenizer or the other: transformers would take the base's chat_template.jinja
            # before the template in the adapter's tokenizer_config.json.
            chosen = {name: one for name, one in chosen.items() if not _is_tokenizer(name)}
        for file in files:
            chosen[file.name] = SideFile(file.name, spec.folder / file.name)
    return tuple(chosen[name] for name in sorted(chosen))


def _is_tokenizer(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZER)


def _tokenizer_of(spec: AdapterSpec) -> tuple[FileDigest, ...]:
    found = tuple(file for file in sorted(spec.files) if _is_tokenizer(file.name))
    # A template alone is taken over too; a lone special_tokens_map describes nothing.
    names = {file.name for file in found}
    telling = ("tokenizer", "chat_template", "additional_chat_templates")
    return found if any(name.startswith(telling) for name in names) else ()


def write_model(  # noqa: PLR0913  # the two ends of the engine, and how to run it
    plan: Plan,
    base: Base,
    specs: Sequence[AdapterSpec | Base],
    staging: Staging,
    *,
    sides: Sequence[SideFile],
    card: str,
    method: tuple[str, Mapping[str, Any]],
    threads: int | None = None,
    progress: Progress = SILENT,
    journal: Journal | None = None,
    engine: Engine = local,
) -> Written:
    """Write a whole merged checkpoint into ``staging``; publishing it is the caller's.

    Raises what ``run`` raises, and InputRefused when a file to take over cannot be read.
    """
    base = deepened(base, specs)
    report = run(
        plan,
        base,
        specs,
        staging,
        threads=threads,
        progress=progress,
        journal=journal,
        engine=engine,
    )
    files = list(report.files)
    for side in sides:
        target = staging.folder / side.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            files.append(copy_file(side.path, target, side.name))
        except OSError as error:
            raise InputRefused(side.path, error.strerror or str(error)) from error
    texts = {
        CONFIG: merged_config(plan, base, specs),
        "README.md": card,
        REPORT: _report(plan, method, report),
    }
    if len(plan.shards) > 1:
        texts[INDEX] = _index(plan)
    for name, text in texts.items():
        with FileWriter(staging.folder / name) as writer:
            writer.write(text.encode())
        files.append(writer.digest(name))
    return Written(tuple(sorted(files)), report)


def check_model(plan: Plan, base: Base, specs: Sequence[AdapterSpec | Base]) -> None:
    """Find out what only running a plan would, short of that; raise MergeRefused."""
    check_modules(plan, deepened(base, specs), specs)


def _report(plan: Plan, method: tuple[str, Mapping[str, Any]], report: MergeReport) -> str:
    """Return the merge's report: what happened to each tensor that the inputs touch."""
    value = {
        "method": method[0],
        "parameters": dict(sorted(method[1].items())),  # a lock file has them sorted too
        "precision": plan.precision,
        "dropped": list(plan.dropped),
        "totals": asdict(total(report.tensors)),
        "tensors": [asdict(one) for one in report.tensors],
    }
    return json.dumps(value, indent=1) + "\n"


def _index(plan: Plan) -> str:
    weight_map = {job.name: shard.file for shard in plan.shards for job in shard.jobs}
    value = {
        "metadata": {"total_size": plan.tensor_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return json.dumps(value, indent=2) + "\n"
