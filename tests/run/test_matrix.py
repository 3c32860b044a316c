"""`[matrix]`: a run for each cell, side by side, under one budget and shared limits."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun as library
from batchrun import Job, RunOptions, run_job, run_matrix
from batchrun.checkpoint import Checkpoint, open_directory, totals
from batchrun.errors import (
    CheckpointError,
    Interrupted,
    JobError,
    OutputError,
    RunEnd,
    RunStopped,
    Stop,
)
from batchrun.job.cells import MOST_CELLS
from batchrun.run.conclusion import RunReport
from batchrun.run.matrix import MatrixReport
from tests.conftest import KEY, command, finish, start_batchrun, wait_until
from tests.support.jobs import refusal as refusal_of
from tests.support.provider import Call, Gate, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable

EACH_USD = 46e-6  # 11 tokens in, 7 out, of claude-haiku-4-5
TWO = '[matrix]\nmodel = ["claude-haiku-4-5", "claude-haiku-4-5-20251001"]\n'
CELLS = ("model=claude-haiku-4-5", "model=claude-haiku-4-5-20251001")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def models(calls: list[Call]) -> list[str]:
    return sorted({call.json["model"] for call in calls})


def test_each_cell_has_a_run_of_its_own_and_is_resumed_by_itself(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        return answer(call) if call.json["model"] == "a" else refusal(404, "not_found_error")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=20, extra='[matrix]\nmodel = ["a", "b"]\n')
        code, _, stderr = command("run", job)
        assert code == 4
        assert "error: model=b: " in stderr
        assert "check the model (b)" in stderr
        assert "to resume, run again" in stderr
        done = pl.read_parquet(tmp_path / "out" / "model=a" / "results.parquet")
        assert set(done["status"]) == {"succeeded"}
        provider.decide, sent = answer, len(provider.calls)
        code, _, stderr = command("run", job)
        assert code == 0, stderr
        assert models(provider.calls[sent:]) == ["b"]
        assert len(provider.calls) == sent + 20
        assert "model=a: 20 rows already done, nothing to send" in stderr
    rows = [line.split() for line in stderr.splitlines() if line.startswith(("model=", "total"))]
    assert rows[-3][:4] == ["model=a", "20", "20", "0"]
    assert rows[-1][:4] == ["total", "40", "40", "0"]
    assert f"batchrun compare {tmp_path / 'out'}" in stderr


def test_several_models_on_the_command_line_are_a_matrix(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=3)
        temperatures = ("--set", "matrix.temperature=[0.0, 0.5]")
        assert command("run", job, "--model", "x/y", "--model", "b", *temperatures)[0] == 0
        asked = {(call.json["model"], call.json["temperature"]) for call in provider.calls}
        assert asked == {("x/y", 0), ("x/y", 0.5), ("b", 0), ("b", 0.5)}
        assert len(provider.calls) == 12
        # The order of keys and values does not matter to what was answered.
        assert command("run", job, "--set", 'matrix.model=["b", "x/y"]', *temperatures)[0] == 0
        assert len(provider.calls) == 12
    listed = json.loads((tmp_path / "out" / "matrix.json").read_text())["cells"]
    assert [cell["values"]["model"] for cell in listed] == ["b", "b", "x/y", "x/y"]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders[0] == "model=b,temperature=0"
    assert folders[2].startswith("model=x-y-"), "safe, and never that of another model"


def test_a_value_on_the_command_line_picks_the_cells_with_it(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(
            provider.url, rows=2, extra='[matrix]\nmodel = ["a", "b"]\nstop = ["x", "y"]\n'
        )
        assert command("run", job, "--model", "b")[0] == 0
        assert models(provider.calls) == ["b"]
        assert command("run", job)[0] == 0
        assert command("run", job, "--set", "stop=y")[0] == 0
        assert len(provider.calls) == 8
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "matrix.json",
        "model=a,stop=x",
        "model=a,stop=y",
        "model=b,stop=x",
        "model=b,stop=y",
    ]
    listed = json.loads((tmp_path / "out" / "matrix.json").read_text())["cells"]
    assert listed[0]["name"] == "model=a,stop=x", "the order of the job file"


def test_servers_of_this_machine_side_by_side_are_asked_each(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as one, serving() as other:
        servers = f'[matrix]\nbase_url = ["{one.url}", "{other.url}"]\n'
        job = write_job(one.url, rows=5, extra=servers)
        assert command("run", job)[0] == 0
        assert (len(one.calls), len(other.calls)) == (5, 5)
        assert command("run", job)[0] == 0
        assert (len(one.calls), len(other.calls)) == (5, 5)
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 2


def test_a_run_and_a_matrix_may_share_a_directory(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2)
        assert command("run", job)[0] == 0
        assert command("run", job, "--model", "a", "--model", "b")[0] == 0
        assert len(provider.calls) == 6
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 6
    _, stdout, _ = command("status", tmp_path / "out")
    assert "2 of 2 rows succeeded" in stdout
    assert "model=b" in stdout
    assert command("verify", tmp_path / "out")[0] == 0


def test_a_table_is_run_with_several_models(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\nHello\nBye\n")
    with serving() as provider:
        given = (
            "--base-url",
            provider.url,
            "--set",
            "max_tokens=9",
            "--set",
            "api_key_env=TEST_KEY",
        )
        table = ("run", tmp_path / "prompts.csv", "--model", "a", "--model", "b", *given)
        assert command(*table)[0] == 0
        assert len(provider.calls) == 4


def test_cells_share_the_cap_also_with_cells_that_are_left_alone(
    write_job: Callable[..., Path],
) -> None:
    extra = f"[limits]\nconcurrency = 64\nmax_cost_usd = 0.006\n{TWO}"
    with serving(lambda call: answer(call, delay_s=0.005)) as provider:
        job = write_job(provider.url, rows=200, extra=extra)
        code, _, stderr = command("run", job, "--limit", "40", "--model", "claude-haiku-4-5")
        assert (code, len(provider.calls)) == (0, 40), stderr
        for _ in range(2):
            code, _, stderr = command("run", job)
            assert code == 4
            assert "max_cost_usd = 0.006 is reached" in stderr
            assert 100 < len(provider.calls) <= 0.006 / EACH_USD
        # What the other cell has used up counts, too.
        code, _, stderr = command("run", job, "--model", "claude-haiku-4-5-20251001")
        assert code == 4
        assert len(provider.calls) <= 0.006 / EACH_USD


def test_the_cap_of_a_matrix_holds_across_a_kill(write_job: Callable[..., Path]) -> None:
    victim = [0]

    def decide(call: Call) -> Reply:
        if call.number == 60 and victim[0]:
            os.kill(victim[0], signal.SIGKILL)
        return answer(call, delay_s=0.01)

    extra = f"[limits]\nconcurrency = 64\nmax_cost_usd = 0.012\n{TWO}"
    with serving(decide) as provider:
        job = write_job(provider.url, rows=400, extra=extra)
        process = start_batchrun("run", job, "--quiet")
        victim[0] = process.pid
        assert finish(process)[0] == -signal.SIGKILL
        victim[0] = 0
        for _ in range(2):
            code, _, stderr = command("run", job)
            assert code == 4, stderr
            assert "max_cost_usd = 0.012 is reached" in stderr
            assert 60 <= sum(provider.billed.values()) <= 0.012 / EACH_USD
        assert models(provider.calls) == ["claude-haiku-4-5", "claude-haiku-4-5-20251001"]


def test_cells_share_the_errors_that_are_too_many(write_job: Callable[..., Path]) -> None:
    def decide(call: Call) -> Reply:
        if call.json["model"] == "a":
            return answer(call, delay_s=0.02)
        return refusal(400, "invalid_request_error")

    extra = '[limits]\nconcurrency = 4\nmax_errors = 5\n[matrix]\nmodel = ["a", "b"]\n'
    with serving(decide) as provider:
        job = write_job(provider.url, rows=500, extra=extra)
        code, _, stderr = command("run", job)
        assert code == 4
        assert "rows failed (max_errors = 5)" in stderr
        assert "error: model=b: " not in stderr, "both cells stopped"
        assert len(provider.calls) < 100


def test_cells_share_the_concurrency(write_job: Callable[..., Path]) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def left() -> None:
        with lock:
            now[0] -= 1

    def decide(call: Call) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        return answer(call, delay_s=0.01, then=left)

    extra = '[limits]\nconcurrency = 3\n[matrix]\nmodel = ["a", "b", "c"]\n'
    with serving(decide) as provider:
        assert command("run", write_job(provider.url, rows=20, extra=extra))[0] == 0
        assert len(provider.calls) == 60
    assert 2 <= most[0] <= 3


def test_rates_are_those_of_a_model_for_all_cells_that_ask_it(
    write_job: Callable[..., Path],
) -> None:
    extra = "[limits]\nrequests_per_minute = 600\n[matrix]\ntemperature = [0, 0.5]\n"
    with serving() as provider:
        job = write_job(provider.url, rows=6, extra=extra)
        start = time.monotonic()
        assert command("run", job)[0] == 0
        took = time.monotonic() - start
    assert len(provider.calls) == 12
    assert took >= 1.0, "12 requests at 10 a second; the rates of two would be through in half"


def test_status_counts_damaged_records_of_each_cell(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        assert command("run", write_job(provider.url, rows=4, extra=TWO))[0] == 0
    out = tmp_path / "out"
    assert "checksums" not in command("status", out)[1]
    with closing(sqlite3.connect(out / CELLS[1] / "checkpoint.db")) as connection:
        connection.execute("UPDATE results SET response = 'x' WHERE request_id < 3")
        connection.commit()
    code, stdout, _ = command("status", out)
    assert code == 0
    hint = f"2 stored records do not match their checksums: batchrun verify {out / CELLS[1]}"
    assert stdout.splitlines()[-1] == hint
    facts = json.loads(command("status", out, "--json")[1])
    assert facts["damaged"] == 2
    assert [cell["damaged"] for cell in facts["cells"]] == [0, 2]


def test_status_compare_and_preview_of_a_matrix(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        number = int(call.prompt.removeprefix("Say text "))
        return answer(call, "yes" if call.json["model"] == CELLS[0][6:] or number % 4 else "no")

    score = '[score]\nexpected = "yes"\n'
    with serving(decide) as provider:
        job = write_job(provider.url, rows=20, extra=TWO + score)
        previewed = [
            json.loads(line) for line in command("preview", job, "-n", "2")[1].splitlines()
        ]
        assert [line["cell"] for line in previewed] == [CELLS[0]] * 2 + [CELLS[1]] * 2
        assert command("run", job, "-q") == (0, "", "")
    code, stdout, _ = command("status", tmp_path / "out")
    assert code == 0
    assert stdout.splitlines()[0] == "finished"
    assert "100.0 %" in stdout
    facts = json.loads(command("status", tmp_path / "out", "--json")[1])
    assert [cell["cell"] for cell in facts["cells"]] == list(CELLS)
    assert facts["cells"][1]["values"] == {"model": "claude-haiku-4-5-20251001"}
    assert facts["total"]["succeeded"] == 40
    assert facts["total"]["cost_usd"] == pytest.approx(40 * EACH_USD)
    runs = json.loads(command("compare", tmp_path / "out", "--json")[1])["runs"]
    assert [Path(run["directory"]).name for run in runs] == list(CELLS)
    assert runs[1]["against_first"]["difference"] == -0.25
    assert runs[1]["against_first"]["same_text"] == 0.75
    assert runs[0]["cost_per_correct_usd"] == pytest.approx(EACH_USD)
    assert command("export", tmp_path / "out" / CELLS[1])[0] == 0


def test_export_and_score_write_the_files_of_each_cell(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    score = '[score]\nexpected = "yes"\n'
    with serving(lambda call: answer(call, "yes")) as provider:
        job = write_job(provider.url, rows=3, extra=TWO + score)
        assert command("run", job, "-q") == (0, "", "")
    out = tmp_path / "out"
    files = [out / cell / "results.parquet" for cell in CELLS]
    before = [file.read_bytes() for file in files]
    for name in ("export", "score", "recost"):
        for file in files:
            file.unlink()
        code, stdout, stderr = command(name, out)
        assert code == 0, stderr
        assert [file.read_bytes() for file in files] == before
        assert all(cell in stdout for cell in CELLS)
    facts = json.loads(command("score", out, "--json")[1])["runs"]
    assert [Path(run["directory"]).name for run in facts] == list(CELLS)
    assert [run["correct"] for run in facts] == [3, 3]
    assert command("score", out, "--fail-under", "0.9")[0] == 0
    job.write_text(job.read_text().replace('expected = "yes"', 'expected = "no"'))
    code, _, stderr = command("score", out, "--job", job, "--fail-under", "0.9")
    assert code == 8
    assert CELLS[1] in stderr


def test_one_file_for_several_runs_is_refused_with_their_folders(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, extra=TWO)
        assert command("run", job, "-q")[0] == 0
        out = tmp_path / "out"
        for to in (("x.csv",), ("x.eval",), ("x.jsonl", "--finetune")):
            code, _, stderr = command("export", out, "--to", *to, cwd=tmp_path)
            assert code == 2
            assert str(out / CELLS[0]) in stderr
            assert CELLS[1] in stderr
        with pytest.raises(library.JobError, match="score_runs"):
            library.score(out)
        assert not (tmp_path / "x.csv").exists()


def test_a_run_that_shares_the_directory_of_a_matrix_is_exported_with_it(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        job = write_job(provider.url, rows=2)
        assert command("run", job, "-q")[0] == 0
        assert command("run", job, "-q", "--model", "a", "--model", "b")[0] == 0
    written = command("export", out)[1].split()
    folders = {Path(path).parent for path in written}
    assert folders == {out, out / "model=a", out / "model=b"}
    assert command("export", out, "--to", tmp_path / "x.csv")[0] == 0
    assert pl.read_csv(tmp_path / "x.csv").height == 2


SCORED = '[score]\nexpected = "{}"\nmatch = "regex"\n'


def test_a_run_that_shares_the_directory_of_a_matrix_is_judged_and_verified_with_it(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        models = ("--model", "a", "--model", "b")
        right = write_job(provider.url, rows=2, extra=SCORED.format(".*"))
        assert command("run", right, "-q", *models)[0] == 0
        assert command("report", out, "--fail-under", "0.5")[0] == 0
        wrong = write_job(provider.url, rows=2, extra=SCORED.format("nowhere"))
        assert command("run", wrong, "-q")[0] == 0
    assert command("report", out, "--fail-under", "0.5")[0] == 8
    assert command("verify", out)[0] == 0
    (out / "results.parquet").write_text("damaged")
    code, stdout, _ = command("verify", out)
    assert code == 5
    assert "results.parquet" in stdout


def test_a_matrix_without_a_begun_cell_says_so(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text('{"cells": []}')
    for name in ("export", "score", "recost", "report", "cancel", "verify"):
        code, _, stderr = command(name, tmp_path)
        assert code == 5
        assert "no cell of the matrix has started" in stderr


def test_simulated_and_new_matrices_have_folders_of_their_own(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job("http://127.0.0.1:9", rows=3, extra=TWO)
    for options in ((), ("--new",)):
        code, _, stderr = command("run", job, "--simulate", *options)
        assert code == 0, stderr
    for name in ("out.simulated", "out.simulated.1"):
        assert (tmp_path / name / "matrix.json").exists()
        for cell in CELLS:
            assert (tmp_path / name / cell / "results.parquet").exists()
    assert not (tmp_path / "out").exists()


def test_a_changed_prompt_is_asked_about_before_any_cell_is_sent(
    write_job: Callable[..., Path],
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=10, extra=TWO)
        assert command("run", job)[0] == 0
        changed = ("run", job, "--set", "prompt=Tell {{ text }}")
        code, _, stderr = command(*changed)
        assert code == 2
        assert "add --yes" in stderr
        assert len(provider.calls) == 20
        assert command(*changed, "--yes")[0] == 0
        assert len(provider.calls) == 40


def test_nothing_is_sent_when_one_cell_cannot_be(
    write_job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as provider:
        job = write_job(
            provider.url, rows=3, extra='[matrix]\nprompt = ["{{ text }}", "{{ txt }}"]\n'
        )
        code, _, stderr = command("run", job)
        assert (code, provider.calls) == (2, [])
        assert "no column 'txt' (did you mean \"text\"?)" in stderr
        monkeypatch.setenv("OTHER_KEY", "")
        two_keys = 'api_key_env = ["TEST_KEY", "OTHER_KEY"]\n'
        job = write_job(provider.url, rows=3, extra=f"[matrix]\n{two_keys}")
        code, _, stderr = command("run", job, "--output-dir", tmp_path / "keys")
        assert (code, provider.calls) == (2, [])
        assert "OTHER_KEY is not set" in stderr


def test_an_interrupted_matrix_goes_on_where_it_was(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    gate = Gate(30)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=200, extra=f"[limits]\nconcurrency = 4\n{TWO}")
        process = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) == 34, process)
        process.send_signal(signal.SIGINT)
        gate.opened.set()
        code, _, stderr = finish(process)
        assert code == 130
        assert stderr.count("stopping: ") == 1
        provider.decide = answer
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 400, "what was in flight was waited for"
    for cell in CELLS:
        found = pl.read_parquet(tmp_path / "out" / cell / "results.parquet")
        assert set(found["status"]) == {"succeeded"}


def test_two_processes_do_not_run_one_matrix(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job("http://127.0.0.1:9", rows=3, extra=TWO)
    with open_directory(tmp_path / "out", new=False):
        code, _, stderr = command("run", job)
    assert code == 5
    assert "another batchrun process" in stderr


def test_a_list_of_cells_that_cannot_be_read_says_the_way_out(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=3, extra=TWO)
        assert command("run", job)[0] == 0
        (tmp_path / "out" / "matrix.json").write_text("[")
        for arguments in (("run", job), ("status", tmp_path / "out")):
            code, _, stderr = command(*arguments)
            assert code == 5
            assert "matrix.json: cannot be read" in stderr
        (tmp_path / "out" / "matrix.json").unlink()
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 6


def test_waits_are_those_of_the_cell_that_waited(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        if call.json["model"] == "a" and not call.seen:
            return refusal(429, "rate_limit_error", retry_after="0.2")
        return answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=3, extra='[matrix]\nmodel = ["a", "b"]\n')
        assert command("run", job)[0] == 0
    waits = {}
    for cell in ("model=a", "model=b"):
        summary = json.loads((tmp_path / "out" / cell / "summary.json").read_text())
        waits[cell] = summary["waits_s"].get("retry", 0)
    assert waits["model=a"] > 0.1
    assert waits["model=b"] == 0


def test_the_library_tells_a_matrix_from_a_run(write_job: Callable[..., Path]) -> None:
    job = Job.load(write_job("http://127.0.0.1:9", rows=3, extra=TWO))
    assert [cell.request.model for cell in job.cells] == [cell[6:] for cell in CELLS]
    with pytest.raises(JobError, match="call run_matrix"):
        run_job(job, RunOptions(quiet=True))
    with pytest.raises(JobError, match="call run_job"):
        run_matrix(job.cells[0], RunOptions(quiet=True))


STOPPED, FULL = RunStopped(Stop(RunEnd.EXHAUSTED, "no money")), CheckpointError("no disk")
CUT, UNWRITTEN = Interrupted(signal.SIGINT, "cut"), OutputError("no room")


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((None, None), 0),
        ((None, UNWRITTEN), 6),
        ((UNWRITTEN, STOPPED), 4),
        ((STOPPED, FULL, None), 5),
        ((STOPPED, CUT), 130),
    ],
)
def test_the_exit_code_is_that_of_the_worst_cell(
    tmp_path: Path, errors: tuple[Any, ...], code: int
) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        found = totals(store)
    cells = {str(n): RunReport(found, tmp_path, error=error) for n, error in enumerate(errors)}
    report = MatrixReport(tmp_path, cells)
    assert report.exit_code == code
    assert (report.error is None) == (code == 0)
    assert len(report.problems) == len({error for error in errors if error is not None})


def test_outputs_that_are_missing_count_more_than_rows_that_failed(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        found = totals(store)
    some_failed = RunReport(replace(found, total=2, succeeded=1, errored=1), tmp_path)
    unwritten = RunReport(found, tmp_path, error=UNWRITTEN)
    assert (some_failed.exit_code, unwritten.exit_code) == (3, 6)
    for cells in ({"a": some_failed, "b": unwritten}, {"a": unwritten, "b": some_failed}):
        report = MatrixReport(tmp_path, cells)
        assert (report.exit_code, report.error) == (6, UNWRITTEN)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({}, "[matrix]: must be a table of lists"),
        (5, "[matrix]: must be a table of lists"),
        ({"modle": ["a"]}, '[matrix] modle: is not a key of [request] (did you mean "model"?)'),
        ({"concurrency": [1, 2]}, "[matrix] concurrency: is not a key of [request]"),
        ({"model": "a"}, '[matrix] model: must be a list of values, such as model = ["a"]'),
        ({"model": []}, "[matrix] model: is empty"),
        ({"model": ["a", "b", "a"]}, '[matrix] model: contains "a" twice'),
        ({"temperature": [0, 0.0]}, "the cells temperature=0 and temperature=0 have the same requests"),
        ({"temperature": [0.1, 7]}, "[matrix] temperature=7: [request] temperature: must be between 0 and 1"),
        ({"model": ["a", "b"], "stop": [["x"], "x"]}, "stop=x have the same requests or the same folder; remove one"),
        (
            {"seed": list(range(MOST_CELLS + 1))},
            f"[matrix]: has {MOST_CELLS + 1} cells ({MOST_CELLS + 1} of seed)",
        ),
    ],
)  # fmt: skip
def test_a_matrix_that_is_wrong(matrix: object, message: str) -> None:
    assert message in refusal_of(matrix=matrix)


def test_a_prompt_outside_of_the_project_is_refused_in_a_matrix_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    project = tmp_path / "project"
    project.mkdir()
    (project / "rows.csv").write_text("text\na\n")
    job = project / "job.toml"
    job.write_text(
        '[input]\npath = "rows.csv"\n[request]\nmodel = "m"\nmax_tokens = 5\n'
        '[matrix]\nprompt_file = ["../secret"]\n'
    )
    with pytest.raises(JobError, match=r"\[matrix\] prompt_file: '../secret' is outside of"):
        Job.load(job)


def test_a_matrix_of_prompts_in_files(tmp_path: Path) -> None:
    for name in ("brief", "long"):
        (tmp_path / f"{name}.txt").write_text(f"Be {name}: {{{{ text }}}}")
    (tmp_path / "rows.csv").write_text("text\na\n")
    job = tmp_path / "job.toml"
    job.write_text(
        '[input]\npath = "rows.csv"\n[request]\nmodel = "m"\nmax_tokens = 5\nprompt = "x"\n'
        '[matrix]\nprompt_file = ["brief.txt", "long.txt"]\n'
    )
    cells = Job.load(job).cells
    assert [cell.request.turns[0][1] for cell in cells] == [
        "Be brief: {{ text }}",
        "Be long: {{ text }}",
    ]
    names = [cell.cell.name for cell in cells if cell.cell is not None]
    assert names == ["prompt_file=brief.txt", "prompt_file=long.txt"]
    (only,) = (Job.load(job, {"request.prompt": "Say {{ text }}"}),)
    assert only.cells == (), "another prompt takes the place of all"


def test_a_column_that_takes_the_place_of_a_key_is_no_matrix(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,model\nHello,m\n")
    code, _, stderr = command(
        "preview", tmp_path / "prompts.csv", "--model", "a", "--model", "b", "--format", "chat"
    )
    assert code == 2
    assert "the column 'model' overrides [matrix] model" in stderr


def test_costs_of_a_simulated_matrix_are_labelled(write_job: Callable[..., Path]) -> None:
    job = library.Job.load(write_job("https://api.anthropic.com", rows=3, extra=TWO))
    options = library.RunOptions(simulate=library.SimulatorConfig(), quiet=True)
    assert "the simulated run is free" in library.estimate_text(library.estimate(job, options))
    report = library.run_matrix(job, options)
    said = "simulated: nothing was billed"
    assert said in report.summary_text()
    assert said in library.status(report.directory, as_json=False)
    page = report._repr_html_()
    assert page.startswith("<table><tr><th>cell</th>")
    assert said in page
    assert all(f"<td>{cell}</td>" in page for cell in CELLS)
