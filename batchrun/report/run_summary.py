"""The content of `summary.json`; docs/summary.md says what each key means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import evaluation
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import moment
from batchrun.report.hints import hint
from batchrun.report.open_batches import now_us

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.evaluation import ScoreTotals
    from batchrun.formats.sent_batches import SentBatch
    from batchrun.pricing.totals import PriceUse, RunTotals

SCHEMA_VERSION = 1
MOST_BATCHES = 1_000  # the latest ones
_EACH = ("web_search", "request")  # priced one by one, not by the token


@dataclass(frozen=True, slots=True)
class KindCost:
    """The tokens of one kind, and their cost in pico-dollars, which is 0 if no price is known.

    The cost is None if it is part of costs that the provider stated, which are `other`.
    """

    name: str
    tokens: int
    cost: int | None


def summary(totals: RunTotals, score: ScoreTotals | None = None) -> dict[str, Any]:
    """Return the content of `summary.json`: money in USD, times in seconds.

    Amounts are null if no answer has a known price; `answers_without_price` is the number of answers that
    are missing from a sum. `score` exists if answers were scored.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "name": totals.name,
        "counts": totals.counts,
        "endings": dict(totals.endings),
        "all_answers_equal": totals.same_answer is not None,
        "tokens": _tokens(totals),
        "cost_usd": _money(totals),
        "prices": [_price(price) for price in totals.prices],
        "models": _models(totals),
        "latency_s": dict(totals.latency_s),
        "throughput": throughput(totals),
        **_attempts(totals),
        "batches": [_batch(batch) for batch in totals.batches[-MOST_BATCHES:]],
        "rows_in_batches": sum(batch.out for batch in totals.batches),
        "executions": [_execution(execution) for execution in totals.executions],
        "last_execution": _last_execution(totals),
        "wall_time_s": round(totals.wall_time_s, 3),
        "last_error": totals.last_error,
        **({} if score is None else {"score": evaluation.score_facts(score)}),
    }


def summary_json(totals: RunTotals, score: ScoreTotals | None = None) -> str:
    """Return `summary.json` as text."""
    return orjson.dumps(summary(totals, score), option=orjson.OPT_INDENT_2).decode() + "\n"


def throughput(totals: RunTotals) -> dict[str, float | None]:
    """Return results and tokens per second; None if nothing has been sent.

    Results are counted over all executions, and time over those that sent something.
    """
    usage, busy = totals.usage, totals.busy_s
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    amounts = {"rows_per_s": totals.results, "tokens_per_s": tokens}
    return {key: round(amount / busy, 3) if busy else None for key, amount in amounts.items()}


def cost_by_kind(totals: RunTotals) -> list[KindCost]:
    """Return the costs by kind of token, without kinds that did not occur."""
    usage, cost = totals.usage, totals.cost
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    kinds = [
        KindCost("uncached input", (usage.input_tokens or 0) - read - write, cost.uncached_input),
        KindCost("cache read", read, cost.cache_read),
        KindCost("cache write", write, cost.cache_write),
        KindCost("output", usage.output_tokens or 0, cost.output),
        KindCost("other", 0, cost.other),
    ]
    if totals.stated:
        kinds = [replace(kind, cost=kind.cost or None) for kind in kinds]
    return [kind for kind in kinds if kind.tokens or kind.cost]


def _tokens(totals: RunTotals) -> dict[str, Any]:
    usage = totals.usage
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
    }


def _money(totals: RunTotals) -> dict[str, Any]:
    cost = totals.cost
    kinds = {
        "uncached_input": cost.uncached_input,
        "cache_read": cost.cache_read,
        "cache_write": cost.cache_write,
        "output": cost.output,
        "other": cost.other,
    }

    def known(pico: int) -> float | None:
        return None if totals.is_unpriced else _usd(pico)

    return {
        "total": known(cost.total),
        "by_model": {model: _usd(pico) for model, pico in totals.cost_by_model.items()},
        "by_kind": {
            kind: None if totals.stated and not pico else known(pico)
            for kind, pico in kinds.items()
        },
        "saved_by_cache": known(cost.cache_saved),
        "saved_by_batches": known(cost.batch_saved),
        "answers_without_price": totals.unpriced,
        "cap": _usd(totals.cap),
        "projected_total": _usd(totals.projected_cost),
    }


def _price(price: PriceUse) -> dict[str, Any]:
    return {
        "model": price.model,
        "source": price.source,
        "as_of": moment(price.as_of_us),
        "matched": price.matched,
        "conditions": price.conditions or None,
        "usd_per_million_tokens": None if price.rates is None else _per_million(price.rates),
        "usd_per_thousand": {
            name: rate for name, rate in (price.rates or {}).items() if name in _EACH
        },
        "tiers": [
            {"above_input_tokens": start, "usd_per_million_tokens": _per_million(rates)}
            for start, rates in price.tiers
        ],
    }


def _per_million(rates: Mapping[str, float]) -> dict[str, float]:
    return {kind: usd for kind, usd in rates.items() if kind not in _EACH}


def _models(totals: RunTotals) -> list[dict[str, Any]]:
    return [
        {
            "model": one.model,
            "answers": one.answers,
            "input_tokens": one.input_tokens,
            "output_tokens": one.output_tokens,
            "cost_usd": _usd(one.cost),
        }
        for one in totals.models
    ]


def _attempts(totals: RunTotals) -> dict[str, Any]:
    return {
        "attempts": totals.attempts,
        "retries": {
            "total": sum(totals.retries_by_cause.values()),
            "by_cause": dict(totals.retries_by_cause),
        },
        "dropped_parameters": [
            {"model": model, "parameter": name} for model, name in totals.dropped
        ],
        "waits_s": {cause: round(s, 3) for cause, s in totals.waits_s_by_cause.items()},
        "errors": {
            error_type: {"count": count, "example": example, "hint": hint(error_type)}
            for error_type, (count, example) in totals.errors_by_type.items()
        },
        "errored_to_retry": totals.to_retry,
        "in_flight": totals.in_flight,
        "possibly_double_billed": totals.maybe_billed,
    }


def _last_execution(totals: RunTotals) -> dict[str, Any] | None:
    last = totals.last_execution
    if last is None:
        return None
    return {
        "sent": last.sent,
        "succeeded": last.succeeded,
        "errored": last.errored,
        "tokens": {"input": last.input_tokens, "output": last.output_tokens},
        "cost_usd": _usd(last.cost),
    }


def _execution(execution: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "execution": execution["execution"],
        "started_at": moment(execution["started_us"]),
        "wall_time_s": round(execution["wall_time_s"], 3),
        "outcome": execution["outcome"],
        "reason": execution["reason"],
        "version": execution["version"],
    }


def _batch(batch: SentBatch) -> dict[str, Any]:
    """Return a batch; `state` is its state at the provider as long as it is open."""
    return {
        "tag": batch.tag,
        "id": batch.remote_id,
        "stage": batch.stage,
        "state": batch.state,
        "model": batch.model,
        "rows": batch.rows,
        "rows_out": batch.out,
        "done": batch.done,
        "failed": batch.failed,
        "submitted_at": moment(batch.intended_us),
        "age_s": round(max(0, now_us() - batch.intended_us) / 1e6) if batch.is_open else None,
        "expires_at": _moment_or_none(batch.expires_us),
        "results_deleted_at": _moment_or_none(batch.results_expire_us),
        "collected_at": _moment_or_none(batch.closed_us),
        "reserved_usd": _usd(batch.reserved) if batch.is_open else None,
        "reason": batch.reason,
    }


def _moment_or_none(microseconds: int | None) -> str | None:
    return None if microseconds is None else moment(microseconds)


def _usd(pico: int | None) -> float | None:
    return None if pico is None else pico / PICO_PER_USD
