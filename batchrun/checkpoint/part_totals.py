"""Adds up the parts of a partitioned run. One checkpoint is open at a time."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint.file import usable
from batchrun.checkpoint.statistics import fine_latencies, latency_counts, percentiles, totals
from batchrun.checkpoint.store import Checkpoint
from batchrun.errors import RunEnd
from batchrun.pricing.totals import ExecutionTotals, ModelTotals
from batchrun.records import Cost, Usage, changed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from batchrun.pricing.totals import PriceUse, RunTotals

# Fields that are numbers of rows, attempts, answers, seconds or pico-dollars.
_COUNTS = (
    *("succeeded", "errored", "to_retry", "in_flight", "attempts", "maybe_billed", "unpriced"),
    *("unreported", "stated", "results", "held_rows", "held_cost"),
)
# How an execution ended is how its part with the lowest number here ended, 1 if there is none; of several
# the last one.
_RANKS = {RunEnd.UNFINISHED: 0, RunEnd.BATCHES_OUT: 2, RunEnd.FINISHED: 3, RunEnd.SAMPLED: 3}
_COST_PARTS = tuple(name for name in Cost.__struct_fields__ if name != "source")


def totals_of_parts(folders: Sequence[Path], rows: int | None = None) -> RunTotals:
    """Add up the parts of a run.

    Args:
        folders: the folders of the parts that have a checkpoint, in order; at least one.
        rows: number of rows of the whole input; None for the sum over these parts.

    Raises:
        CheckpointError: when a checkpoint cannot be used.
    """
    every, counts = [], Counter[int]()
    for folder in folders:
        with closing(Checkpoint(folder, writable=False)) as store:
            every.append(totals(store))
            with usable(store.path):
                counts.update(dict(latency_counts(store.db)))
    total = sum(one.total for one in every) if rows is None else rows
    return replace(_added(every, total), latency_s=_latencies(folders, counts))


def _latencies(folders: Sequence[Path], counts: Counter[int]) -> Mapping[str, float | None]:
    def fine(milliseconds: Sequence[int]) -> list[tuple[int, int, int]]:
        found = Counter[tuple[int, int]]()
        for folder in folders:
            with closing(Checkpoint(folder, writable=False)) as store, usable(store.path):
                for ms, us, count in fine_latencies(store.db, milliseconds):
                    found[ms, us] += count
        return [(*key, count) for key, count in sorted(found.items())]

    return percentiles(sorted(counts.items()), fine)


def _added(every: Sequence[RunTotals], rows: int) -> RunTotals:
    first, last = every[0], every[-1]
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in every) for name in _COUNTS}
    executions = _executions(every)
    wall_time_s = sum(one["wall_time_s"] for one in executions)
    errors = [one.last_error for one in every if one.last_error is not None]
    answers = {one.same_answer for one in every if one.succeeded}
    return replace(
        first,
        **sums,
        total=rows,
        pending=max(0, rows - sums["succeeded"] - sums["errored"]),
        usage=_usage([one.usage for one in every]),
        cost=_cost([one.cost for one in every]),
        cost_by_model=_counted(one.cost_by_model for one in every),
        retries_by_cause=_counted(one.retries_by_cause for one in every),
        waits_s_by_cause=_counted(one.waits_s_by_cause for one in every),
        endings=_counted(one.endings for one in every),
        errors_by_type=_errors(every),
        executions=executions,
        wall_time_s=wall_time_s,
        busy_s=min(wall_time_s, sum(one.busy_s for one in every)),
        dropped=tuple(sorted({each for one in every for each in one.dropped})),
        last_error=errors[-1] if errors else None,
        waiting=last.waiting,
        cap=last.cap,
        prices=_prices(every),
        models=_models(every),
        last_execution=_last_execution(every),
        batches=tuple(batch for one in every for batch in one.batches),
        same_answer=answers.pop() if len(answers) == 1 else None,
    )


def _known(values: Iterable[int | None]) -> int | None:
    """Add up the known values; None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _counted(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up values by name; the largest first."""
    found: dict[str, Any] = {}
    for values in each:
        for name, value in values.items():
            found[name] = found.get(name, 0) + value
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _usage(each: Sequence[Usage]) -> Usage:
    return Usage(
        **{name: _known(getattr(one, name) for one in each) for name in Usage.__struct_fields__}
    )


def _cost(each: Sequence[Cost]) -> Cost:
    sums = {name: sum(getattr(one, name) for one in each) for name in _COST_PARTS}
    return changed(each[0], **sums)


def _errors(every: Sequence[RunTotals]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for one in every:
        for kind, (count, message) in one.errors_by_type.items():
            before, known = found.get(kind, (0, message))
            found[kind] = (before + count, max(known, message))
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def _executions(every: Sequence[RunTotals]) -> tuple[Mapping[str, Any], ...]:
    """Combine the records of each execution in several parts, which may overlap in time."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for one in every:
        for execution in one.executions:
            found.setdefault(execution["execution"], []).append(execution)
    return tuple(_execution(found[number]) for number in sorted(found))


def _execution(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    end = min(reversed(parts), key=lambda part: _RANKS.get(part["outcome"], 1))
    # While batches of several parts are out, the reasons are only about those of each part.
    is_out = end["outcome"] is RunEnd.BATCHES_OUT and len(parts) > 1
    return {
        **parts[0],
        "started_us": min(part["started_us"] for part in parts),
        "wall_time_s": _covered_s(parts),
        "outcome": end["outcome"],
        "reason": None if is_out else end["reason"],
        "waits_s": _counted(part["waits_s"] for part in parts),
    }


def _covered_s(parts: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds during which at least one part was worked on."""
    covered, until = 0.0, 0.0
    for start, length in sorted((part["started_us"] / 1e6, part["wall_time_s"]) for part in parts):
        end = start + length
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _prices(every: Sequence[RunTotals]) -> tuple[PriceUse, ...]:
    latest: dict[str, PriceUse] = {}
    for price in (price for one in every for price in one.prices):
        key = f"{replace(price, as_of_us=0)}"
        if key not in latest or price.as_of_us > latest[key].as_of_us:
            latest[key] = price
    return tuple(latest.values())


def _models(every: Sequence[RunTotals]) -> tuple[ModelTotals, ...]:
    found: dict[str, ModelTotals] = {}
    for model in (model for one in every for model in one.models):
        before = found.get(model.model, ModelTotals(model.model, 0, None, None, None))
        found[model.model] = ModelTotals(
            model.model,
            before.answers + model.answers,
            _known((before.input_tokens, model.input_tokens)),
            _known((before.output_tokens, model.output_tokens)),
            _known((before.cost, model.cost)),
        )
    return tuple(sorted(found.values(), key=lambda one: (-(one.cost or 0), -one.answers)))


def _last_execution(every: Sequence[RunTotals]) -> ExecutionTotals | None:
    """Add up the counts of the latest execution over the parts that it reached."""
    latest = max((one.executions[-1]["execution"] for one in every if one.executions), default=0)
    done = [
        one.last_execution
        for one in every
        if one.last_execution is not None and one.executions[-1]["execution"] == latest
    ]
    if not done:
        return None
    return ExecutionTotals(
        sent=sum(one.sent for one in done),
        succeeded=sum(one.succeeded for one in done),
        errored=sum(one.errored for one in done),
        input_tokens=_known(one.input_tokens for one in done),
        output_tokens=_known(one.output_tokens for one in done),
        cost=_known(one.cost for one in done),
    )
