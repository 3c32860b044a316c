"""A round: one run, killed at many points, resumed to its end, and counted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl
from polars.testing import assert_frame_equal

import batchrun as library
from batchrun.checkpoint import is_locked
from batchrun.errors import CheckpointError
from tests.conftest import batchrun, finish, resume, start_batchrun, wait_until
from tests.support.chaos.books import Books, provider, said
from tests.support.chaos.points import Watch, draw, draw_output
from tests.support.chaos.snapshots import Snapshot, look_into, take
from tests.support.worker_runs import workers_of

if TYPE_CHECKING:
    import random
    import subprocess
    from pathlib import Path

    from tests.support.chaos.points import Point

CONCURRENCY = 16
COPY_EVERY = 40  # every 40th row has the same request as the previous one
LONGEST_S = 2.5
LOOK_EVERY_S = 0.0005
# What differs from run to run, or when requests come in another order.
OF_CHANCE = ("response_id", "request_id", "attempts", "latency_s", "finished_at")
JOB = """
[input]
path = "rows.csv"
id = "id"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "Say {{{{ text }}}}"
max_tokens = 50
[limits]
concurrency = {concurrency}
[output]
dir = "out"
files = ["results.parquet", "results.csv"]
"""


@dataclass
class Story:
    """What happened in a round.

    Attributes:
        kills: how many at each kind of point.
        extra_bills: answers that the provider billed beyond the first of each request.
        reported: requests that the summary reports as possibly double-billed.
        snapshots: copies that were opened, torn ones among them.
        resumed: a copy was resumed to its end.
    """

    rows: int
    kills: Counter[str] = field(default_factory=Counter)
    extra_bills: int = 0
    reported: int = 0
    snapshots: int = 0
    torn: int = 0
    resumed: bool = False

    def __str__(self) -> str:
        at = ", ".join(f"{count} at {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{self.rows} rows, {self.kills.total()} kills ({at}); billed twice {self.extra_bills}, "
            f"reported {self.reported}; {self.snapshots} snapshots, {self.torn} torn"
            f"{', one resumed' if self.resumed else ''}"
        )


def texts(rows: int) -> list[str]:
    """Return the text of each row; some are the same."""
    return [f"text {n - 1 if n % COPY_EVERY == 1 else n}" for n in range(rows)]


def write_job(place: Path, url: str, rows: int, wire_format: str) -> Path:
    """Write the table and the job over it."""
    place.mkdir()
    ids = [f"r{n:06d}" for n in range(rows)]
    pl.DataFrame({"id": ids, "text": texts(rows)}).write_csv(place / "rows.csv")
    job = place / "job.toml"
    job.write_text(JOB.format(wire_format=wire_format, url=url, concurrency=CONCURRENCY))
    return job


def undisturbed(place: Path, rows: int, wire_format: str) -> pl.DataFrame:
    """Return the results of a run that nobody disturbs."""
    with provider() as books:
        job = write_job(place, books.url, rows, wire_format)
        assert resume(job) == 0
    return results(job.parent / "out")


def results(out: Path) -> pl.DataFrame:
    """Return the results without what differs by chance; both files say the same."""
    found = pl.read_parquet(out / "results.parquet").drop(OF_CHANCE)
    text = pl.read_csv(out / "results.csv", infer_schema=False)
    assert text["id"].to_list() == found["id"].to_list()
    assert text["response"].to_list() == found["response"].to_list()
    return found


class Round:
    """Plays one round; every broken promise is an AssertionError."""

    def __init__(
        self,
        place: Path,
        reference: pl.DataFrame,
        kills: int,
        dice: random.Random,
        wire_format: str,
        *,
        workers: int = 0,
    ) -> None:
        self._workers = workers
        self._place = place
        self._reference = reference
        self._rows = reference.height
        self._kills = kills
        self._dice = dice
        self._format = wire_format
        self._asked = Counter(f"Say {text}" for text in texts(self._rows))
        self._expected = [said(f"Say {text}") for text in texts(self._rows)]
        self._kept: Snapshot | None = None
        self.story = Story(self._rows)

    def play(self) -> Story:
        """Kill, resume and count."""
        with provider() as books:
            self._books = books
            self._job = write_job(self._place, books.url, self._rows, self._format)
            self._out = self._place / "out"
            while (
                self.story.kills.total() < self._kills - self._kills // 6 and not self._all_sent()
            ):
                self._live(draw(self._dice, max(20, 3 * self._rows // self._kills), LONGEST_S))
            while self.story.kills.total() < self._kills:
                self._live(draw_output(self._dice))
            self._finish()
            self._count()
            self._resume_snapshot()
        return self.story

    def _all_sent(self) -> bool:
        return len(self._books.billed) == len(self._asked)

    def _live(self, point: Point) -> None:
        """Let one process live until its point comes."""
        with_workers = ["--workers", str(self._workers)] if self._workers else []
        process = start_batchrun("run", self._job, "--quiet", *with_workers)
        watch = Watch(point, self._out, self._books)
        if point.kind in {"request", "answer"}:
            # At once, in the provider's own thread.
            self._books.notice = lambda: self._kill(process) if watch.has_come() else None
        snapshot_at = time.monotonic() + self._dice.uniform(0.5, 2 * LONGEST_S)
        while process.poll() is None:
            if watch.has_come():
                self._kill(process)
                break
            if time.monotonic() > snapshot_at:
                snapshot_at += LONGEST_S
                self._snapshot(
                    take(process, self._out, self._next_place(), self._books, self._dice)
                )
            time.sleep(LOOK_EVERY_S)
        code, _, stderr = finish(process)
        self._books.notice = None
        assert code in {0, -9}, f"{point}: exit code {code}\n{stderr}"
        if code:
            self.story.kills[point.kind] += 1
        self._check_files()

    def _kill(self, process: subprocess.Popen[str]) -> None:
        """Kill the process; sometimes one of its workers a moment earlier."""
        workers = workers_of(process)
        if workers and self._dice.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(self._dice.choice(workers), signal.SIGKILL)
            self.story.kills["worker"] += 1
            time.sleep(self._dice.uniform(0, 0.3))
        process.kill()

    def _next_place(self) -> Path:
        return self._place / f"snapshot-{self.story.snapshots}"

    def _snapshot(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            return
        self.story.snapshots += 1
        self.story.torn += snapshot.torn
        # In each life so many answers may be lost, and with a torn commit the group that it was.
        lost = CONCURRENCY * (1 + self.story.kills.total() + snapshot.torn)
        look_into(snapshot, self._expected.__getitem__, snapshot.answers - lost)
        self._kept = snapshot

    def _check_files(self) -> None:
        """Files are whole or not there at all."""
        if (self._out / "results.parquet").exists():
            assert pl.read_parquet(self._out / "results.parquet").height == self._rows
        if (self._out / "summary.json").exists():
            assert json.loads((self._out / "summary.json").read_bytes())["counts"]
        if (self._out / "checkpoint.db").exists():
            self._verify_checkpoint()

    def _verify_checkpoint(self) -> None:
        """However it was killed, the checkpoint agrees with itself; outputs may be old."""
        # A worker that the owner was starting has the owner's lock until its own program begins.
        wait_until(lambda: not is_locked(self._out))
        try:
            found = [str(finding) for finding in library.verify(self._out).findings]
        except CheckpointError as error:
            found = [f"checkpoint.db: {error}"]
        # Killed before its tables or its first row were there.
        begun = [f for f in found if not ("contains no run yet" in f or "earlier version" in f)]
        wrong = [f for f in begun if f.startswith(("checkpoint.db: ", "fingerprints: "))]
        assert wrong == []

    def _finish(self) -> None:
        code, _, stderr = batchrun("run", self._job)
        assert code == 0, stderr
        sent = self._books.requests
        assert not list(self._out.glob(".*")), "nothing half written is left"
        assert resume(self._job) == 0
        assert self._books.requests == sent, "a finished run sends nothing"
        assert library.verify(self._out).text().startswith(f"{self._out}: no problems found; ")

    def _count(self) -> None:
        story, books = self.story, self._books
        assert_frame_equal(results(self._out), self._reference)
        assert books.billed.keys() == self._asked.keys()
        assert all(books.billed[prompt] >= count for prompt, count in self._asked.items())
        story.extra_bills = books.extra_bills(self._asked)
        story.reported = json.loads((self._out / "summary.json").read_bytes())[
            "possibly_double_billed"
        ]
        # What was in flight when it was killed; what waits for its commit is part of that.
        assert story.extra_bills <= CONCURRENCY * story.kills.total()
        assert story.reported >= story.extra_bills

    def _resume_snapshot(self) -> None:
        """A copy is resumed to the same end; only what it lacks is sent."""
        if self._kept is None:
            return
        held = look_into(self._kept, self._expected.__getitem__, 0)
        sent = self._books.requests
        assert resume(self._job, output__dir=str(self._kept.directory)) == 0
        assert self._books.requests - sent == self._rows - held
        assert_frame_equal(results(self._kept.directory), self._reference)
        assert library.verify(self._kept.directory).exit_code == 0
        self.story.resumed = True


__all__ = ["Books", "Round", "Story", "undisturbed"]
