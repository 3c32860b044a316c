"""`stop_at`: a run draws its rows at random and ends when its score is precise enough."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, run_job
from batchrun.dispatch import BATCH
from batchrun.errors import JobError
from tests.conftest import KEY, batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

    WriteJob = Callable[..., Path]

ROWS = 1_800
SCORE = """
[score]
expected = "{{ label }}"
stop_at = "±10 %"
"""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def sorted_job(write_job: WriteJob) -> Callable[[str], Path]:
    """A job over a table whose first third is answered right, and the rest is not."""

    def write(url: str) -> Path:
        job = write_job(url, rows=ROWS, extra=SCORE)
        table = job.parent / "rows.csv"
        labels = ["yes" if n < ROWS // 3 else "no" for n in range(ROWS)]
        pl.read_csv(table).with_columns(pl.Series("label", labels)).write_csv(table)
        return job

    return write


def run(job: Path, stop_at: str | None = None, **options: Any) -> RunReport:
    keys = {} if stop_at is None else {"score.stop_at": stop_at}
    return run_job(Job.load(job, keys), RunOptions(quiet=True, **options))


def yes(call: Call) -> Reply:
    return answer(call, "yes")


def last_execution(job: Path) -> dict[str, Any]:
    facts = json.loads((job.parent / "out" / "summary.json").read_text())
    found: dict[str, Any] = facts["executions"][-1]
    return found


def test_a_run_ends_when_its_score_is_precise_and_continues_with_a_narrower_width(
    sorted_job: Callable[[str], Path], results: Callable[[], pl.DataFrame]
) -> None:
    with serving(yes) as provider:
        job = sorted_job(provider.url)
        report = run(job)
        first = len(provider.calls)
        assert report.exit_code == 0
        assert report.error is None
        assert run(job).exit_code == 0
        assert len(provider.calls) == first  # precise already
        table = results()
        # ±10 % needs 309 of these rows, ±4 % 889: what is in flight when a run ends cannot reach it.
        assert run(job, "±4 %").exit_code == 0
    assert first < len(provider.calls) < ROWS
    assert last_execution(job)["outcome"] == "precise"
    assert last_execution(job)["reason"].startswith("stopped at ±")
    assert set(table["status"]) == {"succeeded", "pending"}
    assert table["id"].to_list() == [f"r{n:05d}" for n in range(ROWS)]
    # From all over the table: the first rows alone are all right.
    assert table["score"].mean() == pytest.approx(1 / 3, abs=0.1)
    kept = table.filter(pl.col("status") == "succeeded")
    again = results().filter(pl.col("status") == "succeeded")
    assert kept.height == first
    assert set(kept["response_id"]) < set(again["response_id"])


def test_status_says_why_rows_are_pending(sorted_job: Callable[[str], Path]) -> None:
    with serving(yes) as provider:
        job = sorted_job(provider.url)
        assert run(job).exit_code == 0
    _, said, _ = batchrun("status", job.parent / "out")
    assert said.startswith("finished")
    assert "\n  stopped at ±" in said
    assert f" of {ROWS:,} rows\n" in said


def test_rows_that_fail_are_no_part_of_the_score(sorted_job: Callable[[str], Path]) -> None:
    def mixed(call: Call) -> Reply:
        is_bad = call.prompt.endswith("7")
        return refusal(400, "invalid_request_error") if is_bad else answer(call, "yes")

    with serving(mixed) as provider:
        job = sorted_job(provider.url)
        report = run(job)
    assert last_execution(job)["outcome"] == "precise"
    assert report.exit_code == 3
    assert report.score is not None
    assert report.score.scored < ROWS


def test_a_width_that_is_not_reached_sends_every_row_once(
    sorted_job: Callable[[str], Path],
) -> None:
    with serving(yes) as provider:
        job = sorted_job(provider.url)
        assert run(job, "±0.1 %").exit_code == 0
    assert len(provider.calls) == ROWS
    assert len({call.prompt for call in provider.calls}) == ROWS
    assert last_execution(job)["outcome"] == "finished"


def test_what_sends_rows_together_is_refused(sorted_job: Callable[[str], Path]) -> None:
    job = sorted_job("http://127.0.0.1:9")
    with pytest.raises(JobError, match=r"stop_at .*--batch"):
        run(job, dispatcher=BATCH)
    with pytest.raises(JobError, match=r"stop_at .*dedupe"):
        run_job(Job.load(job, {"request.dedupe": True}), RunOptions(quiet=True))
