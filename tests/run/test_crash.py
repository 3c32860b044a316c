"""Nothing is lost and hardly anything is paid twice, whatever ends the process and whenever.

Real processes are killed by SIGKILL at points that the provider or the file system can see, and
the provider's own books say what was billed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from batchrun.run.run_options import GRACE_S
from tests.conftest import (
    DEADLINE_S,
    batchrun,
    environment,
    finish,
    start_batchrun,
    wait_for_line,
    wait_until,
)
from tests.support.provider import Call, Gate, Reply, answer, serving

WriteJob = Callable[..., Path]
Results = Callable[[], pl.DataFrame]

# Fewer than the rows that are tried before the first answer, so that all of them go out at once.
CONCURRENCY = 8
# What is in flight, and what has arrived but waits for the commit that is under way.
MOST_EXTRA_BILLS_A_KILL = 2 * CONCURRENCY
LIMITS = f"[limits]\nconcurrency = {CONCURRENCY}"


class Assassin:
    """Kills a process when its n-th request arrives, or when its n-th answer has been sent."""

    def __init__(self) -> None:
        self.victim = 0
        self.at_request = 0
        self.at_answer = 0
        self._requests = 0
        self._answers = 0

    def aim(self, victim: int, *, at_request: int = 0, at_answer: int = 0) -> None:
        self._requests = self._answers = 0
        self.at_request, self.at_answer = at_request, at_answer
        self.victim = victim

    def decide(self, call: Call) -> Reply:
        self._requests += 1
        if self._requests == self.at_request:
            self._kill()
        return answer(call, f"answer to {call.prompt}", then=self._answered)

    def _answered(self) -> None:
        self._answers += 1
        if self._answers == self.at_answer:
            self._kill()

    def _kill(self) -> None:
        if self.victim:
            os.kill(self.victim, signal.SIGKILL)


def assert_whole(found: pl.DataFrame, rows: int) -> None:
    assert found["custom_id"].to_list() == [f"r{n:05d}" for n in range(rows)]
    assert set(found["status"]) == {"succeeded"}
    assert found["response"].to_list() == [f"answer to Say text {n}" for n in range(rows)]


def test_5000_rows_killed_in_the_middle(write_job: WriteJob, results: Results) -> None:
    assassin = Assassin()
    with serving(assassin.decide) as provider:
        job = write_job(provider.url, rows=5_000, extra=LIMITS)
        process = start_batchrun("run", job, "--quiet")
        assassin.aim(process.pid, at_request=2_500)
        assert finish(process)[0] == -signal.SIGKILL
        assassin.aim(0)
        code, _, stderr = batchrun("run", job)
        assert code == 0, stderr
        assert len(provider.billed) == 5_000
        assert provider.extra_bills <= MOST_EXTRA_BILLS_A_KILL
        assert_whole(results(), 5_000)
        summary = pl.read_json(job.parent / "out" / "summary.json").row(0, named=True)
        assert summary["possibly_double_billed"] >= provider.extra_bills
        sent = len(provider.calls)
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == sent, "a third run sends nothing"


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_killed_again_and_again_at_different_points(
    write_job: WriteJob, results: Results, wire_format: str
) -> None:
    assassin = Assassin()
    points: list[dict[str, int]] = [
        {"at_request": 1},
        {"at_answer": 1},
        {"at_request": CONCURRENCY + 1},
        {"at_answer": 100},
        {"at_request": 150},
    ]
    with serving(assassin.decide) as provider:
        job = write_job(provider.url, rows=600, wire_format=wire_format, extra=LIMITS)
        for point in points:
            process = start_batchrun("run", job, "--quiet")
            assassin.aim(process.pid, **point)
            assert finish(process)[0] == -signal.SIGKILL
            provider.settle()  # what is on its way must not count for the next process
        assassin.aim(0)
        assert batchrun("run", job)[0] == 0
        assert len(provider.billed) == 600
        assert provider.extra_bills <= len(points) * MOST_EXTRA_BILLS_A_KILL
        assert_whole(results(), 600)
        usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
        maybe = usage.filter("maybe_billed")
        assert maybe.height >= provider.extra_bills
        assert set(maybe["error_type"]) == {"interrupted"}
        assert usage["execution"].n_unique() == len(points) + 1


# The command, which kills itself when it is about to give the results their name.
KILLED_AT_THE_RENAME = """
import os, signal, sys

def look(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("results.parquet"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
from batchrun.__main__ import main
main()
"""


def test_killed_while_writing_the_outputs(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    with serving(lambda call: answer(call, f"answer to {call.prompt}")) as provider:
        job = write_job(provider.url, rows=3_000, extra=LIMITS)
        command = [sys.executable, "-c", KILLED_AT_THE_RENAME, "run", str(job), "--quiet"]
        killed = subprocess.run(
            command, env=environment(), capture_output=True, check=False, timeout=2 * DEADLINE_S
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(provider.calls) == 3_000
        partial = tmp_path / "out" / ".results.parquet.partial"
        os.truncate(partial, partial.stat().st_size // 2)  # as if killed earlier
        assert not (tmp_path / "out" / "results.parquet").exists()
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == 3_000, "only the outputs were missing"
    assert_whole(results(), 3_000)
    assert not partial.exists()


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_lets_requests_in_flight_finish(
    write_job: WriteJob, results: Results, signum: signal.Signals, code: int
) -> None:
    gate = Gate(0)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=100, extra=LIMITS)
        process = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) >= CONCURRENCY, process)
        process.send_signal(signum)
        wait_for_line(process, "stopping: ")
        gate.opened.set()
        returncode, _, stderr = finish(process)
        assert returncode == code, stderr
        assert "run again" in stderr
        assert len(provider.calls) == CONCURRENCY, "nothing was sent after the signal"
        counts = results()["status"].value_counts()
        assert dict(counts.rows()) == {"succeeded": CONCURRENCY, "pending": 100 - CONCURRENCY}
        assert batchrun("run", job)[0] == 0
        assert provider.extra_bills == 0
    assert_whole(results(), 100)


def test_the_second_signal_cancels(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, delay_s=600)) as provider:
        job = write_job(provider.url, rows=100, extra=LIMITS)
        process = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) >= CONCURRENCY, process)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "stopping: ")
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert finish(process)[0] == 130
        assert time.monotonic() - start < GRACE_S
        provider.decide = answer
        assert batchrun("run", job)[0] == 0
        assert len(provider.billed) == 100
        usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
        assert usage.filter("maybe_billed").height == CONCURRENCY
