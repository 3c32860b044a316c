"""How answers ended: kept, counted, shown, rejected on request, and judged again without sending."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun as library
from tests.conftest import DEADLINE_S, command, environment
from tests.support.checkpoints import seal_all
from tests.support.provider import Call, Provider, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
JSON_SCHEMA = (
    'json_schema = { type = "object", required = ["label"], '
    'properties = { label = { type = "string" } } }'
)


def chat(call: Call, *choices: dict[str, Any], **more: Any) -> Reply:
    """An answer in the chat format with these choices."""
    listed = [{"index": n, **choice} for n, choice in enumerate(choices)]
    body = {"id": f"c{call.number}", "object": "chat.completion", "model": call.json["model"]}
    return Reply(body=json.dumps({**body, "choices": listed, "usage": USAGE, **more}).encode())


def choice(text: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {"message": said, "finish_reason": reason}


# By the number of the row, repeated.
KINDS = (
    choice("whole"),
    choice("the first half", "length"),
    choice(None, "stop", refusal="I can't help with that."),
    choice("", "content_filter"),
    choice(" \n"),
)
ENDINGS = ["stop", "length", "refusal", "filtered", "stop"]


def number(call: Call) -> int:
    return int(call.prompt.rsplit(" ", 1)[1])


def varied(call: Call) -> Reply:
    return chat(call, KINDS[number(call) % len(KINDS)])


def summary(job: Path, folder: str = "out") -> dict[str, Any]:
    return json.loads((job.parent / folder / "summary.json").read_text())  # type: ignore[no-any-return]


def run(job: Path, *words: str | Path, code: int = 0) -> str:
    found, _, stderr = command("run", job, *words)
    assert found == code, stderr
    return stderr


# Kept and counted


def test_a_run_with_cut_and_refused_answers_succeeds_and_says_so(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(varied) as provider:
        job = write_job(provider.url, wire_format="chat", rows=20)
        stderr = run(job)
    found = results()
    assert found["ending"].to_list() == ENDINGS * 4
    assert set(found["status"]) == {"succeeded"}
    assert found["refusal"].to_list()[:5] == [None, None, "I can't help with that.", None, None]
    assert found["response"].to_list()[:5] == ["whole", "the first half", "", "", " \n"]
    assert summary(job)["endings"] == {"stop": 8, "filtered": 4, "length": 4, "refusal": 4}
    assert "20 of 20 rows succeeded, 12 unusual endings" in stderr
    shown = stderr.split("  endings\n")[1].split("\n\n")[0]
    assert re.search(r"^ +4  length: cut at max_tokens", shown, re.MULTILINE)
    assert "→ raise [request] max_tokens" in shown
    assert re.search(r"^ +4  refusal: ", shown, re.MULTILINE)
    assert re.search(r"^ +4  filtered: ", shown, re.MULTILINE)
    assert all(len(line) <= 80 for line in shown.splitlines())
    code, stdout, _ = command("status", job.parent / "out")
    assert code == 0
    assert "4  length: cut at max_tokens" in stdout
    code, stdout, _ = command("status", job.parent / "out", "--json")
    assert json.loads(stdout)["endings"] == summary(job)["endings"]


def test_ordinary_endings_are_not_pointed_out(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3)
        stderr = run(job)
    assert summary(job)["endings"] == {"stop": 3}
    assert "unusual" not in stderr
    assert "  endings" not in stderr


def test_endings_stand_beside_the_accuracy(write_job: WriteJob) -> None:
    with serving(varied) as provider:
        # The last row has nothing to be compared with, and so no score.
        expected = "{% if text != 'text 11' %}whole{% endif %}"
        extra = f'[score]\nexpected = "{expected}"\nmatch = "exact"'
        job = write_job(provider.url, wire_format="chat", rows=12, extra=extra)
        stderr = run(job)
    told = stderr.split("  score ")[1]
    assert "accuracy 27.3 %" in told
    assert "among the scored answers: 2 filtered, 2 length, 2 refusal" in told
    facts = summary(job)["score"]
    assert facts["endings"] == {"stop": 5, "filtered": 2, "length": 2, "refusal": 2}
    assert summary(job)["endings"]["length"] == 3
    code, stdout, _ = command("score", job.parent / "out")
    assert code == 0
    assert "among the scored answers: 2 filtered, 2 length, 2 refusal" in stdout


def test_everything_that_an_answer_brings_has_a_column(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    probabilities = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97]}], "refusal": None}
    cited = [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]

    def decide(call: Call) -> Reply:
        assert call.json["logprobs"] is True
        assert call.json["top_logprobs"] == 3
        first = {**choice("a", annotations=cited), "logprobs": probabilities}
        second = choice("b", "length", reasoning_content="hm")
        return chat(call, first, second, extra_word="é")

    request = "n = 2\nlogprobs = true\ntop_logprobs = 3\nkeep_raw = true"
    with serving(decide) as provider:
        job = write_job(provider.url, wire_format="chat", rows=2, request=request)
        run(job)
    row = results().row(0, named=True)
    assert json.loads(row["logprobs"]) == probabilities
    assert json.loads(row["citations"]) == cited
    raw = json.loads(row["raw"])
    assert raw["extra_word"] == "é"
    assert [one["message"]["content"] for one in raw["choices"]] == ["a", "b"]
    choices = json.loads(row["choices"])
    assert [one["ending"] for one in choices] == ["stop", "length"]
    assert choices[1]["reasoning"] == "hm"
    assert summary(job)["endings"] == {"length": 2, "stop": 2}
    assert command("verify", job.parent / "out")[0] == 0
    files = 'output.files=["a.jsonl","a.csv"]'
    run(job, "--set", files)
    lines = (job.parent / "out" / "a.jsonl").read_text().splitlines()
    assert json.loads(json.loads(lines[0])["raw"]) == raw
    assert command("verify", job.parent / "out")[0] == 0


def test_the_blocks_of_the_providers_tools_and_the_stop_sequence_are_kept(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}

    def decide(call: Call) -> Reply:
        body = json.loads(answer(call, "found").body)
        body["content"].insert(0, search)
        body |= {"stop_reason": "stop_sequence", "stop_sequence": "END"}
        return Reply(body=json.dumps(body).encode())

    with serving(decide) as provider:
        job = write_job(provider.url, rows=1)
        run(job)
    row = results().row(0, named=True)
    assert row["stop_sequence"] == "END"
    assert row["ending"] == "stop"
    assert json.loads(row["server_tools"]) == [search]
    assert row["response"] == "found"


def test_columns_that_nobody_asked_for_are_not_there(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, wire_format="chat", rows=2)
        run(job)
        assert not {"raw", "logprobs"} & set(results().columns)
        # What was answered before has no body to show; nothing is sent for a column.
        run(job, "--set", "keep_raw=true")
        assert len(provider.calls) == 2
        assert results()["raw"].to_list() == [None, None]
        run(job, "--set", "keep_raw=true", "--new")
        assert results()["raw"].null_count() == 0
        assert json.loads(results()["raw"][0])["id"] == "chatcmpl-3"
        run(job, "--new", "--set", "extra_body={logprobs=true}")
    assert "logprobs" in results().columns


def test_bodies_are_kept_compressed(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, "word " * 20_000)) as provider:
        job = write_job(provider.url, rows=1, request="keep_raw = true")
        run(job)
    with closing(sqlite3.connect(job.parent / "out" / "checkpoint.db")) as db:
        kept = db.execute("SELECT typeof(text), length(text) FROM pieces").fetchall()
    assert {kind for kind, _ in kept} == {"blob"}
    assert sum(length for _, length in kept) < 5_000


def test_answers_from_before_bodies_were_kept_are_pointed_out(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3)
        assert "without it" not in run(job)
        with (job.parent / "rows.csv").open("a") as table:
            table.write("new,row\n")
        said = run(job, "--set", "keep_raw=true")
        assert "[request] keep_raw: 3 earlier answers were received without it" in said
        assert "without it" not in run(job, "--set", "keep_raw=true")
    assert results()["raw"].is_null().to_list() == [True, True, True, False]


def test_a_damaged_body_is_told_as_damage(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=1, request="keep_raw = true")
        run(job)
    with closing(sqlite3.connect(job.parent / "out" / "checkpoint.db")) as db, db:
        db.execute("UPDATE results SET raw = x'00'")
        seal_all(db)
    code, _, stderr = command("export", job.parent / "out")
    assert code == 5
    assert "checkpoint.db: is damaged" in stderr


def test_log_probabilities_may_be_asked_for_by_a_column(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        asked = call.json.get("logprobs")
        return chat(call, {**choice("a"), "logprobs": {"content": [{}]} if asked else None})

    with serving(decide) as provider:
        # The name is taken by the input, so ours needs another.
        columns, prefix = 'from_columns = ["logprobs"]', 'prefix = "llm_"'
        job = write_job(provider.url, wire_format="chat", request=columns, extra=prefix)
        rows = ["id,text,logprobs", "a,one,true", "b,two,", "c,three,false", "d,four,maybe"]
        (job.parent / "rows.csv").write_text("\n".join(rows))
        run(job, code=3)
        asked = {call.prompt: call.json.get("logprobs") for call in provider.calls}
        assert asked == {"Say one": True, "Say two": None, "Say three": False}
    found = results()
    assert found["llm_logprobs"].to_list() == ['{"content":[{}]}', None, None, None]
    assert "must be true or false, not 'maybe'" in found["error_message"][3]


@pytest.mark.parametrize("key", ["logprobs = true", "logprobs = true\ntop_logprobs = 2"])
def test_the_messages_format_has_no_log_probabilities(write_job: WriteJob, key: str) -> None:
    code, _, stderr = command("run", write_job("http://127.0.0.1:1", request=key))
    assert code == 2
    assert '[request] logprobs: the messages format has no logprobs; use format = "chat"' in stderr


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("top_logprobs = 2", "top_logprobs: needs logprobs = true"),
        ("logprobs = true\ntop_logprobs = 21", "top_logprobs: must be between 0 and 20"),
        ('logprobs = "yes"', "logprobs: must be true, false or a template"),
        ("keep_raw = 1", "keep_raw: must be"),
        (
            'reject = ["lenght"]',
            'reject: must be a list of "length", "refusal", "filtered", "empty", not \'lenght\'',
        ),
        ("reject = [1]", "reject: must be"),
    ],
)
def test_wrong_values_name_what_is_allowed(write_job: WriteJob, key: str, message: str) -> None:
    job = write_job("http://127.0.0.1:1", wire_format="chat", request=key)
    code, _, stderr = command("run", job)
    assert code == 2
    assert f"[request] {message}" in stderr


@pytest.mark.parametrize("stream", ["true", "false"])
def test_the_simulator_has_log_probabilities_too(write_job: WriteJob, stream: str) -> None:
    request = f"logprobs = true\ntop_logprobs = 2\nkeep_raw = true\nstream = {stream}"
    job = write_job("http://127.0.0.1:1", wire_format="chat", rows=3, request=request)
    run(job, "--simulate")
    found = pl.read_parquet(job.parent / "out.simulated" / "results.parquet")
    for row in found.iter_rows(named=True):
        tokens = json.loads(row["logprobs"])["content"]
        assert "".join(token["token"] for token in tokens) == row["response"]
        assert all(token["logprob"] <= 0 for token in tokens)
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)
        said = json.loads(row["raw"])["choices"][0]["message"]["content"]
        assert said == row["response"]


# Rejected


def rejecting(provider: Provider, write_job: WriteJob, reject: str, **more: Any) -> Path:
    job = write_job(
        provider.url, wire_format="chat", request=f"reject = {reject}", **{"rows": 10, **more}
    )
    # Half of the rows may well be rejected here.
    job.write_text(job.read_text() + "\n[limits]\nmax_errors = 1000\n")
    return job


def test_rejected_answers_are_errored_rows_that_keep_what_was_paid_for(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(varied) as provider:
        job = rejecting(provider, write_job, '["length", "refusal", "filtered", "empty"]')
        run(job, code=3)
        assert len(provider.calls) == 10, "a rejected answer is not asked for again"
        run(job, code=3)
        assert len(provider.calls) == 10
        found = results()
        run(job, "--retry-errored", code=4)  # of what it sent, nothing was accepted
        assert len(provider.calls) == 18
    types = [None, "rejected_length", "rejected_refusal", "rejected_filtered", "rejected_empty"]
    assert found["error_type"].to_list() == types * 2
    assert found["status"].to_list() == ["succeeded", *["errored"] * 4] * 2
    assert found["response"][1] == "the first half"
    assert "I can't help with that." in found["error_message"][2]
    assert found["output_tokens"].to_list() == [7] * 10
    assert found["cost_usd"].null_count() == 0
    assert found["http_status"].to_list() == [200] * 10
    assert found["ending"].to_list() == ENDINGS * 2
    facts = summary(job)
    assert facts["endings"] == {"stop": 4, "filtered": 2, "length": 2, "refusal": 2}
    assert "max_tokens" in facts["errors"]["rejected_length"]["hint"]
    # They are answers all the same: of the model, and in its latency.
    assert facts["models"][0]["answers"] == 18
    assert command("verify", job.parent / "out")[0] == 0


@pytest.mark.parametrize("content", [None, []])
def test_an_answer_without_content_is_an_empty_one(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], content: list[Any] | None
) -> None:
    def decide(call: Call) -> Reply:
        return Reply(
            body=json.dumps({**json.loads(answer(call).body), "content": content}).encode()
        )

    with serving(decide) as provider:
        job = write_job(provider.url, rows=2)
        run(job)
        assert results()["response"].to_list() == ["", ""]
        run(job, "--set", 'reject=["empty"]', code=3)
        assert len(provider.calls) == 2, "it is neither a failed attempt nor asked for again"
    assert results()["error_type"].to_list() == ["rejected_empty"] * 2
    assert results()["output_tokens"].to_list() == [7, 7]


def test_a_changed_reject_judges_stored_answers_again_and_sends_nothing(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(varied) as provider:
        job = rejecting(provider, write_job, "[]")
        run(job)
        stderr = run(job, "--set", 'reject=["length", "empty"]', code=3)
        assert "6 stored answers are now rejected, 0 are accepted again" in stderr
        types = [None, "rejected_length", None, "rejected_empty", "rejected_empty"] * 2
        assert results()["error_type"].to_list() == types
        assert results()["response"].to_list() == ["whole", "the first half", "", "", " \n"] * 2
        assert command("verify", job.parent / "out")[0] == 0
        stderr = run(job, "--set", 'reject=["refusal", "empty"]', code=3)
        assert "2 stored answers are now rejected, 2 are accepted again" in stderr
        types = [None, None, "rejected_refusal", "rejected_empty", "rejected_empty"] * 2
        assert results()["error_type"].to_list() == types
        stderr = run(job)
        assert "0 stored answers are now rejected, 6 are accepted again" in stderr
        assert set(results()["status"]) == {"succeeded"}
        assert results()["error_message"].null_count() == 10
        assert len(provider.calls) == 10
        assert command("verify", job.parent / "out")[0] == 0
        assert "reject has changed" not in run(job)


def test_what_is_rejected_is_not_part_of_what_is_asked(write_job: WriteJob) -> None:
    with serving(varied) as provider:
        job = rejecting(provider, write_job, "[]", rows=5)
        run(job)
        for setting in ('reject=["length"]', "keep_raw=true"):
            stderr = command("run", job, "--set", setting)[2]
            assert "no longer used" not in stderr
            assert "has changed: " not in stderr.replace("reject has changed", "")
        assert len(provider.calls) == 5


def test_a_tool_call_is_not_an_empty_answer(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    call_f = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    def decide(call: Call) -> Reply:
        return chat(call, choice(None, "tool_calls", tool_calls=[call_f]))

    with serving(decide) as provider:
        job = rejecting(provider, write_job, '["empty"]', rows=2)
        run(job)
    assert set(results()["ending"]) == {"tool_calls"}
    assert summary(job)["endings"] == {"tool_calls": 2}


def test_the_pieces_of_a_paused_turn_are_judged_together(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        body = json.loads(answer(call, "found it").body)
        goes_on = call.json["messages"][-1]["role"] == "assistant"
        body |= (
            {"content": [], "stop_reason": "end_turn"} if goes_on else {"stop_reason": "pause_turn"}
        )
        return Reply(body=json.dumps(body).encode())

    with serving(decide) as provider:
        job = write_job(provider.url, rows=2, request='reject = ["empty"]')
        run(job)
        assert results()["response"].to_list() == ["found it"] * 2
        run(job, "--set", 'reject=["empty", "length"]')
        assert len(provider.calls) == 4
    assert set(results()["ending"]) == {"stop"}


def test_of_several_choices_one_is_enough_to_reject(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        return chat(call, choice("a"), choice("b", "length" if number(call) else "stop"))

    with serving(decide) as provider:
        job = rejecting(provider, write_job, '["length"]\nn = 2', rows=2)
        run(job, code=3)
        assert results()["error_type"].to_list() == [None, "rejected_length"]
        assert results()["responses"].to_list() == [["a", "b"]] * 2
        run(job, "--set", "reject=[]")
        assert set(results()["status"]) == {"succeeded"}
        run(job, code=3)
        assert results()["error_type"].to_list() == [None, "rejected_length"]
        assert len(provider.calls) == 2


def test_samples_and_shared_answers(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        is_cut = call.seen == 1 and number(call) == 0
        return chat(call, choice("half", "length") if is_cut else choice("whole"))

    with serving(decide) as provider:
        job = rejecting(provider, write_job, "[]", rows=2)
        run(job, "--set", "samples=3")
        assert summary(job)["endings"] == {"stop": 5, "length": 1}
        run(job, "--set", "samples=3", "--set", 'reject=["length"]', code=3)
        assert results()["error_type"].to_list() == ["rejected_length", None]
        assert sorted(results()["responses"][0]) == ["half", "whole", "whole"]
        out = ("--output-dir", job.parent / "shared")
        run(job, *out, "--set", "dedupe=true", "--set", "prompt={% if id %}Same 7{% endif %}")
    assert summary(job, "shared")["endings"] == {"stop": 2}
    found = pl.read_parquet(job.parent / "shared" / "results.parquet")
    assert found["ending"].to_list() == ["stop", "stop"]


def test_cells_of_a_matrix_and_their_comparison(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        return chat(call, choice("x", "length" if call.json["model"] == "b" else "stop"))

    with serving(decide) as provider:
        job = write_job(provider.url, wire_format="chat", rows=3)
        run(job, "--model", "a", "--model", "b")
    out = job.parent / "out"
    assert json.loads((out / "model=b" / "summary.json").read_text())["endings"] == {"length": 3}
    _, stdout, _ = command("compare", out)
    assert "model=b: 3 ended with length of 3 answers" in stdout
    _, stdout, _ = command("compare", out, "--json")
    assert [one["endings"] for one in json.loads(stdout)["runs"]] == [{"stop": 3}, {"length": 3}]


def test_the_python_api_has_the_columns(tmp_path: Path) -> None:
    with serving(varied) as provider:
        frame = library.complete(
            pl.DataFrame({"text": [f"text {n}" for n in range(5)]}),
            prompt="Say {{ text }}",
            model="m",
            directory=tmp_path / "run",
            format="chat",
            base_url=provider.url,
            api_key_env="TEST_KEY",
            keep_raw=True,
            reject=["refusal"],
            quiet=True,
        )
    assert frame["ending"].to_list() == ENDINGS
    assert frame["error_type"].to_list() == [None, None, "rejected_refusal", None, None]
    assert frame["raw"].null_count() == 0


# With a JSON schema


@pytest.mark.parametrize(
    ("ending", "error_type", "calls"),
    [
        (choice(None, refusal="No."), "refused_answer", 1),
        (choice("", "content_filter"), "filtered_answer", 1),
        (choice('{"label": "a', "length"), "cut_answer", 2),
        (choice("no JSON"), "invalid_answer", 4),
    ],
)
def test_what_is_asked_again_depends_on_how_the_answer_ended(
    write_job: WriteJob,
    results: Callable[[], pl.DataFrame],
    ending: dict[str, Any],
    error_type: str,
    calls: int,
) -> None:
    good = choice('{"label": "a"}')
    with serving(lambda call: chat(call, ending if number(call) else good)) as provider:
        extra = "[retry]\nmax_attempts = 4"
        # What `reject` says comes second: it judges what satisfies the schema.
        request = f'{JSON_SCHEMA}\nreject = ["length", "refusal", "filtered", "empty"]'
        job = write_job(provider.url, wire_format="chat", rows=2, request=request, extra=extra)
        run(job, code=3)
        assert len(provider.calls) == 1 + calls
        run(job, "--set", "reject=[]", code=3)
        assert len(provider.calls) == 1 + calls
    row = results().row(1, named=True)
    assert row["error_type"] == error_type
    assert row["attempts"] == calls
    assert row["output_tokens"] == 7 * calls
    assert summary(job)["errors"][error_type]["hint"]


def test_a_cut_answer_that_comes_whole_the_second_time_is_taken(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        return chat(call, choice('{"label": "a"}') if call.seen else choice('{"la', "length"))

    with serving(decide) as provider:
        job = write_job(provider.url, wire_format="chat", rows=2, request=JSON_SCHEMA)
        run(job)
    assert results()["attempts"].to_list() == [2, 2]
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert sorted(filter(None, usage["error_type"])) == ["cut_answer", "cut_answer"]


def test_unnested_columns_are_of_accepted_answers_only(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    # JSON with the property that is wanted, and yet not what the schema asks for.
    answers = [
        choice('{"label": "good"}'),
        choice('{"label": "bad", "share": "much"}'),
        choice('{"label": "cut"}', "length"),
    ]
    schema = (
        'json_schema = { type = "object", required = ["label"], properties = '
        '{ label = { type = "string" }, share = { type = "number" } } }'
    )
    with serving(lambda call: chat(call, answers[number(call)])) as provider:
        job = write_job(
            provider.url,
            wire_format="chat",
            rows=3,
            request=f'{schema}\nreject = ["length"]',
            extra="unnest = true\n[retry]\nmax_attempts = 1",
        )
        run(job, code=3)
    found = results()
    assert found["error_type"].to_list() == [None, "invalid_answer", "rejected_length"]
    assert found["label"].to_list() == ["good", None, None]
    assert found["response"][1] == '{"label": "bad", "share": "much"}'


# As they happen


def on_a_terminal(*words: str | Path, columns: int) -> tuple[int, str]:
    """Run the command with its stderr on a terminal of so many columns; return what it shows."""
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    arguments = [sys.executable, "-m", "batchrun", *map(str, words)]
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=child, env=environment()
    ) as p:
        os.close(child)
        found, deadline = b"", time.monotonic() + DEADLINE_S
        with contextlib.suppress(OSError):  # the terminal has no other end any more
            while time.monotonic() < deadline and (part := os.read(terminal, 65_536)):
                found += part
        os.close(terminal)
        return p.wait(DEADLINE_S), found.decode()


@pytest.mark.parametrize("columns", [80, 120, 60])
def test_the_bar_shows_endings_as_they_happen_on_narrow_terminals_too(
    write_job: WriteJob, columns: int
) -> None:
    def decide(call: Call) -> Reply:
        return replace(varied(call), delay_s=0.05)

    with serving(decide) as provider:
        extra = "[limits]\nconcurrency = 2"
        job = write_job(provider.url, wire_format="chat", rows=60, extra=extra)
        named = job.rename(job.with_name("ticket_triage.toml"))
        code, shown = on_a_terminal("run", named, columns=columns)
    assert code == 0
    bars = [line for line in re.split(r"[\r\n]+|\x1b\[A", shown) if "%|" in line]
    early = [bar for bar in bars if "60/60" not in bar and "length" in bar]
    assert early, shown
    assert all(len(bar) <= columns for bar in bars)
    assert bars[-1].startswith("ticket_triage 100%|")
    assert "60/60" in bars[-1]
    for ending in ("12 length", "12 refusal", "12 filtered") if columns > 60 else ("12 length",):
        assert ending in bars[-1]
