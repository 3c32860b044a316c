"""Resuming what is done already: nothing is rendered again, and nothing is missed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tests.conftest import batchrun
from tests.support.provider import Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    from tests.support.provider import Call

    WriteJob = Callable[..., Path]

ROWS = 1_000


def edit_keeping_the_stamp(table: Path, old: str, new: str) -> None:
    """Change the table without its size and time telling: what was planned counts then."""
    found = table.stat()
    table.write_text(table.read_text().replace(old, new))
    os.utime(table, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_finished_run_is_not_rendered_again(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=ROWS)
        assert batchrun("run", job)[0] == 0
        edit_keeping_the_stamp(tmp_path / "rows.csv", "text 7\n", "Text 7\n")
        code, _, error = batchrun("run", job)
        assert code == 0
        assert f"{ROWS:,} rows already done, nothing to send" in error
        assert len(provider.calls) == ROWS


def test_of_a_run_that_is_nearly_done_only_the_rest_is_sent(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        broken = call.prompt in {"Say text 300", "Say text 999"} and call.seen == 0
        return Reply(500, b"{}") if broken else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra="[retry]\nmax_attempts = 1")
        assert batchrun("run", job)[0] == 3
        code, _, error = batchrun("run", job)
        assert code == 0
        assert f"{ROWS - 2:,} rows already done, 2 requests to send" in error
        assert len(provider.calls) == ROWS + 2
    assert results()["status"].to_list() == ["succeeded"] * ROWS


def test_refused_rows_are_tried_again_when_asked_to(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        bad = call.prompt == "Say text 5" and call.seen == 0
        return refusal(400, "invalid_request_error") if bad else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=20)
        assert batchrun("run", job)[0] == 3
        assert batchrun("run", job)[0] == 3
        assert len(provider.calls) == 20
        assert batchrun("run", job, "--retry-errored")[0] == 0
        assert len(provider.calls) == 21
    assert results()["status"].to_list() == ["succeeded"] * 20


def test_rows_that_cannot_be_rendered_are_counted_without_rendering(
    write_job: WriteJob, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=3)
        job.write_text(job.read_text().replace("Say {{ text }}", "{{ text }}"))
        table = tmp_path / "rows.csv"
        table.write_text(table.read_text().replace("text 1\n", "\n"))
        for _ in range(2):
            assert batchrun("run", job)[0] == 3
            counts = json.loads((tmp_path / "out" / "summary.json").read_text())["counts"]
            assert (counts["succeeded"], counts["errored"]) == (2, 1)
        assert len(provider.calls) == 2


def test_a_changed_job_or_input_is_rendered_again(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=20)
        assert batchrun("run", job)[0] == 0
        assert batchrun("run", job, "--yes", "--set", "temperature=0.5")[0] == 0
        assert len(provider.calls) == 40
        assert batchrun("run", job, "--yes", "--set", "temperature=0.5", "--limit", "10")[0] == 0
        assert batchrun("run", job, "--yes", "--set", "temperature=0.5")[0] == 0
        assert len(provider.calls) == 40
        table = tmp_path / "rows.csv"
        table.write_text(table.read_text() + "new,text new\n")
        assert batchrun("run", job, "--yes", "--set", "temperature=0.5")[0] == 0
        assert len(provider.calls) == 41


def test_an_interrupted_plan_is_not_taken_for_a_whole_one(write_job: WriteJob) -> None:
    with serving(lambda _: refusal(401, "authentication_error")) as provider:
        job = write_job(provider.url, rows=5_000)
        assert batchrun("run", job)[0] == 4
        provider.decide = answer
        sent = len(provider.calls)
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == sent + 5_000
