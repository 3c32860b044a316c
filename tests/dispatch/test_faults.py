"""Whose fault an error is, through the command: one row's, or that of key, model, credit or request."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

import batchrun as library
from tests.conftest import batchrun, command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]

FLAGGED = {"error": {"code": 403, "message": 'Your input was flagged for "violence"'}}
NO_MODEL = {"error": {"code": "model_not_found", "message": "The model does not exist"}}
CREDIT = "Your credit balance is too low to access the Anthropic API."
LIMIT = "[limits]\nconcurrency = {}\n"


def error(status: int, body: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(body).encode())


def row_of(call: Call) -> int:
    return int(call.prompt.removeprefix("Say text "))


def counts(results: Results) -> dict[str, int]:
    return dict(results()["status"].value_counts().rows())


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "summary.json").read_text())  # type: ignore[no-any-return]


def refusing(rows: set[int], reply: Reply, *, delay_s: float = 0.0) -> Callable[[Call], Reply]:
    """Refuse some rows at once; answer the others after a while."""
    return lambda call: reply if row_of(call) in rows else answer(call, delay_s=delay_s)


# One row


@pytest.mark.parametrize("concurrency", [1, 64])
@pytest.mark.parametrize("row", [0, 150])
@pytest.mark.parametrize("reply", [error(403, FLAGGED), error(404, NO_MODEL)])
def test_one_refused_row_is_its_own_error(
    write_job: WriteJob, results: Results, reply: Reply, row: int, concurrency: int
) -> None:
    with serving(refusing({row}, reply)) as provider:
        job = write_job(provider.url, rows=300, wire_format="chat", extra=LIMIT.format(concurrency))
        code, _, stderr = command("run", job)
        assert code == 3, stderr
        assert len(provider.calls) == 300
        assert counts(results) == {"succeeded": 299, "errored": 1}
        refused = results().row(row, named=True)
        assert (refused["status"], refused["http_status"]) == ("errored", reply.status)
        assert refused["attempts"] == 1
        # It is not sent again, and by itself it is not the fault of the key either.
        assert command("run", job)[0] == 3
        assert len(provider.calls) == 300


def test_rows_that_are_refused_faster_than_others_are_answered(
    write_job: WriteJob, results: Results
) -> None:
    """Moderation answers at once, a model takes its time: what is in flight decides."""
    with serving(refusing(set(range(1, 20)), error(403, FLAGGED), delay_s=0.5)) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=60, wire_format="chat"))
    assert code == 3, stderr
    assert counts(results) == {"succeeded": 41, "errored": 19}


def test_one_wrong_model_among_several(write_job: WriteJob, results: Results) -> None:
    def decide(call: Call) -> Reply:
        return error(404, NO_MODEL) if call.json["model"] == "gpt-0" else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=40, wire_format="chat")
        text = job.read_text().replace(
            'model = "claude-haiku-4-5-20251001"',
            """model = "gpt-{{ '0' if text[-1] == '0' else '1' }}\"""",
        )
        job.write_text(text)
        code, _, stderr = command("run", job)
    assert code == 3, stderr
    assert counts(results) == {"succeeded": 36, "errored": 4}


# Every row


@pytest.mark.parametrize("concurrency", [1, 16, 200])
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, "authentication_error", "invalid x-api-key"), "TEST_KEY"),
        (refusal(403, "permission_error", "not for you"), "TEST_KEY"),
        (refusal(404, "not_found_error", "model: x"), "claude-haiku-4-5-20251001"),
        (Reply(307, b"", {"location": "https://elsewhere.example"}), "base_url"),
        (Reply(405, b"<html>Method Not Allowed</html>"), "base_url"),
    ],
)
def test_a_wrong_key_model_or_address_stops_the_run(
    write_job: WriteJob, results: Results, reply: Reply, said: str, concurrency: int
) -> None:
    with serving(lambda _: reply) as provider:
        job = write_job(provider.url, rows=500, extra=LIMIT.format(concurrency))
        code, _, stderr = command("run", job, "--quiet")
        assert code == 4, stderr
        assert len(provider.calls) <= 30
        assert counts(results) == {"pending": 500}
        assert f"HTTP {reply.status}" in stderr
        assert said in stderr
        assert stderr.count("stopped") == 1
        # When that has been put right, the same command goes on.
        provider.decide = answer
        assert command("run", job)[0] == 0
    assert counts(results) == {"succeeded": 500}
    assert set(provider.billed.values()) == {1}


def test_refusals_for_different_reasons_stop_the_run_too(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        return refusal(403, "permission_error", f"no access for row {row_of(call)}")

    with serving(decide) as provider:
        code, _, _ = command("run", write_job(provider.url, rows=500))
    assert (code, counts(results)) == (4, {"pending": 500})
    assert len(provider.calls) <= 60


def test_a_run_of_few_rows_that_are_all_refused(write_job: WriteJob, results: Results) -> None:
    with serving(lambda _: refusal(403, "permission_error")) as provider:
        job = write_job(provider.url, rows=2)
        assert command("run", job)[0] == 4
        assert counts(results) == {"pending": 2}
        provider.decide = answer
        assert command("run", job)[0] == 0


def test_the_same_rejection_of_every_row_stops_early(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        said = f"temperature: not supported (request id req_{call.number:024d})"
        return refusal(400, "invalid_request_error", said)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=50)
        code, _, stderr = command("run", job, "--quiet")
        assert code == 4, stderr
        assert len(provider.calls) <= 25
        assert "temperature: not supported" in stderr
        assert "batchrun preview" in stderr
        assert counts(results) == {"pending": 50}
        (execution,) = summary(tmp_path)["executions"]
        assert execution["outcome"] == "rejected"
        assert "temperature: not supported" in execution["reason"]
        provider.decide = answer
        assert command("run", job)[0] == 0


HEAD_REPLIES = [
    refusal(400, "invalid_request_error", "prompt is too long"),
    error(403, FLAGGED),
    error(404, NO_MODEL),
]


@pytest.mark.parametrize(
    ("bad", "rows", "concurrency"), [(25, 40, 1), (25, 40, 64), (900, 1_500, 64)]
)
@pytest.mark.parametrize("reply", HEAD_REPLIES)
def test_rows_at_the_head_that_are_all_refused_do_not_stop_the_others(
    write_job: WriteJob,
    results: Results,
    reply: Reply,
    *,
    bad: int,
    rows: int,
    concurrency: int,
) -> None:
    with serving(refusing(set(range(bad)), reply)) as provider:
        extra = f"[limits]\nconcurrency = {concurrency}\nmax_errors = 5000\n"
        job = write_job(provider.url, rows=rows, wire_format="chat", extra=extra)
        code, _, stderr = command("run", job)
        assert code == 3, stderr
        assert "have their result already" not in stderr
        assert counts(results) == {"succeeded": rows - bad, "errored": bad}
        assert len(provider.calls) == rows, "each row is sent once"
        assert command("run", job)[0] == 3
        assert len(provider.calls) == rows


def test_a_model_that_has_few_rows_is_tried_too(write_job: WriteJob, results: Results) -> None:
    def decide(call: Call) -> Reply:
        return answer(call) if call.json["model"] == "good" else error(404, NO_MODEL)

    with serving(decide) as provider:
        extra = "[limits]\nmax_errors = 5000\n"
        job = write_job(provider.url, rows=200, wire_format="chat", extra=extra)
        model = "{{ 'good' if (text[5:] | int) % 100 > 94 else 'other' }}"
        job.write_text(
            re.sub('model = ".*"', lambda _: f'model = "{model}"', job.read_text(), count=1)
        )
        assert command("run", job)[0] == 3
    assert counts(results) == {"succeeded": 10, "errored": 190}


def test_a_model_that_is_refused_is_not_tried_for_each_of_its_rows(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        is_good = call.json["model"] == "good"
        return answer(call, delay_s=0.01) if is_good else error(404, NO_MODEL)

    with serving(decide) as provider:
        extra = "[limits]\nmax_errors = 5000\nconcurrency = 16\n"
        job = write_job(provider.url, rows=400, wire_format="chat", extra=extra)
        model = "{{ 'good' if (text[5:] | int) % 2 else 'bad' }}"
        job.write_text(
            re.sub('model = ".*"', lambda _: f'model = "{model}"', job.read_text(), count=1)
        )
        code, _, stderr = command("run", job)
        assert code == 3, stderr
        assert sum(call.json["model"] == "bad" for call in provider.calls) <= 60
    assert counts(results) == {"succeeded": 200, "errored": 200}
    unsent = results().row(398, named=True)
    assert (
        "not sent, because all 20 earlier requests for bad were refused" in unsent["error_message"]
    )
    assert unsent["error_type"] == "model_not_found"


@pytest.mark.parametrize(("asked", "code"), [("1e9", 0), ("3600", 3)])
def test_a_wait_that_nobody_means_is_not_obeyed(
    write_job: WriteJob, results: Results, asked: str, code: int
) -> None:
    refused: set[int] = set()

    def decide(call: Call) -> Reply:
        row = row_of(call)
        if row % 10 or row in refused:
            return answer(call, delay_s=0.05)
        refused.add(row)
        return Reply(429, b"", {"retry-after": asked})

    with serving(decide) as provider:
        job = write_job(provider.url, rows=30, extra="[retry]\nmax_wait_s = 60")
        assert command("run", job)[0] == code
    for row in results().filter(results()["status"] == "errored").iter_rows(named=True):
        assert "the provider asked to wait 3600 s, longer than" in row["error_message"]


@pytest.mark.parametrize("more", ["samples = 3", "dedupe = true"])
def test_rows_that_were_tried_out_of_turn_are_counted_once(
    write_job: WriteJob, results: Results, more: str
) -> None:
    with serving(refusing(set(range(100)), HEAD_REPLIES[0])) as provider:
        extra = "[limits]\nmax_errors = 5000\nconcurrency = 8\n"
        job = write_job(provider.url, rows=700, request=more, extra=extra)
        # The last rows ask what some before them ask.
        job.write_text(job.read_text().replace("{{ text }}", "text {{ (text[5:] | int) % 600 }}"))
        code, _, stderr = command("run", job)
        assert code == 3, stderr
        asked = 600 if "dedupe" in more else 700 * 3
        assert len(provider.calls) == asked
        assert command("run", job)[0] == 3
        assert len(provider.calls) == asked
    assert command("verify", job.parent / "out")[0] == 0


def test_rejections_that_differ_by_row_are_errors_of_the_rows(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        if row_of(call) < 70:
            return refusal(400, "invalid_request_error", f"row {row_of(call)} has no meaning")
        return answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=150)
        assert command("run", job)[0] == 3
    assert counts(results) == {"succeeded": 80, "errored": 70}


@pytest.mark.parametrize("reply", [error(403, FLAGGED), error(404, NO_MODEL)])
def test_rows_stay_pending_that_are_all_refused_in_a_later_execution(
    write_job: WriteJob, results: Results, reply: Reply
) -> None:
    """A model may have been retired, or a permission withdrawn, since it answered."""
    with serving() as provider:
        job = write_job(provider.url, rows=5)
        assert command("run", job)[0] == 0
        provider.decide = lambda _: reply
        with (job.parent / "rows.csv").open("a") as table:
            table.writelines(f"r0000{row},text {row}\n" for row in range(5, 8))
        code, _, stderr = command("run", job)
        assert code == 4
        assert "other rows were answered" not in stderr
        assert counts(results) == {"succeeded": 5, "pending": 3}
        provider.decide = answer
        assert command("run", job)[0] == 0
    assert counts(results) == {"succeeded": 8}


# Credit


@pytest.mark.parametrize(
    ("wire_format", "gone"),
    [
        ("messages", refusal(400, "invalid_request_error", CREDIT)),
        ("chat", Reply(402, b"")),
        ("chat", error(200, {"error": {"message": "Insufficient credits", "code": "402"}})),
    ],
)
def test_credit_that_runs_out_loses_nothing(
    write_job: WriteJob, results: Results, wire_format: str, gone: Reply
) -> None:
    after: list[int] = []

    def decide(call: Call) -> Reply:
        if call.number < 400:
            return answer(call, delay_s=0.005)
        after.append(call.number)
        return gone

    with serving(decide) as provider:
        job = write_job(provider.url, rows=2_000, wire_format=wire_format, extra=LIMIT.format(16))
        code, _, stderr = batchrun("run", job)
        assert code == 4, stderr
        assert "credit, quota or spend limit is used up" in stderr
        assert len(after) <= 16 + 5
        # At most what was in flight.
        first = counts(results)
        assert set(first) == {"succeeded", "pending"}
        assert first["succeeded"] == 399
        answered = {call.body for call in provider.calls[:399]}
        provider.decide = answer
        assert batchrun("run", job)[0] == 0
    assert counts(results) == {"succeeded": 2_000}
    again = [call.body for call in provider.calls[399 + len(after) :]]
    assert len(again) == len(set(again)) == 2_000 - 399
    assert not answered & set(again), "what was answered is not sent again"


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize(
    "reply",
    [
        error(403, {"error": {"code": 403, "message": "Flagged: insufficient credits, they said"}}),
        refusal(400, "invalid_request_error", "Rejected: their credit balance is too low, it says"),
    ],
)
def test_one_row_that_speaks_of_credit_does_not_stop_the_others(
    write_job: WriteJob, results: Results, reply: Reply, concurrency: int
) -> None:
    with serving(refusing({0, 50, 51}, reply, delay_s=0.01)) as provider:
        extra = LIMIT.format(concurrency)
        job = write_job(provider.url, rows=100, wire_format="chat", extra=extra)
        code, _, stderr = command("run", job)
        assert code == 3, stderr
        assert counts(results) == {"succeeded": 97, "errored": 3}
        assert results().row(50, named=True)["http_status"] == reply.status
        assert command("run", job)[0] == 3
    assert len(provider.calls) == 100


def test_credit_that_is_gone_from_the_start_stops_the_run(
    write_job: WriteJob, results: Results
) -> None:
    with serving(lambda _: refusal(400, "invalid_request_error", CREDIT)) as provider:
        job = write_job(provider.url, rows=200, extra=LIMIT.format(32))
        code, _, stderr = command("run", job)
        assert code == 4
        assert "credit, quota or spend limit is used up" in stderr
        assert len(provider.calls) <= 32 + 5
        provider.decide = answer
        assert command("run", job)[0] == 0
    assert counts(results) == {"succeeded": 200}


# Nothing succeeded


def test_nothing_that_was_sent_succeeded(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda _: refusal(400, "invalid_request_error", "too short")) as provider:
        job = write_job(provider.url, rows=3)
        code, _, stderr = command("run", job, "--quiet")
        assert (code, stderr.strip()) == (
            4,
            "error: no request succeeded; the last error: invalid_request_error: too short",
        )
        (execution,) = summary(tmp_path)["executions"]
        assert execution["outcome"] == "nothing_succeeded"
        # Nothing was sent this time: there are errored rows, and that is all.
        assert command("run", job)[0] == 3
        assert len(provider.calls) == 3


def test_a_dead_server_is_named_under_quiet(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9", rows=3, extra="[retry]\nmax_wait_s = 1")
    code, _, stderr = command("run", job, "--quiet")
    assert code == 4
    assert "connection refused (127.0.0.1:9)" in stderr


def test_rows_that_failed_are_named_under_quiet(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        is_bad = row_of(call) < 3
        return refusal(400, "invalid_request_error", "too long\x1b[2J") if is_bad else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=10)
        code, out, stderr = command("run", job, "--quiet")
        assert (code, out) == (3, "")
        assert stderr.splitlines() == [
            "error: 3 of 10 rows failed; the error: invalid_request_error: too long�[2J"
        ]
        # Nothing is sent, and the rows are still without an answer.
        assert command("run", job, "--quiet") == (code, out, stderr)
        job.write_text(job.read_text().replace("[input]", "[matrix]\nseed = [1, 2]\n[input]"))


def test_rows_that_cannot_be_rendered_are_named_under_quiet(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=3)
        job.write_text(job.read_text().replace("{{ text }}", "{{ 1 // (text[5:] | int) }}"))
        code, _, stderr = command("run", job, "--quiet")
    assert (code, stderr.count("\n")) == (3, 1)
    assert "1 of 3 rows failed; the error: template_error: " in stderr


def test_rows_of_a_matrix_that_failed_are_named_under_quiet(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        is_bad = call.json["model"] == "small" and row_of(call) == 1
        return refusal(400, "invalid_request_error", "too long") if is_bad else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=3)
        code, _, stderr = command("run", job, "--quiet", "--model", "small", "--model", "large")
    assert (code, stderr.splitlines()) == (
        3,
        ["error: 1 of 6 rows failed; the error: invalid_request_error: too long"],
    )


def test_too_many_errors_name_the_last_one(write_job: WriteJob) -> None:
    with serving(lambda _: refusal(422, "invalid_value", "too short")) as provider:
        job = write_job(provider.url, rows=30, extra="[limits]\nmax_errors = 4")
        code, _, stderr = command("run", job, "--quiet")
    assert code == 4
    assert "max_errors = 4" in stderr
    assert "invalid_value: too short" in stderr
    assert stderr.count("stopped") == 1


def test_rows_that_are_pending_are_no_success(write_job: WriteJob) -> None:
    with serving() as provider:
        job = library.load_job(write_job(provider.url, rows=5))
        sampled = library.run_job(job, library.RunOptions(rows=frozenset({0, 3}), quiet=True))
        assert (sampled.totals.succeeded, sampled.totals.pending) == (2, 3)
        assert (sampled.error, sampled.exit_code) == (None, 3)
        assert library.run_job(job, library.RunOptions(quiet=True)).exit_code == 0


# What may be billed


def test_broken_streams_count_in_full_against_the_cap(write_job: WriteJob, tmp_path: Path) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "x", "usage": usage}
    start = json.dumps({"type": "message_start", "message": {**message, "content": []}})
    cut = Reply(200, f"event: message_start\ndata: {start}\n\n".encode())
    with serving(lambda _: cut) as provider:
        job = write_job(
            provider.url,
            rows=1,
            request="stream = true",
            # An answer may cost 50 tokens of output, which is 0.05 USD; the input nothing.
            extra="""[limits]
max_cost_usd = 0.16
[price]
input = 0
output = 1000
[retry]
max_attempts = 10""",
        )
        code, _, stderr = command("run", job)
        assert (code, len(provider.calls)) == (4, 3), stderr
        assert "max_cost_usd = 0.16 is reached" in stderr
        # Neither does the next execution spend what may be gone.
        assert command("run", job)[0] == 4
        assert len(provider.calls) == 3
    assert summary(tmp_path)["possibly_double_billed"] == 3


@pytest.mark.parametrize("status", [408, 504, 522, 524])
def test_what_a_proxy_gave_up_on_counts_as_possibly_billed(
    write_job: WriteJob, tmp_path: Path, status: int
) -> None:
    def decide(call: Call) -> Reply:
        return answer(call) if call.seen or row_of(call) else refusal(status, "timeout_error")

    with serving(decide) as provider:
        assert command("run", write_job(provider.url, rows=5))[0] == 0
    assert summary(tmp_path)["possibly_double_billed"] == 1
