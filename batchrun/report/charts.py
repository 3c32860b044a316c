"""Charts as coordinates, which the templates draw as SVG: areas over time, and histograms.

CONTRIBUTING.md, "Dependencies", says why no chart library is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from batchrun.evaluation.intervals import wilson
from batchrun.report.formatting import compact, counted, elapsed, grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batchrun.evaluation.calibration import Calibration
    from batchrun.evaluation.history import Histogram

# Pixels of the drawing. Three histograms stand next to each other, but two areas, so they are narrower.
AREA_WIDTH, HISTOGRAM_WIDTH = 560, 400
HEIGHT, LEFT, TOP, BOTTOM, MARGIN = 220, 56, 14, 192, 12
# The height of a row of percentile names, and the width of one name.
ROW_HEIGHT, NAME_WIDTH = 14, 30
MIN_RADIUS, MAX_RADIUS = 2.5, 7.0
_ROUND_TIMES_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900),
    *(1_800, 3_600, 7_200, 14_400, 21_600),
)


@dataclass(frozen=True, slots=True)
class Area:
    """One series of a chart: a value for each step; `tone` is its colour class in `page.css`."""

    name: str
    values: Sequence[float]
    tone: str


@dataclass(frozen=True, slots=True)
class Shape:
    """An area as the points of its outline; `edge` is its upper side, if that is drawn."""

    tone: str
    outline: str
    edge: str | None


@dataclass(frozen=True, slots=True)
class Percentile:
    """A vertical line at a percentile, from `top` down, with its name beside it."""

    name: str
    x: float
    top: float
    label_x: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Point:
    """A point with the interval of its height, from `low` to `high`."""

    x: float
    y: float
    low: float
    high: float
    radius: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing in pixels.

    Attributes:
        note: small print beside the title.
        label: text for screen readers.
        levels: (y, text) of the horizontal lines.
        ticks: (x, text) along the bottom.
        bars: (x, y, width) of the bars of a histogram.
        marks: x of the times at which a new execution began.
        hits: (x, width, text) of the columns that show a tooltip.
        diagonal: (x, y) of both ends of a line for comparison.
    """

    title: str
    note: str
    label: str
    width: int
    levels: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]
    hits: Sequence[tuple[float, float, str]]
    legend: Sequence[Area] = ()
    shapes: Sequence[Shape] = ()
    marks: Sequence[float] = ()
    bars: Sequence[tuple[float, float, float]] = ()
    percentiles: Sequence[Percentile] = ()
    points: Sequence[Point] = ()
    diagonal: tuple[float, float, float, float] | None = None


def stacked(
    title: str,
    areas: Sequence[Area],
    *,
    step_s: float,
    marks: Sequence[float],
    write: Callable[[float], str] = compact,
    note: str = "",
) -> Chart:
    """Draw areas on top of each other over time.

    Args:
        title: title of the chart.
        areas: the areas from the bottom up, all with the same number of values.
        step_s: length of a step in seconds.
        marks: times to mark by a line, in seconds.
        write: formats a value.
        note: small print.
    """
    count = len(areas[0].values)
    sums = list(accumulate((area.values for area in areas), _added, initial=[0.0] * count))
    highest = max(sums[-1], default=0.0)
    levels = ticks(highest)
    x = _scale(0, max(1, count), LEFT, AREA_WIDTH - MARGIN)
    y = _scale(0, levels[-1] or 1.0, BOTTOM, TOP)
    shapes = []
    for area, (low, high) in zip(areas, pairwise(sums), strict=True):
        if any(area.values):
            floor, edge = (_edge(values, x, y) for values in (low, high))
            outline = " ".join([*edge, *reversed(floor)])
            # On top of others, an edge would hide thin areas.
            shapes.append(Shape(area.tone, outline, " ".join(edge) if len(areas) == 1 else None))
    return Chart(
        title=title,
        note=note,
        label=f"{title} over {elapsed(count * step_s)}, at most {write(highest)}",
        width=AREA_WIDTH,
        levels=[(y(value), write(value)) for value in levels],
        ticks=[(x(s / step_s), elapsed(s)) for s in time_ticks(count * step_s)],
        hits=[(x(n), x(1) - x(0), _at_step(n, areas, step_s, write)) for n in range(count)],
        legend=areas if len(areas) > 1 else (),
        shapes=shapes,
        marks=[x(s / step_s) for s in marks],
    )


def histogram_chart(title: str, histogram: Histogram, write: Callable[[float], str]) -> Chart:
    """Draw a histogram with its percentiles; `write` writes the values along the bottom."""
    start, width, counts = histogram.start, histogram.width, histogram.counts
    levels = ticks(max(counts), whole=True)
    x = _scale(0, len(counts), LEFT, HISTOGRAM_WIDTH - MARGIN)

    def position(value: float) -> float:
        """Return the position of a value; a bar for a single value is centred on it."""
        return x((value - start) / width + (0.5 if width == 1 else 0.0))

    percentiles = _percentiles(
        (name, min(position(value), HISTOGRAM_WIDTH - MARGIN))
        for name, value in histogram.at.items()
    )
    top = max((line.top for line in percentiles), default=TOP) + ROW_HEIGHT
    y = _scale(0, levels[-1] or 1.0, BOTTOM, top)
    end = start + width * len(counts)
    at = [f"{name} {write(value)}" for name, value in histogram.at.items()]
    above = [f"{compact(histogram.beyond)} above the range"] if histogram.beyond else []
    return Chart(
        title=title,
        note=" · ".join([*at, *above]),
        label=f"{title}: {', '.join(at)}",
        width=HISTOGRAM_WIDTH,
        levels=[(y(value), grouped(value)) for value in levels],
        ticks=[
            (position(value), write(value))
            for value in ticks_between(start, end, whole=width >= 1)
            if value < end
        ],
        hits=[
            (x(n), x(1) - x(0), _in_bar(start + n * width, width, count, write))
            for n, count in enumerate(counts)
        ],
        bars=[(x(n) + 0.6, y(c), max(1.0, x(1) - x(0) - 1.2)) for n, c in enumerate(counts) if c],
        percentiles=percentiles,
    )


def reliability_chart(title: str, found: Calibration) -> Chart:
    """Draw the share of right answers by confidence; on the diagonal, both are equal."""
    x = _scale(0, 1, LEFT, HISTOGRAM_WIDTH - MARGIN)
    y = _scale(0, 1, BOTTOM, TOP)
    shares = (0, 0.25, 0.5, 0.75, 1)
    auroc = "" if found.auroc is None else f" · AUROC {found.auroc:.3f}"
    largest = max(each.rows for each in found.bins)
    points, hits = [], []
    for each in found.bins:
        low, high = wilson(each.correct, each.rows)
        right = each.correct / each.rows
        # The area of a point is in proportion to its rows.
        radius = max(MIN_RADIUS, MAX_RADIUS * math.sqrt(each.rows / largest))
        points.append(Point(x(each.confidence), y(right), y(low), y(high), radius))
        text = (
            f"confidence {each.low:.0%} to {each.high:.0%}, mean {each.confidence:.1%}\n"
            f"right {right:.1%} (95 % CI {low:.1%} to {high:.1%}) of {counted(each.rows, 'row')}"
        )
        hits.append((x(each.low), x(each.high) - x(each.low), text))
    return Chart(
        title=title,
        note=f"ECE {found.ece:.3f}{auroc} · dashed: as right as confident",
        label=f"{title}: share of right answers by confidence, ECE {found.ece:.3f}",
        width=HISTOGRAM_WIDTH,
        levels=[(y(share), f"{share:.0%}") for share in shares],
        ticks=[(x(share), f"{share:.0%}") for share in shares],
        hits=hits,
        points=points,
        diagonal=(x(0), y(0), x(1), y(1)),
    )


def ticks(top: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from 0 to at least `top`, integers if `whole`."""
    step = _round_step(top / 4, whole=whole)
    return [step * n for n in range(math.ceil(top / step - 1e-9) + 1)] or [0.0]


def ticks_between(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`, both included if they are round."""
    step = _round_step((high - low) / 4, whole=whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * n for n in range(first, last + 1)]


def time_ticks(total_s: float) -> list[float]:
    """Return about six round times from 0 to `total_s`."""
    least = total_s / 6
    days = 86_400.0 * math.ceil(least / 86_400) if least > 43_200 else 43_200.0
    step = next((step for step in _ROUND_TIMES_S if step >= least), days)
    return [step * n for n in range(int(total_s / step + 1e-9) + 1)]


def _round_step(least: float, *, whole: bool) -> float:
    least = max(least, 1.0 if whole else 1e-12)
    power = 10.0 ** math.floor(math.log10(least))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    return power * next(factor for factor in factors if factor * power >= least * 0.999)


def _edge(
    values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    """Return the points at both ends of each step, because a value applies to the whole step."""
    return [
        f"{pixels(x(n + side))},{pixels(y(value))}"
        for n, value in enumerate(values)
        for side in (0, 1)
    ]


def _added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _at_step(n: int, areas: Sequence[Area], step_s: float, write: Callable[[float], str]) -> str:
    values = [(area.name, area.values[n]) for area in areas]
    lines = [f"{name}: {write(value)}" for name, value in values if value or len(areas) == 1]
    return "\n".join([f"{elapsed(n * step_s)} to {elapsed((n + 1) * step_s)}", *lines])


def _in_bar(low: float, width: float, count: int, write: Callable[[float], str]) -> str:
    values = write(low) if width == 1 else f"{write(low)} to {write(low + width)}"
    return f"{values}\n{counted(count, 'answer')}"


def _percentiles(places: Iterable[tuple[str, float]]) -> list[Percentile]:
    """Return the percentiles: equal ones share a label, and a label that would overlap moves to the next row."""
    names: dict[float, list[str]] = {}
    for name, x in places:
        names.setdefault(round(x), []).append(name)
    found: list[Percentile] = []
    free_x, top = 0.0, float(TOP)
    for x, together in sorted(names.items()):
        top = top + ROW_HEIGHT if x < free_x else float(TOP)
        free_x = x + NAME_WIDTH * len(together)
        label_x, anchor = (x - 4, "end") if free_x > HISTOGRAM_WIDTH else (x + 4, "start")
        found.append(Percentile(" ".join(together), x, top, label_x, anchor))
    return found


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def pixels(value: float) -> str:
    """Return a coordinate with one decimal, in as few characters as it needs."""
    return f"{value:.1f}".removesuffix(".0")
