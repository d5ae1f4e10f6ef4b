"""``adreg show``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import count, day, size
from adreg.registry.catalog.records import (
    AdapterFacts,
    AdapterVersion,
    ModelVersion,
    Remote,
    Source,
    VersionRecord,
)
from adreg.registry.errors import NotFound

Pairs = Iterator[tuple[str, object]]

if TYPE_CHECKING:
    from adreg.registry.ops.show import Shown


@click.command(
    "show",
    short_help="Show all that is known of one version.",
    epilog=examples(
        "adreg show team/support",
        "adreg show team/support@prod --json",
        "adreg show team/support@3 --config",
    ),
)
@reference_argument()
@click.option("--config", is_flag=True, help="Print only the original adapter_config.json.")
@json_option
@pass_app
def command(app: App, reference: str, *, config: bool) -> None:
    """Show a version: what it is, where it came from, and what was built from it.

    A name alone means its newest version.
    """
    shown = app.registry.show(reference)
    version = shown.version
    if config:
        if not isinstance(version, AdapterVersion):
            advice = "It is a model: leave out --config."
            raise NotFound("adapter configuration of", str(version.key), (), advice)
        app.output.text(version.facts.config)
    elif app.json:
        app.output.json(shown)
    else:
        app.output.facts(_pairs(shown))


def _pairs(shown: Shown) -> Pairs:
    version = shown.version
    newest = "" if version.latest else "  (not the newest version)"
    yield "name", f"{version.key}{newest}"
    yield "kind", version.key.kind
    yield "aliases", " ".join(version.marks.aliases)
    yield "tags", [str(tag) for tag in version.marks.tags]
    if isinstance(version, ModelVersion):
        yield from _of_model(version)
    else:
        yield from _of_adapter(version.facts)
    yield "base", _base(version)
    yield "licence", version.content.licence or "unknown"
    yield "dtype", version.content.dtype
    yield "parameters", f"{count(version.content.parameters)} ({version.content.parameters:,})"
    yield "size", f"{size(version.content.bytes)} ({version.content.bytes:,} bytes)"
    yield "digest", version.content.digest
    yield (
        "files",
        [f"{one.sha256[:12]}  {size(one.size):>9}  {one.name}" for one in version.content.files],
    )
    yield "added", version.created_at
    yield "sources", [_source(source) for source in version.sources]
    yield "on the Hub", [_remote(one) for one in shown.remotes]
    if isinstance(version, ModelVersion):
        yield (
            "built from",
            [
                f"{one.name}@{one.number} x {one.weight:g}"
                + ("" if one.version_id else "  (removed)")
                for one in version.inputs
            ],
        )
    yield "went into", [f"{'  ' * (one.steps - 1)}{one.key}" for one in shown.descendants]
    yield "is the base", list(shown.base_names)
    yield (
        "metrics",
        [f"{one.name} = {one.value:g}  ({day(one.recorded_at)})" for one in version.marks.metrics],
    )
    yield "notes", [f"{day(one.created_at)}  {one.text}" for one in version.marks.notes]


def _of_adapter(facts: AdapterFacts) -> Pairs:
    variants = [name for name, on in (("rsLoRA", facts.use_rslora), ("DoRA", facts.use_dora)) if on]
    yield "type", " ".join([facts.peft_type, *variants])
    yield "task", facts.task_type
    mixed = facts.rank_min is not None and facts.rank_min != facts.rank
    yield "rank", f"{facts.rank_min} to {facts.rank}" if mixed else facts.rank
    yield "alpha", facts.alpha
    yield "dropout", facts.dropout
    yield "targets", f"{' '.join(facts.targets)} ({facts.target_count} modules)"
    yield "rank pattern", [f"{name} = {rank}" for name, rank in facts.rank_pattern.items()]
    yield "alpha pattern", [f"{name} = {alpha:g}" for name, alpha in facts.alpha_pattern.items()]
    yield "bias", facts.bias
    yield "modules to save", " ".join(facts.modules_to_save)
    yield "PEFT version", facts.peft_version
    revision = f" at {facts.base_revision}" if facts.base_revision else ""
    yield "trained on", f"{facts.base_hint}{revision}" if facts.base_hint else None


def _of_model(version: ModelVersion) -> Pairs:
    yield "method", version.facts.method
    yield "folder", str(version.facts.location)
    yield "recipe", version.facts.recipe_digest
    yield "engine", version.facts.engine


def _base(version: VersionRecord) -> str:
    if version.base is None:
        return "not in the catalog"
    return f"{version.base.name} ({version.base.facts.architecture}, {version.base.facts.location})"


def _remote(remote: Remote) -> str:
    where = "/".join(filter(None, (remote.repo, remote.subfolder)))
    done = "pushed to" if remote.direction == "push" else "pulled from"
    return f"{done} {where}@{remote.revision}, commit {remote.commit[:12]}  ({day(remote.at)})"


def _source(source: Source) -> str:
    revision = f" at {source.revision}" if source.revision else ""
    where = f"hf://{source.location}" if source.kind == "hub" else source.location
    return f"{where}{revision}"
