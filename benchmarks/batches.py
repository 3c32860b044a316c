"""Peak memory and speed of a run with batches against the simulator.

Usage: python -m benchmarks.batches [--rows 100000] [--format messages]

One pass submits all rows. A second one, when all batches have ended, collects them: its seconds, less
those of a third one that finds nothing to do, are the time of collecting. These are seconds of the
processor, because the simulator is another process on the same machine; with `--wall`, those of a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
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


def main() -> None:
    """Run three passes and print their seconds and peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--format", default="messages", choices=["messages", "chat"])
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    server = [sys.executable, "-m", "batchrun", "simulate", "--batch-seconds", "30"]
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
            passes(job, url, options.rows, wall=options.wall)
        finally:
            process.terminate()
            process.wait()


def passes(job: Path, url: str, rows: int, *, wall: bool) -> None:
    """Submit, collect, and find nothing to do."""
    submitted_s, submitted_mb = measured(job, 7, wall=wall)
    print(f"submit: {rows / submitted_s:,.0f} rows/s, {submitted_mb:.0f} MiB", flush=True)
    # Asking for the usage makes the simulator work out what is due.
    while json.load(urllib.request.urlopen(f"{url}/usage", timeout=300))["billed"] < rows:
        time.sleep(0.5)
    collected_s, collected_mb = measured(job, 0, wall=wall)
    idle_s, _ = measured(job, 0, wall=wall)
    speed = rows / max(0.001, collected_s - idle_s)
    print(f"collect: {speed:,.0f} rows/s, {collected_mb:.0f} MiB ({collected_s:.1f} s in all)")


def measured(job: Path, expected: int, *, wall: bool) -> tuple[float, float]:
    """Return the seconds of one pass, and its peak memory in MiB."""
    report = job.parent / "peak"
    code = _MEASURED.format(report=str(report))
    command = [sys.executable, "-c", code, "run", str(job), "--batch", "--no-wait", "--quiet"]
    began = time.monotonic() if wall else used_s()
    done = subprocess.run(command, env={**os.environ, "ANTHROPIC_API_KEY": ""}, check=False)
    assert done.returncode == expected, done.returncode
    ended = time.monotonic() if wall else used_s()
    return ended - began, int(report.read_text()) / 1024


def used_s() -> float:
    """Return the seconds of the processor that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
