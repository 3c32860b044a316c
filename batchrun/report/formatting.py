"""Formats numbers, times and untrusted text for people."""

from __future__ import annotations

import math
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Sequence


# What HTML cannot hold, and what would reverse the direction of the text around it.
UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def compact(value: float) -> str:
    """Return a number in at most four digits: `0.25`, `980`, `1.2k`, `34M`."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def grouped(value: float) -> str:
    """Return a number with all digits below a million, so that close ones stay distinct: `1,512`, `2.35M`."""
    return f"{value:,.0f}" if abs(value) < 1e6 else compact(value)


def rate(value: float) -> str:
    """Return a rate with three significant digits."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def dollars(pico: int) -> str:
    """Return pico-dollars to a millionth of a dollar: `$0.004200`, `<$0.000001`."""
    if 0 < pico < PICO_PER_USD // 2_000_000:
        return "<$0.000001"
    return f"${pico / PICO_PER_USD:,.6f}"


def usd(pico: float) -> str:
    """Return pico-dollars with as many digits as they need: `$0.0042`, `$12.30`."""
    amount = pico / PICO_PER_USD
    if not amount:
        return "$0"
    if amount >= 1:
        return f"${amount:,.2f}"
    digits = 1 - math.floor(math.log10(amount))
    return f"${amount:.{min(digits + 1, 9)}f}"


def usd_on_axis(pico: float) -> str:
    """Return pico-dollars for an axis, without trailing zeros after the cents."""
    whole, dot, cents = usd(pico).partition(".")
    return f"{whole}{dot}{cents[:2]}{cents[2:].rstrip('0')}"


def seconds(value: float) -> str:
    """Return a duration: `0.8 s`, `12.3 s`, `4 min 05 s`, `3 h 07 min`."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def latency(value: float) -> str:
    """Return a latency, given in seconds: `85 ms`, `1.25 s`, `75 s`."""
    return f"{value * 1_000:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def elapsed(value: float) -> str:
    """Return the seconds since a start: `0.5 s`, `45 s`, `2:30`, `1:02:30`, `3 d 04:00`."""
    if value < 60:
        return f"{value:.3g} s"
    minutes, second = divmod(round(value), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        days, hour = divmod(hours, 24)
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def when(microseconds: int) -> str:
    """Return a time for people: `2026-11-21 08:11 UTC`."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def moment(microseconds: int) -> str:
    """Return a time, given in microseconds since 1970 UTC, in ISO 8601."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def in_columns(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return rows of cells as lines: the first column to the left, the others, numbers, right.

    Args:
        rows: the headings, then the rows.
        width: maximum length of a line. Long names are truncated in the middle; then less important columns
            are left out, and a last line names them. None for no limit.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    left_out: list[str] = []
    if width is not None:
        columns, left_out = _fitted(columns, width)
    widths = [_wide(column) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(wide) if place else cell.ljust(wide)
            for place, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    if left_out:
        lines.append(f"no room for: {', '.join(left_out)} (see --json)")
    return lines


# Columns that a narrow terminal can do without, the first to go first.
_DISPENSABLE = ("test", "p90", "p50", "per correct", "same text", "same answer", "ok", "rows")
# To how many characters a name is cut before columns are left out, and after.
_NAME_WIDTHS = (26, 12)


def _fitted(columns: list[list[str]], width: int) -> tuple[list[list[str]], list[str]]:
    """Cut names and leave out columns until the lines fit; return the columns and the headings left out."""

    def excess() -> int:
        return sum(map(_wide, columns)) + 2 * (len(columns) - 1) - width

    left_out: list[str] = []
    for least in _NAME_WIDTHS:
        for place in sorted(range(len(columns)), reverse=True):
            if excess() > 0 and (place == 0 or columns[place][0] == "model"):
                most = max(least, _wide(columns[place]) - excess())
                columns[place] = _cut(columns[place], most)
        for name in _DISPENSABLE:
            kept = [column for column in columns if column[0] != name]
            if excess() > 0 and len(kept) < len(columns):
                columns = kept
                left_out.append(name)
    return columns, left_out


def _cut(names: list[str], least: int) -> list[str]:
    """Cut names in the middle, because they often differ at the end; not so far that some look alike."""
    for size in range(least, _wide(names)):
        end = (size - 1) // 2
        cut = [
            f"{name[: size - 1 - end]}…{name[-end:]}" if len(name) > size else name
            for name in names
        ]
        if len(set(cut)) == len(set(names)):
            return cut
    return names


def _wide(column: Sequence[str]) -> int:
    return max(map(len, column))


def is_dumb() -> bool:
    """Return whether the terminal can only print lines (`TERM=dumb`)."""
    return os.environ.get("TERM") == "dumb"
