"""Text of others, such as cells, answers and errors, made safe to print.

Control characters could rewrite the terminal, those of writing direction what it seems to say.
"""

from __future__ import annotations

import re

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
