"""``adreg outdated``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app
from adreg.cli.output import Column

_SHORT = 12


@click.command(
    "outdated",
    short_help="Tell which pulled adapters have a newer commit on the Hub.",
    epilog=examples(
        "adreg outdated",
        "adreg outdated team/support --all",
        "adreg outdated --json",
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Those that are current or pinned too.")
@json_option
@pass_app
def command(app: App, *, names: tuple[str, ...], every: bool) -> None:
    """Ask the Hub for the newest commit of each adapter that was pulled; change nothing.

    outdated: the adapter's files are others now; `adreg pull --update` brings them.
    unchanged: a newer commit has the same files. pinned: it was pulled at a commit.
    gone, failed: the Hub does not give it any more, with the reason on stderr.
    """
    found = app.registry.outdated(names)
    shown = [one for one in found if every or one.state not in {"current", "pinned", "unchanged"}]
    if app.json:
        app.output.json(shown)
    else:
        columns = ("Reference", "State", "Repository", "Revision", "Commit", "Newest", "Modified")
        app.output.table(
            [Column(title) for title in columns],
            [
                (
                    one.reference,
                    one.state,
                    "/".join(part for part in (one.repo, one.subfolder) if part),
                    one.revision,
                    one.commit[:_SHORT],
                    (one.newest or "")[:_SHORT],
                    one.modified,
                )
                for one in shown
            ],
        )
    for one in shown:
        if one.reason:
            app.output.remark(one.reason)
    if any(one.state in {"gone", "failed"} for one in found):
        raise click.exceptions.Exit(1)
