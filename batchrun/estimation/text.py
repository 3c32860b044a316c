"""Print estimates as text and as JSON."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import harmless, quoted
from batchrun.estimation.ranges import Range
from batchrun.estimation.tokenizers import lacks_vocabulary
from batchrun.job.paths import is_simulated
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.estimation.ranges import Duration, Estimate, RowsForPrecision


SCHEMA_VERSION = 1
EXTRA = "pip install 'batchrun[tokens]'"
LIMITED_BY = {
    None: "no limit is set; the run adapts to the provider's limits",
    "concurrency": "limited by concurrency",
    "requests": "limited by requests per minute",
    "tokens": "limited by tokens per minute",
    "input tokens": "limited by input tokens per minute",
    "output tokens": "limited by output tokens per minute",
}


def estimate_json(estimates: Sequence[Estimate]) -> str:
    """Return estimates as JSON, with amounts in USD; those of a matrix under `cells`."""
    cells = [_facts(estimate) for estimate in estimates]
    facts = cells[0] if estimates[0].cell is None else _matrix_facts(estimates, cells)
    text = orjson.dumps({"schema_version": SCHEMA_VERSION, **facts}, option=orjson.OPT_INDENT_2)
    return text.decode()


def _matrix_facts(estimates: Sequence[Estimate], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": estimates[0].name,
        "requests": sum(estimate.requests for estimate in estimates),
        "cost_usd": _usd_range(total_cost(estimates)),
        "cells": cells,
    }


def _facts(estimate: Estimate) -> dict[str, Any]:
    return {
        "name": estimate.name,
        "cell": estimate.cell,
        "directory": str(estimate.directory),
        "models": list(estimate.models),
        "rows": estimate.rows,
        "unrenderable": estimate.unrenderable,
        "already_answered": estimate.held,
        "requests": estimate.requests,
        "duplicates": estimate.duplicates,
        "dedupe": {
            "on": estimate.dedupe,
            "saves_requests": estimate.saved,
            "saves_usd": _usd(estimate.saved_cost),
        },
        "input_tokens": _range(estimate.input),
        "input_counted": list(estimate.counted),
        "output_tokens": _range(estimate.output),
        "cost_usd": _usd_range(estimate.cost),
        "batch_cost_usd": _usd_range(estimate.batch_cost),
        "batch_saves_usd": _usd(_saved_by_batches(estimate)),
        "unknown_prices": list(estimate.unpriced),
        "minutes": {
            "low": estimate.duration.low,
            "expected": estimate.duration.expected,
            "high": estimate.duration.high,
        },
        "binds": estimate.duration.limit,
        "calibrated_by_answers": estimate.answers,
        "precision": _precision_facts(estimate.precision),
        "warnings": list(estimate.warnings),
        "judges": [_facts(judge) for judge in estimate.judges],
    }


def _range(amounts: Range) -> dict[str, int | None]:
    return {"low": amounts.low, "expected": amounts.expected, "high": amounts.high}


def _usd(pico: int | None) -> float | None:
    return None if pico is None else pico / PICO_PER_USD


def _usd_range(cost: Range | None) -> dict[str, float | None]:
    if cost is None:
        return dict.fromkeys(("low", "expected", "high"))
    return {"low": _usd(cost.low), "expected": _usd(cost.expected), "high": _usd(cost.high)}


def total_cost(estimates: Sequence[Estimate]) -> Range | None:
    """Return the total cost; None when one is unknown."""
    total = Range(0, 0, 0)
    for estimate in estimates:
        if estimate.cost is None:
            return None
        total += estimate.cost
    return total


def estimate_text(estimates: Sequence[Estimate]) -> str:
    """Return estimates as text."""
    lines = [line for estimate in estimates for line in _lines(estimate)]
    if len(estimates) > 1:
        requests = sum(estimate.requests for estimate in estimates)
        cost = _cost(total_cost(estimates))
        lines.append(f"all {len(estimates)} cells: {requests:,} requests, {cost}")
    return "\n".join(harmless(line) for line in lines)


def _lines(estimate: Estimate) -> list[str]:
    held = f"; {estimate.held:,} are already answered in {estimate.directory}"
    name = estimate.name if estimate.cell is None else estimate.cell
    return [
        f"{name}: {estimate.rows:,} rows, {', '.join(estimate.models) or 'no model'}",
        f"  to send     {estimate.requests:,} requests{held if estimate.held else ''}",
        *_duplicates(estimate),
        f"  input       {_tokens(estimate.input)}",
        f"  output      {_tokens(estimate.output)}",
        f"  cost        {_cost(estimate.cost)}{_if_simulated(estimate)}",
        *_batches(estimate),
        f"  time        {_time(estimate.duration)}; {LIMITED_BY[estimate.duration.limit]}",
        *_judges(estimate),
        *_precision(estimate.precision),
        *_basis(estimate),
        *_counted(estimate),
        *(f"  warning     {warning}" for warning in estimate.warnings),
    ]


def _if_simulated(estimate: Estimate) -> str:
    return (
        " (of the real API; the simulated run is free)" if is_simulated(estimate.directory) else ""
    )


def _judges(estimate: Estimate) -> list[str]:
    lines = []
    for judge in estimate.judges:
        held = f"; {judge.held:,} are already judged" if judge.held else ""
        models = ", ".join(judge.models) or "no model"
        lines.append(f"  judge       {judge.requests:,} requests to {models}{held}")
        lines.append(f"              in addition {_cost(judge.cost)}")
    return lines


def _precision_facts(precision: RowsForPrecision | None) -> dict[str, Any] | None:
    if precision is None:
        return None
    return {"rows_for": dict(precision.rows), "scored_rows": precision.scored}


def _precision(precision: RowsForPrecision | None) -> list[str]:
    """Return lines with the number of rows that the score needs, the widest interval first."""
    if precision is None:
        return []
    widths = sorted(precision.rows.items(), key=lambda each: -float(each[0]))
    needed = ", ".join(
        f"{counted(rows, 'row')} for ±{100 * float(width):g} %" for width, rows in widths
    )
    basis = (
        f"if they vary like the {precision.scored:,} scored rows"
        if precision.scored
        else "at most, for scores from 0 to 1"
    )
    return [f"  score       {needed}", f"              ({basis})"]


def _duplicates(estimate: Estimate) -> list[str]:
    if not estimate.duplicates:
        return []
    saves = "saves" if estimate.dedupe else "would save"
    cost = "" if estimate.saved_cost is None else f", about {_dollars(estimate.saved_cost)}"
    return [
        f"  duplicates  {estimate.duplicates:,} rows have the same request as another row",
        f"              (dedupe = true {saves} {estimate.saved:,} requests{cost})",
    ]


def _saved_by_batches(estimate: Estimate) -> int | None:
    if estimate.cost is None or estimate.batch_cost is None:
        return None
    return estimate.cost.expected - estimate.batch_cost.expected


def _batches(estimate: Estimate) -> list[str]:
    """Return the cost with `--batch`."""
    saved = _saved_by_batches(estimate)
    if estimate.batch_cost is None or saved is None or not estimate.batch_cost.expected:
        return []
    if saved <= 0:
        cost = _cost(estimate.batch_cost)
        if estimate.tier:
            why = f"no less than with service_tier = {quoted(estimate.tier)}"
        else:
            why = "by the same prices; if batches cost less, set [price] batch, such as 0.5"
        return [f"  in batches  {cost}", f"              ({why})"]
    return [
        f"  in batches  {_cost(estimate.batch_cost)}",
        f"              (--batch saves {_dollars(saved)}; answers within a day)",
    ]


def _counted(estimate: Estimate) -> list[str]:
    """Return how the tokens of prompts were determined, if there are no answers to learn from."""
    lines = [] if estimate.answers else [f"  tokens      {how}" for how in estimate.counted]
    if lines and any(map(lacks_vocabulary, estimate.models)):
        lines.append(f"              ({EXTRA} counts them exactly)")
    return lines


def _basis(estimate: Estimate) -> list[str]:
    if estimate.answers:
        return [f"  based on    {estimate.answers:,} answers; the ranges are 95 % intervals"]
    return [
        "  based on    the length of the prompts; answers have from 1 token to max_tokens",
        "              (--sample 20 sends 20 requests for a much better estimate)",
    ]


def _tokens(amounts: Range) -> str:
    if amounts.high is None:
        return f"{amounts.low:,} tokens or more; set max_tokens for an upper bound"
    return f"{amounts.low:,} to {amounts.high:,} tokens, {amounts.expected:,} expected"


def _cost(cost: Range | None) -> str:
    if cost is None:
        return "unknown"
    if cost.high is None:
        return f"{_dollars(cost.low)} or more; set max_tokens for an upper bound"
    return f"{_dollars(cost.low)} to {_dollars(cost.high)}, {_dollars(cost.expected)} expected"


def _dollars(pico: int) -> str:
    """Return an amount in USD, rounded to a hundredth of a cent."""
    usd = (Decimal(pico) / PICO_PER_USD).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    return f"${usd:,}"


def _time(duration: Duration) -> str:
    if duration.high is None:
        return f"{_minutes(duration.low)} or more"
    return f"{_minutes(duration.low)} to {_minutes(duration.high)}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(minutes * 60))} s"
    return f"{minutes:,.1f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
