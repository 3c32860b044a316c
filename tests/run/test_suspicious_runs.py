"""What looks like success and is none: a prompt without a column, the same answer for every row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import command
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("Say {text}", "{text} is plain text: write {{ text }} with two braces"),
        ("Say { text }!", "write {{ text }} with two braces"),
        ("Say it", "uses no column, so every row would get the same request"),
        ('Say {"json": {}}', "insert a column with two braces, such as {{ id }}"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "preview", "estimate"])
def test_a_prompt_that_uses_no_column_is_refused(
    write_job: Callable[..., Path], verb: str, prompt: str, reason: str
) -> None:
    job = write_job("http://127.0.0.1:9", rows=3)
    code, stdout, stderr = command(verb, job, "--set", f"prompt={json.dumps(prompt)}")
    assert (code, stdout) == (2, "")
    assert reason in stderr


def test_samples_of_one_request_are_not_refused(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    arguments = ("--set", "prompt=Say it", "--set", "samples=3")
    assert command("run", job, "--simulate", *arguments)[0] == 0
    code, _, stderr = command("preview", job, "--set", "prompt=Say {text}", "--set", "samples=3")
    assert (code, "two braces" in stderr) == (2, True)


def test_a_run_with_one_answer_for_every_row_says_so(write_job: Callable[..., Path]) -> None:
    with serving(lambda call: answer(call, "I cannot see a text.")) as provider:
        job = write_job(provider.url, rows=5)
        code, _, stderr = command("run", job)
    assert code == 0
    assert "all 5 answers are the same: I cannot see a text." in stderr
    summary = json.loads((job.parent / "out" / "summary.json").read_text())
    assert summary["all_answers_equal"] is True


@pytest.mark.parametrize("rows", [2, 6])
def test_other_runs_do_not_say_so(write_job: Callable[..., Path], rows: int) -> None:
    # Two rows may have the same answer by chance; of six, the last is different.
    with serving(lambda call: answer(call, "no" if "text 5" in call.prompt else "yes")) as provider:
        job = write_job(provider.url, rows=rows)
        code, _, stderr = command("run", job)
    assert (code, "are the same" in stderr) == (0, False)
    summary = json.loads((job.parent / "out" / "summary.json").read_text())
    assert summary["all_answers_equal"] is False


def test_an_accuracy_of_zero_says_so(write_job: Callable[..., Path]) -> None:
    score = '[score]\nexpected = "{{ id }}"'
    with serving(lambda call: answer(call, call.prompt)) as provider:
        job = write_job(provider.url, rows=4, extra=score)
        _, _, stderr = command("run", job)
        assert "accuracy 0.0 %" in stderr
        assert "no answer is right: compare some answers with the expected" in stderr
        _, _, stderr = command(
            "run", job, "--set", 'score.match="regex"', "--set", "score.expected=."
        )
    assert "no answer is right" not in stderr


# Small findings


def test_a_table_with_a_header_alone_says_that_nothing_was_done(
    write_job: Callable[..., Path],
) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    pl.DataFrame(schema={"id": pl.String, "text": pl.String}).write_csv(job.parent / "rows.csv")
    code, _, stderr = command("run", job)
    assert code == 0
    assert f"{job.parent / 'rows.csv'}: has columns but no rows; there is nothing to do" in stderr
    job.write_text(job.read_text().replace('id = "id"', 'id = "id"\nwhere = "id = \'x\'"'))
    code, _, stderr = command("run", job)
    assert (code, "no row satisfies [input] where" in stderr) == (0, True)


def test_a_missing_file_is_named_with_the_pattern_and_the_date(
    write_job: Callable[..., Path],
) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    job.write_text(job.read_text().replace("rows.csv", "rows-{{ yesterday }}.csv"))
    code, _, stderr = command("run", job, "--date", "2026-03-01")
    assert code == 2
    assert f"{job.parent / 'rows-2026-02-28.csv'}: file not found" in stderr
    assert "rows-{{ yesterday }}.csv" in stderr


@pytest.mark.parametrize("limit", [2**63, 2**64, 10**30])
def test_a_limit_beyond_64_bits_names_the_key(write_job: Callable[..., Path], limit: int) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    code, _, stderr = command("preview", job, "--limit", str(limit))
    assert code == 2
    assert "limit" in stderr
    assert "rows.csv" not in stderr
