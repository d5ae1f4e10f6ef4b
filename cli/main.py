"""``adreg``: the group of all commands.

A command's module is imported when that command is used. The table below holds what
`adreg --help` prints, so that it imports nothing but click.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from adreg.cli import errors
from adreg.cli.options import App

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: dict[str, tuple[str, str, str]] = {
    "add": ("adreg.cli.add", "command", "Add adapters from PEFT folders and other formats."),
    "pull": ("adreg.cli.pull", "command", "Pull adapters from the Hugging Face Hub."),
    "outdated": (
        "adreg.cli.outdated",
        "command",
        "Tell which pulled adapters have a newer commit on the Hub.",
    ),
    "list": ("adreg.cli.list", "command", "List adapters and models."),
    "search": ("adreg.cli.search", "command", "Find adapters and models by a condition."),
    "show": ("adreg.cli.show", "command", "Show all that is known of one version."),
    "check": ("adreg.cli.check", "command", "Check whether an adapter fits a base."),
    "merge": ("adreg.cli.merge", "command", "Merge adapters into a standalone checkpoint."),
    "combine": ("adreg.cli.combine", "command", "Make one adapter out of several."),
    "resize": ("adreg.cli.resize", "command", "Cut an adapter to another rank."),
    "extract": ("adreg.cli.extract", "command", "Make a LoRA out of a full fine-tune."),
    "try": ("adreg.cli.try_", "command", "Generate with base, adapter and model side by side."),
    "export": ("adreg.cli.export", "command", "Write an adapter or a model to a folder."),
    "push": ("adreg.cli.push", "command", "Put an adapter or a model on the Hugging Face Hub."),
    "remote": ("adreg.cli.remote", "command", "List and check the copies on the Hub."),
    "rebuild": ("adreg.cli.rebuild", "command", "Build a model again from its lock file."),
    "verify": ("adreg.cli.verify", "command", "Hash everything again and name what is damaged."),
    "verify-merge": (
        "adreg.cli.verify_merge",
        "command",
        "Prove that a merged model answers as base and adapters do.",
    ),
    "unmerge": ("adreg.cli.unmerge", "command", "Take an adapter out of a merged model again."),
    "base": ("adreg.cli.base", "command", "Add, list and show bases."),
    "tag": ("adreg.cli.tag", "command", "Tag a version, or remove tags."),
    "alias": ("adreg.cli.alias", "command", "Give a version a movable name."),
    "note": ("adreg.cli.note", "command", "Leave a remark on a version."),
    "metric": ("adreg.cli.metric", "command", "Record measured numbers of a version."),
    "rename": ("adreg.cli.rename", "command", "Rename an adapter or a model."),
    "remove": ("adreg.cli.remove", "command", "Remove a version, or a name with all versions."),
    "history": ("adreg.cli.history", "command", "Show what was done, newest first."),
    "gc": ("adreg.cli.gc", "command", "Sweep what nothing refers to."),
    "backup": ("adreg.cli.backup", "command", "Write the whole registry into one file."),
    "restore": ("adreg.cli.restore", "command", "Fill a registry from a backup."),
    "completion": ("adreg.cli.completion", "command", "Print the script for shell completion."),
}
"""The name of each command, the module and attribute that hold it, and its short help."""


class LazyGroup(click.Group):
    """A group that lists its commands from the table and imports the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for a name that is not one."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute}")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a word may become: options, and commands, importing none of them."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # start-up

        commands = [
            CompletionItem(name, help=text)
            for name, (_, _, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raise UsageError with the nearest one for a name that is none."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"there is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="REF is NAME, NAME@VERSION, NAME@ALIAS or hf://OWNER/REPO. `adreg COMMAND --help`"
    " tells more, with examples.",
)
@click.version_option(package_name="adreg", prog_name="adreg")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the registry, instead of ADREG_HOME.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on stderr.")
@click.pass_obj
def cli(app: App, home: Path | None, *, quiet: bool) -> None:
    """Catalog LoRA/PEFT adapters, and merge them into standalone checkpoints."""
    app.home = home
    app.quiet = quiet


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run adreg with these arguments, else with the process's, and exit.

    0 done, 1 a known error, 2 a wrong use, 130 stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    app = App()
    if "_ADREG_COMPLETE" in os.environ:
        from adreg.cli import completing  # noqa: PLC0415  # start-up: only a shell asks

        completing.register()
    sys.exit(
        errors.guarded(
            lambda: cli.main(arguments, "adreg", standalone_mode=False, obj=app),
            app,
            as_json="--json" in arguments,
        )
    )
