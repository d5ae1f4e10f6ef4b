"""What a shell is told when it completes a word: nothing here may be slow to import."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class
from click.shell_completion import split_arg_string as split

VARIABLE = "_ADREG_COMPLETE"
"""By this variable of the environment a shell asks (click, "Shell Completion")."""


def complete_reference(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return names that a word may become, and behind an ``@`` versions and aliases."""
    del parameter
    return _asked(context, "references", incomplete)


def complete_base(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return names of bases that a word may become."""
    del parameter
    return _asked(context, "bases", incomplete)


def _asked(context: click.Context, what: str, incomplete: str) -> list[str]:
    try:
        # Start-up: `adreg --help` imports this module too.
        from adreg.registry.ops import beginnings  # noqa: PLC0415
        from adreg.registry.settings import Settings  # noqa: PLC0415

        environ = dict(os.environ)
        if (home := context.find_root().params.get("home")) is not None:
            environ["ADREG_HOME"] = str(home)
        ask: Callable[[Settings, str], list[str]] = getattr(beginnings, what)
        return ask(Settings.from_environment(environ), incomplete)
    except Exception:  # noqa: BLE001  # a shell that completes has no place for an error
        return []


class Bash(BashComplete):
    """Bash's completion, also of words with ``@``, ``=`` and ``:``.

    Bash cuts words at such characters (COMP_WORDBREAKS) and puts an answer in the place of
    the last piece only. So the line itself is read here, and answers lose what the piece
    does not hold. It asks for no ``compopt`` that bash 3.2 lacks.
    """

    source_template = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            '') ;;
            dir,*) compopt -o dirnames 2>/dev/null ;;
            file,*) compopt -o default 2>/dev/null ;;
            *) COMPREPLY+=("${line#*,}") ;;
        esac
    done < <(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_CWORD= \\
        ADREG_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete %(prog_name)s)
}

complete -F %(complete_func)s %(prog_name)s
"""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # click's own four
        self._cut = ""

    def source(self) -> str:
        """Return the script; bash need not be here for that."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one."""
        if os.environ.get("COMP_CWORD"):
            return super().get_completion_args()
        line = os.environ["COMP_WORDS"]
        words = split(line)
        word = "" if line[-1:].isspace() or not words else words.pop()
        breaks = os.environ.get("ADREG_WORDBREAKS", "")
        if breaks and not re.search(r"['\"]\S*$", line):
            last = max(map(word.rfind, breaks))
            # These two break words and stay with what follows (bash, rl_special_prefixes).
            self._cut = word[: last if word[last : last + 1] in {"@", "$"} else last + 1]
        return words[1:], word

    def format_completion(self, item: CompletionItem) -> str:
        """Return one line: the kind of answer, and what takes the place of the last piece."""
        return f"{item.type},{item.value.removeprefix(self._cut)}"


def register() -> None:
    """Let click use what stands here."""
    add_completion_class(Bash, "bash")
