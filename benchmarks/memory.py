"""Peak memory of the commands on rows with large images, as files and as a Parquet column.

Usage: python -m benchmarks.memory [--rows 512] [--mb 1.5] [--latency-ms 500]

Every command runs in a separate process, whose peak the system reports (VmHWM). The server is
another process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# One Parquet row group for all rows, as most programs write it.
_MAKE_TABLES = """
import os, sys
from pathlib import Path
import polars as pl
folder, rows, size = Path(sys.argv[1]), int(sys.argv[2]), int(float(sys.argv[3]) * 1e6)
(folder / "img").mkdir()
images = []
for row in range(rows):
    image = b"\\x89PNG\\r\\n\\x1a\\n" + os.urandom(size)
    (folder / "img" / f"{row}.png").write_bytes(image)
    images.append(image)
names = [f"img/{row}.png" for row in range(rows)]
pl.DataFrame({"id": names, "image": names}).write_csv(folder / "files.csv")
pl.DataFrame({"id": names, "image": images}).write_parquet(folder / "column.parquet")
"""
TABLES = ("files.csv", "column.parquet")
_JOB = """
[input]
path = "{table}"
id = "id"
[request]
base_url = "http://127.0.0.1:{port}"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
prompt = "{prompt}"
images = "{{{{ image }}}}"
max_tokens = 100
[output]
dir = "{run}"
"""
_MEASURED = """
import sys
from batchrun.__main__ import main
try:
    main()
finally:
    with open("/proc/self/status") as file:
        peak = next(line.split()[1] for line in file if line.startswith("VmHWM"))
    with open({report!r}, "w") as file:
        file.write(peak)
"""


def main() -> None:
    """Measure every command on both tables and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--mb", type=float, default=1.5)
    parser.add_argument("--latency-ms", type=float, default=500.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = [str(options.rows), str(options.mb)]
        subprocess.run([sys.executable, "-c", _MAKE_TABLES, name, *size], check=True)
        server = [sys.executable, "-m", "benchmarks.server", str(options.latency_ms)]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            measure(folder, int(process.stdout.readline()))
        finally:
            process.terminate()
            process.wait()


def measure(folder: Path, port: int) -> None:
    """Print the table."""
    found = {table: peaks(folder, table, port) for table in TABLES}
    print(f"{'command':<14} {'files':>9} {'column':>9}")
    for command in next(iter(found.values())):
        files, column = (each[command] for each in found.values())
        print(f"{command:<14} {files:>5.0f} MiB {column:>5.0f} MiB", flush=True)


def peaks(folder: Path, table: str, port: int) -> dict[str, float]:
    """Return the peak of each command in MiB."""
    run, job = folder / Path(table).stem, folder / "job.toml"
    facts = {"table": table, "port": port, "run": run.name}
    job.write_text(_JOB.format(prompt="What is it?", **facts), encoding="utf-8")
    found = {
        "estimate": peak(folder, "estimate", str(job)),
        "run": peak(folder, "run", str(job), "--quiet"),
        "verify": peak(folder, "verify", str(run)),
    }
    job.write_text(_JOB.format(prompt="What else?", **facts), encoding="utf-8")
    found["changed run"] = peak(folder, "run", str(job), "--yes", "--quiet")
    found["export"] = peak(folder, "export", str(run))
    found["report"] = peak(folder, "report", str(run))
    found["preview"] = peak(folder, "preview", str(job), "-n", "3")
    return found


def peak(folder: Path, *arguments: str) -> float:
    """Return the peak memory of one command in MiB."""
    command, report = measured(folder, *arguments)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return int(report.read_text()) / 1024


def measured(folder: Path, *arguments: str) -> tuple[list[str], Path]:
    """Return a command line that writes the peak memory of a command to a file, in KiB, and the file."""
    report = folder / "peak"
    return [sys.executable, "-c", _MEASURED.format(report=str(report)), *arguments], report


if __name__ == "__main__":
    main()
