"""Runs with batches, killed at every call to the vendor and at every commit, counted by the vendor's bills."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

import batchrun as library
from tests.support.chaos.lives import AFTER, BEFORE, COMMIT, HALF, Kill, Life
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.vendor import Vendor

KILLED = -9
# A life has about a hundred calls and commits: with more, something goes round in circles.
MOST_POINTS = 400
MODEL = "claude-haiku-4-5-20251001"
JOB = """
[input]
path = "rows.csv"
id = "id"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = "TEST_KEY"
provider = "anthropic"
model = "{model}"
prompt = "Say {{{{ text }}}}"
max_tokens = 30
[batch]
max_rows = {most}
poll_s = 0.05
doubt_s = 0.5
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

    def __add__(self, other: BatchStory) -> BatchStory:
        return BatchStory(
            self.runs + other.runs,
            self.rows + other.rows,
            self.kills + other.kills,
            self.extra_bills + other.extra_bills,
            self.batches + other.batches,
        )

    def __str__(self) -> str:
        at = ", ".join(f"{count} {when}" for when, count in sorted(self.kills.items()))
        return (
            f"{self.runs} runs, {self.rows} rows in {self.batches} batches, "
            f"{self.kills.total()} kills ({at}): 0 lost, {self.extra_bills} billed twice"
        )


@dataclass(frozen=True)
class Scene:
    """A state of affairs in which a process is killed at each of its points.

    Attributes:
        name: for people.
        first: how an earlier process was killed; None for no earlier one.
        is_faulty: the vendor loses calls and answers, and downloads break off.
        cancels: the process cancels the batches.
    """

    name: str
    first: Kill | None = None
    is_faulty: bool = False
    cancels: bool = False

    def lives(self, job: Path, kill: Kill) -> list[Life]:
        """Return the processes of a run up to the one that is killed at this point."""
        life = Life(job, kill, is_faulty=self.is_faulty, cancels=self.cancels)
        return [life] if self.first is None else [Life(job, self.first), life]


SCENES = (
    Scene("a run"),
    Scene("a run with faults", is_faulty=True),
    # The vendor has a batch whose id is not in the checkpoint.
    Scene("a recovery", first=Kill(AFTER, 1, "create")),
    Scene("a cancellation", first=Kill(AFTER, 3, "create"), cancels=True),
)


def write_job(place: Path, url: str, rows: int, most: int, wire_format: str) -> Path:
    """Write a table and a job over it."""
    place.mkdir(parents=True)
    texts = {"id": [f"r{n}" for n in range(rows)], "text": [f"text {n}" for n in range(rows)]}
    pl.DataFrame(texts).write_csv(place / "rows.csv")
    job = place / "job.toml"
    job.write_text(JOB.format(wire_format=wire_format, url=url, most=most, model=MODEL))
    return job


def play(
    place: Path,
    wire_format: str,
    lives: Sequence[Life],
    story: BatchStory,
    *,
    rows: int = 12,
    most: int = 5,
) -> bool:
    """Let processes work on a run one after the other, then one to its end; count everything.

    Every row has one answer, each was billed once, and the run directory is in order.

    Args:
        place: a folder for the run.
        wire_format: of its requests.
        lives: the processes; their job is filled in.
        story: is continued.
        rows: of the input.
        most: rows of a batch.

    Returns:
        Whether all of them were killed.
    """
    with vendor(batch_s=2, step_s=0.5) as server:
        job = write_job(place, server.url, rows, most, wire_format)
        codes = []
        for each in lives:
            life = replace(each, job=job)
            codes.append(life.run())
            assert codes[-1] in {0, 7, KILLED}, f"{life}: {life.said}"
            story.kills[life.kill.when if life.kill else ""] += codes[-1] == KILLED
            server.come_to_rest()
        _count(job, server, rows, story)
    return all(code == KILLED for code in codes)


def _count(job: Path, server: Vendor, rows: int, story: BatchStory) -> None:
    life, out = Life(job), job.parent / "out"
    assert life.run() == 0, life.said
    found = pl.read_parquet(out / "results.parquet")
    assert found["id"].to_list() == [f"r{n}" for n in range(rows)]
    assert found["status"].to_list() == ["succeeded"] * rows
    usage = server.usage()
    assert (usage["billed"], usage["extra_bills"]) == (rows, 0), usage
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["rows_in_batches"], summary["possibly_double_billed"]) == (0, 0)
    verdict = library.verify(out)
    assert verdict.exit_code == 0, verdict.text()
    story.runs += 1
    story.rows += rows
    story.extra_bills += usage["extra_bills"]
    story.batches += usage["batches"]
    if story.runs == 1:
        asked = server.requests
        assert life.run() == 0, life.said
        assert server.requests == asked, "a finished run asks nothing"


def sweep(place: Path, wire_format: str, scene: Scene) -> BatchStory:
    """Kill one run at its first call, another at its second, and so on; likewise at its commits."""
    story = BatchStory()
    for when in (BEFORE, AFTER, HALF, COMMIT):
        call = "results" if when == HALF else ""
        for number in range(1, MOST_POINTS):
            folder = place / f"{when}-{number}"
            if not play(folder, wire_format, scene.lives(folder, Kill(when, number, call)), story):
                break
        else:
            raise AssertionError(f"{scene.name}: no end after {MOST_POINTS} kills {when} a call")
    return story
