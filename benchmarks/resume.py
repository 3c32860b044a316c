"""How fast a finished run finds that there is nothing to do, and how fast it is written out again.

Usage: python -m benchmarks.resume [ROWS]

The finished run is made without a server: its rows are planned as a run plans them, and its answers
are put into the checkpoint by SQL.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from batchrun import __version__
from batchrun.checkpoint import Checkpoint, NewExecution, encoding, open_directory
from batchrun.job import Job
from batchrun.run.preparation import Prepared, prepare
from batchrun.run.run_options import RunOptions

ROWS = 1_000_000
JOB = """
[input]
path = "rows.parquet"
id = "id"
[request]
base_url = "http://127.0.0.1:9"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
prompt = "{{ text }}"
max_tokens = 100
[output]
dir = "run"
"""


def main(rows: int) -> None:
    """Create a finished run, and time a resume and an export of it."""
    with tempfile.TemporaryDirectory() as directory:
        job = make_job(Path(directory), rows)
        seconds, processor_s = finish(prepare(Job.load(job), RunOptions()))
        print(
            f"planning       {rows / seconds:>12,.0f} rows/s, "
            f"{rows / processor_s:,.0f} per second of the processor"
        )
        _, notice_s = timed("run", job)
        print(f"nothing to do  {rows / notice_s:>12,.0f} rows/s, whole process")
        seconds, _ = timed("export", job.parent / "run")
        print(f"all outputs    {rows / seconds:>12,.0f} rows/s, whole process")
        results = Path(directory, "exported.parquet")
        seconds, _ = timed("export", job.parent / "run", "--to", str(results))
        print(f"export --to    {rows / seconds:>12,.0f} rows/s, whole process")


def make_job(directory: Path, rows: int) -> Path:
    """Write the table and the job over it."""
    numbers = pl.int_range(rows, eager=True)
    text = pl.select(pl.format("{}: {}", numbers, pl.lit("some words to read " * 10)))
    table = pl.DataFrame({"id": numbers.cast(pl.String), "text": text.to_series()})
    table.write_parquet(directory / "rows.parquet")
    job = directory / "job.toml"
    job.write_text(JOB)
    return job


def finish(plan: Prepared) -> tuple[float, float]:
    """Plan every row, and answer it; return the seconds of planning, on the clock and of the processor."""
    with open_directory(plan.directory, new=False):
        store = Checkpoint(plan.directory, writable=True)
        facts = {"name": plan.job.name, "job": plan.job.document, "base": plan.job.base}
        store.start_execution(
            NewExecution(signature=plan.signature, total=plan.total, version=__version__, **facts)
        )
        started, used = time.perf_counter(), time.process_time()
        for rendered in plan.renderer.table_chunks(plan.source):
            store.plan(rendered, retry_errored=False)
        store.finish_plan(plan.total, plan.mark)
        took = time.perf_counter() - started, time.process_time() - used
        with store.transaction():
            store.db.execute(
                """INSERT INTO attempts (request_id, number, execution, started_us, latency_s,
                http_status, model, input_tokens, output_tokens)
                SELECT id, 1, 1, 1, 0.5, 200, 'claude-haiku-4-5-20251001', 60, 40 FROM requests"""
            )
            store.db.execute(
                """INSERT INTO results (request_id, status, retryable, attempts, finished_us,
                response, stop_reason, response_id) SELECT id, 'succeeded', 0, 1, 1000000,
                'An answer of some words to number ' || id, 'end_turn', 'msg_' || id FROM requests"""
            )
            for table in (
                encoding.ANSWERS,
                encoding.STATUSES,
                encoding.STARTS,
                encoding.SENT,
                encoding.COSTS,
            ):
                store.db.execute(table.seal("1"))
        store.close()
    return took


def timed(command: str, target: Path, *options: str) -> tuple[float, float]:
    """Run a command; return its seconds, and those until it said there is nothing to do."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", command, str(target), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    notice_s = 0.0
    for line in process.stderr:
        if re.search("nothing to send", line):
            notice_s = time.perf_counter() - started
    assert process.wait() == 0, process.returncode
    return time.perf_counter() - started, notice_s


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
