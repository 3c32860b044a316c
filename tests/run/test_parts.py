"""Partitioned runs: several checkpoints in one run directory, and every command works on the whole."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.checkpoint import Checkpoint
from tests.conftest import (
    DEADLINE_S,
    batchrun,
    command,
    environment,
    finish,
    start_batchrun,
    wait_until,
)
from tests.support.provider import Gate, Reply, answer, refusal, serving
from tests.support.vendor import CANCELED, vendor

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
        assert command("run", job)[0] == 0
        assert (
            command(
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
        assert command("run", job)[0] == 0
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
        code, text, _ = command("status", job, "--json")
        assert code == 0
        assert 0 < json.loads(text)["counts"]["pending"] < 25
        code, _, error = command("run", job)
        assert code == 0, error
        assert provider.extra_bills <= 8
        assert summary(job)["possibly_double_billed"] >= provider.extra_bills
    assert_answered(results(), 35)
    assert command("verify", job)[0] == 0


def test_an_interrupted_run_has_all_rows_and_is_resumed(
    write_job: WriteJob, results: Results
) -> None:
    gate = Gate(12)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=35, extra=PARTS + "[limits]\nconcurrency = 2")
        process = start_batchrun("run", job, "--quiet")
        wait_until(lambda: len(provider.calls) == 14, process)
        process.send_signal(signal.SIGINT)
        gate.opened.set()
        assert finish(process)[0] == 130
        sent = len(provider.calls)
        assert sent < 35
        assert results().height == 35
        assert set(results()["status"]) == {"succeeded", "pending"}
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 35
    assert_answered(results(), 35)
    executions = summary(job)["executions"]
    assert [one["outcome"] for one in executions] == ["interrupted", "finished"]


def test_appended_rows_fill_the_last_part_and_open_new_ones(
    write_job: WriteJob, results: Results
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
        append(job, range(ROWS, 42))
        code, _, error = command("run", job)
        assert code == 0, error
        assert len(provider.calls) == 42
    assert_answered(results(), 42)
    assert len([*(job.parent / "out").glob("part-*/checkpoint.db")]) == 5
    assert command("verify", job)[0] == 0


def test_a_run_stays_divided_as_it_was_begun(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        one = ["--set", "output.partition_rows=100"]
        assert command("run", job, "--output-dir", job.parent / "one", *one)[0] == 0
        code, _, error = command("run", job, "--output-dir", job.parent / "one")
        assert (code, len(provider.calls)) == (0, ROWS)
        assert "started without parts and keeps its single checkpoint" in error
        assert command("run", job)[0] == 0
        code, _, error = command("run", job, *one)
        assert (code, len(provider.calls)) == (0, 2 * ROWS)
        assert "started with parts of 10 rows and keeps them" in error
        assert command("run", job, "--new", *one)[0] == 0
        assert len(provider.calls) == 3 * ROWS
    assert (job.parent / "out" / "checkpoint.db").exists()
    assert (job.parent / "out.1" / "part-0003" / "checkpoint.db").exists()
    assert_answered(results(), ROWS)


def test_a_changed_prompt_asks_once_for_all_parts(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
        job.write_text(job.read_text().replace("Say {{", "Tell {{"))
        code, _, error = command("run", job)
        assert code == 2
        assert f"{ROWS} of {ROWS} paid answers would no longer be used" in error
        assert len(provider.calls) == ROWS
        assert command("run", job, "--yes")[0] == 0
        assert len(provider.calls) == 2 * ROWS
    assert results()["response"].to_list() == [f"answer to Tell text {n}" for n in range(ROWS)]


def test_failed_rows_of_all_parts_are_retried(write_job: WriteJob, results: Results) -> None:
    bad = {f"Say text {n}" for n in (3, 12, 24)}

    def decide(call: Call) -> Reply:
        is_refused = call.prompt in bad and call.seen == 0
        return refusal(400, "invalid_request_error") if is_refused else say(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 3
        assert results()["status"].to_list().count("errored") == 3
        assert command("run", job, "--retry-errored")[0] == 0
        assert len(provider.calls) == ROWS + 3
    assert_answered(results(), ROWS)


def test_a_part_without_any_answer_is_no_run_without_any(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        is_last = call.prompt == "Say text 20"
        return refusal(400, "invalid_request_error") if is_last else say(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=21, extra=PARTS)
        assert command("run", job)[0] == 3


def test_the_cost_limit_is_that_of_the_whole_run(write_job: WriteJob) -> None:
    with serving(say) as provider:
        cap = 0.0035  # a request may cost about 0.00026 USD
        job = write_job(provider.url, rows=35, extra=f"{PARTS}[limits]\nmax_cost_usd = {cap}")
        for _ in range(2):
            code, _, error = command("run", job)
            assert code in {0, 4}, error
            cost = summary(job)["cost_usd"]
            assert cost["total"] <= cap


def test_rows_of_all_parts_that_the_cost_limit_holds_back_are_counted(write_job: WriteJob) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=ROWS, extra=PARTS + "[limits]\nmax_cost_usd = 0.001\n")
        code, _, error = command("run", job, "--batch", "--no-wait")
        assert code == 7
        out = sum(batch["rows"] for batch in summary(job)["batches"])
        assert 0 < out < ROWS
        assert f"{ROWS - out} rows are not submitted yet: of max_cost_usd = 0.001" in error


def test_every_command_works_on_the_whole(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + SCORED)
        assert command("run", job)[0] == 0
        assert (
            command(
                "run", job, "--output-dir", job.parent / "one", "--set", "output.partition_rows=100"
            )[0]
            == 0
        )
    out, one = job.parent / "out", job.parent / "one"
    assert json.loads(command("status", out, "--json")[1])["counts"]["succeeded"] == ROWS
    assert json.loads(command("score", out, "--json")[1])["scored"] == ROWS
    assert len(json.loads(command("recost", out, "--json")[1])["runs"]) == 1
    assert command("report", out)[0] == 0
    assert (out / "report.html").stat().st_size > 10_000
    for pair in ((out, one), (one, out)):
        found = json.loads(command("compare", *pair, "--json")[1])["runs"]
        assert found[1]["against_first"]["common"] == ROWS
        assert found[1]["against_first"]["same_text"] == 1.0
    (out / "results.parquet").unlink()
    code, text, _ = command("verify", out)
    assert code == 5
    assert "results.parquet: is not there" in text
    assert command("export", out)[0] == 0
    assert command("export", out, "--to", job.parent / "all.jsonl", "--last")[0] == 0
    assert len((job.parent / "all.jsonl").read_text().splitlines()) == ROWS
    assert command("verify", out)[0] == 0


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_batches_of_all_parts_are_collected(
    write_job: WriteJob, results: Results, wire_format: str
) -> None:
    with vendor() as server:
        quick = "[batch]\npoll_s = 0.05\n"
        job = write_job(server.url, rows=ROWS, wire_format=wire_format, extra=PARTS + quick)
        start = time.monotonic()
        code, _, error = command("run", job, "--batch")
        elapsed = time.monotonic() - start
        assert code == 0, error
        usage = server.usage()
        assert (usage["billed"], usage["batches"], usage["extra_bills"]) == (ROWS, 3, 0)
    assert results()["custom_id"].to_list() == [f"r{n:05d}" for n in range(ROWS)]
    assert set(results()["status"]) == {"succeeded"}
    found = summary(job)
    assert len(found["batches"]) == 3
    # The parts were worked on at the same time, which counts once.
    assert found["wall_time_s"] <= elapsed
    assert command("verify", job)[0] == 0
    assert command("report", job)[0] == 0


def test_simulated_batches_of_parts_are_kept_until_all_are_collected(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:1", rows=ROWS, extra=PARTS + "[batch]\npoll_s = 0.05\n")
    kept = job.parent / "out.simulated" / "simulated_batches"
    code, _, error = command("run", job, "--simulate", "--batch", "--no-wait")
    assert code == 7, error
    assert kept.is_dir()
    code, _, error = command("run", job, "--simulate", "--batch")
    assert code == 0, error
    assert not kept.exists()
    assert pl.read_parquet(job.parent / "out.simulated" / "results.parquet").height == ROWS


def test_batches_of_all_parts_are_out_together(write_job: WriteJob) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=ROWS, extra=PARTS + "[batch]\npoll_s = 0.05\n")
        code, _, error = command("run", job, "--batch", "--no-wait")
        assert code == 7
        assert "3 batches with 25 rows are being worked on" in error
        # Rows that are in batches are not sent alone.
        code, _, error = command("run", job)
        assert (code, server.usage()["batches"]) == (7, 3)
        assert "3 batches with 25 rows" in error
        _, text, _ = command("status", job)
        assert text.count("msgbatch_") == 3
        assert "1 batch with" not in text
        code, _, error = command("run", job, "--batch", "--new")
        assert code == 2
        assert "3 batches with 25 rows of the previous run" in error
    assert command("verify", job)[0] == 0


def test_cancel_closes_the_batches_of_all_parts(write_job: WriteJob) -> None:
    with vendor(**CANCELED) as server:
        job = write_job(server.url, rows=ROWS, extra=PARTS + "[batch]\npoll_s = 0.05\n")
        assert command("run", job, "--batch", "--no-wait")[0] == 7
        code, text, error = command("cancel", job)
        assert code == 0, error
        assert "3 batches with 25 rows closed" in text
        assert "no batches are open" in command("cancel", job)[1]
        counts = json.loads(command("status", job, "--json")[1])["counts"]
        assert counts["succeeded"] + counts["pending"] == ROWS
        assert counts["succeeded"] == server.usage()["billed"]
    assert command("verify", job)[0] == 0


def test_an_interrupt_names_the_batches_of_all_parts(write_job: WriteJob) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=ROWS, extra=PARTS + "[batch]\npoll_s = 0.05\n")
        process = start_batchrun("run", job, "--batch")
        wait_until(lambda: server.usage()["batches"] == 3, process)
        process.send_signal(signal.SIGINT)
        code, _, error = finish(process)
        assert code == 130, error
        assert f"batchrun cancel {job.parent / 'out'}\n" in error


def test_stop_at_is_refused_with_the_way_out(write_job: WriteJob) -> None:
    with serving(say) as provider:
        scored = SCORED + 'stop_at = "±5 %"\n'
        job = write_job(provider.url, rows=ROWS, extra=PARTS + scored)
        code, _, error = command("run", job)
        assert code == 2
        assert "stop_at draws rows from the whole table" in error
        assert "partition_rows = 25" in error
        assert provider.calls == []


def test_estimate_knows_the_answers_of_all_parts(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + SCORED)
        assert json.loads(command("estimate", job, "--json")[1])["requests"] == ROWS
        assert command("run", job)[0] == 0
        append(job, range(ROWS, 42))
        found = json.loads(command("estimate", job, "--json")[1])
        assert (found["rows"], found["requests"], found["already_answered"]) == (42, 17, ROWS)
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 42


JUDGE = """[score.judge]
model = "claude-sonnet-4-5-20250929"
prompt = "Is this right? {{ response }}"
choices = { yes = 1.0, no = 0.0 }
"""


def judged(call: Call) -> Reply:
    if call.json["model"] != "claude-sonnet-4-5-20250929":
        return say(call)
    return answer(call, "Verdict: yes" if "3" in call.prompt else "Verdict: no")


def test_a_judge_judges_the_answers_of_all_parts(write_job: WriteJob, results: Results) -> None:
    with serving(judged) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + JUDGE)
        code, _, error = command("run", job)
        assert code == 0, error
        assert len(provider.calls) == 2 * ROWS
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 2 * ROWS
        found = json.loads(command("estimate", job, "--json")[1])
        assert found["judges"][0]["already_answered"] == ROWS
        one = ("--output-dir", job.parent / "one", "--set", "output.partition_rows=100")
        assert command("run", job, *one)[0] == 0
    right = [float("3" in f"{n}") for n in range(ROWS)]
    assert results()["score"].to_list() == right
    parts = json.loads((job.parent / "out" / "summary.json").read_bytes())["score"]
    single = json.loads((job.parent / "one" / "summary.json").read_bytes())["score"]
    assert parts == single
    _, text, _ = command("status", job)
    assert "25 of 25 verdicts" in text
    for name in ("verify", "score", "export", "report", "recost"):
        code, _, error = command(name, job)
        assert code == 0, error
    assert "part-*/judge/checkpoint.db" in command("verify", job)[1]
    assert json.loads((job.parent / "out" / "summary.json").read_bytes())["score"] == single


def test_pairs_of_answers_in_parts_are_judged_like_others(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        if "answer_" in call.prompt:
            return answer(call, "Verdict: A")
        return answer(call, f"{call.json.get('temperature')} {call.prompt}")

    with serving(decide) as provider:
        judge = JUDGE.partition("prompt")[0] + 'rubric = "preference"\n'
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        runs = [job.parent / name for name in ("parts", "whole", "other")]
        sizes = (10, 100, 7)
        for run, size, temperature in zip(runs, sizes, (1, 1, 0), strict=True):
            options = ("--output-dir", run, "--set", f"request.temperature={temperature}")
            size_of = ("--set", f"output.partition_rows={size}")
            assert command("run", job, *options, *size_of)[0] == 0
        job.write_text(job.read_text() + judge)
        found = []
        for run in runs[:2]:
            code, text, error = command("compare", run, runs[2], "--judge", job, "--json")
            assert code == 0, error
            (pair,) = json.loads(text)["preferences"]["pairs"]
            found.append([pair[key] for key in ("wins", "losses", "ties", "win_rate")])
        before = len(provider.calls)
        assert command("compare", runs[0], runs[2], "--judge", job)[0] == 0
        assert len(provider.calls) == before
    assert found[0] == found[1]
    assert sum(found[0][:3]) == ROWS


def test_a_missing_part_is_named_and_nothing_is_lost(write_job: WriteJob, results: Results) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
        for part in ("part-0002", "part-0003"):
            kept = (job.parent / "out" / part).rename(job.parent / part)
            before = (job.parent / "out" / "results.parquet").read_bytes()
            for name in ("run", "status", "verify", "export", "report", "recost", "cancel"):
                code, text, error = command(name, job)
                assert code == 5, name
                assert f"{part}/checkpoint.db: is not there" in text + error, name
            assert (job.parent / "out" / "results.parquet").read_bytes() == before
            kept.rename(job.parent / "out" / part)
        assert command("verify", job)[0] == 0
        assert len(provider.calls) == ROWS
        (job.parent / "out" / "part-0002").rename(job.parent / "gone")
        assert command("run", job, "--yes")[0] == 0
        assert len(provider.calls) == ROWS + 10
    assert_answered(results(), ROWS)


def no_bytes(folder: Path) -> None:
    (folder / "checkpoint.db").touch(mode=0o600)


def no_tables(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "checkpoint.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")


def no_run(folder: Path) -> None:
    Checkpoint(folder, writable=True).close()


@pytest.mark.parametrize("leave", [no_bytes, no_tables, no_run])
@pytest.mark.parametrize("with_judge", [False, True])
def test_a_process_that_was_killed_while_it_created_a_checkpoint_is_in_nobodys_way(
    write_job: WriteJob, results: Results, leave: Callable[[Path], None], *, with_judge: bool
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
        out = job.parent / "out"
        shutil.rmtree(out / "part-0003")
        (out / "part-0003.parquet").unlink()
        last = out / ("part-0002/judge" if with_judge else "part-0003")
        last.mkdir(mode=0o700)
        leave(last)
        for name in ("status", "report", "export", "score"):
            code, _, stderr = command(name, out)
            assert "checkpoint.db" not in stderr, stderr
            assert code == 0 or name == "score", stderr  # the job has no [score]
        assert "to send     5 requests; 20 are already answered" in command("estimate", job)[1]
        sent = len(provider.calls)
        assert command("run", job)[0] == 0
        assert len(provider.calls) == sent + 5
    assert_answered(results(), ROWS)


@pytest.mark.parametrize("left", ["older", "damaged", "gone"])
def test_a_part_whose_file_is_older_than_its_answers_is_written_again(
    write_job: WriteJob, results: Results, left: str
) -> None:
    refused = {"Say text 1", "Say text 3", "Say text 12"}

    def decide(call: Call) -> Reply:
        return refusal(400, "invalid_request_error") if call.prompt in refused else say(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        out = job.parent / "out"
        assert command("run", job)[0] == 3
        names = ["part-0002.parquet", "part-0002/summary.json"]
        before = {name: (out / name).read_bytes() for name in names}
        refused = {"Say text 3"}
        assert command("run", job, "--retry-errored")[0] == 3
        # The process died when the answer was in the checkpoint, and before it was in the file.
        for name, content in before.items():
            (out / name).write_bytes(content)
        if left != "older":
            (out / names[0]).write_bytes(before[names[0]][:99])
        if left == "gone":
            (out / names[0]).unlink()
        # No request succeeds, so this one does not come to the second part.
        assert command("run", job, "--retry-errored")[0] == 4
    assert results()["status"].to_list() == [
        "errored" if n == 3 else "succeeded" for n in range(ROWS)
    ]
    part = pl.read_parquet(out / "part-0002.parquet")
    assert part["status"].to_list() == ["succeeded"] * 10


def test_a_full_folder_for_the_copy_of_the_parts_is_named(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, "long " * 40_000)) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
    line = shlex.join([sys.executable, "-m", "batchrun", "report", str(job)])
    surroundings = environment()
    surroundings.pop("TMPDIR", None)
    # The copy has 5 MB of answers.
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 2048; exec {line}"],
        check=False,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 6, done.stderr
    said = f"error: {tempfile.gettempdir()}: temporary files cannot be written there ("
    assert done.stderr.startswith(said), done.stderr
    assert "name another folder in the environment variable TMPDIR" in done.stderr


def test_a_damaged_part_is_named(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS)
        assert command("run", job)[0] == 0
        damaged = job.parent / "out" / "part-0002" / "checkpoint.db"
        content = damaged.read_bytes()
        damaged.write_bytes(content[:100] + b"damage" * 5_000 + content[30_100:])
        for name in ("run", "status", "verify", "export", "report", "recost"):
            code, text, error = command(name, job)
            assert code == 5, name
            assert "part-0002/checkpoint.db: is damaged" in text + error, name
        assert damaged.read_bytes()[:200] == (content[:100] + b"damage" * 50)[:200]


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
        assert command("run", job)[0] == 0
        listed = job.parent / "out" / "parts.json"
        content = listed.read_text()
        listed.write_text("{")
        for name in ("run", "status"):
            code, _, error = command(name, job)
            assert code == 5
            assert "parts.json: cannot be read" in error
        listed.write_text(content)
        assert command("run", job)[0] == 0
        assert len(provider.calls) == ROWS


def test_two_cells_of_a_matrix_are_divided_each(write_job: WriteJob) -> None:
    with serving(say) as provider:
        matrix = '[matrix]\nmodel = ["claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"]\n'
        job = write_job(provider.url, rows=ROWS, extra=PARTS + matrix)
        code, _, error = command("run", job)
        assert code == 0, error
        assert len(provider.calls) == 2 * ROWS
    out = job.parent / "out"
    cells = sorted(path.parent for path in out.glob("*/parts.json"))
    assert len(cells) == 2
    for cell in cells:
        assert_answered(pl.read_parquet(cell / "results.parquet"), ROWS)
    total = json.loads(command("status", out, "--json")[1])["total"]
    assert total["succeeded"] == 2 * ROWS
    assert command("verify", out)[0] == 0
    assert command("compare", out)[0] == 0


def test_a_run_in_parts_is_ranked_and_compared_like_others(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=ROWS, extra=PARTS + SCORED)
        runs = job.parent / "runs"
        whole = ("--set", "output.partition_rows=100", "--output-dir", runs / "whole")
        for options in (("--output-dir", runs / "parts"), whole):
            assert command("run", job, *options)[0] == 0
    code, stdout, stderr = command("compare", runs)
    assert code == 0, stderr
    assert "parts" in stdout
    assert "whole" in stdout
    code, stdout, stderr = command("compare", runs / "parts", runs / "whole")
    assert code == 0, stderr
    assert "against parts" in stdout
    code, stdout, _ = command("cancel", runs / "parts")
    assert code == 0
    assert "no batches are open" in stdout
