"""A power failure at any request, and after the end: what was acknowledged is on the disk.

Beside `kill -9`, which leaves everything to the kernel that was written, this leaves only what was
flushed: it fails without `synchronous = FULL`, and without the flushing of outputs and of names.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl
import pytest

import batchrun as library
from batchrun.checkpoint import FILE_NAME, Checkpoint
from tests.conftest import resume
from tests.support.power import Disk, calls, require_strace, traced
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.provider import Provider

    WriteJob = Callable[..., Path]

ROWS = 8
# One after the other, so that each request says that the answer before it was acknowledged.
EXTRA = 'files = ["results.parquet", "results.csv", "results.jsonl"]\n[limits]\nconcurrency = 1'
FILES = ("results.parquet", "results.csv", "results.jsonl", "usage.parquet", "summary.json")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving(lambda call: answer(call, f"answer to {call.prompt}")) as server:
        yield server


@pytest.fixture
def trace(write_job: WriteJob, provider: Provider, tmp_path: Path) -> tuple[Path, Path]:
    """The recorded calls of a run in a directory that it makes, and its job file."""
    require_strace()
    job = write_job(provider.url, rows=ROWS, extra=EXTRA)
    job.write_text(job.read_text().replace('dir = "out"', 'dir = "runs/out"'))
    code, stderr = traced(tmp_path / "trace", "run", job, "--quiet")
    assert code == 0, stderr
    return tmp_path / "trace", job


def held(place: Path) -> tuple[int, int]:
    """Return how many attempts and results are in what is left of a run."""
    path = place / "runs" / "out" / FILE_NAME
    assert path.exists(), "there is no checkpoint"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (attempts,) = db.execute("SELECT count(*) FROM attempts").fetchone()
        (results,) = db.execute(
            "SELECT count(*) FROM results WHERE status = 'succeeded'"
        ).fetchone()
    return attempts, results


@pytest.mark.parametrize("names_survive", [False, True])
def test_what_was_acknowledged_survives_a_power_failure_at_any_request(
    trace: tuple[Path, Path], tmp_path: Path, *, names_survive: bool
) -> None:
    disk = Disk(str(tmp_path))
    sent = 0
    for call in calls(trace[0]):
        if any(text.startswith(b"POST /") for text in call.texts):
            sent += 1
            disk.after_power_failure(tmp_path / f"after-{sent}", names_survive=names_survive)
            # Its own attempt is there before its first byte has left, and every earlier answer.
            assert held(tmp_path / f"after-{sent}") == (sent, sent - 1)
        disk.apply(call)
    assert sent == ROWS
    disk.after_power_failure(tmp_path / "after-the-end", names_survive=names_survive)
    assert held(tmp_path / "after-the-end") == (ROWS, ROWS)


def test_a_run_goes_on_after_a_power_failure(
    trace: tuple[Path, Path], provider: Provider, tmp_path: Path
) -> None:
    disk, sent = Disk(str(tmp_path)), 0
    for call in calls(trace[0]):
        sent += any(text.startswith(b"POST /") for text in call.texts)
        if sent == ROWS // 2:
            break
        disk.apply(call)
    disk.after_power_failure(tmp_path / "after", names_survive=False)
    out = tmp_path / "after" / "runs" / "out"
    assert resume(trace[1], output__dir=str(out)) == 0
    # The answer that was under way is the only one that is asked for twice.
    assert len(provider.calls) == ROWS + ROWS // 2 + 1
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["possibly_double_billed"] == 1
    assert pl.read_parquet(out / "results.parquet")["response"].to_list() == [
        f"answer to Say text {n}" for n in range(ROWS)
    ]


@pytest.mark.parametrize("names_survive", [False, True])
def test_outputs_are_whole_or_not_there_at_any_time_and_there_at_the_end(
    trace: tuple[Path, Path], tmp_path: Path, *, names_survive: bool
) -> None:
    disk, seen = Disk(str(tmp_path)), 0
    real = trace[1].parent / "runs" / "out"
    for number, call in enumerate(calls(trace[0])):
        disk.apply(call)
        if call.name.startswith("rename"):
            seen += 1
            place = tmp_path / f"after-{number}"
            disk.after_power_failure(place, names_survive=names_survive)
            for name in FILES:
                path = place / "runs" / "out" / name
                assert not path.exists() or path.read_bytes() == (real / name).read_bytes(), name
    assert seen >= len(FILES)
    disk.after_power_failure(tmp_path / "after-the-end", names_survive=names_survive)
    for name in FILES:
        found = tmp_path / "after-the-end" / "runs" / "out" / name
        assert found.read_bytes() == (real / name).read_bytes()
    assert library.verify(tmp_path / "after-the-end" / "runs" / "out").exit_code == 0


def test_the_connection_that_commits_flushes_every_commit(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        assert store.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store.db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        store.db.execute("PRAGMA application_id = 7")  # another connection sees what this one does
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
            assert other.execute("PRAGMA application_id").fetchone() == (7,)
