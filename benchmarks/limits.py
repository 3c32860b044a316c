"""How much of a provider's limits a run uses, and how often it is refused.

A simulator in this process enforces them, with or without its headers; nothing is configured.
Usage: python -m benchmarks.limits [SECONDS]   (default 180; 75 is the short form)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio
import polars as pl

from batchrun import Job, RunOptions
from batchrun.run import arun_job
from batchrun.simulator import Simulator, SimulatorConfig

LIMITS = (
    SimulatorConfig(requests_per_minute=600, latency_ms=500),
    SimulatorConfig(tokens_per_minute=100_000, latency_ms=500),
)
_JOB = """
[input]
path = "rows.parquet"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
prompt = "Row {{{{ number }}}}: {{{{ text }}}}"
max_tokens = 100
"""


async def measure(folder: Path, wire_format: str, limits: SimulatorConfig, seconds: float) -> None:
    """Run against one limit for so long; print what was answered and refused."""
    simulator = Simulator(limits)
    async with anyio.create_task_group() as group:
        url = await group.start(simulator.serve)
        path = folder / "job.toml"
        path.write_text(_JOB.format(wire_format=wire_format, url=url), encoding="utf-8")
        job = Job.load(path, {"output.dir": str(folder / url.rpartition(":")[2])})
        group.start_soon(arun_job, job, RunOptions(quiet=True))
        await anyio.sleep(60)
        first = simulator.ledger
        await anyio.sleep(seconds - 60)
        last = simulator.ledger
        group.cancel_scope.cancel()
    answered = (last.billed - first.billed) * 60 / (seconds - 60)
    refused = last.statuses.get(429, 0) / last.requests
    print(
        f"{wire_format:9} {limits.requests_per_minute} requests, {limits.tokens_per_minute} tokens/min: "
        f"{answered:.0f} answers/min, {refused:.2%} refused",
        flush=True,
    )


def main(seconds: float) -> None:
    """Measure both formats and both kinds of limits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = pl.select(pl.lit("some words to read " * 10))["literal"][0]
        table = pl.DataFrame({"number": range(20_000), "text": [text] * 20_000})
        table.write_parquet(folder / "rows.parquet")
        for wire_format in ("messages", "chat"):
            for limits in LIMITS:
                anyio.run(measure, folder, wire_format, limits, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 180.0)
