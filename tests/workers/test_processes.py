"""`--workers N`: the results of one process, whatever fails, and hardly anything is paid twice."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import batchrun, finish, start_batchrun, wait_for_line, wait_until
from tests.support.provider import Call, Gate, Reply, answer, serving
from tests.support.worker_runs import (
    CONCURRENCY,
    LIMITS,
    VARYING,
    command_of,
    faulty,
    workers_of,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]


FORMATS = pytest.mark.parametrize("wire_format", ["messages", "chat"])


@FORMATS
def test_the_results_are_those_of_one_process(write_job: WriteJob, wire_format: str) -> None:
    tables: list[pl.DataFrame] = []
    for workers in ([], ["--workers", "3"]):
        with serving(faulty) as provider:
            job = write_job(provider.url, rows=400, wire_format=wire_format, extra=LIMITS)
            out = f"out{len(tables)}"
            code, _, stderr = batchrun("run", job, *workers, "--output-dir", job.parent / out)
        assert code == 3, stderr
        tables.append(pl.read_parquet(job.parent / out / "results.parquet"))
        assert batchrun("verify", job.parent / out)[0] == 0
    alone, together = (table.drop(VARYING) for table in tables)
    assert alone.equals(together)
    assert set(alone["status"]) == {"succeeded", "errored"}


@FORMATS
def test_a_worker_that_is_killed_loses_nothing(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    owner: list[subprocess.Popen[str]] = []
    killed: list[int] = []

    def decide(call: Call) -> Reply:
        if call.number in (60, 150, 260):
            killed.append(workers_of(owner[0])[-1])
            os.kill(killed[-1], signal.SIGKILL)
        return answer(call, f"answer to {call.prompt}", delay_s=0.02)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=500, wire_format=wire_format, extra=LIMITS)
        owner.append(start_batchrun("run", job, "--workers", "2", "--quiet"))
        code, _, stderr = finish(owner[0])
        assert code == 0, stderr
        assert len(set(killed)) == 3
        assert len(provider.billed) == 500
        assert provider.extra_bills <= 3 * CONCURRENCY
    table = results()
    assert table["response"].to_list() == [f"answer to Say text {n}" for n in range(500)]
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    lost = usage.filter(pl.col("error_type") == "interrupted")
    assert provider.extra_bills <= lost.height <= 3 * CONCURRENCY
    assert lost["maybe_billed"].all()


@FORMATS
def test_an_owner_that_is_killed_loses_nothing(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    gate = Gate(200, delay_s=0.02)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=500, wire_format=wire_format, extra=LIMITS)
        owner = start_batchrun("run", job, "--workers", "2", "--quiet")
        wait_until(lambda: len(provider.calls) > 200, owner)
        workers = workers_of(owner)
        owner.kill()
        finish(owner)
        gate.opened.set()
        wait_until(lambda: not any(command_of(pid) for pid in workers))
        provider.settle()
        code, _, stderr = batchrun("run", job)  # in one process: the checkpoint is the same
        assert code == 0, stderr
        assert len(workers) == 2
        assert len(provider.billed) == 500
        assert provider.extra_bills <= 2 * CONCURRENCY
    table = results()
    assert table["response"].to_list() == [f"answer to Say text {n}" for n in range(500)]
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage["maybe_billed"].sum() >= provider.extra_bills


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_end_a_run_with_workers(write_job: WriteJob, signals: int) -> None:
    gate = Gate(0)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=200, extra=LIMITS)
        owner = start_batchrun("run", job, "--workers", "2")
        wait_until(lambda: len(provider.calls) >= CONCURRENCY, owner)
        workers = workers_of(owner)
        for said in ("stopping", "")[:signals]:
            owner.send_signal(signal.SIGINT)
            wait_for_line(owner, said)
        if signals == 1:
            gate.opened.set()
        code, _, stderr = finish(owner)
        assert code == 130, stderr
        assert not any(command_of(pid) for pid in workers)
        assert len(provider.billed) >= (CONCURRENCY if signals == 1 else 0)
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage.height == len(provider.calls)
    assert set(usage["error_type"]) == ({None} if signals == 1 else {"cancelled"})
