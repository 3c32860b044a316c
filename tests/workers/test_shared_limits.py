"""Limits, budget and tools hold for all workers together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import polars as pl

from tests.conftest import batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.worker_runs import CONCURRENCY, LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]

RATE_PER_S = 50.0
# One answer of `tests.support.provider` at the prices of the job: 11 tokens in, 7 out.
PRICE = "[price]\ninput = 1.0\noutput = 5.0\n"
COST = (11 * 1.0 + 7 * 5.0) / 1e6


def test_one_configured_rate_is_shared(write_job: WriteJob) -> None:
    arrived: list[float] = []

    def decide(call: Call) -> Reply:
        arrived.append(time.monotonic())
        return answer(call)

    with serving(decide) as provider:
        limits = f"[limits]\nrequests_per_minute = {60 * RATE_PER_S}"
        job = write_job(provider.url, rows=400, extra=limits)
        code, _, stderr = batchrun("run", job, "--workers", "4", "--quiet")
        assert code == 0, stderr
    # A request may arrive late, so those count that are least late, of an early and a later stretch.
    early, later = (min(lateness(arrived)[part]) for part in (slice(100, 240), slice(240, 380)))
    # At one and the same rate they are as late; at 1.05 times the rate, the later ones are early.
    assert later - early > -140 * (1 - 1 / 1.05) / RATE_PER_S
    # A slow machine sends fewer.
    assert later - early < 140 / RATE_PER_S


def lateness(arrived: list[float]) -> list[float]:
    """How much later each came than at the configured rate; the zero does not matter."""
    return [at - number / RATE_PER_S for number, at in enumerate(arrived)]


def test_a_refused_rate_pauses_all_workers(write_job: WriteJob) -> None:
    refused_at: list[float] = []

    def decide(call: Call) -> Reply:
        now = time.monotonic()
        if call.number >= 150 and (not refused_at or now < refused_at[0] + 2):
            refused_at.append(now)
            return refusal(429, "rate_limit_error", retry_after="2")
        return answer(call, delay_s=0.02)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=400, extra=LIMITS)
        code, _, stderr = batchrun("run", job, "--workers", "3", "--quiet")
        assert code == 0, stderr
    # What was in flight, and what the others sent before they knew; not all of the 250 rows.
    assert len(refused_at) <= 6 * CONCURRENCY


def test_a_budget_is_shared(write_job: WriteJob) -> None:
    cap = 100 * COST
    with serving(lambda call: answer(call, delay_s=0.01)) as provider:
        extra = f"[limits]\nconcurrency = 8\nmax_cost_usd = {cap:.6f}\n{PRICE}"
        job = write_job(provider.url, rows=400, extra=extra)
        code, _, stderr = batchrun("run", job, "--workers", "3", "--quiet")
        assert code == 4, stderr
        assert "max_cost_usd" in stderr
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert 0 < usage["cost_usd"].sum() <= cap
    assert usage.height == len(provider.calls)


def test_too_many_errors_stop_all_workers(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        if call.number < 50:
            return answer(call)
        return refusal(400, "invalid_request_error", "this row is wrong")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=400, extra=f"{LIMITS}\nmax_errors = 20")
        code, _, stderr = batchrun("run", job, "--workers", "3", "--quiet")
        assert code == 4, stderr
        assert "max_errors = 20" in stderr
        assert len(provider.calls) < 150


def test_workers_need_a_network_and_a_number(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9")
    code, _, stderr = batchrun("run", job, "--workers", "0")
    assert code == 2
    assert "'0' is neither a number of processes" in stderr
    code, _, stderr = batchrun("run", job, "--workers", "2", "--batch")
    assert code == 2
    assert "--batch" in stderr
    assert not (job.parent / "out" / "checkpoint.db").exists()


def test_rows_that_succeed_count_in_the_share_of_errors(write_job: WriteJob) -> None:
    def third(call: Call) -> Reply:
        if int(call.prompt.rsplit(" ", 1)[1]) % 3 == 2:
            return refusal(400, "invalid_request_error", "this row is wrong")
        return answer(call)

    with serving(third) as provider:  # max_errors is judged from the 200th row on
        job = write_job(provider.url, rows=660, extra=f"{LIMITS}\nmax_errors = 0.5")
        code, _, stderr = batchrun("run", job, "--workers", "2")
    assert code == 3, stderr
    assert len(provider.calls) == 660
