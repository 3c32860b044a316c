"""Numbers and foreign texts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from batchrun.records import PICO_PER_USD
from batchrun.terminal import printable


def short(text: str, most: int) -> str:
    """Return printable text of at most so many characters."""
    whole = printable(text)
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def dollars(pico: int) -> str:
    """Return an amount to a millionth of a dollar; less than half of one is not nothing."""
    if 0 < pico < PICO_PER_USD // 2_000_000:
        return "<$0.000001"
    return f"${pico / PICO_PER_USD:,.6f}"


def seconds(value: float) -> str:
    """Return a duration: `0.8 s`, `12.3 s`, `4 min 05 s`, `3 h 07 min`."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def rate(value: float) -> str:
    """Return a rate with three digits that count."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def when(microseconds: int) -> str:
    """Return a moment as people write it: `2026-11-21 08:11 UTC`."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")


def moment(microseconds: int) -> str:
    """Return a moment, given in microseconds since 1970 UTC, in ISO 8601."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
