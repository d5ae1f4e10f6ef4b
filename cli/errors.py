"""The one place where an error becomes two lines on stderr, or one JSON object, and an exit code.

0    done
1    a known error
2    a wrong use of the command line
130  stopped by Ctrl-C
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import click

from adreg.cli.escape import escape
from adreg.registry.errors import AdregError

DONE, KNOWN, USAGE, STOPPED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of an error, and the exit code."""

    error: str
    message: str
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    code: int = KNOWN


class Running(Protocol):
    """The command that is at work, as far as its end concerns errors."""

    stopped: str

    def close(self) -> None:
        """Take the progress bar away."""


def guarded(action: Callable[[], object], app: Running, *, as_json: bool) -> int:
    """Run a command to its end and return the exit code, telling of every error that it may have.

    A fault of adreg itself passes through, with its traceback.
    """
    try:
        try:
            code = action()
            sys.stdout.flush()
        finally:
            app.close()
    except BrokenPipeError:
        return _reader_gone()
    except (click.ClickException, click.Abort, AdregError, OSError, KeyboardInterrupt) as error:
        failure = describe(error, app.stopped)
    except MemoryError:
        failure = Failure("MemoryError", "there is not enough memory for this")
    else:
        return code if isinstance(code, int) else DONE
    tell(failure, as_json=as_json)
    return failure.code


def describe(error: BaseException, stopped: str) -> Failure:
    """Return what to tell of an error that a user can cause."""
    if isinstance(error, AdregError):
        return Failure(type(error).__name__, error.sentence, error.hint, error.facts())
    if isinstance(error, click.UsageError):
        hint = f"See `{error.ctx.command_path} --help`." if error.ctx is not None else ""
        return Failure("UsageError", _lowered(error.format_message()), hint, code=USAGE)
    if isinstance(error, click.ClickException):
        return Failure(type(error).__name__, _lowered(error.format_message()))
    if isinstance(error, OSError):
        path = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        reason = error.strerror or str(error) or type(error).__name__
        return Failure(type(error).__name__, path + reason, facts={"errno": error.errno})
    # Click makes an Abort of Ctrl-C; what was at work may have said what is kept.
    cause = error.__cause__ if isinstance(error, click.Abort) else error
    return Failure("Stopped", str(cause or "") or stopped, code=STOPPED)


def tell(failure: Failure, *, as_json: bool) -> None:
    """Write a failure to stderr."""
    if as_json:
        told = {
            "error": failure.error,
            "message": failure.message,
            "hint": failure.hint,
            "facts": failure.facts,
        }
        click.echo(json.dumps(told, default=str).replace("\x7f", "\\u007f"), err=True)
        return
    if failure.code == STOPPED:
        click.echo(escape(failure.message), err=True)
        return
    click.echo(f"{_label('error', 'red')} {escape(failure.message)}", err=True)
    if failure.hint:
        click.echo(f"{_label('hint', 'cyan')} {escape(failure.hint)}", err=True)


def _label(word: str, colour: str) -> str:
    text = f"{word}:"
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=colour, bold=True) if coloured else text


def _lowered(text: str) -> str:
    """Begin a sentence of click's like those of ours, and drop its full stop."""
    return text[:1].lower() + text[1:].removesuffix(".")


def _reader_gone() -> int:
    # Whoever read stdout has seen enough (`adreg list | head`). The interpreter
    # flushes stdout at exit and would complain (docs.python.org, signal: SIGPIPE).
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return KNOWN
