"""`report.html`: the page of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from batchrun.evaluation import score_facts, score_notes
from batchrun.records import unusual_endings
from batchrun.report.charts import Area, Chart, histogram_chart, stacked
from batchrun.report.confusion import shown_confusion
from batchrun.report.formatting import (
    compact,
    counted,
    grouped,
    latency,
    rate,
    seconds,
    usd,
    usd_on_axis,
    when,
)
from batchrun.report.hints import ending_problems, error_problems
from batchrun.report.html import Tile, html_page
from batchrun.report.run_summary import cost_by_kind, throughput
from batchrun.report.score_groups import reliability_charts, score_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.evaluation.history import Histogram, History, Series
    from batchrun.pricing.totals import PriceUse, RunTotals
    from batchrun.report.row_data import EmbeddedRows

MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class RunPageInfo:
    """Information about a run for its page, apart from its numbers.

    Attributes:
        state: `running`, `finished`, or why the run ended early.
        facts: (label, value) about the job, in the order in which they are shown.
        is_simulated: whether the answers are from the simulator.
        notes: notes about missing parts of the page.
        written_us: the present time, in microseconds since 1970 UTC.
    """

    state: str
    facts: Sequence[tuple[str, str]]
    is_simulated: bool
    notes: Sequence[str]
    written_us: int


def run_page(
    totals: RunTotals,
    history: History,
    score: ScoreTotals | None,
    rows: EmbeddedRows,
    info: RunPageInfo,
) -> str:
    """Return the whole document."""
    facts = None if score is None else score_facts(score)
    started = totals.executions[0]["started_us"] if totals.executions else None
    return html_page(
        "run.html.jinja",
        title=totals.name,
        subtitle=[
            counted(totals.total, "row"),
            ", ".join(one.model for one in totals.models[:3]),
            "" if started is None else f"started {when(started)}",
        ],
        is_simulated=info.is_simulated,
        notes=info.notes,
        written_us=info.written_us,
        tiles=list(_tiles(totals, score)),
        info=info,
        totals=totals,
        over_time=list(_over_time(totals, history.series)),
        score=facts,
        confusion=shown_confusion(facts["confusion"]) if facts and facts.get("confusion") else None,
        score_notes=[] if score is None else score_notes(score),
        score_groups=[] if score is None else list(score_groups(score)),
        reliability=[] if score is None else list(reliability_charts(score)),
        cost_by_kind=cost_by_kind(totals),
        distributions=list(_distributions(history)),
        errors=error_problems(totals)[:MOST_LINES],
        endings=ending_problems(totals),
        rows=rows,
        price_of=_price,
    )


def _tiles(totals: RunTotals, score: ScoreTotals | None) -> Iterator[Tile]:
    """Return tiles with the most important numbers."""
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
    average = totals.cost_of_rows(1_000)
    note = "" if average is None else f"{usd(average)} per 1,000 rows"
    if totals.unpriced:
        note = f"{counted(totals.unpriced, 'answer')} without a price"
    return Tile("Cost", "unknown" if totals.is_unpriced else usd(totals.cost.total), note)


def _score_tile(score: ScoreTotals) -> Tile:
    facts = score_facts(score)
    if facts["accuracy"] is None:
        mean = facts["mean"]
        return Tile("Mean score", "–" if mean is None else f"{mean:.3f}", f"{score.scored:,} rows")
    low, high = facts["ci95"]
    ended = [f"{count:,} {ending}" for ending, count in unusual_endings(score.endings).items()]
    note = ", ".join([f"95 % CI {low:.1%} to {high:.1%}", *ended])
    return Tile("Accuracy", f"{facts['accuracy']:.1%}", note)


def _over_time(totals: RunTotals, series: Series | None) -> Iterator[Chart]:
    """Return charts of requests, tokens and cost over the working time."""
    if series is None:
        return
    marks = [span.offset_us / 1e6 for span in series.spans[1:]]
    draw = partial(stacked, step_s=series.step_s, marks=marks)

    def per_second(*named: tuple[str, Sequence[float], str]) -> list[Area]:
        areas = [
            Area(name, [value / series.step_s for value in values], tone)
            for name, values, tone in named
        ]
        return [area for area in areas if any(area.values)] or areas[:1]

    requests = per_second(
        ("answered", series.succeeded, "s1"),
        ("failed", series.failed, "bad"),
        ("refused: rate limit or overload", series.refused, "warn"),
    )
    yield draw("Requests per second", requests, note=_waits(totals))
    yield draw("Requests in flight", [Area("in flight", series.in_flight, "s4")])
    tokens = (("input", series.input_tokens, "s2"), ("output", series.output_tokens, "s3"))
    yield draw("Tokens per second", per_second(*tokens))
    costs = [
        Area(model, list(accumulate(values)), f"s{n}")
        for n, (model, values) in enumerate(series.cost.items(), 1)
    ]
    if costs:
        yield draw("Cost so far", costs, write=usd_on_axis, note=_cap(totals))


def _waits(totals: RunTotals) -> str:
    waits = sorted(totals.waits_s_by_cause.items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{seconds(spent)} for {cause}" for cause, spent in waits if spent >= 0.05)
    return f"Waits, summed over rows: {parts}" if parts else ""


def _cap(totals: RunTotals) -> str:
    if totals.cap is None:
        return ""
    whole = totals.projected_cost
    rest = "" if whole is None else f"; all rows would cost about {usd(whole)}"
    return f"Cap {usd(totals.cap)}{rest}"


def _distributions(history: History) -> Iterator[Chart]:
    """Return charts of the distributions of latency and of the lengths of answers and prompts."""
    drawn: tuple[tuple[str, Histogram | None, Callable[[float], str]], ...] = (
        ("Latency per answer", history.latency_s, latency),
        ("Input tokens per answer", history.input_tokens, grouped),
        ("Output tokens per answer", history.output_tokens, grouped),
    )
    for title, histogram, write in drawn:
        if histogram is not None:
            yield histogram_chart(title, histogram, write)


def _price(price: PriceUse, kind: str) -> str:
    """Return a price in USD per million tokens, with the prices of long prompts."""
    if price.rates is None:
        return "unknown"
    tiers = [f", {rates[kind]:g} above {compact(start)}" for start, rates in price.tiers]
    return f"{price.rates[kind]:g}{''.join(tiers)}"
