"""Interrupts where an event loop is running already: in a Jupyter kernel, and in a plain loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import polars as pl
import pytest

from batchrun import complete
from batchrun.errors import Interrupted
from batchrun.inspection.loading import load_job
from batchrun.run import arun_job, run_loop
from batchrun.run.interrupts import Interrupts, counted_sigint
from batchrun.run.run_options import GRACE_S, RunOptions
from tests.conftest import DEADLINE_S, environment, finish, wait_for_line, wait_until
from tests.support.kernel import Cell, Kernel, is_available, running_kernel
from tests.support.provider import Call, Provider, Reply, answer, serving

if not is_available() and os.environ.get("CI") != "true":
    pytest.skip("needs ipykernel and jupyter_client (make test)", allow_module_level=True)

WriteJob = Callable[..., Path]

ROWS = 200
CONCURRENCY = 4
STOPPING = "flight; interrupt again (Ctrl-C) to cancel them"
SAVED = "KeyboardInterrupt: interrupted; all answers are saved"

# polars is imported in the same cell: from then on, a signal does not end the wait for a lock.
COMPLETE = f"""
import polars as pl, batchrun
found = batchrun.complete(
    pl.DataFrame({{"text": [f"text {{n}}" for n in range({ROWS})]}}),
    prompt="Say {{{{ text }}}}",
    model="claude-haiku-4-5-20251001",
    base_url="URL",
    api_key_env="TEST_KEY",
    limits={{"concurrency": {CONCURRENCY}}},
)
found.filter(status="succeeded").height
"""


class Watched:
    """Counts the requests; answers soon, or those that come while it holds when it lets them go."""

    def __init__(self) -> None:
        self.count = 0
        self._holding: threading.Event | None = None
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Reply:
        with self._lock:
            self.count += 1
            return answer(call, delay_s=0.05, until=self._holding)

    def hold(self) -> None:
        """Answer nothing more, and wait until as many requests are in flight as may be."""
        with self._lock:
            self._holding = threading.Event()
            asked = self.count
        wait_until(lambda: self.count == asked + CONCURRENCY)

    def let_go(self) -> None:
        assert self._holding is not None
        self._holding.set()

    def forget(self) -> None:
        """Answer again, but never those that are held."""
        self._holding = None


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def provider(watched: Watched) -> Iterator[Provider]:
    with serving(watched) as provider:
        yield provider


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with running_kernel(tmp_path) as kernel:
        yield kernel


def interrupted(kernel: Kernel, code: str, watched: Watched) -> Cell:
    """Run a cell, interrupt it with requests in flight, and see that nothing more is sent."""
    before = watched.count
    cell = kernel.begin(code)
    wait_until(lambda: watched.count >= before + 5 * CONCURRENCY)
    watched.hold()
    sent = watched.count
    kernel.interrupt()
    kernel.wait_for(cell, STOPPING)
    watched.let_go()
    found = kernel.end(cell)
    assert kernel.run("1 + 1").values == ["2"]
    assert watched.count == sent < before + ROWS
    return found


@pytest.mark.parametrize("mode", ["signal", "message"])
def test_an_interrupt_of_a_cell_stops_the_run_and_the_cell_can_be_run_again(
    tmp_path: Path, provider: Provider, watched: Watched, mode: str
) -> None:
    code = COMPLETE.replace("URL", provider.url)
    with running_kernel(tmp_path, mode) as kernel:
        cell = interrupted(kernel, code, watched)
        assert cell.error == SAVED
        again = kernel.run(code)
    assert (again.error, again.values) == ("", [str(ROWS)])
    assert len(provider.calls) == ROWS  # what was in flight could finish, and counts


def test_a_second_interrupt_of_a_cell_cancels_at_once(
    kernel: Kernel, provider: Provider, watched: Watched
) -> None:
    code = COMPLETE.replace("URL", provider.url)
    cell = kernel.begin(code)
    wait_until(lambda: watched.count >= 5 * CONCURRENCY)
    watched.hold()
    kernel.interrupt()
    kernel.wait_for(cell, STOPPING)
    with pytest.raises(TimeoutError):
        kernel.end(cell, 0.5)
    begun = time.monotonic()
    kernel.interrupt()
    found = kernel.end(cell)
    assert time.monotonic() - begun < GRACE_S / 2
    assert found.error == SAVED
    watched.forget()
    assert kernel.run(code).values == [str(ROWS)]
    assert watched.count == ROWS + CONCURRENCY


def test_no_loop_over_runs_goes_on_after_an_interrupt(
    kernel: Kernel, write_job: WriteJob, provider: Provider, watched: Watched
) -> None:
    """Neither the next run begins, nor does `except Exception` take it for a failed one."""
    limits = f"[limits]\nconcurrency = {CONCURRENCY}"
    write_job(provider.url, rows=ROWS, extra=limits)
    loop = """
import polars, batchrun
for name in "ab":
    try:
        batchrun.run_job(batchrun.load_job("job.toml", {"output.dir": f"out {name}"}))
    except Exception as error:
        print(error)
"""
    assert interrupted(kernel, loop, watched).error == SAVED
    matrix = f'{limits}\n[matrix]\nmodel = ["claude-haiku-4-5-20251001", "claude-opus-4-1"]'
    write_job(provider.url, rows=ROWS, extra=matrix)
    code = "import polars, batchrun\nbatchrun.run_matrix(batchrun.load_job('job.toml'))"
    assert interrupted(kernel, code, watched).error == SAVED


def test_an_awaited_run_is_interrupted_too(
    kernel: Kernel, write_job: WriteJob, provider: Provider, watched: Watched
) -> None:
    write_job(provider.url, rows=ROWS, extra=f"[limits]\nconcurrency = {CONCURRENCY}")
    code = """
import batchrun
report = await batchrun.arun_job(batchrun.load_job("job.toml"))
report.exit_code, report.is_resumable
"""
    cell = interrupted(kernel, code, watched)
    assert (cell.error, cell.values) == ("", ["(130, True)"])


def test_an_interrupt_before_the_first_request_ends_the_cell_at_once(
    kernel: Kernel, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(
        "https://api.example.com",
        request='tools = [{name = "look", input_schema = {type = "object"}}]',
        extra='[tools]\nmodule = "slow_tools.py"',
    )
    slow_module = "import time, pathlib\npathlib.Path('loading').touch()\ntime.sleep(300)\n"
    (job.parent / "slow_tools.py").write_text(slow_module)
    cell = kernel.begin("import polars, batchrun\nbatchrun.run_job(batchrun.load_job('job.toml'))")
    wait_until((tmp_path / "loading").exists)
    kernel.interrupt()
    assert kernel.end(cell).error == "KeyboardInterrupt: interrupted; nothing was sent"


def test_scoring_in_a_cell_is_interrupted_and_done_again(
    kernel: Kernel, write_job: WriteJob, provider: Provider, tmp_path: Path
) -> None:
    job = write_job(provider.url, rows=20)
    assert (
        kernel.run("import batchrun\nbatchrun.run_job(batchrun.load_job('job.toml'))").error == ""
    )
    text = job.read_text() + '[score]\nfunction = "marks.py:mark"\n'
    (tmp_path / "scored.toml").write_text(text)
    (tmp_path / "marks.py").write_text(
        "import time, pathlib\n"
        "def mark(row, response):\n"
        "    pathlib.Path('scoring').touch()\n"
        "    time.sleep(0 if pathlib.Path('quick').exists() else 300)\n"
        "    return 1.0\n"
    )
    code = "from pathlib import Path\nbatchrun.score(Path('out'), Path('scored.toml')).scored"
    cell = kernel.begin(code)
    wait_until((tmp_path / "scoring").exists)
    kernel.interrupt()
    assert kernel.end(cell).error.rstrip().endswith("\nKeyboardInterrupt:")
    (tmp_path / "quick").touch()
    assert kernel.run(code).values == ["20"]


IN_A_LOOP = f"""
import asyncio

async def main():
    {COMPLETE.strip().replace(chr(10), chr(10) + "    ")}

asyncio.run(main())
"""


def test_ctrl_c_in_a_plain_running_loop_stops_the_run(
    tmp_path: Path, provider: Provider, watched: Watched
) -> None:
    script = [sys.executable, "-c", IN_A_LOOP.replace("URL", provider.url)]
    process = subprocess.Popen(
        script, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: watched.count >= 5 * CONCURRENCY, process)
    watched.hold()
    sent = watched.count
    process.send_signal(signal.SIGINT)
    wait_for_line(process, STOPPING)
    watched.let_go()
    code, _, stderr = finish(process)
    assert code == -signal.SIGINT
    assert "ExceptionGroup" not in stderr
    assert stderr.rstrip().endswith("interrupted; all answers are saved")
    assert watched.count == sent
    subprocess.run(script, cwd=tmp_path, env=environment(), check=True, timeout=DEADLINE_S)
    assert len(provider.calls) == ROWS


@pytest.mark.anyio
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_program_has_its_own_signal_handlers_back_after_a_run(
    write_job: WriteJob, signum: signal.Signals
) -> None:
    job = write_job("https://api.example.com", rows=0)

    def own(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signum, own)
    try:
        report = await arun_job(load_job(job), RunOptions(quiet=True))
        assert signal.getsignal(signum) is own
    finally:
        signal.signal(signum, before)
    assert report.exit_code == 0


# How signals are counted and handed over


class Done:
    """A report without an error."""

    error = None


def in_a_running_loop(function: Callable[[Interrupts], Awaitable[Done]]) -> object:
    """Call `run_loop` as a notebook does: where an event loop is running already."""

    async def main() -> object:
        return run_loop(function)

    return asyncio.run(main())


def press(times: int) -> None:
    """Press Ctrl-C: what the system would call, so that it cannot merge two into one."""
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    for _ in range(times):
        handler(signal.SIGINT, None)


def test_ctrl_c_twice_at_once_is_two() -> None:
    async def run(interrupts: Interrupts) -> Done:
        with interrupts.caught(), anyio.fail_after(DEADLINE_S):
            press(2)
            await interrupts.cancel_requested.wait()
        return Done()

    with pytest.raises(KeyboardInterrupt, match="all answers are saved"):
        in_a_running_loop(run)


def test_a_bug_is_not_hidden_by_an_interrupt() -> None:
    async def run(interrupts: Interrupts) -> Done:
        with interrupts.caught(), anyio.fail_after(DEADLINE_S):
            press(1)
            await interrupts.stop_requested.wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_a_running_loop(run)


def test_ctrl_c_after_the_run_ended_counts_no_more() -> None:
    async def main() -> None:
        interrupts = Interrupts()
        with interrupts.caught():
            pass
        assert interrupts.forward(signal.SIGINT), "it was caught, and there is nothing to cancel"
        await anyio.lowlevel.checkpoint()
        assert interrupts.count == 0

    anyio.run(main)


def test_the_first_signal_says_what_ended_the_run() -> None:
    async def main() -> None:
        interrupts = Interrupts()
        with interrupts.caught(), anyio.fail_after(DEADLINE_S):
            signal.raise_signal(signal.SIGTERM)
            await interrupts.stop_requested.wait()
            assert not interrupts.cancel_requested.is_set()
            signal.raise_signal(signal.SIGINT)
            await interrupts.cancel_requested.wait()
        assert interrupts.first is signal.SIGTERM

    anyio.run(main)


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler])
def test_ctrl_c_does_what_it_did_before_a_run(before: signal.Handlers) -> None:
    own = signal.signal(signal.SIGINT, before)
    try:
        with counted_sigint() as count:
            signal.raise_signal(signal.SIGINT)
        assert count.value == (before is not signal.SIG_IGN), "a program may ignore it"
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, own)


def test_a_run_in_a_running_loop_of_another_thread_works() -> None:
    async def run(interrupts: Interrupts) -> Done:
        with interrupts.caught():
            return Done()

    with ThreadPoolExecutor(1) as thread:
        assert isinstance(thread.submit(in_a_running_loop, run).result(DEADLINE_S), Done)


def test_another_signal_ends_complete_with_its_own_error(tmp_path: Path) -> None:
    def decide(call: Call) -> Reply:
        if call.number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(call, delay_s=0.05 if call.number < 5 else 0.5)

    with serving(decide) as provider, pytest.raises(Interrupted) as caught:
        complete(
            pl.DataFrame({"text": [f"text {n}" for n in range(ROWS)]}),
            prompt="Say {{ text }}",
            model="claude-haiku-4-5-20251001",
            base_url=provider.url,
            api_key_env="TEST_KEY",
            limits={"concurrency": CONCURRENCY},
            directory=tmp_path / "out",
        )
    assert caught.value.signum is signal.SIGTERM
    assert len(provider.calls) < ROWS
