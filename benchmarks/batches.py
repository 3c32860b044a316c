"""Peak memory of a run with batches against the simulator, and how fast it collects results.

Usage: python -m benchmarks.batches [--rows 100000] [--format messages]

The log file of the run says when each batch was seen to have ended, and when its last result was in the
checkpoint. The simulator is another process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.memory import _MEASURED

_MAKE_TABLE = """
import sys
import polars as pl
rows = int(sys.argv[2])
texts = [f"Ticket {n}: the printer on floor {n % 40} prints only every other page" for n in range(rows)]
pl.DataFrame({"id": [f"r{n}" for n in range(rows)], "text": texts}).write_parquet(sys.argv[1])
"""
_JOB = """
[input]
path = "rows.parquet"
id = "id"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = ""
provider = "anthropic"
model = "claude-haiku-4-5-20251001"
prompt = "{{{{ text }}}}"
max_tokens = 30
[batch]
poll_s = 0.5
[output]
dir = "run"
"""
FINAL = {"ended", "expired", "canceled"}


def main() -> None:
    """Run a job, and print its peak and its speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--format", default="messages", choices=["messages", "chat"])
    options = parser.parse_args()
    server = [sys.executable, "-m", "batchrun", "simulate", "--batch-seconds", "5"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = str(folder / "rows.parquet")
        subprocess.run([sys.executable, "-c", _MAKE_TABLE, table, str(options.rows)], check=True)
        process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            job = folder / "job.toml"
            job.write_text(_JOB.format(wire_format=options.format, url=url))
            peak_mb = measured(job)
        finally:
            process.terminate()
            process.wait()
        seconds = collecting_s(folder / "events.jsonl")
    print(
        f"{options.rows:,} rows: {options.rows / seconds:,.0f} rows/s collected, {peak_mb:.0f} MiB"
    )


def measured(job: Path) -> float:
    """Run the job; return its peak memory in MiB."""
    report = job.parent / "peak"
    code = _MEASURED.format(report=str(report))
    log = str(job.parent / "events.jsonl")
    command = [sys.executable, "-c", code, "run", str(job), "--batch", "--quiet", "--log-file", log]
    subprocess.run(command, env={**os.environ, "ANTHROPIC_API_KEY": ""}, check=True)
    return int(report.read_text()) / 1024


def collecting_s(log: Path) -> float:
    """Return the seconds from the end of each batch until it was collected, added up."""
    ended: dict[str, datetime] = {}
    seconds = 0.0
    for event in map(json.loads, log.read_text().splitlines()):
        moment = datetime.fromisoformat(event["time"])
        if event["event"] == "batch" and event["state"] in FINAL:
            ended[event["tag"]] = moment
        elif event["event"] == "batch" and event["state"] == "collected":
            seconds += (moment - ended[event["tag"]]).total_seconds()
    return seconds


if __name__ == "__main__":
    main()
