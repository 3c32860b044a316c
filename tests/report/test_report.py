"""The summary, for people and for programs, from totals made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from batchrun.errors import RunEnd, printable
from batchrun.pricing.totals import ExecutionTotals, ModelTotals, PriceUse, RunTotals
from batchrun.records import Cost, Usage
from batchrun.report import status_text, summary, summary_json, summary_text

START_US = 1_767_355_200_000_000
TOTALS = RunTotals(
    name="triage",
    total=12_345,
    succeeded=12_000,
    errored=300,
    pending=45,
    to_retry=20,
    in_flight=3,
    attempts=13_000,
    maybe_billed=2,
    unpriced=0,
    usage=Usage(
        input_tokens=5_000_000,
        output_tokens=700_000,
        cache_read_tokens=1_000_000,
        cache_write_tokens=20_000,
        reasoning_tokens=3_000,
    ),
    cost=Cost(
        uncached_input=4 * 10**12,
        cache_read=10**11,
        cache_write=25 * 10**9,
        output=35 * 10**11,
        cache_saved=9 * 10**11,
    ),
    cost_by_model={"claude-a": 7 * 10**12, "claude-b": 625 * 10**9},
    latency_s={"p50": 1.25, "p90": 2.5, "p99": 10.0},
    retries_by_cause={"transient": 600, "rate_limit": 400},
    waits_s_by_cause={"retry": 12.34567, "request rate": 60.0},
    dropped=(("claude-a", "top_k"),),
    errors_by_type={"invalid_request_error": (280, "too long"), "timeout": (20, "no answer")},
    executions=(
        {
            "execution": 1,
            "started_us": START_US,
            "wall_time_s": 61.23456,
            "outcome": RunEnd.FINISHED,
            "reason": None,
            "version": "0.2.0",
            "waits_s": {"retry": 12.34567},
        },
    ),
    wall_time_s=61.23456,
    last_error="timeout: no answer",
    prices=(
        PriceUse(
            "claude-a",
            "genai-prices 0.2.3",
            START_US,
            "anthropic/claude-a",
            {"input": 1.0, "output": 5.0, "cache_read": 0.1, "web_search": 10.0},
            conditions="flex",
        ),
        PriceUse("claude-b", "genai-prices 0.2.3", START_US),
    ),
    models=(
        ModelTotals("claude-a", 11_000, 4_500_000, 600_000, 7 * 10**12),
        ModelTotals("claude-b", 1_000, 500_000, 100_000, 625 * 10**9),
    ),
    endings={"stop": 11_900, "length": 90, "refusal": 10},
    results=12_300,
    busy_s=61.23456,
    held_rows=12_300,
    held_cost=7_625 * 10**9,
    last_execution=ExecutionTotals(13, 10, 3, 5_000, None, 25 * 10**8),
)
EMPTY = replace(
    TOTALS,
    dropped=(),
    total=0,
    succeeded=0,
    errored=0,
    pending=0,
    to_retry=0,
    in_flight=0,
    attempts=0,
    maybe_billed=0,
    usage=Usage(0, 0, 0, 0, None, 0),
    cost=Cost(0, 0, 0, 0),
    cost_by_model={},
    latency_s={"p50": None, "p90": None, "p99": None},
    retries_by_cause={},
    waits_s_by_cause={},
    errors_by_type={},
    executions=(),
    wall_time_s=0.0,
    last_error=None,
    prices=(),
    models=(),
    endings={},
    results=0,
    busy_s=0.0,
    held_rows=0,
    held_cost=0,
    last_execution=None,
)
DIRECTORY = Path("/runs/triage")


# For programs


def test_the_summary_has_every_number_under_its_key() -> None:
    assert summary(TOTALS) == {
        "schema_version": 1,
        "name": "triage",
        "counts": {"total": 12_345, "succeeded": 12_000, "errored": 300, "pending": 45},
        "all_answers_equal": False,
        "endings": {"stop": 11_900, "length": 90, "refusal": 10},
        "tokens": {
            "input": 5_000_000,
            "output": 700_000,
            "cache_read": 1_000_000,
            "cache_write": 20_000,
            "reasoning": 3_000,
        },
        "cost_usd": {
            "total": 7.625,
            "by_model": {"claude-a": 7.0, "claude-b": 0.625},
            "by_kind": {
                "uncached_input": 4.0,
                "cache_read": 0.1,
                "cache_write": 0.025,
                "output": 3.5,
                "other": 0.0,
            },
            "saved_by_cache": 0.9,
            "saved_by_batches": 0.0,
            "answers_without_price": 0,
            "cap": None,
            "projected_total": 7.652896341463,
        },
        "prices": [
            {
                "model": "claude-a",
                "source": "genai-prices 0.2.3",
                "as_of": "2026-01-02T12:00:00+00:00",
                "matched": "anthropic/claude-a",
                "conditions": "flex",
                "usd_per_million_tokens": {"input": 1.0, "output": 5.0, "cache_read": 0.1},
                "usd_per_thousand": {"web_search": 10.0},
                "tiers": [],
            },
            {
                "model": "claude-b",
                "source": "genai-prices 0.2.3",
                "as_of": "2026-01-02T12:00:00+00:00",
                "matched": None,
                "conditions": None,
                "usd_per_million_tokens": None,
                "usd_per_thousand": {},
                "tiers": [],
            },
        ],
        "models": [
            {
                "model": "claude-a",
                "answers": 11_000,
                "input_tokens": 4_500_000,
                "output_tokens": 600_000,
                "cost_usd": 7.0,
            },
            {
                "model": "claude-b",
                "answers": 1_000,
                "input_tokens": 500_000,
                "output_tokens": 100_000,
                "cost_usd": 0.625,
            },
        ],
        "latency_s": {"p50": 1.25, "p90": 2.5, "p99": 10.0},
        "throughput": {"rows_per_s": 200.867, "tokens_per_s": 93084.689},
        "attempts": 13_000,
        "retries": {"total": 1_000, "by_cause": {"transient": 600, "rate_limit": 400}},
        "dropped_parameters": [{"model": "claude-a", "parameter": "top_k"}],
        "waits_s": {"retry": 12.346, "request rate": 60.0},
        "errors": {
            "invalid_request_error": {
                "count": 280,
                "example": "too long",
                "hint": "the provider rejected the request: check it with batchrun preview",
            },
            "timeout": {
                "count": 20,
                "example": "no answer",
                "hint": "raise [retry] timeout_s, or lower [limits] concurrency, then run again",
            },
        },
        "errored_to_retry": 20,
        "in_flight": 3,
        "possibly_double_billed": 2,
        "batches": [],
        "rows_in_batches": 0,
        "executions": [
            {
                "execution": 1,
                "started_at": "2026-01-02T12:00:00+00:00",
                "wall_time_s": 61.235,
                "outcome": "finished",
                "reason": None,
                "version": "0.2.0",
            }
        ],
        "last_execution": {
            "sent": 13,
            "succeeded": 10,
            "errored": 3,
            "tokens": {"input": 5_000, "output": None},
            "cost_usd": 0.0025,
        },
        "wall_time_s": 61.235,
        "last_error": "timeout: no answer",
    }


def test_the_summary_as_text_is_json_that_ends_in_a_newline() -> None:
    text = summary_json(TOTALS)
    assert json.loads(text) == summary(TOTALS)
    assert text.endswith("}\n")


def test_a_run_that_has_done_nothing_has_a_summary() -> None:
    found = json.loads(summary_json(EMPTY))
    assert found["cost_usd"]["total"] == 0
    assert found["latency_s"] == {"p50": None, "p90": None, "p99": None}
    assert found["executions"] == []


def test_an_unknown_price_is_null_and_never_zero() -> None:
    unpriced = replace(EMPTY, succeeded=5, unpriced=5)
    cost = summary(unpriced)["cost_usd"]
    assert cost["total"] is cost["saved_by_cache"] is None
    assert set(cost["by_kind"].values()) == {None}
    assert cost["answers_without_price"] == 5


def test_a_sum_that_lacks_some_answers_says_how_many() -> None:
    cost = summary(replace(TOTALS, unpriced=3))["cost_usd"]
    assert (cost["total"], cost["answers_without_price"]) == (7.625, 3)


def test_answers_that_cost_nothing_are_not_unknown() -> None:
    free = replace(EMPTY, cost_by_model={"free": 0}, unpriced=1)
    assert summary(free)["cost_usd"]["total"] == 0


# For people


def test_the_text_tells_the_same_at_a_glance() -> None:
    assert (
        summary_text(TOTALS, DIRECTORY)
        == """\
triage:
  12,000 of 12,345 rows succeeded, 300 errored, 45 pending, 100 unusual endings
  20 failed rows will be retried on the next run

                        tokens          cost
  uncached input     3,980,000     $4.000000
  cache read         1,000,000     $0.100000  saved $0.900000
  cache write           20,000     $0.025000
  output               700,000     $3.500000  3,000 for reasoning
  total              5,700,000     $7.625000  $0.619919 per 1,000 rows

  model                answers         input        output          cost
  claude-a              11,000     4,500,000       600,000     $7.000000
  claude-b               1,000       500,000       100,000     $0.625000

  latency         p50 1.25 s · p90 2.50 s · p99 10.00 s
  speed           201 rows/s · 93,085 tokens/s · 61.2 s
  waited          60.0 s request rate · 12.3 s retry · summed over rows
  retried         600 transient · 400 rate limit
  left out        top_k for claude-a

  errors
             280  invalid_request_error: too long
                  → the provider rejected the request: check it with batchrun
                    preview
              20  timeout: no answer
                  → raise [retry] timeout_s, or lower [limits] concurrency, then
                    run again

  endings
              90  length: cut at max_tokens or at the end of the context window
                  → raise [request] max_tokens (reasoning counts towards it), or
                    shorten the prompt
              10  refusal: the model or the provider refused to answer
                  → reword the prompt, or use another model

  billed?         2 attempts may have been billed without an answer
  results         /runs/triage"""
    )


def test_what_did_not_happen_is_not_mentioned() -> None:
    assert summary_text(EMPTY, DIRECTORY).split() == (
        ["triage:", "0", "of", "0", "rows", "succeeded", "results", "/runs/triage"]
    )


@pytest.mark.parametrize(
    ("unpriced", "by_model", "line"),
    [
        (5, {}, "the price of 5 answers is unknown: set [price], then recalculate:"),
        (
            1,
            {"m": 7_625 * 10**9},
            "the price of 1 answer is unknown: set [price], then recalculate:",
        ),
    ],
)
def test_an_unknown_price_is_said(unpriced: int, by_model: dict[str, int], line: str) -> None:
    cost = Cost(7_625 * 10**9, 0, 0, 0) if by_model else Cost(0, 0, 0, 0)
    totals = replace(TOTALS, unpriced=unpriced, cost=cost, cost_by_model=by_model)
    text = summary_text(totals, DIRECTORY)
    assert f"  {line}\n  batchrun recost /runs/triage --job JOB\n" in text
    assert ("$7.625000" in text) == bool(by_model)
    assert "$0.000000" not in text.split("model")[0].replace("  cache", "") or by_model


def test_one_attempt_is_not_several() -> None:
    text = summary_text(replace(TOTALS, maybe_billed=1), DIRECTORY)
    assert "1 attempt may have been billed" in text


def test_a_cap_that_ended_the_run_tells_how_far_the_money_went() -> None:
    stopped = {**TOTALS.executions[0], "outcome": RunEnd.MAX_COST}
    capped = replace(TOTALS, cap=8 * 10**12, executions=(stopped,))
    assert (
        "  cap             $7.625000 covered 12,300 of 12,345 rows; all rows would cost\n"
        "                  about $7.652896. To continue: --set limits.max_cost_usd=8.4\n"
    ) in summary_text(capped, DIRECTORY)
    assert summary(capped)["cost_usd"]["cap"] == 8.0
    for other in (replace(capped, executions=TOTALS.executions), replace(capped, pending=0)):
        assert "  cap  " not in summary_text(other, DIRECTORY)


def test_colours_only_dress_the_text() -> None:
    plain, dressed = (summary_text(TOTALS, DIRECTORY, colour=c) for c in (False, True))
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", dressed) == plain != dressed


def test_the_text_fits_80_columns_whatever_a_provider_says() -> None:
    long = "x" * 500 + " " + "words and more " * 200
    totals = replace(
        TOTALS,
        name=long,
        errors_by_type={long: (10**9, long), **{f"e{n}": (1, long) for n in range(9)}},
        models=tuple(ModelTotals(f"{n}{long}", 10**7, 10**9, 10**9, 10**16) for n in range(9)),
        retries_by_cause={f"cause_{n}": 10**9 for n in range(9)},
        waits_s_by_cause={f"cause {n}": 1e7 for n in range(9)},
    )
    lines = summary_text(totals, DIRECTORY).splitlines()
    assert max(map(len, lines)) <= 80
    assert "and 1 more" in "\n".join(lines)


def test_only_the_most_frequent_errors_are_shown_and_no_message_is_endless() -> None:
    errors = {f"e{n}": (100 - n, "x" * 10_000) for n in range(50)}
    lines = summary_text(replace(TOTALS, errors_by_type=errors), DIRECTORY).splitlines()
    shown = [line.split(":")[0].split() for line in lines if ": xxx" in line]
    assert shown == [[str(100 - n), f"e{n}"] for n in range(5)]
    assert "and 45 more error types" in "\n".join(lines)


def test_the_status_tells_whether_it_is_running_and_since_when() -> None:
    running = status_text(TOTALS, DIRECTORY, running=True).splitlines()
    assert running[0] == "running, last started 2026-01-02T12:00:00+00:00"
    assert running[1:-2] == summary_text(TOTALS, DIRECTORY).splitlines()
    assert running[-2:] == ["  in flight       3", "  last error      timeout: no answer"]
    stopped = {**TOTALS.executions[0], "outcome": RunEnd.REFUSED, "reason": "HTTP 401: no"}
    ended = replace(TOTALS, executions=(stopped,))
    assert "\n  ended           refused: HTTP 401: no" in status_text(
        ended, DIRECTORY, running=False
    )
    assert "refused: " not in status_text(ended, DIRECTORY, running=True)
    dead = status_text(replace(TOTALS, in_flight=0), DIRECTORY, running=False).splitlines()
    assert dead[0].startswith("finished, last started")
    assert not any("in flight" in line for line in dead)
    assert status_text(EMPTY, DIRECTORY, running=False).startswith("not running\n")


def test_the_status_of_a_run_that_died_tells_what_was_in_flight() -> None:
    assert "\n  in flight       3\n" in status_text(TOTALS, DIRECTORY, running=False)


def test_the_status_tells_of_the_last_start() -> None:
    later = {**TOTALS.executions[0], "started_us": START_US + 3_600_000_000}
    totals = replace(TOTALS, executions=(*TOTALS.executions, later))
    assert "last started 2026-01-02T13:00:00" in status_text(totals, DIRECTORY, running=False)


def test_errors_that_stay_are_not_promised_to_be_tried_again() -> None:
    text = summary_text(replace(TOTALS, to_retry=0), DIRECTORY)
    assert "300 errored, 45 pending" in text
    assert "next run" not in text


# Nobody's terminal is rewritten

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \r\n\tline \x00\x7f \u202egnp.exe \u2066x\u2069"


def test_control_characters_are_neutralised() -> None:
    text = printable(HOSTILE)
    assert text == "�[2J�]0;owned� �31m line �� �gnp.exe �x�"
    assert text.isprintable()


@pytest.mark.parametrize("text", ["naïve 東京 🙂", "a b", "", "👩‍👩‍👧 e\u0301"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_nothing_that_a_provider_said_steers_the_terminal() -> None:
    hostile = replace(
        TOTALS,
        errors_by_type={HOSTILE: (1, HOSTILE)},
        last_error=HOSTILE,
        name=HOSTILE,
    )
    text = status_text(hostile, DIRECTORY, running=False)
    assert all(line.isprintable() for line in text.split("\n"))


def test_every_unusual_ending_is_listed() -> None:
    endings = {"stop": 1, "length": 2, "refusal": 3, "filtered": 4, "paused": 5, "error": 6}
    text = summary_text(replace(TOTALS, endings=endings | {"unknown": 7}), DIRECTORY)
    listed = re.findall(
        r"^ +(\d+)  (length|refusal|filtered|paused|error|unknown): ", text, re.MULTILINE
    )
    assert {name: int(count) for count, name in listed} == {
        "length": 2,
        "refusal": 3,
        "filtered": 4,
        "paused": 5,
        "error": 6,
        "unknown": 7,
    }
    assert "more error type" not in text


def test_a_server_that_answers_other_rows_is_not_said_to_use_another_format() -> None:
    failed = replace(TOTALS, errors_by_type={"invalid_response": (1, "not JSON")})
    assert "does not use this" not in summary_text(failed, DIRECTORY)
    assert "does not use this" in summary_text(replace(failed, succeeded=0), DIRECTORY)
