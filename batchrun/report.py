"""What a run amounts to, for people and for programs: `summary.json` and the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.records import PICO_PER_USD
from batchrun.scoring import score_facts, score_lines
from batchrun.terminal import harmless, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchrun.records import RunTotals
    from batchrun.scoring import ScoreTotals

SCHEMA_VERSION = 1


def summary(totals: RunTotals, score: ScoreTotals | None = None) -> dict[str, Any]:
    """Return the content of `summary.json`: money in USD, times in seconds.

    Amounts are null when no answer has a known price; `answers_without_price` says how many are
    missing from a sum. `score` is there when answers were scored.
    """
    usage = totals.usage
    return {
        "schema_version": SCHEMA_VERSION,
        "name": totals.name,
        "counts": {
            "total": totals.total,
            "succeeded": totals.succeeded,
            "errored": totals.errored,
            "pending": totals.pending,
        },
        "tokens": {
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "cache_read": usage.cache_read_tokens,
            "cache_write": usage.cache_write_tokens,
            "reasoning": usage.reasoning_tokens,
        },
        "cost_usd": _money(totals),
        "latency_s": dict(totals.latency_s),
        "attempts": totals.attempts,
        "retries": {
            "total": sum(totals.retries_by_cause.values()),
            "by_cause": dict(totals.retries_by_cause),
        },
        "waits_s": {cause: round(s, 3) for cause, s in totals.waits_s_by_cause.items()},
        "errors": {
            error_type: {"count": count, "example": example}
            for error_type, (count, example) in totals.errors_by_type.items()
        },
        "errored_to_retry": totals.to_retry,
        "in_flight": totals.in_flight,
        "possibly_double_billed": totals.maybe_billed,
        "executions": [_execution(execution) for execution in totals.executions],
        "wall_time_s": round(totals.wall_time_s, 3),
        "last_error": totals.last_error,
        **({} if score is None else {"score": score_facts(score)}),
    }


def _money(totals: RunTotals) -> dict[str, Any]:
    cost = totals.cost
    usd = _unknown if _is_unpriced(totals) else _usd
    return {
        "total": usd(cost.total),
        "by_model": {model: _usd(pico) for model, pico in totals.cost_by_model.items()},
        "by_kind": {
            "uncached_input": usd(cost.uncached_input),
            "cache_read": usd(cost.cache_read),
            "cache_write": usd(cost.cache_write),
            "output": usd(cost.output),
        },
        "saved_by_cache": usd(cost.cache_saved),
        "answers_without_price": totals.unpriced,
    }


def summary_json(totals: RunTotals, score: ScoreTotals | None = None) -> str:
    """Return `summary.json` as text."""
    return orjson.dumps(summary(totals, score), option=orjson.OPT_INDENT_2).decode() + "\n"


def summary_text(totals: RunTotals, directory: Path, score: ScoreTotals | None = None) -> str:
    """Return the summary that a person reads after a run."""
    lines = [
        f"{printable(totals.name)}: {_counts(totals)}",
        f"  tokens   {_tokens(totals)}",
        f"  cost     {_cost(totals)}",
        f"  latency  {_latency(totals.latency_s)}",
        f"  attempts {totals.attempts:,}{_retries(totals.retries_by_cause)}",
    ]
    if totals.maybe_billed:
        noun = "attempt" if totals.maybe_billed == 1 else "attempts"
        lines.append(f"  {totals.maybe_billed:,} {noun} may have been billed without an answer")
    for error_type, (count, example) in list(totals.errors_by_type.items())[:5]:
        lines.append(f"  {count:,} × {printable(error_type)}: {printable(example)[:160]}")
    if score is not None:
        first, *rest = (harmless(line) for line in score_lines(score))
        lines += [f"  score    {first}", *(f"           {line}" for line in rest)]
    lines.append(f"  results  {directory}")
    return "\n".join(lines)


def status_text(totals: RunTotals, directory: Path, *, running: bool) -> str:
    """Return what `batchrun status` prints."""
    state = "running" if running else "not running"
    text = summary_text(totals, directory)
    started = totals.executions[-1]["started_us"] if totals.executions else None
    since = f", last started {_moment(started)}" if started is not None else ""
    lines = [f"{state}{since}", text]
    if running or totals.in_flight:
        lines.append(f"  in flight {totals.in_flight}")
    if running and totals.waiting:
        lines.append(f"  waiting   for {printable(totals.waiting)}")
    if totals.last_error:
        lines.append(f"  last error {printable(totals.last_error)[:200]}")
    return "\n".join(lines)


def _counts(totals: RunTotals) -> str:
    parts = [f"{totals.succeeded:,} of {totals.total:,} rows succeeded"]
    if totals.errored:
        again = f" ({totals.to_retry:,} will be tried again by the next run)"
        parts.append(f"{totals.errored:,} errored{again if totals.to_retry else ''}")
    if totals.pending:
        parts.append(f"{totals.pending:,} pending")
    return ", ".join(parts)


def _tokens(totals: RunTotals) -> str:
    usage = totals.usage
    text = f"{usage.input_tokens or 0:,} in, {usage.output_tokens or 0:,} out"
    if usage.cache_read_tokens:
        text += f", {usage.cache_read_tokens:,} read from cache"
    return text


def _cost(totals: RunTotals) -> str:
    text = f"${_usd(totals.cost.total):,.6f}"
    if totals.unpriced:
        known = "unknown: " if _is_unpriced(totals) else f"{text}, and "
        noun = "answer" if totals.unpriced == 1 else "answers"
        text = f"{known}{totals.unpriced:,} {noun} without a known price"
    if totals.cost.cache_saved:
        text += f", ${_usd(totals.cost.cache_saved):,.6f} saved by caching"
    return text


def _latency(latency: Mapping[str, float | None]) -> str:
    known = [f"{name} {value:.2f} s" for name, value in latency.items() if value is not None]
    return ", ".join(known) or "no answer yet"


def _retries(retries: Mapping[str, int]) -> str:
    if not retries:
        return ""
    parts = ", ".join(f"{count:,} {cause.replace('_', ' ')}" for cause, count in retries.items())
    return f" ({parts} retried)"


def _execution(execution: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "execution": execution["execution"],
        "started_at": _moment(execution["started_us"]),
        "wall_time_s": round(execution["wall_time_s"], 3),
        "outcome": execution["outcome"],
        "version": execution["version"],
    }


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def _is_unpriced(totals: RunTotals) -> bool:
    """Whether there are answers, and not one of them has a known price."""
    return bool(totals.unpriced) and not totals.cost_by_model


def _unknown(_pico: int) -> None:
    return None


def _usd(pico: int) -> float:
    return pico / PICO_PER_USD
