"""``adreg metric``."""

from __future__ import annotations

import math

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument


def read_metrics(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Split each at its last ``=``; raise BadParameter when no finite number stands behind it."""
    metrics = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        try:
            found = float(number) if equals else math.nan
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            text = f"{value!r} is not NAME=VALUE with a finite number"
            raise click.BadParameter(text, context, parameter)
        metrics[name] = found
    return metrics


@click.command(
    "metric",
    short_help="Record measured numbers of a version.",
    epilog=examples("adreg metric team/support@3 accuracy=0.91 eval/loss=1.24"),
)
@reference_argument()
@click.argument("metrics", nargs=-1, required=True, callback=read_metrics, metavar="NAME=VALUE...")
@json_option
@pass_app
def command(app: App, reference: str, metrics: dict[str, float]) -> None:
    """Record measured numbers of a version; earlier ones of the same name stay."""
    done = app.registry.metric(reference, metrics)
    if app.json:
        app.output.json(done)
        return
    for name, value in done.metrics.items():
        app.output.line(f"{done.key}: {name} = {value:g}")
