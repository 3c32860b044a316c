"""How fast rows are planned, and what a finished run takes to find that there is nothing to do, and to export.

Usage: python -m benchmarks.resume [ROWS] [--in FOLDER]

The finished run is made without a server: its rows are planned as a run plans them, and its answers
are put into the checkpoint by SQL. With more than `partition_rows` rows (2 million) it has several parts.
`--in` keeps the run in a folder, and measures the commands again on a run that is there. Every command is a
separate process, whose peak memory the system reports (VmHWM).
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchrun import __version__
from batchrun.checkpoint import Checkpoint, NewExecution, encoding, open_directory
from batchrun.job import Job
from batchrun.run.division import division_of, plan_of_part
from batchrun.run.parts import write_parts
from batchrun.run.preparation import Prepared, prepare
from batchrun.run.run_options import RunOptions
from benchmarks.memory import measured

ROWS = 1_000_000
_MAKE_TABLE = """
import sys, polars as pl
number = pl.int_range(int(sys.argv[2]), eager=True).alias("n").to_frame().lazy()
text = pl.format("{}: {}", "n", pl.lit("some words to read " * 10)).alias("text")
table = number.select(pl.col("n").cast(pl.String).alias("id"), text)
table.sink_parquet(sys.argv[1], row_group_size=100_000)
"""
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


def main() -> None:
    """Create a finished run, and measure a resume and exports of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=ROWS)
    parser.add_argument("--in", dest="folder", type=Path, help="keep the run in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if options.folder is None else options.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, options.rows)


def measure(folder: Path, rows: int) -> None:
    """Print a line for the planning and for each command."""
    job = folder / "job.toml"
    if not job.exists():
        table = [sys.executable, "-c", _MAKE_TABLE, str(folder / "rows.parquet"), str(rows)]
        subprocess.run(table, check=True)
        job.write_text(JOB)
        seconds, processor_s, written = finish(prepare(Job.load(job), RunOptions()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line(
            "planning",
            rows,
            seconds,
            peak,
            f", {rows / processor_s:,.0f} per second of the processor, "
            f"{written / rows / 1000:.1f} KB per row written to the disk",
        )
    notice_s, seconds, peak = timed(folder, "run", job)
    line("nothing to do", rows, notice_s, peak)
    print(f"{'':<16} {seconds - notice_s:.0f} s more to write the outputs")
    exported = str(folder / "exported.parquet")
    for name, extra in (("all outputs", ()), ("export --to", ("--to", exported))):
        _, seconds, peak = timed(folder, "export", folder / "run", *extra)
        line(name, rows, seconds, peak)


def line(name: str, rows: int, seconds: float, peak_mib: float, more: str = "") -> None:
    """Print the rows per second and the peak memory of a step."""
    print(f"{name:<16} {rows / seconds:>10,.0f} rows/s, peak {peak_mib:,.0f} MiB{more}", flush=True)


def finish(plan: Prepared) -> tuple[float, float, int]:
    """Plan every row, and answer it; return what planning took.

    Returns:
        Seconds on the clock, seconds of the processor, and bytes written to the disk.
    """
    options, wall_s, processor_s, written = RunOptions(), 0.0, 0.0, 0
    parts = division_of(plan, options)
    with open_directory(plan.directory, new=False):
        plans = [plan]
        if parts is not None:
            write_parts(plan.directory, parts)
            plans = [plan_of_part(plan, parts, part, options) for part in parts.parts]
        for each in plans:
            each.directory.mkdir(exist_ok=True)
            store = Checkpoint(each.directory, writable=True)
            started, used, before = time.perf_counter(), time.process_time(), written_bytes()
            plan_rows(each, store)
            written += written_bytes() - before
            wall_s += time.perf_counter() - started
            processor_s += time.process_time() - used
            answer_rows(store)
            store.close()
    return wall_s, processor_s, written


def written_bytes() -> int:
    """Return the bytes that this process has written to the disk; the system counts blocks of 512."""
    return 512 * resource.getrusage(resource.RUSAGE_SELF).ru_oublock


def plan_rows(plan: Prepared, store: Checkpoint) -> None:
    """Plan every row, as a run does."""
    facts = {"name": plan.job.name, "job": plan.job.document, "base": plan.job.base}
    store.start_execution(
        NewExecution(signature=plan.signature, total=plan.total, version=__version__, **facts)
    )
    for rendered in plan.renderer.table_chunks(plan.source):
        store.plan(rendered, retry_errored=False)
    store.finish_plan(plan.total, plan.mark)


def answer_rows(store: Checkpoint) -> None:
    """Put an answer to every request into the checkpoint."""
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


def timed(folder: Path, command: str, target: Path, *options: str) -> tuple[float, float, float]:
    """Run a command; return the seconds until it said there is nothing to do, all seconds, and its peak in MiB."""
    started = time.perf_counter()
    arguments, report = measured(folder, command, str(target), *options)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    notice_s = 0.0
    for text in process.stderr:
        if re.search("nothing to send", text):
            notice_s = time.perf_counter() - started
    assert process.wait() == 0, process.returncode
    return notice_s, time.perf_counter() - started, int(report.read_text()) / 1024


if __name__ == "__main__":
    main()
