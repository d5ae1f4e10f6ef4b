"""Making any text safe to print: names and notes come from other people's files."""

from __future__ import annotations


def escape(text: str, keep: str = "") -> str:
    r"""Write every character that does not print as ``\x1b``, but for those to ``keep``.

    So no text can move the cursor, change colours, break a table's line or reverse
    the order of what is read.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _code(one) for one in text)


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
