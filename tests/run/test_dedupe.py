"""`dedupe`: rows that ask the same share one request and its answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, run_job
from tests.conftest import KEY, command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]

DIFFERENT = 7
ROWS = 1_400  # several chunks, with every text in each of them


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def repeated(write_job: WriteJob) -> Callable[[str], Path]:
    """Write a job over few different texts, each in many rows."""

    def write(base_url: str) -> Path:
        job = write_job(base_url, request="dedupe = true")
        write_rows(job, [f"text {n % DIFFERENT}" for n in range(ROWS)])
        return job

    return write


def write_rows(job: Path, texts: list[str]) -> None:
    ids = [f"r{n:05d}" for n in range(len(texts))]
    pl.DataFrame({"id": ids, "text": texts}).write_csv(job.parent / "rows.csv")


def run(job: Path, **changes: Any) -> RunReport:
    return run_job(Job.load(job, changes), RunOptions(quiet=True, yes=True))


def summary(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "out" / "summary.json").read_text())
    return found


def test_what_is_asked_twice_is_sent_once_and_every_row_has_the_answer(
    repeated: Callable[[str], Path], results: Results
) -> None:
    with serving(lambda call: answer(call, call.prompt.upper())) as provider:
        job = repeated(provider.url)
        code, _, stderr = command("run", job)
    assert code == 0
    assert len(provider.calls) == DIFFERENT
    assert f"{ROWS - DIFFERENT:,} rows already done or duplicates, 7 requests to send" in stderr
    table = results()
    assert table.height == ROWS
    assert table["response"].to_list() == [f"SAY {text.upper()}" for text in table["text"]]
    assert set(table["status"]) == {"succeeded"}
    assert summary(job)["counts"] == {
        "total": ROWS,
        "succeeded": ROWS,
        "errored": 0,
        "pending": 0,
    }


def test_sums_over_rows_are_what_was_used_and_paid(
    repeated: Callable[[str], Path], results: Results
) -> None:
    with serving() as provider:
        job = repeated(provider.url)
        run(job)
    table = results()
    assert table["input_tokens"].sum() == 11 * DIFFERENT
    assert table["output_tokens"].sum() == 7 * DIFFERENT
    assert table["attempts"].sum() == DIFFERENT
    assert table["cost_usd"].sum() == pytest.approx(46e-6 * DIFFERENT)
    assert table["input_tokens"].head(DIFFERENT + 1).to_list() == [11] * DIFFERENT + [0]
    assert table.select("input_tokens", "cost_usd", "attempts").null_count().row(0) == (0, 0, 0)
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage["custom_id"].to_list() == table["id"].head(DIFFERENT).to_list()


def test_running_again_sends_nothing_and_new_rows_share_too(
    repeated: Callable[[str], Path], results: Results
) -> None:
    with serving() as provider:
        job = repeated(provider.url)
        run(job)
        before = results()
        run(job)
        assert results().equals(before)
        write_rows(job, [f"text {n % (DIFFERENT + 1)}" for n in range(2 * ROWS)])
        run(job)
    assert len(provider.calls) == DIFFERENT + 1
    assert set(results()["status"]) == {"succeeded"}


def test_an_error_is_shared_and_tried_again_once(
    repeated: Callable[[str], Path], results: Results
) -> None:
    def decide(call: Call) -> Reply:
        return (
            refusal(400, "invalid_request_error")
            if call.prompt == "Say text 3" and not call.seen
            else answer(call)
        )

    with serving(decide) as provider:
        job = repeated(provider.url)
        assert run(job).exit_code == 3
        failed = results().filter(status="errored")
        assert failed["text"].unique().to_list() == ["text 3"]
        assert failed.height == ROWS // DIFFERENT
        assert failed["error_type"].null_count() == 0
        assert run_job(Job.load(job), RunOptions(quiet=True, retry_errored=True)).exit_code == 0
    assert len(provider.calls) == DIFFERENT + 1
    assert set(results()["status"]) == {"succeeded"}


def test_an_interrupted_run_goes_on_with_what_no_row_has_an_answer_to(
    repeated: Callable[[str], Path], results: Results
) -> None:
    refused = [f"Say text {n}" for n in (2, 5)]

    def decide(call: Call) -> Reply:
        return (
            refusal(401, "authentication_error")
            if call.prompt in refused and not call.seen
            else answer(call)
        )

    with serving(decide) as provider:
        job = repeated(provider.url)
        assert run(job, concurrency=1).exit_code == 4
        assert run(job, concurrency=1).exit_code in {0, 4}
        assert run(job).exit_code == 0
    answered = {call.prompt for call in provider.calls}
    assert len(answered) == DIFFERENT
    assert len(provider.calls) == DIFFERENT + len(refused)
    assert set(results()["status"]) == {"succeeded"}


def test_sharing_begins_and_ends_as_wanted(
    repeated: Callable[[str], Path], results: Results
) -> None:
    with serving() as provider:
        job = repeated(provider.url)
        run(job, dedupe=False, limit=21)
        assert len(provider.calls) == 21
        run(job, limit=21)
        assert len(provider.calls) == 21
        assert results()["attempts"].sum() == DIFFERENT
        run(job, dedupe=False, limit=21)
        assert len(provider.calls) == 21
        assert results()["attempts"].sum() == 21


def test_when_the_first_row_goes_the_next_one_has_what_it_took(
    repeated: Callable[[str], Path], results: Results
) -> None:
    with serving() as provider:
        job = repeated(provider.url)
        write_rows(job, ["one", "two", "one", "two"])
        run(job)
        write_rows(job, ["two", "one"])
        run(job)
    assert len(provider.calls) == 2
    assert results()["attempts"].to_list() == [1, 1]
