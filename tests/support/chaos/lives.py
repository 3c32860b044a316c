"""A process that works on a run with batches, killed by SIGKILL at an exact call or commit.

The processes are forked from one that has everything loaded, which takes a tenth of the time of a start.
The calls are counted at the transport port, the commits by SQLite's own trace of statements.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx

from batchrun import BATCH, BatchMode, Job, RunOptions, cancel, run_job
from batchrun.client import PyreqwestTransport
from tests.conftest import KEY
from tests.support.vendor import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

    from batchrun import RunReport

BEFORE, AFTER, HALF, COMMIT = "before", "after", "half", "commit"
LOADED = (
    "batchrun.run.cancellation",
    "batchrun.client.batch_client",
    "batchrun.output",
    "anyio._backends._asyncio",
    "genai_prices",
    "polars",
    "uvloop",
)
LONGEST_S = 120.0
STORY = "life.txt"


@dataclass(frozen=True)
class Kill:
    """When to kill a process.

    Attributes:
        when: `before` the n-th call is sent, `after` it was answered and before anything of the answer
            is read, at the `half` of the n-th download, or before the n-th `commit`.
        number: the n of these, from 1.
        call: only calls of this kind are counted, see `kind_of`; empty for all.
    """

    when: str
    number: int
    call: str = ""

    def __str__(self) -> str:
        return f"{self.when} {self.call or 'call' * (self.when != COMMIT)} {self.number}"


@dataclass(frozen=True)
class Life:
    """What a process does: the run of a job, which is killed at a point; None for not at all.

    Attributes:
        is_faulty: of the creations the first never arrives, the second loses its answer, and so on in
            turn with one that works; every other download breaks off.
        cancels: cancels the batches instead.
        waits: until all batches are collected, or else makes one pass.
    """

    job: Path
    kill: Kill | None = None
    is_faulty: bool = False
    cancels: bool = False
    waits: bool = True

    def run(self) -> int:
        """Let the process live; return its exit code, -9 when it was killed."""
        process = forking().Process(target=_live, args=(self,))
        process.start()
        process.join(LONGEST_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{self} takes longer than {LONGEST_S:g} s")
        code: int = process.exitcode
        process.close()
        return code

    @property
    def said(self) -> str:
        """The error that the last process ended with."""
        return (self.job.parent / STORY).read_text()


@cache
def forking() -> ForkServerContext:
    """Return what forks processes that have everything loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LOADED, __name__])
    return context


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyTransport(httpx.AsyncBaseTransport):
    """Carries calls to the vendor, and kills the process or breaks connections at some of them.

    Args:
        life: says at which.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._kill = life.kill or Kill(COMMIT, 0)
        self._inner = PyreqwestTransport(connections=4)
        self._calls: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        kind, kill = kind_of(request), self._kill
        self._calls.update(("", kind))
        is_due = self._calls[kill.call] == kill.number and kill.call in {"", kind}
        if is_due and kill.when == BEFORE:
            _die()
        turn = self._calls["create"] % 3 if self._life.is_faulty and kind == "create" else 0
        if turn == 1:
            if is_due:
                _die()
            raise httpx.ReadError("the request was lost")
        response = await self._inner.handle_async_request(request)
        if is_due and kill.when == AFTER:
            await response.aread()  # the vendor has done its part
            _die()
        if turn == 2:
            await response.aread()
            raise httpx.ReadError("the answer was lost")
        if kind == "results":
            number = self._calls["results"]
            dies = kill.when == HALF and number == kill.number
            breaks = self._life.is_faulty and number % 2 == 1
            if dies or breaks:
                content = await response.aread()
                body = _Half(content[: len(content) // 2], dies=dies)
                return httpx.Response(response.status_code, stream=body, request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Half(httpx.AsyncByteStream):
    """The first half of a body; then the process dies or the connection breaks."""

    def __init__(self, content: bytes, *, dies: bool) -> None:
        self._content = content
        self._dies = dies

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
        if self._dies:
            _die()
        raise httpx.ReadError("the connection broke")


def _die_at_commit(number: int) -> None:
    """Kill the process before its n-th commit, on whichever connection."""
    commits = 0

    def seen(statement: str) -> None:
        nonlocal commits
        commits += statement.upper().startswith(("COMMIT", "END"))
        if commits == number:
            _die()

    opened = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = opened(*args, **options)
        connection.set_trace_callback(seen)
        return connection

    # Of this process alone, which is about to die.
    sqlite3.connect = connect  # type: ignore[assignment]


def _live(life: Life) -> None:
    os.environ["TEST_KEY"] = KEY
    if life.kill is not None and life.kill.when == COMMIT:
        _die_at_commit(life.kill.number)
    options = RunOptions(
        quiet=True,
        dispatcher=BATCH,
        batches=BatchMode.WAIT if life.waits else BatchMode.ONE_PASS,
        transport=DeadlyTransport(life),
    )
    report: RunReport | None
    if life.cancels:
        (canceled,) = cancel(life.job.parent / "out", options)
        report = canceled.report
    else:
        report = run_job(Job.load(life.job), options)
    code = 0 if report is None else report.exit_code
    (life.job.parent / STORY).write_text(f"{code}: {None if report is None else report.error}")
    sys.exit(code)
