"""The command as a user runs it: real processes, a real server, real files."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import (
    DEADLINE_S,
    KEY,
    ROOT,
    batchrun,
    environment,
    finish,
    start_batchrun,
    wait_until,
)
from tests.support.provider import Call, Reply, answer, refusal, serving

WriteJob = Callable[..., Path]
Results = Callable[[], pl.DataFrame]


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_every_row_is_sent_once_and_comes_back_in_order(
    write_job: WriteJob, results: Results, wire_format: str
) -> None:
    with serving(lambda call: answer(call, f"answer to {call.prompt}")) as provider:
        code, stdout, stderr = batchrun("run", write_job(provider.url, wire_format=wire_format))
    assert (code, stdout) == (0, ""), stderr
    table = results()
    assert table["id"].to_list() == [f"r{n:05d}" for n in range(20)]
    assert table["custom_id"].to_list() == table["id"].to_list()
    assert table["response"].to_list() == [f"answer to Say text {n}" for n in range(20)]
    assert set(table["status"]) == {"succeeded"}
    assert table["cost_usd"].to_list() == [46e-6] * 20
    assert len(provider.calls) == 20


def test_the_formats_differ_only_on_the_wire(write_job: WriteJob, results: Results) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job)[0] == 0
        first = results()
        assert batchrun("run", job, "--format", "chat", "--yes")[0] == 0
        second = results()
    same = ["custom_id", "status", "response", "input_tokens", "output_tokens", "cost_usd"]
    assert first.select(same).equals(second.select(same))
    assert {call.path for call in provider.calls} == {"/v1/messages", "/v1/chat/completions"}
    assert "max_tokens" in provider.calls[0].json


def test_running_again_sends_nothing(write_job: WriteJob, results: Results) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job)[0] == 0
        before = results()
        code, _, stderr = batchrun("run", job)
    assert code == 0
    assert len(provider.calls) == 20
    assert results().equals(before)
    assert "nothing to send" in stderr


def test_only_new_and_edited_rows_are_sent(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job)[0] == 0
        table = tmp_path / "rows.csv"
        lines = table.read_text().splitlines()
        lines[3] = "r00002,edited"
        lines.insert(1, "new,a new row at the top")
        del lines[10]
        table.write_text("\n".join(lines) + "\n")
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == 22
    found = results()
    assert found["id"].to_list()[:2] == ["new", "r00000"]
    assert found.height == 20
    assert set(found["status"]) == {"succeeded"}


def test_a_stop_after_a_change_loses_no_answer_from_the_outputs(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=1_500)
        assert batchrun("run", job)[0] == 0
        table = tmp_path / "rows.csv"
        table.write_text(table.read_text().replace("text 3\n", "edited\n"))
        provider.decide = lambda _: refusal(401, "authentication_error")
        assert batchrun("run", job)[0] == 4
    counts = dict(results()["status"].value_counts().rows())
    assert counts == {"succeeded": 1_499, "pending": 1}
    assert results()["status"][3] == "pending"


def test_an_errored_row_is_data_and_the_exit_code_says_so(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        if call.prompt == "Say text 7":
            return refusal(400, "invalid_request_error", "that text is not allowed")
        return answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url)
        code, _, stderr = batchrun("run", job)
        assert code == 3
        assert len(provider.calls) == 20
        again, _, _ = batchrun("run", job)
        assert (again, len(provider.calls)) == (3, 20), "a request that is wrong is not repeated"
        assert batchrun("run", job, "--retry-errored")[0] == 4, "nothing that was sent succeeded"
        assert len(provider.calls) == 21
    row = results().row(7, named=True)
    assert row["status"] == "errored"
    assert row["response"] is None
    assert (row["http_status"], row["error_type"]) == (400, "invalid_request_error")
    assert row["error_message"] == "that text is not allowed"
    assert "that text is not allowed" in stderr


def test_rate_limits_and_server_errors_are_ridden_out(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        # A third of all tries fail, decided by body and try, so that the test repeats itself.
        dice = hashlib.sha256(call.body + bytes([call.seen])).digest()[0]
        if dice < 43:
            return refusal(429, "rate_limit_error", retry_after="0.05")
        if dice < 86:
            return refusal(500, "api_error", retry_after="0.01")
        return answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=120, extra="[retry]\nmax_attempts = 12")
        code, _, stderr = batchrun("run", job)
    assert code == 0, stderr
    assert set(results()["status"]) == {"succeeded"}
    assert len(provider.calls) > 150
    assert provider.extra_bills == 0


def test_a_refused_key_stops_the_run_at_once(write_job: WriteJob) -> None:
    with serving(lambda _: refusal(401, "authentication_error", "invalid x-api-key")) as provider:
        job = write_job(provider.url, rows=2_000, extra="[limits]\nconcurrency = 8")
        code, stdout, stderr = batchrun("run", job)
    assert code == 4
    assert len(provider.calls) <= 8
    assert provider.calls[0].headers["x-api-key"] == KEY
    assert "TEST_KEY" in stderr
    assert "to resume, run again" in stderr
    assert KEY not in stdout + stderr


def test_without_a_key_nothing_is_sent(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        env = environment()
        del env["TEST_KEY"]
        code, _, stderr = batchrun("run", job, env=env)
    assert code == 2
    assert provider.calls == []
    assert "TEST_KEY" in stderr
    assert not (tmp_path / "out").exists()


def test_exhausted_quota_stops_although_it_is_a_429(write_job: WriteJob) -> None:
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with serving(lambda _: Reply(429, body)) as provider:
        job = write_job(provider.url, wire_format="chat", extra="[limits]\nconcurrency = 4")
        code, _, stderr = batchrun("run", job)
    assert code == 4
    assert len(provider.calls) <= 4
    assert "insufficient_quota" in stderr


def test_too_many_errors_stop_the_run(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        return answer(call) if call.number < 3 else refusal(400, "invalid_request_error")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=1_000, extra="[limits]\nconcurrency = 8")
        code, _, stderr = batchrun("run", job)
    assert code == 4
    assert 200 <= len(provider.calls) <= 210
    assert "max_errors" in stderr


def test_rows_that_cannot_be_rendered_are_errored_and_not_sent(
    tmp_path: Path, results: Results, write_job: WriteJob
) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        table = tmp_path / "rows.parquet"
        pl.DataFrame({"id": ["a", "b"], "text": ["one", None]}).write_parquet(table)
        job.write_text(job.read_text().replace("rows.csv", "rows.parquet"))
        code, _, _ = batchrun("run", job)
    assert code == 3
    assert len(provider.calls) == 1
    row = results().row(1, named=True)
    assert (row["status"], row["error_type"]) == ("errored", "null_value")
    assert "'text'" in row["error_message"]


def test_an_unknown_column_is_an_error_before_anything_is_sent(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url, request='system = "You know {{ txt }}"')
        code, _, stderr = batchrun("run", job)
    assert code == 2
    assert provider.calls == []
    assert 'did you mean "text"' in stderr


def test_a_table_with_a_prompt_column_is_a_job_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text(
        "prompt,system,model,max_tokens\nfirst,,,5\nsecond,Be brief,other-model,\n",
        encoding="utf-8",
    )
    with serving() as provider:
        code, _, stderr = batchrun(
            *("run", table, "--model", "M", "--format", "chat", "--base-url", provider.url),
            *("--output-dir", "out", "--set", "max_tokens=9", "--set", "api_key_env=TEST_KEY"),
            *("--concurrency", "1"),
            cwd=tmp_path,
        )
    assert code == 0, stderr
    first, second = (call.json for call in provider.calls)
    assert first == {
        "model": "M",
        "messages": [{"role": "user", "content": "first"}],
        "max_tokens": 5,
    }
    assert second == {
        "model": "other-model",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "second"},
        ],
        "max_tokens": 9,
    }
    found = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert found["response"].to_list() == ["ok", "ok"]
    # The table's own column keeps its name; what the provider answered as stands beside it.
    assert found["model"].to_list() == ["", "other-model"]
    assert found["batchrun_model"].to_list() == ["M", "other-model"]
    assert batchrun("export", tmp_path / "out")[0] == 0
    assert pl.read_parquet(tmp_path / "out" / "results.parquet").equals(found)


def test_a_second_execution_is_refused_while_one_is_running(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, delay_s=600)) as provider:
        job = write_job(provider.url, rows=3)
        running = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) >= 3, running)
        code, _, stderr = batchrun("run", job)
        status, stdout, _ = batchrun("status", job.parent / "out", "--json")
        running.kill()
        finish(running)
    assert code == 5
    assert "another batchrun process" in stderr
    assert status == 0
    assert json.loads(stdout)["running"] is True
    assert json.loads(stdout)["in_flight"] == 3


def test_status_of_a_run_that_was_killed(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, delay_s=600)) as provider:
        job = write_job(provider.url, rows=3)
        running = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) >= 3, running)
        running.kill()
        finish(running)
    code, stdout, _ = batchrun("status", job.parent / "out", "--json")
    assert code == 0
    found = json.loads(stdout)
    assert found["running"] is False
    assert found["counts"] == {"total": 3, "succeeded": 0, "errored": 0, "pending": 3}
    assert found["possibly_double_billed"] == 3


def test_the_simulator_needs_no_key_and_keeps_its_run_apart(tmp_path: Path) -> None:
    out = tmp_path / "triage"
    code, _, stderr = batchrun(
        *("run", ROOT / "jobs" / "ticket_triage.toml", "--simulate", "--output-dir", out),
        env={name: value for name, value in environment().items() if name != "TEST_KEY"},
    )
    assert code == 0, stderr
    assert not out.exists()
    found = pl.read_parquet(tmp_path / "triage.simulated" / "results.parquet")
    labels = {"billing", "bug", "how_to", "account", "feature_request", "cancellation"}
    assert set(found["response"]) <= labels
    assert found.height == 343
    csv = pl.read_csv(tmp_path / "triage.simulated" / "results.csv", infer_schema=False)
    assert csv["body"].to_list() == found["body"].to_list()


@pytest.mark.parametrize("job", ["product_copy", "follow_up", "showcase", "word_problems"])
@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_the_other_sample_jobs_work_in_both_formats(
    tmp_path: Path, job: str, wire_format: str
) -> None:
    code, _, stderr = batchrun(
        *("run", ROOT / "jobs" / f"{job}.toml", "--simulate", "--format", wire_format),
        *("--output-dir", tmp_path / job, "--limit", "30"),
        *("--set", "limits.requests_per_minute=60000"),
    )
    assert code == 0, stderr
    found = pl.read_parquet(tmp_path / f"{job}.simulated" / "results.parquet")
    assert set(found["status"]) == {"succeeded"}


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_streamed_and_whole_answers_are_the_same(tmp_path: Path, wire_format: str) -> None:
    found = {}
    for stream in ("true", "false"):
        code, _, stderr = batchrun(
            *("run", ROOT / "jobs" / "showcase.toml", "--simulate", "--format", wire_format),
            *("--output-dir", tmp_path / stream, "--set", f"stream={stream}"),
        )
        assert code == 0, stderr
        found[stream] = pl.read_parquet(tmp_path / f"{stream}.simulated" / "results.parquet")
    same = ["custom_id", "response", "reasoning", "tool_calls", "stop_reason", "input_tokens"]
    same += ["output_tokens", "reasoning_tokens", "cost_usd"]
    assert found["true"].select(same).equals(found["false"].select(same))
    assert found["true"]["reasoning"].null_count() == 0


def test_export_writes_the_outputs_again(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job)[0] == 0
    before = results()
    (tmp_path / "out" / "results.parquet").unlink()
    code, stdout, _ = batchrun("export", tmp_path / "out")
    assert code == 0
    assert str(tmp_path / "out" / "results.parquet") in stdout
    assert results().equals(before)
    assert batchrun("export", tmp_path / "out", "--to", tmp_path / "other.jsonl")[0] == 0
    lines = (tmp_path / "other.jsonl").read_text().splitlines()
    assert json.loads(lines[19])["custom_id"] == "r00019"
    assert len(provider.calls) == 20


def test_new_starts_over_and_keeps_the_old_run(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job)[0] == 0
        assert batchrun("run", job, "--new")[0] == 0
        assert len(provider.calls) == 40
    assert (tmp_path / "out.1" / "checkpoint.db").exists()
    assert (tmp_path / "out" / "results.parquet").exists()


def test_preview_prints_the_requests_with_the_key_masked(write_job: WriteJob) -> None:
    job = write_job("https://api.example.com/v1", request='system = "Be kind."')
    code, stdout, stderr = batchrun("preview", job, "-n", "2")
    assert (code, stderr) == (0, "")
    first, second = map(json.loads, stdout.splitlines())
    assert first == {
        "custom_id": "r00000",
        "method": "POST",
        "url": "https://api.example.com/v1/messages",
        "headers": {
            "content-type": "application/json",
            "accept": "application/json",
            "anthropic-version": "2023-06-01",
            "x-api-key": "***",
        },
        "body": {
            "model": "claude-haiku-4-5-20251001",
            "max_tokens": 50,
            "system": "Be kind.",
            "messages": [{"role": "user", "content": "Say text 0"}],
        },
    }
    assert second["custom_id"] == "r00001"
    assert KEY not in stdout


def test_the_key_is_in_no_file(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda call: refusal(400, "invalid", f"key {call.headers['x-api-key']}")) as p:
        code, stdout, stderr = batchrun("run", write_job(p.url))
    assert code == 4
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert everything
    assert not any(KEY.encode() in content for content in everything)
    assert KEY not in stdout + stderr


def test_more_connections_than_open_files_allowed(write_job: WriteJob, results: Results) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=400, extra="[limits]\nconcurrency = 300")
        arguments = f"{sys.executable} -m batchrun run {job}"
        low = ["sh", "-c", f"ulimit -S -n 64; exec {arguments}"]
        raised = subprocess.run(
            low, env=environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        assert raised.returncode == 0, raised.stderr
        assert set(results()["status"]) == {"succeeded"}
        low[2] = f"ulimit -n 64; exec {arguments} --new"
        refused = subprocess.run(
            low, env=environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
    assert refused.returncode == 2
    assert "ulimit" in refused.stderr
    assert len(provider.calls) == 400


def test_status_says_what_a_live_run_is_waiting_for(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda call: answer(call, delay_s=0.01)) as provider:
        extra = "[limits]\nrequests_per_minute = 60"
        job = write_job(provider.url, rows=5_000, extra=extra)
        process = start_batchrun("run", job, "--quiet")

        # Between two waits there are moments in which it waits for nothing.
        def waiting() -> str | None:
            code, stdout, _ = batchrun("status", tmp_path / "out", "--json")
            return json.loads(stdout)["waiting"] if code == 0 else None

        def says_so() -> object:
            stdout = batchrun("status", tmp_path / "out")[1]
            return re.search(r"waiting +for request rate", stdout)

        wait_until(lambda: waiting() == "request rate", process)
        wait_until(says_so, process)
        process.send_signal(2)
        finish(process)
    assert json.loads(batchrun("status", tmp_path / "out", "--json")[1])["waiting"] is None


def test_prices_of_the_job_file_are_what_the_run_costs(
    write_job: WriteJob, results: Results
) -> None:
    prices = ("--set", "price.input=2.0", "--set", "price.output=10.0")
    with serving() as provider:
        code, _, stderr = batchrun("run", write_job(provider.url), *prices)
    assert code == 0, stderr
    assert results()["cost_usd"].to_list() == [92e-6] * 20
