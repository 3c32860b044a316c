"""Terminals that close, readers that go away, signals at any time: what was answered is saved."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import polars as pl
import pytest

from batchrun.checkpoint import Checkpoint
from batchrun.errors import Interrupted
from batchrun.run.conclusion import InterruptibleRows
from batchrun.run.interrupts import Interrupts
from tests.conftest import environment, finish, resume, start_batchrun, wait_until
from tests.support.provider import Call, Gate, Provider, Reply, answer, serving

WriteJob = Callable[..., Path]
Results = Callable[[], pl.DataFrame]

CONCURRENCY = 8
LIMITS = f"[limits]\nconcurrency = {CONCURRENCY}"
ROWS = 60
COMMAND = [sys.executable, "-m", "batchrun"]


def slow(call: Call) -> Reply:
    return answer(call, f"answer to {call.prompt}", delay_s=0.1)


def wait_for_calls(provider: Provider, count: int) -> None:
    wait_until(lambda: len(provider.calls) >= count)


def assert_whole(found: pl.DataFrame) -> None:
    assert found["custom_id"].to_list() == [f"r{n:05d}" for n in range(ROWS)]
    assert found["response"].to_list() == [f"answer to Say text {n}" for n in range(ROWS)]


def test_a_terminal_that_closes_stops_the_run_and_loses_nothing(
    write_job: WriteJob, results: Results
) -> None:
    gate = Gate(3 * CONCURRENCY)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra=LIMITS)
        child, terminal = pty.fork()
        if child == 0:
            os.execve(sys.executable, [*COMMAND, "run", str(job)], environment())
        wait_for_calls(provider, 4 * CONCURRENCY)
        os.close(terminal)  # the kernel sends SIGHUP, and writing to the terminal fails from here
        gate.opened.set()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 129
        assert len(provider.calls) < ROWS
        assert resume(job) == 0
        assert len(provider.calls) == ROWS
    assert_whole(results())


def test_under_nohup_a_terminal_may_close(write_job: WriteJob, results: Results) -> None:
    with serving(slow) as provider:
        job = write_job(provider.url, rows=ROWS, extra=LIMITS)
        process = subprocess.Popen(
            ["nohup", *COMMAND, "run", job],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_calls(provider, CONCURRENCY)
        process.send_signal(signal.SIGHUP)
        assert finish(process)[0] == 0
    assert_whole(results())


@pytest.mark.parametrize("redirection", ["2>&1 | head -n 0", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_changes_neither_run_nor_exit_code(
    write_job: WriteJob, results: Results, redirection: str
) -> None:
    with serving(slow) as provider:
        job = write_job(provider.url, rows=ROWS, extra=LIMITS)
        script = f'set -o pipefail; "{sys.executable}" -m batchrun run "{job}" {redirection}'
        done = subprocess.run(["bash", "-c", script], env=environment(), check=False)
        assert done.returncode == 0
        assert provider.extra_bills == 0
    assert_whole(results())


@pytest.mark.parametrize(("redirection", "code"), [("| head -n 1", 141), (">/dev/full", 6)])
def test_a_stdout_that_takes_nothing_has_an_exit_code_of_its_own(
    write_job: WriteJob, redirection: str, code: int
) -> None:
    job = write_job("https://api.example.com", rows=1_000)
    script = (
        f'set -o pipefail; "{sys.executable}" -m batchrun preview "{job}" -n 1000 {redirection}'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("standard output could not be written" in done.stderr) == (code == 6)


def test_ctrl_c_does_not_wait_for_what_happens_before_the_first_request(
    write_job: WriteJob,
) -> None:
    job = write_job(
        "https://api.example.com",
        request='tools = [{name = "look", input_schema = {type = "object"}}]',
    )
    slow_module = "import time, pathlib\npathlib.Path('loading').touch()\ntime.sleep(600)\n"
    (job.parent / "slow_tools.py").write_text(slow_module)
    job.write_text(job.read_text() + '\n[tools]\nmodule = "slow_tools.py"\n')
    process = start_batchrun("run", job, cwd=job.parent)
    wait_until((job.parent / "loading").exists, process)
    process.send_signal(signal.SIGINT)
    code, _, stderr = finish(process)
    assert code == 130
    assert "Traceback" not in stderr


def test_a_signal_while_outputs_are_read_stops_that(tmp_path: Path) -> None:
    def read_on(rows: InterruptibleRows) -> None:
        assert rows.columns(0, 10, ["status"]) == {"ordinal": [], "status": []}
        os.kill(os.getpid(), signal.SIGINT)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            rows.columns(0, 10, ["status"])

    async def conclude() -> None:
        store = Checkpoint(tmp_path, writable=True)
        interrupts = Interrupts()
        with interrupts.caught():
            try:
                await anyio.to_thread.run_sync(read_on, InterruptibleRows(store, interrupts))
            finally:
                store.close()

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted) as caught:
            anyio.run(conclude)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.exit_code == 130


def test_a_signal_while_answers_are_scored_stops_that(write_job: WriteJob) -> None:
    job = write_job(
        "https://api.example.com",
        rows=3_000,
        extra='[score]\nfunction = "slow_score.py:score"',
    )
    (job.parent / "slow_score.py").write_text(
        "import os, signal, time\n"
        "calls = 0\n"
        "def score(row, answer):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 1:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    if calls % 500 == 0:\n"
        "        time.sleep(1)\n"
        "    if calls == 3_000:\n"
        "        open('all', 'w').close()\n"
        "    return 1.0\n"
    )
    process = start_batchrun("run", job, "--simulate", cwd=job.parent)
    code, _, stderr = finish(process)
    assert code == 130
    assert "interrupted before the output files were written" in stderr
    assert not list(job.parent.rglob("results.*"))
    assert not (job.parent / "all").exists()


def test_a_signal_from_before_the_outputs_lets_them_be_written(tmp_path: Path) -> None:
    async def conclude() -> None:
        interrupts = Interrupts()
        with interrupts.caught():
            os.kill(os.getpid(), signal.SIGTERM)
            await interrupts.stop_requested.wait()
            store = Checkpoint(tmp_path, writable=True)
            rows = InterruptibleRows(store, interrupts)
            assert rows.columns(0, 10, ["status"]) == {"ordinal": [], "status": []}
            store.close()

    anyio.run(conclude)


def test_outside_of_the_main_thread_signals_are_the_programs_own() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    async def look() -> None:
        with Interrupts().caught():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=anyio.run, args=(look,))
    thread.start()
    thread.join()
    assert found == [before]


# Starts the command many times at once. What is slow to load and safe to share is loaded before; each
# command runs in a process of its own, and all of them come to the lock together.
CROWD = """
import os, sys
import batchrun.inspection, batchrun.run, anyio._backends._asyncio
from batchrun.cli import main

def command(number):
    os.dup2(os.open(f"{number}.stderr", os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = ["batchrun", "run", "job.toml"]
    main()

for number in range(24):
    if os.fork() == 0:
        command(number)
for _ in range(24):
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_of_24_at_once_one_runs_and_23_are_refused(write_job: WriteJob, results: Results) -> None:
    all_refused = threading.Event()

    def hold(call: Call) -> Reply:
        all_refused.wait(240)
        return answer(call, f"answer to {call.prompt}")

    with serving(hold) as provider:
        job = write_job(provider.url, rows=ROWS, extra=LIMITS)
        crowd = subprocess.Popen(
            [sys.executable, "-c", CROWD],
            cwd=job.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert crowd.stdout is not None
        first = [crowd.stdout.readline() for _ in range(23)]
        all_refused.set()
        last, _ = crowd.communicate(timeout=240)
        assert first == ["5\n"] * 23
        assert last == "0\n"
        assert len(provider.calls) == ROWS
    said = [(job.parent / f"{number}.stderr").read_text() for number in range(24)]
    assert sum("another batchrun process is working on this run" in text for text in said) == 23
    assert_whole(results())
