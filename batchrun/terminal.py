"""Text of others, such as cells, answers and errors, made safe to print.

Control characters could rewrite the terminal, those of writing direction what it seems to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STEERING = (*range(32), *range(127, 160), 0x2028, 0x2029, *_DIRECTIONS)
_ON_A_LINE = dict.fromkeys(_STEERING, "�")
_IN_TEXT = {code: mark for code, mark in _ON_A_LINE.items() if chr(code) not in "\n\t"}
_IN_JSON = {code: f"\\u{code:04x}" for code in _IN_TEXT}


def printable(text: str) -> str:
    """Return text on one line, without characters that steer a terminal."""
    return " ".join(text.split()).translate(_ON_A_LINE)


def harmless(text: str) -> str:
    """Return text as it stands, without characters that steer a terminal."""
    return text.translate(_IN_TEXT)


def harmless_json(text: str) -> str:
    """Return JSON of the same value in which characters that steer a terminal are escaped."""
    return text.translate(_IN_JSON)


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
