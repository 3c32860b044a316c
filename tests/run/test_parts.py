"""Partitioned runs: several checkpoints in one run directory, and every command works on the whole."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.conftest import batchrun, finish, start_batchrun, wait_until
from tests.support.provider import Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.provider import Call

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]

PARTS = "partition_rows = 10\n"
ROWS = 25
SCORED = '[score]\nexpected = "{{ text }}"\nmatch = "contains"\n'
COLUMNS = ["custom_id", "status", "response", "input_tokens", "output_tokens", "cost_usd"]


def summary(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "out" / "summary.json").read_bytes())
    return found


def say(call: Call) -> Reply:
    return answer(call, f"answer to {call.prompt}")


def append(job: Path, rows: range) -> None:
    with (job.parent / "rows.csv").open("a") as table:
        table.writelines(f"r{n:05d},text {n}\n" for n in rows)


def assert_answered(found: pl.DataFrame, rows: int) -> None:
    assert found["custom_id"].to_list() == [f"r{n:05d}" for n in range(rows)]
    assert found["response"].to_list() == [f"answer to Say text {n}" for n in range(rows)]


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_results_are_those_of_a_run_in_one_part(
    write_job: WriteJob, results: Results, wire_format: str
) -> None:
    files = 'files = ["results.parquet", "results.csv"]\n'
    with serving(say) as provider:
        job = write_job(
            provider.url, rows=ROWS, wire_format=wire_format, extra=files + PARTS + SCORED
        )
        assert batchrun("run", job)[0] == 0
        assert (
            batchrun(
                "run", job, "--set", "output.partition_rows=100", "--output-dir", job.parent / "one"
            )[0]
            == 0
        )
        assert len(provider.calls) == 2 * ROWS
    assert_answered(results(), ROWS)
    out, one = job.parent / "out", job.parent / "one"
    columns = [*COLUMNS, "score", "predicted"]
    whole = pl.read_parquet(one / "results.parquet")
    assert results().select(columns).equals(whole.select(columns))
    assert results().schema == whole.schema
    texts = pl.read_csv(out / "results.csv", infer_schema=False)
    assert texts["response"].equals(
        pl.read_csv(one / "results.csv", infer_schema=False)["response"]
    )
    assert sorted(path.name for path in out.glob("part-*.parquet")) == [
        f"part-000{n}.parquet" for n in (1, 2, 3)
    ]
    assert len([*out.glob("part-*/checkpoint.db")]) == 3
    assert not (out / "checkpoint.db").exists()
    parts, single = summary(job), json.loads((one / "summary.json").read_bytes())
    for name in ("counts", "tokens", "score", "attempts", "endings", "last_execution"):
        assert parts[name] == single[name], name
    assert pl.read_parquet(out / "usage.parquet").height == ROWS


def test_row_numbers_are_those_of_the_whole_input(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        job.write_text(job.read_text().replace('id = "id"\n', ""))
        assert batchrun("run", job)[0] == 0
    assert results()["custom_id"].to_list() == [str(n + 1) for n in range(ROWS)]
    assert results()["response"].to_list() == [f"answer to Say text {n}" for n in range(ROWS)]


def test_a_run_that_is_killed_in_a_later_part_loses_nothing(
    write_job: WriteJob, results: Results
) -> None:
    victim: list[int] = []

    def decide(call: Call) -> Reply:
        if call.prompt == "Say text 27" and victim:
            os.kill(victim.pop(), signal.SIGKILL)
        return say(call)

    with serving(decide) as provider:
        limits = "[limits]\nconcurrency = 4"
        job = write_job(provider.url, rows=35, extra=PARTS + limits)
        process = start_batchrun("run", job, "--quiet")
        victim.append(process.pid)
        assert finish(process)[0] == -signal.SIGKILL
        code, text, _ = batchrun("status", job, "--json")
        assert code == 0
        assert 0 < json.loads(text)["counts"]["pending"] < 25
        code, _, error = batchrun("run", job)
        assert code == 0, error
        assert provider.extra_bills <= 8
        assert summary(job)["possibly_double_billed"] >= provider.extra_bills
    assert_answered(results(), 35)
    assert batchrun("verify", job)[0] == 0


def test_an_interrupted_run_has_all_rows_and_is_resumed(
    write_job: WriteJob, results: Results
) -> None:
    with serving(lambda call: answer(call, f"answer to {call.prompt}", delay_s=0.05)) as provider:
        job = write_job(provider.url, rows=35, extra=PARTS + "[limits]\nconcurrency = 2")
        process = start_batchrun("run", job, "--quiet")
        wait_until(lambda: len(provider.calls) >= 13)
        process.send_signal(signal.SIGINT)
        assert finish(process)[0] == 130
        sent = len(provider.calls)
        assert sent < 35
        assert results().height == 35
        assert set(results()["status"]) == {"succeeded", "pending"}
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == 35
    assert_answered(results(), 35)
    executions = summary(job)["executions"]
    assert [one["outcome"] for one in executions] == ["interrupted", "finished"]


def test_appended_rows_fill_the_last_part_and_open_new_ones(
    write_job: WriteJob, results: Results
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert batchrun("run", job)[0] == 0
        append(job, range(ROWS, 42))
        code, _, error = batchrun("run", job)
        assert code == 0, error
        assert len(provider.calls) == 42
    assert_answered(results(), 42)
    assert len([*(job.parent / "out").glob("part-*/checkpoint.db")]) == 5
    assert batchrun("verify", job)[0] == 0


def test_a_run_stays_divided_as_it_was_begun(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        one = ["--set", "output.partition_rows=100"]
        assert batchrun("run", job, "--output-dir", job.parent / "one", *one)[0] == 0
        code, _, error = batchrun("run", job, "--output-dir", job.parent / "one")
        assert (code, len(provider.calls)) == (0, ROWS)
        assert "started without parts and keeps its single checkpoint" in error
        assert batchrun("run", job)[0] == 0
        code, _, error = batchrun("run", job, *one)
        assert (code, len(provider.calls)) == (0, 2 * ROWS)
        assert "started with parts of 10 rows and keeps them" in error
        assert batchrun("run", job, "--new", *one)[0] == 0
        assert len(provider.calls) == 3 * ROWS
    assert (job.parent / "out" / "checkpoint.db").exists()
    assert (job.parent / "out.1" / "part-0003" / "checkpoint.db").exists()
    assert_answered(results(), ROWS)


def test_a_changed_prompt_asks_once_for_all_parts(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert batchrun("run", job)[0] == 0
        job.write_text(job.read_text().replace("Say {{", "Tell {{"))
        code, _, error = batchrun("run", job)
        assert code == 2
        assert f"{ROWS} of {ROWS} paid answers would no longer be used" in error
        assert len(provider.calls) == ROWS
        assert batchrun("run", job, "--yes")[0] == 0
        assert len(provider.calls) == 2 * ROWS
    assert results()["response"].to_list() == [f"answer to Tell text {n}" for n in range(ROWS)]


def test_failed_rows_of_all_parts_are_retried(write_job: WriteJob, results: Results) -> None:
    bad = {f"Say text {n}" for n in (3, 12, 24)}

    def decide(call: Call) -> Reply:
        is_refused = call.prompt in bad and call.seen == 0
        return refusal(400, "invalid_request_error") if is_refused else say(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert batchrun("run", job)[0] == 3
        assert results()["status"].to_list().count("errored") == 3
        assert batchrun("run", job, "--retry-errored")[0] == 0
        assert len(provider.calls) == ROWS + 3
    assert_answered(results(), ROWS)


def test_a_part_without_any_answer_is_no_run_without_any(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        is_last = call.prompt == "Say text 20"
        return refusal(400, "invalid_request_error") if is_last else say(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=21, extra=PARTS)
        assert batchrun("run", job)[0] == 3


def test_the_cost_limit_is_that_of_the_whole_run(write_job: WriteJob) -> None:
    with serving(say) as provider:
        cap = 0.0035  # a request may cost about 0.00026 USD
        job = write_job(provider.url, rows=35, extra=f"{PARTS}[limits]\nmax_cost_usd = {cap}")
        for _ in range(2):
            code, _, error = batchrun("run", job)
            assert code in {0, 4}, error
            cost = summary(job)["cost_usd"]
            assert cost["total"] <= cap


def test_every_command_works_on_the_whole(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + SCORED)
        assert batchrun("run", job)[0] == 0
        assert (
            batchrun(
                "run", job, "--output-dir", job.parent / "one", "--set", "output.partition_rows=100"
            )[0]
            == 0
        )
    out, one = job.parent / "out", job.parent / "one"
    assert json.loads(batchrun("status", out, "--json")[1])["counts"]["succeeded"] == ROWS
    assert json.loads(batchrun("score", out, "--json")[1])["scored"] == ROWS
    assert len(json.loads(batchrun("recost", out, "--json")[1])["runs"]) == 1
    assert batchrun("report", out)[0] == 0
    assert (out / "report.html").stat().st_size > 10_000
    for pair in ((out, one), (one, out)):
        found = json.loads(batchrun("compare", *pair, "--json")[1])["runs"]
        assert found[1]["against_first"]["common"] == ROWS
        assert found[1]["against_first"]["same_text"] == 1.0
    (out / "results.parquet").unlink()
    code, text, _ = batchrun("verify", out)
    assert code == 5
    assert "results.parquet: is not there" in text
    assert batchrun("export", out)[0] == 0
    assert batchrun("export", out, "--to", job.parent / "all.jsonl", "--last")[0] == 0
    assert len((job.parent / "all.jsonl").read_text().splitlines()) == ROWS
    assert batchrun("verify", out)[0] == 0


def test_batches_are_refused_with_the_way_out(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        code, _, error = batchrun("run", job, "--batch")
        assert code == 2
        assert "[output] partition_rows = 25" in error
        assert provider.calls == []


def test_workers_send_the_rows_of_each_part(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        code, _, error = batchrun("run", job, "--workers", "2")
        assert code == 0, error
        assert len(provider.calls) == ROWS
    assert_answered(results(), ROWS)


def test_a_list_of_parts_that_cannot_be_read_says_the_way_out(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert batchrun("run", job)[0] == 0
        listed = job.parent / "out" / "parts.json"
        content = listed.read_text()
        listed.write_text("{")
        for command in ("run", "status"):
            code, _, error = batchrun(command, job)
            assert code == 5
            assert "parts.json: cannot be read" in error
        listed.write_text(content)
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == ROWS


def test_two_cells_of_a_matrix_are_divided_each(write_job: WriteJob) -> None:
    with serving(say) as provider:
        matrix = '[matrix]\nmodel = ["claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"]\n'
        job = write_job(provider.url, rows=ROWS, extra=PARTS + matrix)
        code, _, error = batchrun("run", job)
        assert code == 0, error
        assert len(provider.calls) == 2 * ROWS
    out = job.parent / "out"
    cells = sorted(path.parent for path in out.glob("*/parts.json"))
    assert len(cells) == 2
    for cell in cells:
        assert_answered(pl.read_parquet(cell / "results.parquet"), ROWS)
    total = json.loads(batchrun("status", out, "--json")[1])["total"]
    assert total["succeeded"] == 2 * ROWS
    assert batchrun("verify", out)[0] == 0
    assert batchrun("compare", out)[0] == 0


def test_a_run_in_parts_is_ranked_and_compared_like_others(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + SCORED)
        runs = job.parent / "runs"
        whole = ("--set", "output.partition_rows=100", "--output-dir", runs / "whole")
        for options in (("--output-dir", runs / "parts"), whole):
            assert batchrun("run", job, *options)[0] == 0
    code, stdout, stderr = batchrun("compare", runs)
    assert code == 0, stderr
    assert "parts" in stdout
    assert "whole" in stdout
    code, stdout, stderr = batchrun("compare", runs / "parts", runs / "whole")
    assert code == 0, stderr
    assert "against parts" in stdout
    code, _, stderr = batchrun("compare", runs / "parts", runs / "whole", "--judge", job)
    assert code == 2
    assert "is divided into parts, which --judge cannot compare" in stderr
    code, stdout, _ = batchrun("cancel", runs / "parts")
    assert code == 0
    assert "no batches are open" in stdout
