"""What changes between executions: only what is new is sent, and what is left behind takes a yes."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, run_job
from batchrun.checkpoint import Checkpoint, NewExecution
from batchrun.errors import JobError
from tests.conftest import DEADLINE_S, KEY, command, environment
from tests.support.checkpoints import seal_all
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def run(job: Path, options: dict[str, Any] | None = None, **changes: Any) -> RunReport:
    return run_job(Job.load(job, changes), RunOptions(quiet=True, **(options or {})))


def edit(job: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the rows of the input, the header aside."""
    table = job.parent / "rows.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *change(rows)]) + "\n")


def held(job: Path) -> dict[str, tuple[int, str]]:
    """What the checkpoint says of each item: its request, and the answer."""
    with sqlite3.connect(job.parent / "out" / "checkpoint.db") as db:
        rows = db.execute(
            """SELECT i.custom_id, i.request_id, r.response FROM items i
            LEFT JOIN results r USING (request_id) ORDER BY i.ordinal"""
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def test_a_change_that_keeps_most_answers_is_told_and_not_asked(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        edit(job, lambda rows: ["r00000,another text", *rows[1:], "new,a new text"])
        code, _, stderr = command("run", job)
    assert code == 0
    assert (
        "the job or its input has changed: 19 answers reused, 1 no longer used, 2 requests to send"
    ) in stderr
    assert len(provider.calls) == 22


def test_leaving_many_answers_behind_takes_a_yes(write_job: WriteJob, results: Results) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        before, outputs = held(job), results()
        code, _, stderr = command("run", job, "--set", "request.temperature=0.5")
        assert code == 2
        assert "20 of 20 paid answers would no longer be used" in stderr
        assert "20 requests would be sent. To continue, add --yes." in stderr
        assert len(provider.calls) == 20
        assert held(job) == before
        assert results().equals(outputs)
        code, _, _ = command("run", job, "--set", "request.temperature=0.5", "--yes")
        assert code == 0
        assert len(provider.calls) == 40
        # What was left behind is still there: going back sends nothing.
        assert command("run", job, "--yes")[0] == 0
        assert len(provider.calls) == 40
        assert held(job) == before


def test_a_refused_change_leaves_the_run_as_it_was_for_the_old_job(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        with pytest.raises(JobError):
            run(job, model="claude-sonnet-4-5")
        assert run(job).exit_code == 0
    assert len(provider.calls) == 20


def test_new_is_not_asked_about_and_keeps_the_earlier_run(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        code, _, _ = command("run", job, "--set", "request.temperature=0.5", "--new")
    assert code == 0
    assert len(provider.calls) == 40
    (kept,) = (
        path for path in job.parent.iterdir() if path.name.startswith("out") and path.name != "out"
    )
    assert pl.read_parquet(kept / "results.parquet").height == 20


def test_exactly_a_tenth_is_not_asked_about(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        edit(job, lambda rows: rows[2:])
        assert run(job).exit_code == 0
        edit(job, lambda rows: rows[2:])
        with pytest.raises(JobError, match="2 of 18 paid answers would no longer be used"):
            run(job)
    assert len(provider.calls) == 20


def test_a_shorter_run_is_asked_about_and_going_back_sends_nothing(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        with pytest.raises(JobError, match="15 of 20 paid answers would no longer be used"):
            run(job, limit=5)
        assert run(job, {"yes": True}, limit=5).exit_code == 0
        assert run(job).exit_code == 0
    assert len(provider.calls) == 20


def test_answers_that_a_killed_run_had_not_placed_yet_count(write_job: WriteJob) -> None:
    """A changed job matches rows anew: killed before that, no row holds any answer."""
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        with closing(Checkpoint(job.parent / "out", writable=True)) as store:
            began: dict[str, Any] = {
                "name": "job",
                "job": {},
                "base": job.parent,
                "version": "0",
                "total": 20,
            }
            store.start_execution(NewExecution(signature="of another prompt", **began))
        assert held(job) == {}
        with pytest.raises(JobError, match="20 of 20 paid answers would no longer be used"):
            run(job, prompt="Say anything but {{ text }}")
        assert run(job).exit_code == 0
    assert len(provider.calls) == 20


def test_an_answer_that_was_left_behind_is_not_asked_about_again(write_job: WriteJob) -> None:
    """Also with images, whose files may have changed each time."""
    images = 'images = ["data:image/png;base64,iVBORw0KGgo="]'
    with serving() as provider:
        job = write_job(provider.url, request=images)
        run(job)
        run(job, {"yes": True}, prompt="Look at {{ text }}")
        assert run(job, prompt="Look at {{ text }}").exit_code == 0
        edit(job, lambda rows: rows[:-1])
        assert run(job, prompt="Look at {{ text }}").exit_code == 0
    assert len(provider.calls) == 40


@pytest.mark.parametrize(
    "changes",
    [
        {"input.id": None},
        {"output.escape_formulas": True},
        {"limits.concurrency": 3},
        {"retry.max_attempts": 2},
    ],
    ids=str,
)
def test_what_asks_the_same_sends_nothing_and_is_not_asked_about(
    write_job: WriteJob, changes: dict[str, Any]
) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        assert run(job, **changes).exit_code == 0
    assert len(provider.calls) == 20


def test_another_version_that_asks_the_same_is_no_change_of_the_job(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        with closing(sqlite3.connect(job.parent / "out" / "checkpoint.db")) as db:
            db.execute("UPDATE executions SET version = '0.0.1'")
            seal_all(db)
            db.commit()
        code, _, stderr = command("run", job)
    assert code == 0
    assert "20 rows already done, nothing to send" in stderr
    assert "has changed" not in stderr
    assert len(provider.calls) == 20


def test_another_provider_is_another_answer(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        with pytest.raises(JobError, match="20 of 20 paid answers would no longer be used"):
            run(job, provider="another")
        assert run(job, {"yes": True}, provider="another").exit_code == 0
        assert len(provider.calls) == 40
        assert run(job, {"yes": True}).exit_code == 0
        assert len(provider.calls) == 40, "the answers of the first are still there"


def test_another_port_of_this_machine_is_the_same_provider(write_job: WriteJob) -> None:
    with serving() as first:
        job = write_job(first.url, rows=10, provider=None)
        run(job)
        edit(job, lambda rows: [*rows, "new,a new text"])
    with serving() as second:
        assert second.url != first.url
        code, _, stderr = command("run", job, "--base-url", second.url)
        assert code == 0, stderr
        assert "no longer used" not in stderr
        assert [call.prompt for call in second.calls] == ["Say a new text"]
        code, _, stderr = command("run", job, "--base-url", first.url)  # where nobody is any more
    assert code == 0, stderr
    assert "11 rows already done, nothing to send" in stderr
    assert "has changed" not in stderr


def test_a_provider_with_a_name_may_move_to_another_host(write_job: WriteJob) -> None:
    with serving() as gateway:
        job = write_job("https://gateway.example", provider="The Gateway")
        run(job, base_url=gateway.url)
        code, _, stderr = command("run", job)
    assert code == 0, stderr
    assert "20 rows already done, nothing to send" in stderr


def test_rows_that_move_keep_their_answers(write_job: WriteJob, results: Results) -> None:
    with serving(lambda call: answer(call, call.prompt.upper())) as provider:
        job = write_job(provider.url)
        run(job)
        edit(job, lambda rows: rows[::-1])
        assert run(job).exit_code == 0
    assert len(provider.calls) == 20
    table = results()
    assert table["response"].to_list() == [f"SAY {text.upper()}" for text in table["text"]]


def test_simulating_is_not_asked_about(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9")
    assert command("run", job, "--simulate")[0] == 0
    assert command("run", job, "--simulate", "--set", "request.temperature=0.5")[0] == 0


@pytest.mark.parametrize(("reply", "code", "calls"), [(b"y\n", 0, 40), (b"\n", 2, 20)])
def test_somebody_at_a_terminal_is_asked(
    write_job: WriteJob, reply: bytes, code: int, calls: int
) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        run(job)
        terminal, child_side = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "batchrun", "run", job, "--set", "request.temperature=0.5"],
            env=environment(),
            stdin=child_side,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.write(terminal, reply)
            _, stderr = process.communicate(timeout=DEADLINE_S)
        os.close(child_side)
        os.close(terminal)
    assert process.returncode == code, stderr
    assert "20 of 20 paid answers would no longer be used" in stderr
    assert "Continue? [y/N]" in stderr
    assert ("not confirmed; nothing was sent" in stderr) == (code == 2)
    assert len(provider.calls) == calls
