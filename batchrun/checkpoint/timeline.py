"""The history of a run: over time and as distributions. Uses bounded memory.

Only working time counts: executions follow each other without the pauses between them, so that the
history of a run that was resumed a month later stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.columns import ANSWERED, exact_sum
from batchrun.checkpoint.statistics import executions
from batchrun.evaluation.history import Histogram, History, Series, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint

MOST_STEPS = 150
# Steps with fewer answers would show chance, and with fewer answers in total there is no history.
PER_STEP = 6
FEWEST = 8
# Models with a separate area in the chart of costs; the others are combined.
MOST_MODELS = 5
OTHERS = "other models"
# Bars of a histogram, and the fine bins that percentiles are taken from and bars are combined of.
BARS = 40
_FINE = 2_000
_US = 1_000_000
# Round lengths of a step, for the axis of the chart.
_NICE_S = (
    0.01,
    0.02,
    0.05,
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
)

# `started` and `ended` are microseconds of work; a clock that was set back stays within its span.
_TIMED = """WITH spans AS MATERIALIZED (
        SELECT value ->> 0 AS id, value ->> 1 AS first, value ->> 2 AS offset, value ->> 3 AS length
        FROM json_each(:spans)),
    timed AS (SELECT a.*,
        s.offset + min(max(a.started_us - s.first, 0), s.length) AS started,
        s.offset + min(max(a.started_us + CAST(a.latency_s * 1e6 AS INTEGER) - s.first, 0), s.length)
            AS ended
        FROM attempts a JOIN spans s ON s.id = a.execution
        WHERE a.latency_s IS NOT NULL AND a.batch IS NULL)"""
_ENDS = f"""{_TIMED} SELECT ended / :step AS bin, count(*),
    count(*) FILTER (WHERE {ANSWERED}), count(*) FILTER (WHERE cause = 'rate_limit'),
    coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
    sum(:step - ended % :step) FROM timed GROUP BY bin"""  # noqa: S608 - no values
_STARTS = f"""{_TIMED} SELECT started / :step AS bin, count(*), sum(:step - started % :step)
    FROM timed GROUP BY bin"""  # noqa: S608 - no values
_COSTS = f"""{_TIMED} SELECT ended / :step AS bin,
    CASE WHEN model IN (SELECT value FROM json_each(:models)) THEN model END AS name, {exact_sum("cost")}
    FROM timed WHERE cost IS NOT NULL GROUP BY bin, name"""  # noqa: S608 - no values
_COSTLIEST = """SELECT model FROM attempts WHERE cost IS NOT NULL GROUP BY model
    ORDER BY total(cost) DESC LIMIT ?"""


def history(store: Checkpoint) -> History:
    """Return the history of a run so far. Only reads; works beside a running writer.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with store.transaction():
        return History(
            series=_series(store.db),
            latency_s=_histogram(store.db, "latency_s", whole=False),
            input_tokens=_histogram(store.db, "input_tokens", whole=True),
            output_tokens=_histogram(store.db, "output_tokens", whole=True),
        )


def _series(db: Database) -> Series | None:
    spans = _spans(db)
    total = sum(span.length_us for span in spans)
    # The answers of a batch arrive together, so they are not part of the history.
    (answers,) = db.execute("SELECT count(*) FROM attempts WHERE batch IS NULL").fetchone()
    if not total or answers < FEWEST:
        return None
    step = _step_us(total, min(MOST_STEPS, max(12, answers // PER_STEP)))
    count = total // step + 1
    facts = [(s.execution, s.started_us, s.offset_us, s.length_us) for s in spans]
    given = {"spans": orjson.dumps(facts).decode(), "step": step}
    ends = {row[0]: row[1:] for row in db.execute(_ENDS, given)}
    none = (0,) * 6
    done, good, refused, sent, received, _ = zip(
        *(ends.get(n, none) for n in range(count)), strict=True
    )
    return Series(
        step_s=step / _US,
        spans=tuple(spans),
        succeeded=good,
        refused=refused,
        failed=tuple(a - b - c for a, b, c in zip(done, good, refused, strict=True)),
        in_flight=_in_flight(db, given, ends, count),
        input_tokens=sent,
        output_tokens=received,
        cost=_costs(db, given, count),
    )


def _spans(db: Database) -> list[Span]:
    """Return the executions that sent something, one after the other."""
    busy = {key for (key,) in db.execute("SELECT DISTINCT execution FROM attempts")}
    spans, offset = [], 0
    for execution in executions(db):
        length = round(execution["wall_time_s"] * _US)
        if execution["execution"] in busy and length:
            spans.append(Span(execution["execution"], execution["started_us"], offset, length))
            offset += length
    return spans


def _step_us(total: int, most: int) -> int:
    for step in _NICE_S:
        if total <= step * _US * most:
            return round(step * _US)
    hours = -(-total // (3_600 * _US * most))
    return hours * 3_600 * _US


def _in_flight(
    db: Database, given: dict[str, Any], ends: Mapping[int, tuple[int, ...]], count: int
) -> tuple[float, ...]:
    """Return the exact average number of attempts in flight in each step.

    Attempts that are in flight at the start of a step count for the whole step. The part of the step
    before an attempt began, or after it ended, is subtracted.
    """
    starts = {row[0]: row[1:] for row in db.execute(_STARTS, given)}
    step, carried, found = given["step"], 0, []
    for n in range(count):
        begun, begun_us = starts.get(n, (0, 0))
        ended, *_, ended_us = ends.get(n, (0, 0))
        found.append(max(0.0, carried + (begun_us - ended_us) / step))
        carried += begun - ended
    return tuple(found)


def _costs(db: Database, given: dict[str, Any], count: int) -> dict[str, tuple[int, ...]]:
    models = [name for (name,) in db.execute(_COSTLIEST, (MOST_MODELS,))]
    found = {name: [0] * count for name in [*models, OTHERS]}
    for n, name, cost in db.execute(_COSTS, {**given, "models": orjson.dumps(models).decode()}):
        found[OTHERS if name is None else name][n] += cost
    return {name: tuple(costs) for name, costs in found.items() if any(costs)}


def _histogram(db: Database, column: str, *, whole: bool) -> Histogram | None:
    """Count the values of a column of the attempts that succeeded, up to their 99th percentile.

    Percentiles come from counts of ever finer bins, so that nothing has to be sorted. They are exact to
    one hundredth of the 99th percentile, and whole numbers may be exact.
    """
    where = f"{ANSWERED} AND {column} IS NOT NULL"
    if column == "latency_s":
        where += " AND batch IS NULL"
    total, top = db.execute(
        f"SELECT count(*), max({column}) FROM attempts WHERE {where}"  # noqa: S608 - our own names
    ).fetchone()
    if total < FEWEST:
        return None
    counted = f"""SELECT min(CAST({column} / :width AS INTEGER), {_FINE}), count(*)
        FROM attempts WHERE {where} GROUP BY 1 ORDER BY 1"""  # noqa: S608 - our own names
    width = _fine_width(float(top), whole=whole)
    while True:
        bins = db.execute(counted, {"width": width}).fetchall()
        at = {f"p{p}": (_rank(bins, total * p / 100) + (not whole)) * width for p in (50, 90, 99)}
        if at["p99"] * 20 > width * _FINE or width <= _fine_width(0.0, whole=whole):
            return _coarse(bins, width, at)
        width = _fine_width(2 * at["p99"], whole=whole)


def _fine_width(top: float, *, whole: bool) -> float:
    least = 1.0 if whole else 1e-6
    return max(least, float(-(-top // _FINE)) if whole else top / (_FINE - 1))


def _rank(bins: Iterable[tuple[int, int]], rank: float) -> int:
    """Return the bin with the value at a rank."""
    seen = found = 0
    for n, count in bins:
        found, seen = n, seen + count
        if seen >= rank:
            break
    return found


def _coarse(bins: list[tuple[int, int]], width: float, at: Mapping[str, float]) -> Histogram:
    """Combine fine bins into bars, up to a little above the 99th percentile.

    The bars begin at 0, unless all values are far from it.
    """
    last = max(1, int(at["p99"] * 1.1 / width))
    first = bins[0][0] if bins[0][0] * 2 > last else 0
    last = max(last, first + 2) if not first else int(at["p99"] / width) + 2
    merged = max(1, -(-(last + 1 - first) // BARS))
    first = max(0, first // merged - 2) * merged if first else 0
    counts = [0] * max(1, -(-(last + 1 - first) // merged))
    beyond = 0
    for n, count in bins:
        place = (n - first) // merged
        if place < len(counts):
            counts[place] += count
        else:
            beyond += count
    return Histogram(width * first, width * merged, tuple(counts), beyond, at)
