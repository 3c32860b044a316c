"""`stop_at`: a run draws its rows at random and ends when its score is precise enough."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, run_job
from batchrun.dispatch import BATCH
from batchrun.errors import JobError
from tests.conftest import KEY, batchrun, finish, start_batchrun, wait_until
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
        named = job.read_text().replace("[score]\n", '[[score]]\nname = "label"\n')
        job.write_text(named)
        assert run(job).exit_code == 0
    _, said, _ = batchrun("status", job.parent / "out")
    assert said.startswith("finished")
    assert "\n  stopped at ±" in said
    assert " % (label), " in said
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


def calls_by_row(calls: list[Call]) -> Counter[str]:
    return Counter(call.prompt for call in calls)


def test_workers_stop_when_the_score_is_precise(sorted_job: Callable[[str], Path]) -> None:
    with serving(yes) as provider:
        job = sorted_job(provider.url)
        code, _, stderr = batchrun("run", job, "--quiet", "--workers", "2")
        assert code == 0, stderr
        sent = len(provider.calls)
        assert batchrun("run", job, "--quiet", "--workers", "2")[0] == 0
    assert last_execution(job)["outcome"] == "precise"
    assert 309 <= sent == len(provider.calls) < ROWS
    assert max(calls_by_row(provider.calls).values()) == 1


def test_samples_of_a_row_count_together(
    sorted_job: Callable[[str], Path], results: Callable[[], pl.DataFrame]
) -> None:
    with serving(yes) as provider:
        job = sorted_job(provider.url)
        keys = {"request.samples": 2}
        report = run_job(Job.load(job, keys), RunOptions(quiet=True))
    assert report.exit_code == 0, report.error
    assert last_execution(job)["outcome"] == "precise"
    assert set(results()["status"]) == {"succeeded", "pending"}
    assert report.score is not None
    assert 309 <= report.score.scored < ROWS
    assert set(calls_by_row(provider.calls).values()) <= {1, 2}
    scored = results().filter(pl.col("score").is_not_null())
    assert scored.height == report.score.scored
    assert scored["responses"].list.len().unique().to_list() == [2]


def test_each_cell_of_a_matrix_stops_by_itself(sorted_job: Callable[[str], Path]) -> None:
    def decide(call: Call) -> Reply:
        return answer(call, "no" if call.json["temperature"] else "yes")

    with serving(decide) as provider:
        job = sorted_job(provider.url)
        job.write_text(f"{job.read_text()}\n[matrix]\ntemperature = [0, 1]\n")
        code, _, stderr = batchrun("run", job, "--quiet")
    assert code == 0, stderr
    cells = sorted((job.parent / "out").glob("*/summary.json"))
    found = [json.loads(cell.read_text()) for cell in cells]
    assert [cell["executions"][-1]["outcome"] for cell in found] == ["precise"] * 2
    # Both draw the same rows first.
    assert found[0]["score"]["mean"] + found[1]["score"]["mean"] == pytest.approx(1, abs=0.1)


def test_a_killed_run_goes_on_to_the_same_precision(
    sorted_job: Callable[[str], Path], results: Callable[[], pl.DataFrame]
) -> None:
    held = threading.Event()
    with serving(lambda c: replace(yes(c), until=held if c.number > 150 else None)) as provider:
        job = sorted_job(provider.url)
        process = start_batchrun("run", str(job), "--quiet")
        wait_until(lambda: len(provider.calls) > 150, process)
        process.kill()
        finish(process)
        provider.decide = yes
        held.set()
        provider.settle()
        code, _, stderr = batchrun("run", job, "--quiet")
    assert code == 0, stderr
    assert last_execution(job)["outcome"] == "precise"
    # What was in flight at the kill is sent twice at most, and nothing else.
    assert max(calls_by_row(provider.calls).values()) <= 2
    answered = results().filter(pl.col("status") == "succeeded").height
    assert 309 <= answered < ROWS
