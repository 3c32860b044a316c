"""Measure the time until the first request, and the memory of a run, by the size of the input.

A run over a Parquet file is interrupted (SIGINT) after 20,000 answers; it then writes all rows,
answered and pending. Usage: python -m benchmarks.large_input [ROWS …]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ANSWERS = 20_000
SIZES = (50_000, 1_000_000)
DEADLINE_S = 300.0

_MAKE_TABLE = """
import sys, polars as pl
rows = pl.int_range(int(sys.argv[1]), eager=True)
text = pl.select(pl.format("{}: {}", rows, pl.lit("some words to read " * 10)))
table = pl.DataFrame({"id": rows.cast(pl.String).str.zfill(8), "number": rows, "text": text})
table.write_parquet(sys.argv[2] + "/rows.parquet")
"""
_JOB = """
[input]
path = "rows.parquet"
id = "id"
[request]
base_url = "http://127.0.0.1:{port}"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
system = "You are terse."
prompt = "Row {{{{ number }}}}: {{{{ text }}}}"
max_tokens = 100
[limits]
concurrency = 64
[output]
dir = "run"
"""


def main(sizes: list[int]) -> None:
    """Measure each size once and print a table."""
    print(f"{'rows':>10} {'first request':>14} {'peak memory':>12} {'answers':>8} {'exit':>5}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            measure(size, Path(directory))


def measure(size: int, directory: Path) -> None:
    """Write a table, run a job over it and print a line."""
    # In a separate process: a child's peak memory counts from that of the process it was
    # forked from, so this one has to stay small.
    subprocess.run([sys.executable, "-c", _MAKE_TABLE, str(size), directory], check=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        job = directory / "job.toml"
        job.write_text(_JOB.format(port=port), encoding="utf-8")
        started = time.time()
        code, peak_mib = run_interrupted(job, port)
        first = float(server.stdout.readline().split()[1])
    finally:
        server.terminate()
        server.wait()
    summary = json.loads((directory / "run" / "summary.json").read_text())
    answers = summary["counts"]["succeeded"]
    print(f"{size:>10,} {first - started:>12.2f} s {peak_mib:>8.0f} MiB {answers:>8,} {code:>5}")


def run_interrupted(job: Path, port: int) -> tuple[int, float]:
    """Run a job until enough was answered; return the exit code and the peak memory in MiB."""
    process = subprocess.Popen([sys.executable, "-m", "batchrun", "run", str(job), "--quiet"])
    deadline = time.monotonic() + DEADLINE_S
    while answered(port) < ANSWERS and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, status, used = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss / 1024


def answered(port: int) -> int:
    """Ask the server how many requests it has seen."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
        return int(json.loads(response.read())[0])


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or list(SIZES))
