"""What commands share: the registry that they work on, ``--json``, and references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from adreg.cli.output import Output
    from adreg.cli.progress import Bar
    from adreg.registry.api import Registry

Command = TypeVar("Command", bound=Callable[..., Any])


class App:
    """One run of adreg: the global options, and what is made from them when it is needed.

    ``stopped`` is what Ctrl-C says; a command that records as it goes sets it anew.
    """

    # The imports in the methods keep `adreg --help` at click alone.

    def __init__(self) -> None:
        self.home: Path | None = None
        self.quiet = False
        self.json = False
        self.stopped = "stopped; nothing was recorded"
        self._progress: Bar | None = None
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry that the options and the environment name."""
        from adreg.registry.api import Registry  # noqa: PLC0415

        if self._registry is None:
            self._registry = Registry(self.home, progress=self.progress)
        return self._registry

    @property
    def progress(self) -> Bar:
        """The progress on stderr."""
        from adreg.cli.progress import Bar  # noqa: PLC0415

        if self._progress is None:
            self._progress = Bar(quiet=self.quiet)
        return self._progress

    @property
    def output(self) -> Output:
        """What writes to stdout."""
        from adreg.cli.output import Output  # noqa: PLC0415

        return Output(as_json=self.json, quiet=self.quiet)

    def close(self) -> None:
        """Take the progress bar away, if there is one."""
        if self._progress is not None:
            self._progress.close()


pass_app = click.make_pass_decorator(App)
"""Give the App to a command as its first argument."""


def _set_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        context.ensure_object(App).json = True


json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_set_json,
    help="Print JSON; an error is one JSON object on stderr.",
)
"""``--json`` of every command; ``App.json`` and ``App.output`` know of it."""


def complete_reference(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return names that a word may become, and behind an ``@`` versions and aliases."""
    from adreg.cli import completing  # noqa: PLC0415  # only a shell asks

    return completing.complete_reference(context, parameter, incomplete)


def complete_base(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return names of bases that a word may become."""
    from adreg.cli import completing  # noqa: PLC0415  # only a shell asks

    return completing.complete_base(context, parameter, incomplete)


def reference_argument(
    name: str = "reference", *, nargs: int = 1, required: bool = True
) -> Callable[[Command], Command]:
    """Return the decorator for a REF argument, which the shell completes."""
    return click.argument(
        name,
        nargs=nargs,
        required=required,
        metavar="REF" if required else "[REF]",
        shell_complete=complete_reference,
    )


def engine_options(command: Command) -> Command:
    """Add ``--engine`` and ``--ray-address``: where weight files are written."""
    command = click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="The Ray cluster, or 'local' for this machine; else RAY_ADDRESS, else its own.",
    )(command)
    return click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="What writes the weight files: this process, or a Ray cluster (docs/engines.md).",
    )(command)


def examples(*lines: str) -> str:
    """Return the epilog that shows a command at work, one example a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
