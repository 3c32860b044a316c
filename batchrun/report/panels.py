"""The panels of the report: tiles, charts and tables from a run's totals and history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.records import unusual_endings
from batchrun.report.charts import Area, Axis, bars, cumulative, share, stacked
from batchrun.report.facts import is_unpriced, projected, throughput
from batchrun.report.hints import ENDINGS, hint
from batchrun.report.markup import Markup, joined, tag
from batchrun.report.scales import compact, duration, grouped, usd, usd_level
from batchrun.report.text import counted, dollars, rate, seconds, when
from batchrun.scoring import score_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.history import Histogram, History, PriceUse, RunTotals, Series
    from batchrun.scoring import ScoreTotals

MOST_LINES = 20
MOST_TEXT = 400


def panel(title: str, *body: object, note: str | None = None, wide: bool = False) -> Markup:
    """A card with a title, and what it says in small print."""
    head = tag("div", tag("h2", title), tag("p", note, cls="quiet") if note else None, cls="head")
    kind = "panel wide" if wide else "panel"
    return tag("section", head, *body, cls=kind, aria_label=title)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], sides: str) -> Markup:
    """A table; `sides` has `>` for a column of numbers, `<` for text, `-` for a bar."""
    kinds = [{">": "number", "<": None, "-": "wide-cell"}[side] for side in sides]
    top = tag("tr", *(tag("th", h, cls=k, scope="col") for h, k in zip(head, kinds, strict=True)))
    body = [
        tag("tr", *(tag("td", cell, cls=k) for cell, k in zip(row, kinds, strict=True)))
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), cls="scroll")


def tiles(totals: RunTotals, score: ScoreTotals | None) -> Markup:
    """The numbers that matter most."""
    total = totals.total or 1
    pace, done = throughput(totals), totals.succeeded + totals.errored
    money = "unknown" if is_unpriced(totals) else usd(totals.cost.total)
    each = usd(totals.cost.total * 1_000 // done) if done and not totals.unpriced else None
    usage, latency = totals.usage, totals.latency_s
    sent, received = usage.input_tokens or 0, usage.output_tokens or 0
    missing = [
        f"{count:,} {word}"
        for count, word in ((totals.errored, "errored"), (totals.pending, "pending"))
        if count
    ]
    found = [
        tile(
            "Rows succeeded",
            f"{totals.succeeded / total:.1%}" if totals.total else "–",
            ", ".join(missing) or (f"all {totals.total:,}" if totals.total else "no rows"),
        ),
        tile("Cost", money, f"{each} per 1,000 rows" if each else _unpriced(totals)),
        tile("Tokens", compact(sent + received), f"{compact(sent)} in, {compact(received)} out"),
        tile("Time", seconds(totals.wall_time_s), _executions(totals)),
        tile(
            "Throughput",
            f"{rate(pace['rows_per_s'])}/s" if pace["rows_per_s"] else "–",
            f"{compact(pace['tokens_per_s'])} tokens/s" if pace["tokens_per_s"] else "",
        ),
        tile(
            "Latency, median",
            duration(median) if (median := latency.get("p50")) else "–",
            f"p99 {duration(slow)}" if (slow := latency.get("p99")) else "",
        ),
    ]
    if score is not None:
        found.insert(1, _score_tile(score))
    return tag("div", *found, cls="tiles")


def _score_tile(score: ScoreTotals) -> Markup:
    facts = score_facts(score)
    if facts["accuracy"] is None:
        mean = facts["mean"]
        return tile("Mean score", "–" if mean is None else f"{mean:.3f}", f"{score.scored:,} rows")
    low, high = facts["ci95"]
    ended = [f"{count:,} {ending}" for ending, count in unusual_endings(score.endings).items()]
    small = ", ".join([f"95 % CI {low:.1%} to {high:.1%}", *ended])
    return tile("Accuracy", f"{facts['accuracy']:.1%}", small)


def tile(label: str, value: str, small: str) -> Markup:
    """A number with its name, and what it says in small print."""
    parts = (tag("dt", label), tag("dd", value), tag("p", small, cls="quiet"))
    return tag("dl", *parts, cls="tile")


def _unpriced(totals: RunTotals) -> str:
    return f"{counted(totals.unpriced, 'answer')} without a price" if totals.unpriced else ""


def _executions(totals: RunTotals) -> str:
    count = len(totals.executions)
    return "one execution" if count == 1 else f"{count:,} executions"


def over_time(totals: RunTotals, series: Series | None) -> Markup | None:
    """How fast, how many at once, how dear, over the time at work."""
    if series is None:
        return None
    marks = [span.offset_us / 1e6 for span in series.spans[1:]]
    step = series.step_s

    def chart(title: str, axis: Axis, areas: list[Area], note: str | None = None) -> Markup:
        return panel(title, _legend(areas), stacked(areas, step, axis, marks), note=note)

    def per_second(name: str, values: Sequence[float], tone: str) -> Area:
        return Area(name, [value / step for value in values], tone)

    pace = [
        per_second("answered", series.succeeded, "s1"),
        per_second("failed", series.failed, "bad"),
        per_second("refused: rate limit, overload", series.refused, "warn"),
    ]
    tokens = [
        per_second("input", series.input_tokens, "s2"),
        per_second("output", series.output_tokens, "s3"),
    ]
    money = [
        cumulative(Area(model, values, f"s{n}"))
        for n, (model, values) in enumerate(series.cost.items(), 1)
    ]
    flight = [Area("in flight", series.in_flight, "s4")]
    return tag(
        "div",
        chart(
            "Requests per second", Axis("Requests per second", compact), _seen(pace), _waits(totals)
        ),
        chart("Requests in flight", Axis("Requests in flight", compact), flight),
        chart("Tokens per second", Axis("Tokens per second", compact), _seen(tokens)),
        chart("Cost so far", Axis("Cost so far", usd_level), money, _cap(totals))
        if money
        else None,
        cls="grid",
    )


def _seen(areas: list[Area]) -> list[Area]:
    return [area for area in areas if any(area.values)] or areas[:1]


def _cap(totals: RunTotals) -> str | None:
    """How far the money goes, where there is a cap."""
    if totals.cap is None:
        return None
    whole = projected(totals)
    rest = f"; all rows would cost about {usd(whole)}" if whole is not None else ""
    return f"Cap {usd(totals.cap)}{rest}"


def _waits(totals: RunTotals) -> str | None:
    waits = sorted(totals.waits_s_by_cause.items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{seconds(spent)} for {cause}" for cause, spent in waits if spent >= 0.05)
    return f"Waits, summed over rows: {told}" if told else None


def _legend(areas: Sequence[Area]) -> Markup | None:
    if len(areas) < 2:
        return None
    return tag(
        "p", *(tag("span", area.name, cls=f"key {area.tone}") for area in areas), cls="legend"
    )


def money(totals: RunTotals) -> Iterator[Markup]:
    """What was paid, by kind of token and by model."""
    usage, cost = totals.usage, totals.cost
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    kinds = [
        ("Uncached input", (usage.input_tokens or 0) - read - write, cost.uncached_input, "s1"),
        ("Cache read", read, cost.cache_read, "s2"),
        ("Cache write", write, cost.cache_write, "s4"),
        ("Output", usage.output_tokens or 0, cost.output, "s3"),
        ("Other", 0, cost.other, "s5"),
    ]
    whole = cost.total or 1
    write_cost = (lambda _: "unknown") if is_unpriced(totals) else dollars
    rows = [
        (name, f"{tokens:,}" if tokens else "", write_cost(pico), share(pico / whole, tone))
        for name, tokens, pico, tone in kinds
        if tokens or pico
    ]
    saved = f"Caching saved {dollars(cost.cache_saved)}" if cost.cache_saved else None
    if rows:
        head = ("", "Tokens", "Cost", "")
        yield panel("Cost by kind of token", table(head, rows, "<>>-"), note=saved)
        yield panel("Cost by model", _models(totals, whole))


def _models(totals: RunTotals, whole: int) -> Markup:
    rows = [
        (
            one.model,
            f"{one.answers:,}",
            "unknown" if one.cost is None else dollars(one.cost),
            share((one.cost or 0) / whole, f"s{min(n, 6)}"),
        )
        for n, one in enumerate(totals.models[:MOST_LINES], 1)
    ]
    return table(("Model", "Answers", "Cost", ""), rows, "<>>-")


def distributions(history: History) -> Iterator[Markup]:
    """How long answers took, and how long they and their prompts were."""
    drawn: tuple[tuple[str, Histogram | None, Axis], ...] = (
        ("Latency", history.latency_s, Axis("Latency", duration)),
        ("Input tokens", history.input_tokens, Axis("Input tokens", grouped)),
        ("Output tokens", history.output_tokens, Axis("Output tokens", grouped)),
    )
    for title, found, axis in drawn:
        if found is not None:
            at = " · ".join(f"{name} {axis.write(value)}" for name, value in found.at.items())
            more = f" · {compact(found.beyond)} beyond" if found.beyond else ""
            yield panel(f"{title} of an answer", bars(found, axis), note=f"{at}{more}")


def errors(totals: RunTotals) -> Markup | None:
    """What failed for good, with an example and a way out; what was retried in small print."""
    retried = [f"{n:,} {cause.replace('_', ' ')}" for cause, n in totals.retries_by_cause.items()]
    note = f"Retried: {', '.join(retried)}" if retried else None
    if not totals.errors_by_type:
        return panel("Errors", tag("p", "No row errored."), note=note, wide=True) if note else None
    most = max(count for count, _ in totals.errors_by_type.values())
    rows = [
        (
            tag("code", error_type[:60]),
            f"{count:,}",
            share(count / most, "bad"),
            joined(
                tag("p", (example or "")[:MOST_TEXT]),
                tag("p", f"→ {mend}", cls="quiet") if (mend := hint(error_type)) else None,
            ),
        )
        for error_type, (count, example) in list(totals.errors_by_type.items())[:MOST_LINES]
    ]
    head = ("Error", "Rows", "", "Example, and what helps")
    return panel("Errors", table(head, rows, "<>-<"), note=note, wide=True)


def endings(totals: RunTotals) -> Markup | None:
    """Answers that look complete and are not, with what helps."""
    unusual = unusual_endings(totals.endings)
    if not unusual:
        return None
    answers = sum(totals.endings.values())
    rows = [
        (
            tag("code", ending),
            f"{count:,}",
            share(count / answers, "warn"),
            joined(tag("p", meaning), tag("p", f"→ {remedy}", cls="quiet")),
        )
        for ending, count in unusual.items()
        for meaning, remedy in [ENDINGS.get(ending, ("", "look at the column stop_reason"))]
    ]
    usual = answers - sum(unusual.values())
    note = f"{usual:,} of {counted(answers, 'answer')} ended with stop or tool_calls"
    head = ("Ending", "Answers", "", "What it means, and what helps")
    return panel("Endings", table(head, rows, "<>-<"), note=note, wide=True)


def details(totals: RunTotals, facts: Sequence[tuple[str, str]]) -> Iterator[Markup]:
    """What was asked, by which prices it was counted, when it ran."""
    if facts:
        listed = [joined(tag("dt", label), tag("dd", value)) for label, value in facts]
        yield panel("Job", tag("dl", *listed, cls="facts"))
    if totals.prices:
        head = ("Model", "Price of", "In", "Out", "Source")
        rows = [_price(price) for price in totals.prices[:MOST_LINES]]
        yield panel("Prices", table(head, rows, "<<>><"), note="USD per million tokens")
    runs = [
        (
            f"{execution['execution']}",
            when(execution["started_us"]),
            seconds(execution["wall_time_s"]),
            _outcome(execution),
        )
        for execution in totals.executions[-MOST_LINES:]
    ]
    if runs:
        yield panel("Executions", table(("", "Started", "Took", "Outcome"), runs, "><><"))


def _outcome(execution: Mapping[str, Any]) -> str:
    words = execution["outcome"].replace("_", " ")
    return f"{words}: {execution['reason']}" if execution["reason"] else words


def _price(price: PriceUse) -> tuple[str, ...]:
    source = f"{price.source}, as of {when(price.as_of_us)[:10]}"
    each = (_per_million(price, kind) for kind in ("input", "output"))
    conditions = f" ({price.conditions})" if price.conditions else ""
    return f"{price.model}{conditions}", price.matched or "unknown", *each, source


def _per_million(price: PriceUse, kind: str) -> str:
    """A price, with those of long prompts."""
    if price.rates is None:
        return "unknown"
    usd_each = [(0, price.rates[kind]), *((start, rates[kind]) for start, rates in price.tiers)]
    return ", ".join(
        f"{each:g} above {compact(start)}" if start else f"{each:g}" for start, each in usd_each
    )
