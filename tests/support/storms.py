"""`python -m tests.support.storms`: what refusals and outages of a real server on loopback cost a run.

Three figures, which docs/performance.md gives: the time for 3,000 rows with 2 % random refusals against
the time without them; the seconds until a run is back after ten seconds of nothing but 429; the exit code
after a minute of 503. Each run is a process of its own. `tests/limits/test_storms.py` is the short form.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tests.conftest import batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable

_JOB = """
[input]
path = "rows.parquet"
[request]
format = "messages"
base_url = "{url}"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "{{{{ text }}}}"
max_tokens = 10
[limits]
concurrency = {concurrency}
"""


@dataclass
class Server:
    """Answers after a latency; refuses a share at random, or everything in one stretch of time.

    Attributes:
        latency_s: of an answer.
        share: that is refused at random with `retry-after: 0.05`.
        down: from when until when, in seconds after the first request, everything is refused.
        status: of these refusals.
    """

    latency_s: float = 0.02
    share: float = 0.0
    down: tuple[float, float] = (0.0, 0.0)
    status: int = 429
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    began: float | None = None
    dice: random.Random = field(default_factory=lambda: random.Random(11))

    def decide(self, call: Call) -> Reply:
        if self.began is None:
            self.began = time.monotonic()
        now = time.monotonic() - self.began
        if self.down[0] <= now < self.down[1]:
            self.refused.append(now)
            return refusal(self.status, "rate_limit_error" if self.status == 429 else "api_error")
        if self.dice.random() < self.share:
            self.refused.append(now)
            return refusal(429, "rate_limit_error", retry_after="0.05")
        self.accepted.append(now)
        return answer(call, delay_s=self.latency_s)

    def per_s(self, since: float, until: float) -> float:
        """How many were accepted a second in a stretch of time."""
        return sum(since <= at < until for at in self.accepted) / (until - since)

    def back_after_s(self, share: float = 0.8, window_s: float = 1.0) -> float:
        """Seconds from the end of the trouble until this share of the earlier rate is back."""
        start, end = self.down
        wanted = share * self.per_s(start / 2, start)
        for step in range(600):
            since = end + step / 10
            if self.per_s(since, since + window_s) >= wanted:
                return step / 10
        return float("inf")


@dataclass(frozen=True)
class Ended:
    """How a run ended: its code, what it said, the rows by status, and the seconds it sent for."""

    code: int
    stderr: str
    statuses: dict[str, int]
    seconds: float


def run(
    server: Server,
    rows: int,
    concurrency: int,
    command: Callable[..., tuple[int, str, str]] = batchrun,
) -> Ended:
    """Send rows to a server with default settings."""
    with tempfile.TemporaryDirectory() as name, serving(server.decide) as provider:
        folder = Path(name)
        pl.DataFrame({"text": [f"text {n}" for n in range(rows)]}).write_parquet(
            folder / "rows.parquet"
        )
        job = folder / "job.toml"
        job.write_text(_JOB.format(url=provider.url, concurrency=concurrency))
        code, _, stderr = command("run", job, "--output-dir", folder / "out")
        table = pl.read_parquet(folder / "out" / "results.parquet")
    statuses = dict(table["status"].value_counts().iter_rows())
    return Ended(code, stderr, statuses, max(server.accepted, default=0.0))


def slowdown(rows: int = 3_000, share: float = 0.02, rounds: int = 3) -> float:
    """How many times as long a run takes with random refusals as without; the median of pairs."""
    ratios = []
    for _ in range(rounds):
        without = run(Server(), rows, 64)
        with_them = run(Server(share=share), rows, 64)
        assert (without.code, with_them.code) == (0, 0), with_them.stderr
        ratios.append(with_them.seconds / without.seconds)
    return sorted(ratios)[rounds // 2]


def main() -> int:
    """Measure all three; return 0 when all are as they have to be."""
    ratio = slowdown()
    print(f"3,000 rows, 64 in flight, 2 % refused: {ratio:.2f} times the time without", flush=True)
    storm = Server(latency_s=0.1, down=(5, 15))
    ended = run(storm, 12_000, 64)
    back_s = storm.back_after_s()
    print(f"10 s of nothing but 429: exit {ended.code}, back after {back_s:.1f} s", flush=True)
    outage = Server(latency_s=0.1, down=(2, 62), status=503)
    after = run(outage, 2_000, 64)
    print(f"60 s of 503: exit {after.code}, {after.statuses}, {len(outage.refused)} failed")
    is_well = ratio <= 1.3 and ended.code == 0 and back_s <= 10
    return int(not (is_well and after.code == 0 and after.statuses == {"succeeded": 2_000}))


if __name__ == "__main__":
    sys.exit(main())
