"""Runs with batches, killed at calls to the vendor and at commits, and counted by the vendor's bills."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

import batchrun as library
from tests.conftest import batchrun, finish, start_batchrun
from tests.support.chaos.points import Point, Watch
from tests.support.vendor import vendor

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.support.vendor import Vendor

KINDS = ("request", "answer", "commit")
LOOK_EVERY_S = 0.0003
# What goes wrong at the vendor, beside the kills.
FAULTS = {"lost_create_rate": 0.25, "torn_download_rate": 0.25}
JOB = """
[input]
path = "rows.csv"
id = "id"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = "TEST_KEY"
provider = "anthropic"
model = "claude-haiku-4-5-20251001"
prompt = "Say {{{{ text }}}}"
max_tokens = 30
[batch]
max_rows = {most}
poll_s = 0.05
doubt_s = 2
[output]
dir = "out"
"""


@dataclass
class BatchStory:
    """What happened: runs, kills by kind, rows, and answers that were billed twice."""

    runs: int = 0
    rows: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    extra_bills: int = 0
    batches: int = 0

    def __str__(self) -> str:
        at = ", ".join(f"{count} at {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{self.runs} runs, {self.rows} rows in {self.batches} batches, "
            f"{self.kills.total()} kills ({at}): 0 lost, {self.extra_bills} billed twice"
        )


def write_job(place: Path, url: str, rows: int, most: int, wire_format: str) -> Path:
    """Write a table and a job over it."""
    place.mkdir()
    texts = {"id": [f"r{n}" for n in range(rows)], "text": [f"text {n}" for n in range(rows)]}
    pl.DataFrame(texts).write_csv(place / "rows.csv")
    job = place / "job.toml"
    job.write_text(JOB.format(wire_format=wire_format, url=url, most=most))
    return job


def killed_at(point: Point, job: Path, server: Vendor) -> bool:
    """Start a run and kill it at a point; say whether the point came before its end."""
    process = start_batchrun("run", job, "--batch", "--quiet")
    watch = Watch(point, job.parent / "out", server)
    while process.poll() is None:
        if watch.has_come():
            process.kill()
            break
        time.sleep(LOOK_EVERY_S)
    code, _, stderr = finish(process)
    assert code in {0, -9}, f"{point}: exit code {code}\n{stderr}"
    return code == -9


def count(job: Path, server: Vendor, rows: int, story: BatchStory) -> None:
    """Run to the end; every row has one answer, and each was billed once."""
    code, _, stderr = batchrun("run", job, "--batch", "--quiet")
    assert code == 0, stderr
    out = job.parent / "out"
    found = pl.read_parquet(out / "results.parquet")
    assert found["id"].to_list() == [f"r{n}" for n in range(rows)]
    assert found["status"].to_list() == ["succeeded"] * rows
    usage = server.usage()
    assert usage["billed"] - usage["extra_bills"] == rows
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["rows_in_batches"] == 0
    # Nothing is billed twice without being reported.
    assert summary["possibly_double_billed"] >= usage["extra_bills"]
    verdict = library.verify(out)
    assert verdict.exit_code == 0, verdict.text()
    story.runs += 1
    story.rows += rows
    story.extra_bills += usage["extra_bills"]
    story.batches += usage["batches"]
    if story.runs == 1:
        asked = server.requests
        assert batchrun("run", job, "--quiet")[0] == 0
        assert server.requests == asked, "a finished run asks nothing"


def sweep(place: Path, wire_format: str, *, rows: int = 12, most: int = 5) -> BatchStory:
    """Kill one run at its first call, another at its second, and so on; likewise at its commits."""
    story = BatchStory()
    for kind in KINDS:
        number, came = 1, True
        while came:
            with vendor(batch_s=0.2, seed=number, **FAULTS) as server:
                job = write_job(place / f"{kind}-{number}", server.url, rows, most, wire_format)
                came = killed_at(Point(kind, number), job, server)
                story.kills[kind] += came
                count(job, server, rows, story)
            print(f"batches, {wire_format}, {kind} {number}: {story}", flush=True)
            number += 1
    assert story.extra_bills == 0
    return story


def hunt(
    place: Path, wire_format: str, dice: random.Random, *, kills: int, rows: int, most: int
) -> BatchStory:
    """Kill one run again and again, each time at one of its next calls or commits."""
    story = BatchStory()
    with vendor(batch_s=0.3, seed=dice.randrange(1000), **FAULTS) as server:
        job = write_job(place / "hunt", server.url, rows, most, wire_format)
        for _ in range(kills):
            point = Point(dice.choice(KINDS), dice.randint(1, 6))
            came = killed_at(point, job, server)
            story.kills[point.kind] += came
            if not came:
                break
        count(job, server, rows, story)
    assert story.extra_bills == 0
    return story
