"""``adreg completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from adreg.cli import completing
from adreg.cli.options import App, examples, json_option, pass_app

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    short_help="Print the script for shell completion.",
    epilog=examples(
        'eval "$(adreg completion bash)"                    # in ~/.bashrc',
        'eval "$(adreg completion zsh)"                     # in ~/.zshrc',
        "adreg completion fish > ~/.config/fish/completions/adreg.fish",
    ),
)
@click.argument("shell", type=click.Choice(_SHELLS))
@json_option
@pass_app
@click.pass_context
def command(context: click.Context, app: App, shell: str) -> None:
    """Print the script that lets a shell complete commands, options and adapter names."""
    completing.register()
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    script = found(context.find_root().command, {}, "adreg", completing.VARIABLE).source()
    if app.json:
        app.output.json({"shell": shell, "script": script})
    else:
        click.echo(script)
