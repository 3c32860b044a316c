"""Charts as SVG: stacked areas over time, and histograms. Colours come from the page's style.

Why these are drawn here and not by a library: CONTRIBUTING.md, "The packages".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from batchrun.report.markup import Markup, joined, tag
from batchrun.report.scales import compact, elapsed, ticks, ticks_between, time_ticks
from batchrun.report.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchrun.history import Histogram

WIDTH, HEIGHT = 560, 220
LEFT, TOP, BOTTOM = 56, 14, 192
MARGIN = 12
# Of the names of percentiles above bars: their height, and how wide one is.
ROW, NAME = 14, 30
# Three of these stand where two charts over time do.
NARROW = 400


@dataclass(frozen=True, slots=True)
class Area:
    """One series of a chart: a value for each step; `tone` names its colour in the style."""

    name: str
    values: Sequence[float]
    tone: str


@dataclass(frozen=True, slots=True)
class Axis:
    """How a chart reads: what its values are, and how one is written."""

    title: str
    write: Callable[[float], str]


def stacked(
    areas: Sequence[Area], step_s: float, axis: Axis, marks: Sequence[float] = ()
) -> Markup:
    """Draw areas on top of each other over time.

    Args:
        areas: from the lowest up, all with as many values.
        step_s: how long a step is, in seconds.
        axis: the values' axis.
        marks: moments to mark by a line, in seconds: where one execution followed another.
    """
    count = len(areas[0].values)
    tops = [sum(column) for column in zip(*(area.values for area in areas), strict=True)]
    levels = ticks(max(tops, default=0.0))
    x = _scale(0, max(1, count), LEFT, WIDTH - MARGIN)
    y = _scale(0, levels[-1] or 1.0, BOTTOM, TOP)
    floor: Sequence[float] = [0.0] * count
    drawn = []
    for area in areas:
        ceiling = [a + b for a, b in zip(floor, area.values, strict=True)]
        if any(area.values):
            drawn.append(_area(floor, ceiling, area.tone, x, y, alone=len(areas) == 1))
        floor = ceiling
    told = (
        f"{axis.title} over {elapsed(count * step_s)}, at most {axis.write(max(tops, default=0.0))}"
    )
    return _svg(
        told,
        _levels(levels, y, axis),
        _times(count * step_s, lambda s: x(s / step_s)),
        *drawn,
        *(_line(x(s / step_s), "mark") for s in marks),
        *_hits(areas, step_s, axis, x),
    )


def cumulative(area: Area) -> Area:
    """Return the running sum of a series."""
    return Area(area.name, list(accumulate(area.values)), area.tone)


def bars(histogram: Histogram, axis: Axis) -> Markup:
    """Draw a histogram with its percentiles; the axis is that of the values along the bottom."""
    counts = histogram.counts
    levels = ticks(max(counts), whole=True)
    x = _scale(0, len(counts), LEFT, NARROW - MARGIN)
    lines = _quantiles(histogram, x)
    top = TOP + ROW * (1 + max((line.row for line in lines), default=0))
    y = _scale(0, levels[-1] or 1.0, BOTTOM, top)
    heights = Axis("", lambda v: f"{v:,.0f}" if v < 10_000 else compact(v))
    told = ", ".join(f"{name} {axis.write(value)}" for name, value in histogram.at.items())
    return _svg(
        f"{axis.title}: {told}",
        _levels(levels, y, heights, NARROW),
        *(_bar(x(n), x(n + 1), y(count)) for n, count in enumerate(counts) if count),
        *_values(histogram, axis, x),
        *(_quantile(line) for line in lines),
        *_bar_hits(histogram, axis, x),
        width=NARROW,
    )


def _bar(left: float, right: float, top: float) -> Markup:
    gap = 0.6
    return tag(
        "rect",
        cls="bar",
        x=_n(left + gap),
        y=_n(top),
        width=_n(max(1.0, right - left - 2 * gap)),
        height=_n(BOTTOM - top),
        rx="1.5",
    )


def _values(h: Histogram, axis: Axis, x: Callable[[float], float]) -> Iterator[Markup]:
    """The values along the bottom: at the edges of the bars, or below them where each is one value."""
    end = h.start + h.width * len(h.counts)
    for value in ticks_between(h.start, end, whole=h.width >= 1):
        if value < end:
            yield _label(x(_place(h, value)), BOTTOM + 17, axis.write(value), "middle")


def _place(h: Histogram, value: float) -> float:
    """Where a value is, in bars."""
    return (value - h.start) / h.width + (0.5 if h.width == 1 else 0.0)


def share(part: float, tone: str = "s1") -> Markup:
    """Draw a bar for a table: how much of the whole, from 0 to 1."""
    width = _n(100 * min(1.0, max(0.0, part)))
    return tag(
        "svg",
        tag("rect", cls="track", width="100", height="6", rx="3"),
        tag("rect", cls=f"fill {tone}", width=width, height="6", rx="3"),
        cls="share",
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def whiskers(part: float, bounds: tuple[float, float] | None, tone: str = "s1") -> Markup:
    """Draw a bar for a table with the interval around its end; all from 0 to 1."""
    bar = share(part, tone)
    if bounds is None:
        return bar
    low, high = (_n(100 * min(1.0, max(0.0, bound))) for bound in bounds)
    line = tag("path", cls="whisker", d=f"M{low} 0V10M{low} 5H{high}M{high} 0V10")
    view = {"viewBox": "0 0 100 10", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("div", bar, tag("svg", line, cls="interval", **view), cls="whiskers")


def _svg(title: str, *parts: Markup, width: int = WIDTH) -> Markup:
    frame = f"0 0 {width} {HEIGHT}"
    kind = "chart" if width == WIDTH else "chart slim"
    return tag("svg", *parts, cls=kind, viewBox=frame, role="img", aria_label=title)


def _area(
    floor: Sequence[float],
    ceiling: Sequence[float],
    tone: str,
    x: Callable[[float], float],
    y: Callable[[float], float],
    *,
    alone: bool,
) -> Markup:
    """An area as steps: what a value says holds for the whole of its step.

    One that stands alone has an edge; on others an edge would hide what is thin.
    """
    up = [f"{_n(x(n + side))},{_n(y(v))}" for n, v in enumerate(ceiling) for side in (0, 1)]
    down = [f"{_n(x(n + side))},{_n(y(v))}" for n, v in enumerate(floor) for side in (0, 1)]
    kind = "area" if alone else "solid"
    fill = tag("polygon", cls=f"{kind} {tone}", points=" ".join([*up, *reversed(down)]))
    edge = tag("polyline", cls=f"edge {tone}", points=" ".join(up)) if alone else None
    return joined(fill, edge)


def _levels(
    levels: Sequence[float], y: Callable[[float], float], axis: Axis, width: int = WIDTH
) -> Markup:
    return joined(
        *(
            joined(
                tag(
                    "line",
                    cls="level",
                    x1=str(LEFT),
                    x2=str(width - MARGIN),
                    y1=_n(y(v)),
                    y2=_n(y(v)),
                ),
                _label(LEFT - 8, y(v) + 4, axis.write(v), "end"),
            )
            for v in levels
        )
    )


def _times(total_s: float, x: Callable[[float], float]) -> Markup:
    return joined(*(_label(x(s), BOTTOM + 17, elapsed(s), "middle") for s in time_ticks(total_s)))


def _hits(
    areas: Sequence[Area], step_s: float, axis: Axis, x: Callable[[float], float]
) -> Iterator[Markup]:
    """Invisible columns that say what is under the pointer."""
    for n, column in enumerate(zip(*(area.values for area in areas), strict=True)):
        lines = [f"{elapsed(n * step_s)} to {elapsed((n + 1) * step_s)}"]
        named = zip(areas, column, strict=True)
        lines += [f"{a.name}: {axis.write(v)}" for a, v in named if v or len(areas) == 1]
        yield _hit(x(n), x(n + 1), "\n".join(lines))


def _bar_hits(h: Histogram, axis: Axis, x: Callable[[float], float]) -> Iterator[Markup]:
    for n, count in enumerate(h.counts):
        around = axis.write(h.start + n * h.width)
        if h.width != 1:
            around += f" to {axis.write(h.start + (n + 1) * h.width)}"
        yield _hit(x(n), x(n + 1), f"{around}\n{counted(count, 'answer')}")


def _hit(left: float, right: float, tip: str) -> Markup:
    return tag(
        "rect",
        cls="hit",
        x=_n(left),
        y=str(TOP),
        width=_n(right - left),
        height=str(BOTTOM - TOP),
        data_tip=tip,
    )


@dataclass(frozen=True, slots=True)
class _Quantile:
    """A line at a percentile, with the row above the bars that its name stands in."""

    name: str
    x: float
    row: int


def _quantiles(h: Histogram, x: Callable[[float], float]) -> list[_Quantile]:
    """Place the percentiles: those in one place share a name, names too close go to other rows."""
    places: dict[float, list[str]] = {}
    for name, value in h.at.items():
        places.setdefault(round(min(float(NARROW - MARGIN), x(_place(h, value)))), []).append(name)
    found: list[_Quantile] = []
    for at, names in sorted(places.items()):
        close = bool(found) and at - found[-1].x < NAME * found[-1].name.count("p")
        found.append(_Quantile(" ".join(names), at, found[-1].row + 1 if close else 0))
    return found


def _quantile(line: _Quantile) -> Markup:
    top = TOP + ROW * line.row
    width = NAME * line.name.count("p")
    side, anchor = (-4, "end") if line.x + width > NARROW else (4, "start")
    return joined(
        _line(line.x, "quantile", top), _label(line.x + side, top + 9, line.name, anchor, "note")
    )


def _line(x: float, cls: str, top: float = TOP) -> Markup:
    return tag("line", cls=cls, x1=_n(x), x2=_n(x), y1=_n(top), y2=str(BOTTOM))


def _label(x: float, y: float, text: str, anchor: str, cls: str = "tick") -> Markup:
    return tag("text", text, cls=cls, x=_n(x), y=_n(y), text_anchor=anchor)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def _n(value: float) -> str:
    """A coordinate in as few characters as it needs."""
    return f"{value:.1f}".removesuffix(".0")
