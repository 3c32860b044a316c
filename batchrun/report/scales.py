"""Axes: round steps, and numbers as short as their place allows."""

from __future__ import annotations

import math

from batchrun.records import PICO_PER_USD

_TIMES_S = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    14_400,
    21_600,
)


def ticks(top: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from 0 to at least `top`; only `whole` ones where others make no sense."""
    step = _step(top / 4, whole=whole)
    return [step * n for n in range(math.ceil(top / step - 1e-9) + 1)] or [0.0]


def ticks_between(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`, both included where they are round."""
    step = _step((high - low) / 4, whole=whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * n for n in range(first, last + 1)]


def _step(raw: float, *, whole: bool) -> float:
    raw = max(raw, 1.0 if whole else 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    return power * next(factor for factor in factors if factor * power >= raw * 0.999)


def time_ticks(total_s: float, about: int = 6) -> list[float]:
    """Return round times from 0 up to `total_s`."""
    raw = total_s / about
    step = next((step for step in _TIMES_S if step >= raw), 0.0)
    if not step:
        step = 86_400.0 * math.ceil(raw / 86_400) if raw > 43_200 else 43_200.0
    return [step * n for n in range(int(total_s / step + 1e-9) + 1)]


def elapsed(seconds: float) -> str:
    """Return how long after the start: `0.5 s`, `45 s`, `2:30`, `1:02:30`, `3 d 04:00`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        days, hour = divmod(hours, 24)
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def compact(value: float) -> str:
    """Return a number in at most four digits: `0.25`, `980`, `1.2k`, `34M`."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def grouped(value: float) -> str:
    """Return a number that may have to be told from one close to it: `1,512`, `2.35M`."""
    return f"{value:,.0f}" if abs(value) < 1e6 else compact(value)


def usd(pico: float) -> str:
    """Return an amount of pico-dollars with as many digits as it needs: `$0.0042`, `$12.30`."""
    amount = pico / PICO_PER_USD
    if not amount:
        return "$0"
    if amount >= 1:
        return f"${amount:,.2f}"
    digits = 1 - math.floor(math.log10(amount))
    return f"${amount:.{min(digits + 1, 9)}f}"


def usd_level(pico: float) -> str:
    """Return an amount for an axis: without digits that say nothing."""
    whole, dot, cents = usd(pico).partition(".")
    return f"{whole}{dot}{cents[:2]}{cents[2:].rstrip('0')}"


def duration(value: float) -> str:
    """Return a latency: `85 ms`, `1.25 s`, `75 s`."""
    return f"{value * 1_000:.3g} ms" if value < 0.9995 else f"{value:.3g} s"
