"""What may be printed where: colours, bars, and text of others.

Text of others, such as cells, answers and errors, is made safe: control characters could rewrite the
terminal, those of writing direction what it seems to say.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STEERING = (*range(32), *range(127, 160), 0x2028, 0x2029, *_DIRECTIONS)
_ON_A_LINE = dict.fromkeys(_STEERING, "�")
_IN_TEXT = {code: mark for code, mark in _ON_A_LINE.items() if chr(code) not in "\n\t"}
_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_IN_JSON = {code: f"\\u{code:04x}" for code in _IN_TEXT}


def printable(text: str) -> str:
    """Return text on one line, without characters that steer a terminal."""
    return " ".join(text.split()).translate(_ON_A_LINE)


def harmless(text: str) -> str:
    """Return text as it stands, without characters that steer a terminal."""
    return text.translate(_IN_TEXT)


def harmless_but_coloured(text: str) -> str:
    """Return text as `harmless` does, but with its colours."""
    # What is split by a group has the group at the odd places.
    parts = enumerate(_COLOURS.split(text))
    return "".join(part if n % 2 else harmless(part) for n, part in parts)


def harmless_json(text: str) -> str:
    """Return JSON of the same value in which characters that steer a terminal are escaped."""
    return text.translate(_IN_JSON)


def sentences(first: str, second: str) -> str:
    """Join what somebody else said and what follows from it, with the punctuation of one text."""
    if first.endswith((".", "!", "?", "…")):
        return f"{first} {second[:1].upper()}{second[1:]}"
    return f"{first}; {second}"


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines: the first column to the left, the others, numbers, right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def is_dumb() -> bool:
    """Say whether the terminal can do no more than print lines (`TERM=dumb`)."""
    return os.environ.get("TERM") == "dumb"


def wants_color(stream: TextIO | None) -> bool:
    """Say whether to print in colour there.

    `NO_COLOR` (https://no-color.org) goes before `FORCE_COLOR`, and both before the terminal.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0", "false"):
        return True
    return stream is not None and not is_dumb() and stream.isatty()
