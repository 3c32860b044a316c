"""A run in parts over generated rows: time and peak memory of every command.

Usage: python -m benchmarks.parts [ROWS] [--partition-rows 250000] [--csv] [--in FOLDER] [--only COMMAND ...]

The simulator answers in another process without waiting, its fastest mode. Every command runs in a process
of its own, whose peak the system reports (VmHWM). `--in` keeps the run in a folder; with it, the same rows and
`--only`, some commands are measured again on a run that is there.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.memory import peak

if TYPE_CHECKING:
    from collections.abc import Sequence

EXCEL_ROWS = 1_048_575  # what a sheet has room for, beside the names

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
    *(
        ("export", "{run}", "--to", f"{{run}}.{kind}")
        for kind in ("parquet", "csv", "jsonl", "xlsx")
    ),
    ("score", "{run}"),
    ("recost", "{run}"),
    ("compare", "{run}", "{run}.copy"),
    ("report", "{run}"),
    ("estimate", "{job}"),
    ("preview", "{job}"),
)


def main() -> None:
    """Make the table, start the simulator, and measure every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--partition-rows", type=int, default=250_000)
    parser.add_argument("--csv", action="store_true", help="a CSV table instead of Parquet")
    parser.add_argument("--in", dest="folder", type=Path, help="keep the run in this folder")
    parser.add_argument("--only", nargs="+", help="measure these commands")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if options.folder is None else options.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / ("rows.csv" if options.csv else "rows.parquet")
        if not table.exists():
            make = [sys.executable, "-c", _MAKE_TABLE, str(table), str(options.rows)]
            subprocess.run(make, check=True)
        server = [sys.executable, "-m", "batchrun", "simulate", "--latency-ms", "0"]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            facts = {"table": table.name, "url": url, "partition_rows": options.partition_rows}
            (folder / "job.toml").write_text(_JOB.format(**facts))
            measure(folder, options.rows, options.only)
        finally:
            process.terminate()
            process.wait()


def measure(folder: Path, rows: int, only: Sequence[str] | None) -> None:
    """Print a line for each command, and how large the run is."""
    print(f"{'command':<20} {'seconds':>9} {'rows/s':>9} {'CPU s':>8} {'peak':>9}")
    places = {"job": str(folder / "job.toml"), "run": str(folder / "run")}
    for command in COMMANDS:
        name = " ".join(word for word in command if "{job}" not in word and word != "{run}")
        name = name.replace("{run}.", "x.")
        if (
            only is not None
            and command[0] not in only
            or (name.endswith("xlsx") and rows > EXCEL_ROWS)
        ):
            continue
        copy = folder / "run.copy"
        if command[0] == "compare":
            shutil.copytree(folder / "run", copy)
        started, before = time.perf_counter(), cpu_s()
        peak_mib = peak(folder, *(word.format(**places) for word in command))
        seconds = time.perf_counter() - started
        print(
            f"{name:<20} {seconds:>9.1f} {rows / seconds:>9,.0f} {cpu_s() - before:>8.1f} "
            f"{peak_mib:>5.0f} MiB",
            flush=True,
        )
        shutil.rmtree(copy, ignore_errors=True)
    summary = json.loads((folder / "run" / "summary.json").read_bytes())
    assert summary["counts"]["succeeded"] == rows, summary["counts"]
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / rows
    print(f"{rows:,} rows in {len([*folder.glob('run/part-*/')])} parts, {size:,.0f} bytes per row")


def cpu_s() -> float:
    """Return the CPU seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
