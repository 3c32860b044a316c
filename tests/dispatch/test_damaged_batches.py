"""Records of open batches that were damaged on the disk, against the simulator's bills."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchrun import BATCH, BatchMode, Job, RunOptions, run_job
from batchrun.errors import RecordsDamaged
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

QUICK = "[batch]\npoll_s = 0.05\ndoubt_s = 0.5\nmax_rows = 20\n"
ROWS = 30
DAMAGES = {
    "a bit of an id": ("remote_id = replace(remote_id, 'batch', 'bauch')", 0),
    "stage and id": ("stage = 'void', remote_id = 'x'", 0),
    "all that the provider knows": ("tag = 'x' || id, input_file = 'x', remote_id = 'x'", ROWS),
}


def run(job: Path, *, wait: bool = True, again: bool = False) -> RunReport:
    mode = BatchMode.WAIT if wait else BatchMode.ONE_PASS
    options = RunOptions(quiet=True, yes=True, dispatcher=BATCH, batches=mode, retry_errored=again)
    return run_job(Job.load(job), options)


@pytest.mark.parametrize(
    ("wire_format", "name"),
    [*(("messages", name) for name in DAMAGES), ("chat", "all that the provider knows")],
)
def test_damaged_batches_are_found_again_or_count_as_maybe_billed(
    write_job: Callable[..., Path], wire_format: str, name: str
) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=ROWS, wire_format=wire_format, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
        change, maybe_billed = DAMAGES[name]
        with closing(sqlite3.connect(job.parent / "out" / "checkpoint.db")) as db, db:
            db.execute(f"UPDATE batches SET {change}")
        with pytest.raises(RecordsDamaged, match="it can be looked up again at the provider"):
            raise run(job).error or AssertionError
        server.pass_time(1_000, speed=1_000)
        report = run(job, again=True)
        assert (report.exit_code, report.totals.succeeded) == (0, ROWS), report.error
        assert report.totals.maybe_billed == maybe_billed
        assert server.usage()["extra_bills"] == maybe_billed
