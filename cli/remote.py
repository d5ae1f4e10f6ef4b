"""``adreg remote``: list, check."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import Column

_KNOWN = (
    Column("NAME"),
    Column("HOW"),
    Column("REPOSITORY"),
    Column("REVISION"),
    Column("COMMIT"),
    Column("WHEN", "time"),
)
_CHECKED = (
    Column("NAME"),
    Column("STATE"),
    Column("REPOSITORY"),
    Column("REVISION"),
    Column("COMMIT"),
    Column("DETAIL"),
)


@click.group("remote", short_help="List and check the copies on the Hub.")
def command() -> None:
    """List and check the copies on the Hub: what was pushed there, or pulled from there."""


@command.command(
    "list",
    short_help="List the copies on the Hub.",
    epilog=examples("adreg remote list", "adreg remote list team/support@3 --json"),
)
@reference_argument(required=False)
@json_option
@pass_app
def list_(app: App, reference: str | None) -> None:
    """List every push and pull that the catalog knows, oldest first. Asks nobody."""
    found = app.registry.remotes(reference)
    if app.json:
        app.output.json(found)
        return
    app.output.table(
        _KNOWN,
        (
            (
                one.key,
                one.remote.direction,
                "/".join(filter(None, (one.remote.repo, one.remote.subfolder))),
                one.remote.revision,
                one.remote.commit[:12],
                one.remote.at,
            )
            for one in found
        ),
    )


@command.command(
    "check",
    short_help="Check which copies on the Hub are still the same.",
    epilog=examples("adreg remote check", "adreg remote check team/support --json"),
)
@reference_argument(required=False)
@json_option
@pass_app
def check(app: App, reference: str | None) -> int:
    """Compare the copies on the Hub with the files here, by their digests; README.md aside.

    A copy is the same, changed (by whom, when), gone, offline, or unknown. Exits with 1
    unless all are the same.
    """
    found = app.registry.check_remotes(reference)
    if app.json:
        app.output.json(found)
    else:
        app.output.table(
            _CHECKED,
            (
                (
                    one.key,
                    one.state,
                    "/".join(filter(None, (one.remote.repo, one.remote.subfolder))),
                    one.remote.revision,
                    (one.commit or one.remote.commit)[:12],
                    _detail(one.by, one.when, one.files, one.reason),
                )
                for one in found
            ),
        )
    return 0 if all(one.state == "same" for one in found) else 1


def _detail(by: tuple[str, ...], when: str, files: tuple[str, ...], reason: str) -> str:
    who = " ".join(filter(None, (f"by {', '.join(by)}" if by else "", when)))
    return "; ".join(filter(None, (who, ", ".join(files), reason)))
