"""Peak memory of merging the Parquet files of parts, by the number of parts.

Usage: python -m benchmarks.merging [PARTS ...]

Each part has 25,000 rows with 32 columns. Each merge runs in a process of its own (VmHWM).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

PARTS = (4, 64, 200)
ROWS = 25_000
COLUMNS = 32
_MERGE = """
import sys
from pathlib import Path
from batchrun.output import concatenate
part, whole, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
concatenate([part] * count, whole)
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def main(counts: tuple[int, ...]) -> None:
    """Print a line for each number of parts."""
    with tempfile.TemporaryDirectory() as name:
        part, whole = Path(name, "part.parquet"), Path(name, "whole.parquet")
        rows = pl.int_range(ROWS, eager=True)
        texts = {f"c{n}": pl.select(pl.format("{} {}", rows % 977, n)) for n in range(COLUMNS)}
        frame = pl.DataFrame({name: text.to_series() for name, text in texts.items()})
        frame.write_parquet(part, row_group_size=10_000)
        for count in counts:
            started = time.perf_counter()
            command = [sys.executable, "-c", _MERGE, str(part), str(whole), str(count)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, seconds = int(found.stdout) / 1024, time.perf_counter() - started
            print(f"{count:>5} parts {count * ROWS:>11,} rows {peak:>5.0f} MiB {seconds:>6.1f} s")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or PARTS)
