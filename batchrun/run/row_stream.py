"""`stream`: yields the rows of a table or a job, each as soon as it has its result."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.run.dataframes import prepared, raised
from batchrun.run.finished_rows import RowBuffer
from batchrun.run.interrupts import Interrupts
from batchrun.run.run_options import RunOptions
from batchrun.run.running import run_with_interrupts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from batchrun.run.conclusion import RunReport
    from batchrun.run.dataframes import TableCall


async def stream(
    rows: Job | object,
    options: RunOptions | None = None,
    **arguments: Any,  # noqa: ANN401 - those of `complete`
) -> AsyncGenerator[dict[str, Any], None]:
    """Send every row to a model, and yield each row as soon as it has its result.

    It needs a running event loop, as in a coroutine or a cell of a notebook. At most 16 finished rows
    wait for the caller, in addition to those whose requests are in flight: if the caller takes long for a
    row, nothing more is sent meanwhile.

    When the caller ends the loop (`break`, an exception, `aclose()`), nothing more is sent, and requests
    in flight get up to 30 s to finish: they are billed, and their answers are saved. When its task is
    cancelled, requests in flight are cancelled and counted as possibly billed. In each case the same
    call resumes: it yields the saved rows first and sends the rest.

    Args:
        rows: a table as for `complete`, or a `Job`.
        options: how to run a `Job`.
        arguments: for a table, those of `complete`: `prompt`, `model` and so on.

    Yields:
        A dict for each row, in the order in which they finish: all columns of the row, then those of
        `results.parquet` and one for each property with `unnest`, with the same names and values.
        Columns of a score are not among them: answers are scored at the end of the run.

    Raises:
        JobError: when an argument, the job or the table is wrong; nothing was sent.
        RunStopped: after the last row, when something stopped the run early; as `complete` does, also
            for the other errors.
    """
    call = None
    if isinstance(rows, Job):
        if arguments:
            raise JobError(
                f"{next(iter(arguments))}: cannot be combined with a Job; set it in the job"
            )
        job, options = rows, options or RunOptions()
    elif options is not None:
        raise JobError("options: only for a Job; for a table, use the arguments of complete()")
    else:
        call = prepared(rows, **arguments, origin="stream()")
        job, options = call.job, call.options
    running = _Running(job, options)
    try:
        while (row := await running.buffer.take()) is not None:
            yield row
    except asyncio.CancelledError:
        running.interrupt(cancel=True)
        raise
    finally:
        await running.end()
    _conclude(await running.task, call)


def _conclude(report: RunReport, call: TableCall | None) -> None:
    if report.error is not None:
        raise raised(report.error)
    if call is not None:
        call.tidy()


class _Running:
    """A run in a separate task: a generator must not hold a task group open while it yields."""

    def __init__(self, job: Job, options: RunOptions) -> None:
        self.buffer = RowBuffer()
        self._interrupts = Interrupts()
        run = run_with_interrupts(job, replace(options, rows_to=self.buffer), self._interrupts)
        self.task = asyncio.create_task(run, name=f"batchrun {job.name}")
        self.task.add_done_callback(lambda _: self.buffer.close())

    def interrupt(self, *, cancel: bool = False) -> None:
        """Send nothing more; with `cancel`, also cancel requests in flight."""
        if self.task.done():
            return
        # As by Ctrl-C: once finishes requests in flight, twice cancels them.
        if not self._interrupts.forward(signal.SIGINT):
            self.task.cancel()  # nothing was sent yet
        elif cancel:
            self._interrupts.forward(signal.SIGINT)

    async def end(self) -> None:
        """Wait until everything is saved; the run ends early if it has not ended."""
        if not self.buffer.is_closed:
            self.buffer.close()
            self.interrupt()
        # Shielded, because answers that are paid for are saved meanwhile.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.exception()  # read, so that asyncio does not complain: the caller has left
