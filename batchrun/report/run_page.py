"""`report.html`: the page of a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from batchrun.records import unusual_endings
from batchrun.report.charts import Area, Axis, Chart, histogram_chart, stacked
from batchrun.report.hints import ENDINGS, hint
from batchrun.report.html import Tile, html_page
from batchrun.report.rows import row_kinds, row_views
from batchrun.report.run_summary import is_unpriced, projected, throughput
from batchrun.report.text import (
    compact,
    counted,
    dollars,
    grouped,
    latency,
    rate,
    seconds,
    usd,
    usd_on_axis,
    when,
)
from batchrun.scoring import score_facts, score_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.history import Histogram, History, PriceUse, RunTotals, Series
    from batchrun.scoring import ScoreTotals

MOST_LINES = 20
MOST_TEXT = 400
MOST_LABELS = 20
SHADES = 8


@dataclass(frozen=True, slots=True)
class RunPageInfo:
    """What the page says of a run beside its numbers.

    Attributes:
        state: `running`, `finished`, or what ended the run early.
        facts: (label, value) about the job, in the order in which they are shown.
        is_simulated: whether the answers are from the simulator.
        notes: what the reader should know about gaps in the page.
        written_us: now, in microseconds since 1970 UTC.
    """

    state: str
    facts: Sequence[tuple[str, str]]
    is_simulated: bool
    notes: Sequence[str]
    written_us: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with its title and small print."""

    title: str
    chart: Chart
    note: str = ""


@dataclass(frozen=True, slots=True)
class CostLine:
    """What a model or a kind of tokens cost; `share` is its part of the whole, from 0 to 1."""

    name: str
    count: str
    cost: str
    share: float
    tone: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A type of error or an unusual ending: how often it occurred, what it means, what helps."""

    name: str
    count: int
    share: float
    meaning: str
    remedy: str | None


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """How many rows of one label were answered with a label; `shade` is from 0 to `SHADES`."""

    count: int
    is_right: bool
    shade: int
    tip: str


def run_page(
    totals: RunTotals, history: History, score: ScoreTotals | None, info: RunPageInfo
) -> str:
    """Return the whole document."""
    started = totals.executions[0]["started_us"] if totals.executions else None
    models = ", ".join(one.model for one in totals.models[:3])
    facts = None if score is None else score_facts(score)
    return html_page(
        "run.html.jinja",
        title=totals.name,
        subtitle=[
            counted(totals.total, "row"),
            models,
            "" if started is None else f"started {when(started)}",
        ],
        is_simulated=info.is_simulated,
        notes=info.notes,
        written_us=info.written_us,
        state=info.state,
        tone={"finished": "good", "running": "busy"}.get(info.state, "warn"),
        tiles=list(_tiles(totals, score)),
        over_time=list(_over_time(totals, history.series)),
        score=facts,
        score_notes=[] if score is None else _score_notes(score),
        confusion=_confusion(facts["confusion"]) if facts and facts["labels"] else [],
        cost_by_kind=list(_cost_by_kind(totals)),
        cost_by_model=_cost_by_model(totals),
        saved=totals.cost.cache_saved,
        distributions=list(_distributions(history)),
        errors=_errors(totals),
        retried=", ".join(
            f"{n:,} {cause.replace('_', ' ')}" for cause, n in totals.retries_by_cause.items()
        ),
        endings=_endings(totals),
        answers=sum(totals.endings.values()),
        total=totals.total,
        rows=row_views(history.samples),
        row_kinds=row_kinds(history.samples),
        is_scored=any(row.score is not None for row in history.samples),
        job_facts=info.facts,
        prices=totals.prices[:MOST_LINES],
        price_of=_price,
        executions=totals.executions[-MOST_LINES:],
    )


def _tiles(totals: RunTotals, score: ScoreTotals | None) -> Iterator[Tile]:
    """The numbers that matter most."""
    yield _success_tile(totals)
    if score is not None:
        yield _score_tile(score)
    yield _cost_tile(totals)
    sent, received = totals.usage.input_tokens or 0, totals.usage.output_tokens or 0
    yield Tile("Tokens", compact(sent + received), f"{compact(sent)} in, {compact(received)} out")
    yield Tile("Time", seconds(totals.wall_time_s), counted(len(totals.executions), "execution"))
    speed = throughput(totals)
    rows, tokens = speed["rows_per_s"], speed["tokens_per_s"]
    yield Tile(
        "Throughput",
        f"{rate(rows)}/s" if rows else "–",
        f"{compact(tokens)} tokens/s" if tokens else "",
    )
    median, slow = totals.latency_s.get("p50"), totals.latency_s.get("p99")
    yield Tile(
        "Latency, median",
        latency(median) if median else "–",
        f"p99 {latency(slow)}" if slow else "",
    )


def _success_tile(totals: RunTotals) -> Tile:
    if not totals.total:
        return Tile("Rows succeeded", "–", "no rows")
    counts = ((totals.errored, "errored"), (totals.pending, "pending"))
    missing = ", ".join(f"{count:,} {word}" for count, word in counts if count)
    return Tile(
        "Rows succeeded",
        f"{totals.succeeded / totals.total:.1%}",
        missing or f"all {totals.total:,}",
    )


def _cost_tile(totals: RunTotals) -> Tile:
    done = totals.succeeded + totals.errored
    note = ""
    if totals.unpriced:
        note = f"{counted(totals.unpriced, 'answer')} without a price"
    elif done:
        note = f"{usd(totals.cost.total * 1_000 // done)} per 1,000 rows"
    return Tile("Cost", "unknown" if is_unpriced(totals) else usd(totals.cost.total), note)


def _score_tile(score: ScoreTotals) -> Tile:
    facts = score_facts(score)
    if facts["accuracy"] is None:
        mean = facts["mean"]
        return Tile("Mean score", "–" if mean is None else f"{mean:.3f}", f"{score.scored:,} rows")
    low, high = facts["ci95"]
    ended = [f"{count:,} {ending}" for ending, count in unusual_endings(score.endings).items()]
    note = ", ".join([f"95 % CI {low:.1%} to {high:.1%}", *ended])
    return Tile("Accuracy", f"{facts['accuracy']:.1%}", note)


def _over_time(totals: RunTotals, series: Series | None) -> Iterator[Panel]:
    """Requests, tokens and cost over the time at work."""
    if series is None:
        return
    step = series.step_s

    def panel(axis: Axis, areas: Sequence[Area], note: str = "") -> Panel:
        marks = [span.offset_us / 1e6 for span in series.spans[1:]]
        return Panel(axis.title, stacked(areas, step, axis, marks), note)

    def per_second(*named: tuple[str, Sequence[float], str]) -> list[Area]:
        areas = [Area(name, [v / step for v in values], tone) for name, values, tone in named]
        return [area for area in areas if any(area.values)] or areas[:1]

    requests = per_second(
        ("answered", series.succeeded, "s1"),
        ("failed", series.failed, "bad"),
        ("refused: rate limit or overload", series.refused, "warn"),
    )
    yield panel(Axis("Requests per second", compact), requests, _waits(totals))
    yield panel(Axis("Requests in flight", compact), [Area("in flight", series.in_flight, "s4")])
    tokens = per_second(
        ("input", series.input_tokens, "s2"), ("output", series.output_tokens, "s3")
    )
    yield panel(Axis("Tokens per second", compact), tokens)
    costs = [
        Area(model, list(accumulate(values)), f"s{n}")
        for n, (model, values) in enumerate(series.cost.items(), 1)
    ]
    if costs:
        yield panel(Axis("Cost so far", usd_on_axis), costs, _cap(totals))


def _waits(totals: RunTotals) -> str:
    waits = sorted(totals.waits_s_by_cause.items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{seconds(spent)} for {cause}" for cause, spent in waits if spent >= 0.05)
    return f"Waits, summed over rows: {parts}" if parts else ""


def _cap(totals: RunTotals) -> str:
    if totals.cap is None:
        return ""
    whole = projected(totals)
    rest = "" if whole is None else f"; all rows would cost about {usd(whole)}"
    return f"Cap {usd(totals.cap)}{rest}"


def _score_notes(score: ScoreTotals) -> list[str]:
    """The lines of the terminal, without those that the page shows as tables."""
    return [line for line in score_lines(score) if "  " not in line and "pass@" not in line]


def _confusion(confusion: Mapping[str, Any]) -> list[tuple[str, list[ConfusionCell]]]:
    """Each expected label with its cells, as dark as their share of the row is large."""
    labels = confusion["labels"][:MOST_LABELS]
    return [
        (label, [_confusion_cell(labels, row, place, n) for n in range(len(labels))])
        for place, (label, row) in enumerate(zip(labels, confusion["matrix"], strict=False))
    ]


def _confusion_cell(
    labels: Sequence[str], row: Sequence[int], expected: int, answered: int
) -> ConfusionCell:
    count, total = row[answered], sum(row)
    part = count / total if total else 0.0
    tip = (
        f"expected {labels[expected]}\nanswered {labels[answered]}\n"
        f"{counted(count, 'row')}, {part:.1%} of the expected"
    )
    shade = round(part * SHADES) or (1 if count else 0)
    return ConfusionCell(count, expected == answered, shade, tip)


def _cost_by_kind(totals: RunTotals) -> Iterator[CostLine]:
    usage, cost = totals.usage, totals.cost
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    uncached = (usage.input_tokens or 0) - read - write
    for name, tokens, pico, tone in (
        ("Uncached input", uncached, cost.uncached_input, "s1"),
        ("Cache read", read, cost.cache_read, "s2"),
        ("Cache write", write, cost.cache_write, "s4"),
        ("Output", usage.output_tokens or 0, cost.output, "s3"),
        ("Other", 0, cost.other, "s5"),
    ):
        if tokens or pico:
            known = None if is_unpriced(totals) else pico
            yield _cost_line(name, f"{tokens:,}" if tokens else "", known, cost.total, tone)


def _cost_by_model(totals: RunTotals) -> list[CostLine]:
    return [
        _cost_line(one.model, f"{one.answers:,}", one.cost, totals.cost.total, f"s{min(n, 6)}")
        for n, one in enumerate(totals.models[:MOST_LINES], 1)
    ]


def _cost_line(name: str, count: str, pico: int | None, whole: int, tone: str) -> CostLine:
    cost = "unknown" if pico is None else dollars(pico)
    return CostLine(name, count, cost, (pico or 0) / (whole or 1), tone)


def _distributions(history: History) -> Iterator[Panel]:
    """How long answers took, and how long they and their prompts were."""
    drawn: tuple[tuple[Histogram | None, Axis], ...] = (
        (history.latency_s, Axis("Latency", latency)),
        (history.input_tokens, Axis("Input tokens", grouped)),
        (history.output_tokens, Axis("Output tokens", grouped)),
    )
    for histogram, axis in drawn:
        if histogram is not None:
            parts = [f"{name} {axis.write(value)}" for name, value in histogram.at.items()]
            if histogram.beyond:
                parts.append(f"{compact(histogram.beyond)} above the range")
            chart = histogram_chart(histogram, axis)
            yield Panel(f"{axis.title} per answer", chart, " · ".join(parts))


def _errors(totals: RunTotals) -> list[Problem]:
    """The errors of rows that failed permanently, with an example and what helps."""
    most = max((count for count, _ in totals.errors_by_type.values()), default=0)
    errors = list(totals.errors_by_type.items())[:MOST_LINES]
    return [
        Problem(kind[:60], count, count / most, (example or "")[:MOST_TEXT], hint(kind))
        for kind, (count, example) in errors
    ]


def _endings(totals: RunTotals) -> list[Problem]:
    """Answers that look complete and are not, with what helps."""
    answers = sum(totals.endings.values())
    return [
        Problem(
            ending, count, count / answers, *ENDINGS.get(ending, ("", "see the column stop_reason"))
        )
        for ending, count in unusual_endings(totals.endings).items()
    ]


def _price(price: PriceUse, kind: str) -> str:
    """A price in USD per million tokens, with those of long prompts."""
    if price.rates is None:
        return "unknown"
    tiers = [f", {rates[kind]:g} above {compact(start)}" for start, rates in price.tiers]
    return f"{price.rates[kind]:g}{''.join(tiers)}"
