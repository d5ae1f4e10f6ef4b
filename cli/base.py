"""``adreg base``: add, list, show."""

from __future__ import annotations

import click

from adreg.cli.options import App, complete_base, examples, json_option, pass_app
from adreg.cli.output import Column, count, day, size

_COLUMNS = (
    Column("NAME"),
    Column("ARCHITECTURE"),
    Column("PARAMETERS", "count"),
    Column("SIZE", "size"),
    Column("DTYPE"),
    Column("FROM"),
    Column("ADDED", "time"),
)


@click.group("base", short_help="Add, list and show bases.")
def command() -> None:
    """Add, list and show bases: the checkpoints that adapters are made for."""


@command.command(
    "add",
    short_help="Record a base.",
    epilog=examples(
        "adreg base add ../models/SmolLM2-135M --name smollm2",
        "adreg base add HuggingFaceTB/SmolLM2-135M-Instruct --name smollm2",
        "adreg base add ./llama --alias meta-llama/Llama-3.2-1B --license llama3.2",
    ),
)
@click.argument("base", metavar="BASE")
@click.option("--name", help="Its name, else that of the repository or the folder.")
@click.option("--alias", "aliases", multiple=True, help="Another name of it; may be repeated.")
@click.option("--license", "licence", help="Its licence, instead of what its card says.")
@click.option(
    "--dequantize", is_flag=True, help="Take a quantised base as what its weights decode to."
)
@json_option
@pass_app
def add(  # one argument an option
    app: App,
    base: str,
    name: str | None,
    aliases: tuple[str, ...],
    licence: str | None,
    *,
    dequantize: bool,
) -> None:
    """Record a base: a checkpoint's folder, or OWNER/REPO[@REVISION] of the Hugging Face cache.

    Nothing is copied. An --alias is what adapters call it in base_model_name_or_path.
    """
    done = app.registry.add_base(
        base, name=name, aliases=aliases, licence=licence, dequantize=dequantize
    )
    facts = done.record.facts
    if app.json:
        app.output.json(done)
    elif done.new:
        app.output.line(
            f"added {done.record.name}: {facts.architecture or facts.model_type or 'a base'},"
            f" {count(facts.parameters)} parameters in {done.tensors:,} tensors,"
            f" {size(facts.bytes)} {facts.dtype}"
        )
    elif done.moved:
        app.output.line(f"{done.record.name} lies in {facts.location} now")
    else:
        app.output.line(f"{facts.location} is known already, as {done.record.name}")


@command.command(
    "list",
    short_help="List all bases.",
    epilog=examples("adreg base list", "adreg base list --json"),
)
@json_option
@pass_app
def list_(app: App) -> None:
    """List all bases, by name."""
    found = app.registry.bases()
    if app.json:
        app.output.json(found)
        return
    app.output.table(
        _COLUMNS,
        (
            (
                one.name,
                one.facts.architecture or one.facts.model_type,
                one.facts.parameters,
                one.facts.bytes,
                one.facts.dtype,
                one.facts.hub_repo or one.facts.location,
                one.created_at,
            )
            for one in found
        ),
    )


@command.command(
    "show",
    short_help="Show all that is known of a base.",
    epilog=examples("adreg base show smollm2"),
)
@click.argument("name", shell_complete=complete_base)
@json_option
@pass_app
def show(app: App, name: str) -> None:
    """Show a base by its name or another name of it."""
    shown = app.registry.base(name)
    if app.json:
        app.output.json(shown)
        return
    facts = shown.record.facts
    app.output.facts(
        (
            ("name", shown.record.name),
            ("other names", " ".join(shown.record.aliases)),
            ("folder", str(facts.location) + ("" if shown.present else "  (it is gone)")),
            ("repository", facts.hub_repo),
            ("revision", facts.revision),
            ("architecture", facts.architecture),
            ("model type", facts.model_type),
            ("dtype", facts.dtype),
            ("parameters", f"{facts.parameters:,}"),
            ("bytes", f"{facts.bytes:,}"),
            ("licence", facts.licence),
            ("layout", facts.layout_digest),
            ("config", facts.config_digest),
            ("files", [f"{one.path}  {size(one.size)}" for one in shown.files]),
            ("added", day(shown.record.created_at)),
        )
    )
