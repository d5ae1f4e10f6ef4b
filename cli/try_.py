"""``adreg try``."""

from __future__ import annotations

import textwrap

import click

from adreg.cli.options import (
    App,
    complete_base,
    complete_reference,
    examples,
    json_option,
    pass_app,
)


@click.command(
    "try",
    short_help="Generate with base, adapter and model side by side.",
    epilog=examples(
        'adreg try team/support --prompt "My parcel is late."',
        'adreg try team/support@2 team/support@3 support-merged --prompt "Hello" --json',
        'adreg try ./my-adapter --base ./SmolLM2-135M-Instruct --prompt "Hello" --seed 1',
    ),
)
@click.argument(
    "references",
    nargs=-1,
    required=True,
    metavar="MODEL_OR_ADAPTER...",
    shell_complete=complete_reference,
)
@click.option("--prompt", required=True, metavar="TEXT", help="What to ask.")
@click.option(
    "--base",
    shell_complete=complete_base,
    metavar="BASE",
    help="The base, where another one than recorded is meant.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="The longest answer.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Sample the answers with this seed; without it the likeliest token is taken each time.",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Put the prompt into the chat template, or not; by default if there is one.",
)
@json_option
@pass_app
def command(
    app: App,
    *,
    references: tuple[str, ...],
    prompt: str,
    base: str | None,
    max_new_tokens: int,
    seed: int | None,
    chat: bool | None,
) -> None:
    """Print what the base, each adapter on top of it, and each merged model answer.

    MODEL_OR_ADAPTER is a reference to the catalog, or a folder. Adapters are put on the
    base unmerged, by PEFT; no code from the folders runs.

    A model merged in 16 bits may choose another word somewhere in a long answer than base
    and adapter do: its weights were rounded once more.
    """
    trial = app.registry.try_out(
        references,
        prompt,
        base=base,
        max_new_tokens=max_new_tokens,
        seed=seed,
        chat=chat,
    )
    if app.json:
        app.output.json(trial)
        return
    for number, answer in enumerate(trial.answers):
        if number:
            app.output.line()
        app.output.line(f"{answer.label} ({answer.kind})")
        app.output.text(textwrap.indent(answer.text or "(no text)", "  "))
