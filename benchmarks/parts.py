"""A run in parts over generated rows: time and peak memory of every command.

Usage: python -m benchmarks.parts [ROWS] [--partition-rows 250000] [--csv]

The simulator answers in another process without waiting, its fastest mode. Every command runs in a process
of its own, whose peak the system reports (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import peak

_MAKE_TABLE = """
import sys
import polars as pl
path, rows = sys.argv[1], int(sys.argv[2])
n = pl.int_range(rows, eager=True).alias("n").to_frame().lazy()
labels = pl.when(pl.col("n") % 3 == 0).then(pl.lit("red")).otherwise(pl.lit("blue"))
text = pl.format("Ticket {}: the printer on floor {} prints only every other page", "n", pl.col("n") % 40)
table = n.select(pl.format("r{}", "n").alias("id"), text.alias("text"), labels.alias("label"))
table.sink_csv(path) if path.endswith(".csv") else table.sink_parquet(path, row_group_size=100_000)
"""
_JOB = """
[input]
path = "{table}"
id = "id"
[request]
base_url = "{url}"
api_key_env = ""
provider = "anthropic"
model = "claude-haiku-4-5-20251001"
prompt = "{{{{ text }}}}"
max_tokens = 10
[limits]
concurrency = 128
[score]
expected = "{{{{ label }}}}"
match = "choice"
choices = ["red", "blue"]
[output]
dir = "run"
partition_rows = {partition_rows}
"""
# Each sees the run as the one before left it.
COMMANDS = (
    ("run", "{job}", "--quiet"),
    ("run", "{job}", "--quiet"),
    ("status", "{run}", "--json"),
    ("verify", "{run}"),
    ("export", "{run}"),
    ("score", "{run}"),
    ("recost", "{run}"),
    ("compare", "{run}", "{run}.copy"),
    ("report", "{run}"),
    ("estimate", "{job}"),
)


def main() -> None:
    """Make the table, start the simulator, and measure every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--partition-rows", type=int, default=250_000)
    parser.add_argument("--csv", action="store_true", help="a CSV table instead of Parquet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / ("rows.csv" if options.csv else "rows.parquet")
        subprocess.run(
            [sys.executable, "-c", _MAKE_TABLE, str(table), str(options.rows)], check=True
        )
        server = [sys.executable, "-m", "batchrun", "simulate", "--latency-ms", "0"]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            facts = {"table": table.name, "url": url, "partition_rows": options.partition_rows}
            (folder / "job.toml").write_text(_JOB.format(**facts))
            measure(folder, options.rows)
        finally:
            process.terminate()
            process.wait()


def measure(folder: Path, rows: int) -> None:
    """Print a line for each command, and how large the run is."""
    print(f"{'command':<10} {'seconds':>9} {'rows/s':>9} {'peak':>9}")
    places = {"job": str(folder / "job.toml"), "run": str(folder / "run")}
    for command in COMMANDS:
        if command[0] == "compare":
            shutil.copytree(folder / "run", folder / "run.copy")
        started = time.perf_counter()
        peak_mib = peak(folder, *(word.format(**places) for word in command))
        seconds = time.perf_counter() - started
        print(
            f"{command[0]:<10} {seconds:>9.1f} {rows / seconds:>9,.0f} {peak_mib:>5.0f} MiB",
            flush=True,
        )
    summary = json.loads((folder / "run" / "summary.json").read_bytes())
    assert summary["counts"]["succeeded"] == rows, summary["counts"]
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / rows
    print(f"{rows:,} rows in {len([*folder.glob('run/part-*/')])} parts, {size:,.0f} bytes per row")


if __name__ == "__main__":
    main()
