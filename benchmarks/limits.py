"""How much of a provider's limits a run uses, and how often it is refused.

A simulator in this process enforces them, with or without headers that report them; nothing is
configured. Usage: python -m benchmarks.limits [SECONDS] [--workers N]   (default 180; 75 is the short form)

With --workers, that many processes send the requests, and only limits that headers report are measured.

With --simulated, time is virtual and there are more kinds of providers: each is compared with what an
oracle that knows its limits would get. That takes three minutes.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import polars as pl

from batchrun import Job, RunOptions
from batchrun.run import arun_job
from batchrun.simulator import Simulator, SimulatorConfig
from tests.support.scenarios import TROUBLES, all_scenarios, play, ride_out, share_a_limit

LIMITS = (
    SimulatorConfig(requests_per_minute=600, latency_ms=500),
    SimulatorConfig(tokens_per_minute=100_000, latency_ms=500),
)
WARM_UP_S = 60
_ACCEPTED = """SELECT count(*), sum(input_tokens + output_tokens) FROM attempts
    WHERE error_type IS NULL AND latency_s IS NOT NULL
    AND started_us + latency_s * 1e6 BETWEEN ? AND ?"""
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


async def measure(
    folder: Path,
    wire_format: str,
    limits: SimulatorConfig,
    seconds: float,
    workers: int | None,
) -> None:
    """Run against one limit for so long; print how much of it was used after the first minute."""
    simulator = Simulator(limits)
    async with anyio.create_task_group() as group:
        url = await group.start(simulator.serve)
        path = folder / "job.toml"
        path.write_text(_JOB.format(wire_format=wire_format, url=url), encoding="utf-8")
        out = folder / url.rpartition(":")[2]
        options = RunOptions(quiet=True, workers=workers)
        group.start_soon(arun_job, Job.load(path, {"output.dir": str(out)}), options)
        await anyio.sleep(WARM_UP_S)
        begin = time.time()
        await anyio.sleep(seconds - WARM_UP_S)
        answers, tokens = accepted(out / "checkpoint.db", begin, time.time())
        usage = simulator.usage
        group.cancel_scope.cancel()
    used, allowed = (
        (answers, limits.requests_per_minute)
        if limits.requests_per_minute
        else (tokens, limits.tokens_per_minute or 0)
    )
    what = "requests" if limits.requests_per_minute else "tokens"
    headers = "with headers" if limits.limit_headers else "no headers"
    share = used * 60 / (seconds - WARM_UP_S) / allowed
    refused = usage.statuses.get(429, 0) / usage.requests
    print(
        f"{wire_format:9} {allowed:7} {what:9} {headers:16} {share:6.1%} used  {refused:.2%} refused",
        flush=True,
    )


def accepted(checkpoint: Path, begin: float, end: float) -> tuple[int, int]:
    """Return the number of answers between two times, and their tokens."""
    with closing(sqlite3.connect(checkpoint)) as db:
        answers, tokens = db.execute(_ACCEPTED, (begin * 1e6, end * 1e6)).fetchone()
    return answers, tokens or 0


def main(seconds: float, workers: int | None) -> None:
    """Measure both formats and both kinds of limits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = pl.select(pl.lit("some words to read " * 10))["literal"][0]
        table = pl.DataFrame({"number": range(20_000), "text": [text] * 20_000})
        table.write_parquet(folder / "rows.parquet")
        for has_headers in (True, False) if workers is None else (True,):
            for wire_format in ("messages", "chat"):
                for limits in LIMITS:
                    config = replace(limits, limit_headers=has_headers)
                    anyio.run(measure, folder, wire_format, config, seconds, workers)


def simulated() -> None:
    """Print goodput against an oracle, and the share refused, for each simulated provider."""
    print(f"{'provider':46} {'goodput':>8} {'refused':>8} {'first minute':>13}")
    for scenario in all_scenarios():
        got = play(scenario)
        shares = f"{got.goodput:8.1%} {got.refused:8.2%} {got.refused_at_first:13.1%}"
        print(f"{scenario.name:46} {shares}", flush=True)
    clients = share_a_limit()
    rates = " + ".join(f"{each.accepted_per_s(150, 450):.1f}" for each in clients)
    refused = max(each.refused_share(150, 450) for each in clients)
    print(f"{'two clients under one limit of 20/s':46} {rates:>8} {refused:8.2%}")
    print(f"\n{'everything fails':46} {'back in':>8} {'failed':>8} {'rows lost':>13}")
    for trouble in TROUBLES:
        after = ride_out(trouble)
        print(
            f"{trouble.name:46} {after.seconds:6.1f} s {after.failed:8} {after.lost:13}", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=180.0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--simulated", action="store_true")
    asked = parser.parse_args()
    if asked.simulated:
        simulated()
    else:
        main(asked.seconds, asked.workers)
