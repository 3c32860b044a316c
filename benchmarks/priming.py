"""What priming saves: the same rows in batches without a cache, with one, and with one that is filled first.

Usage: python -m benchmarks.priming [--rows 200]

Against the simulator, in which the earlier half of a batch does not see what the others have cached.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from batchrun import BATCH, Job, RunOptions, run_job
from batchrun.records import PICO_PER_USD
from batchrun.simulator import SimulatorConfig

SYSTEM = "You are a careful translator. " * 400
BLOCK = {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}
ARMS: dict[str, dict[str, Any]] = {
    "no cache": {"system": SYSTEM},
    # batchrun does not know of this cache, and so does not fill it first.
    "cache, not primed": {"extra_body": {"system": [BLOCK]}},
    "cache, primed": {"system": SYSTEM, "cache_system": True},
}


def main() -> None:
    """Run each arm, and print what it costs and how many rows wrote and read the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    rows = parser.parse_args().rows
    options = RunOptions(quiet=True, simulate=SimulatorConfig(batch_s=1), dispatcher=BATCH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pl.DataFrame({"text": [f"text {n}" for n in range(rows)]}).write_csv(folder / "rows.csv")
        for arm, keys in ARMS.items():
            job = {
                "input": {"path": "rows.csv"},
                "request": {
                    "format": "messages",
                    "model": "claude-haiku-4-5-20251001",
                    "prompt": "Translate {{ text }}",
                    "max_tokens": 30,
                    **keys,
                },
                "output": {"dir": arm.replace(", ", "-").replace(" ", "-")},
            }
            report = run_job(Job.from_document(job, folder), options)
            found = report.results.collect()
            wrote = (found["cache_write_tokens"].fill_null(0) > 0).sum()
            read = (found["cache_read_tokens"].fill_null(0) > 0).sum()
            cost = report.totals.cost.total / PICO_PER_USD
            print(f"{arm:>18}: ${cost:.4f}, {wrote} rows wrote, {read} read")


if __name__ == "__main__":
    main()
