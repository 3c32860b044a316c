"""The checkpoint file: what is pending, what is recorded, what is refused, who may use it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.checkpoint import (
    FILE_NAME,
    Checkpoint,
    DirectoryLock,
    is_locked,
    open_directory,
    refuse_locked,
    totals,
)
from batchrun.checkpoint.columns import result_kinds
from batchrun.checkpoint.file import PAGE_BYTES
from batchrun.checkpoint.planning import MANY
from batchrun.errors import CheckpointError, CheckpointFull, RunEnd
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    Cost,
    Ending,
    PlannedRequest,
    Result,
    Status,
    Usage,
    changed,
)
from benchmarks.checkpoint_size import write as write_answers
from tests.conftest import ROOT
from tests.support.checkpoints import (
    DOCUMENT,
    NOON,
    answer_all,
    as_nobody,
    asked,
    begin,
    by_row,
    column,
    finish,
    item,
    items,
    plan,
    rows,
    start,
    succeeded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOON_US = int(NOON.timestamp()) * 10**6


def errored(request: PlannedRequest, *, retryable: bool = False, **last: Any) -> Result:
    facts: dict[str, Any] = {
        "latency_s": 0.5,
        "http_status": 400,
        "error_type": "invalid_request_error",
        "error_message": "too long",
        "cause": "no",
        "model": "m",
    }
    attempt = Attempt(request.key, request.attempts_made + 1, **facts | last)
    return Result(request.key, Status.ERRORED, attempt, NOON, retryable=retryable)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Checkpoint]:
    with closing(Checkpoint(tmp_path, writable=True)) as opened:
        yield opened


# What is pending


def test_new_rows_are_all_pending_in_order(store: Checkpoint) -> None:
    pending = plan(store, items("abcde"))
    assert asked(pending) == ["1", "2", "3", "4", "5"]
    assert len({request.key for request in pending}) == 5
    assert all(request.attempts_made == 0 for request in pending)
    assert column(store, "status") == ["pending"] * 5


def test_nothing_is_pending_once_everything_is_answered(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("abc")))
    assert plan(store, items("abc")) == []


def test_no_rows_are_nothing_to_plan(store: Checkpoint) -> None:
    start(store, 0)
    assert store.plan([], retry_errored=False) == []


def test_identical_rows_are_asked_once_each(store: Checkpoint) -> None:
    pending = plan(store, items("aabaa"), chunk=2)
    assert asked(pending) == ["1", "2", "3", "4", "5"]
    assert len({request.key for request in pending}) == 5


def test_another_copy_of_a_row_is_the_only_new_request(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("aab")))
    assert asked(plan(store, items("aaab"), signature="2")) == ["3"]


def test_rows_that_moved_keep_their_answers(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("abcdef", ids="ABCDEF")))
    assert plan(store, items("fbdace", ids="FBDACE"), signature="2") == []
    assert column(store, "response") == [f"to {name}" for name in "FBDACE"]
    assert column(store, "custom_id") == list("FBDACE")


def test_only_added_and_edited_rows_are_sent(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("abcd", ids="ABCD")))
    pending = plan(store, items("xabCd", ids="XABCD"), signature="2")
    assert asked(pending) == ["X", "C"]
    assert column(store, "response") == [None, "to A", "to B", None, "to D"]


def test_a_removed_row_is_forgotten_and_its_answer_kept(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("abc", ids="ABC")))
    assert plan(store, items("ac", ids="AC"), signature="2") == []
    assert column(store, "custom_id") == ["A", "C"]
    assert plan(store, items("bac", ids="BAC"), signature="3") == []
    assert column(store, "response") == ["to B", "to A", "to C"]


def test_an_edit_that_is_taken_back_finds_the_first_answer(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("a")))
    answer_all(store, plan(store, items("b"), signature="2"))
    assert plan(store, items("a"), signature="3") == []
    assert column(store, "response") == ["to 1"]


def test_a_row_that_was_renamed_keeps_its_answer(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("ab", ids="AB")))
    assert plan(store, items("ab", ids=["A", "renamed"]), signature="2") == []
    assert column(store, "custom_id") == ["A", "renamed"]
    assert column(store, "response") == ["to A", "to B"]
    assert [chunk["custom_id"] for chunk in store.attempt_columns(10)] == [["A", "renamed"]]


def test_a_rename_is_noticed_without_a_new_signature(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("ab", ids="AB")))
    assert plan(store, items("ab", ids="XY")) == []
    assert column(store, "custom_id") == ["X", "Y"]


def test_of_identical_rows_the_answered_one_is_kept(store: Checkpoint) -> None:
    first, second = plan(store, items("aa"))
    finish(store, errored(first), succeeded(second, "good"))
    assert plan(store, items("a"), signature="2") == []
    assert column(store, "response") == ["good"]


def test_identical_rows_keep_their_order_when_the_input_changes(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("aaa")))
    assert plan(store, items("xaaa"[1:]), signature="2") == []
    assert column(store, "response") == ["to 1", "to 2", "to 3"]


def test_a_limit_may_shrink_and_grow_again(store: Checkpoint) -> None:
    answer_all(store, plan(store, items("abcd")))
    assert plan(store, items("ab")) == []
    assert column(store, "custom_id") == ["1", "2"]
    assert totals(store).total == 2
    assert asked(plan(store, items("abcde"))) == ["5"]
    assert column(store, "response") == ["to 1", "to 2", "to 3", "to 4", None]


def test_a_row_that_cannot_be_rendered_is_errored_and_never_sent(store: Checkpoint) -> None:
    table = [item(0, "a"), item(1, "", fails="row 2: no such column"), item(2, "b")]
    pending = plan(store, table)
    assert asked(pending) == ["1", "3"]
    answer_all(store, pending)
    assert column(store, "status") == ["succeeded", "errored", "succeeded"]
    bad = rows(store)[1]
    assert (bad["error_type"], bad["error_message"]) == ("template_error", "row 2: no such column")
    assert plan(store, table, retry_errored=True) == []


def test_a_row_that_stops_being_renderable_loses_its_answer_until_it_is_mended(
    store: Checkpoint,
) -> None:
    answer_all(store, plan(store, items("ab")))
    assert plan(store, [item(0, "a"), item(1, "", fails="bad")]) == []
    assert column(store, "status") == ["succeeded", "errored"]
    assert column(store, "response") == ["to 1", None]
    assert plan(store, items("ab")) == []
    assert column(store, "response") == ["to 1", "to 2"]
    assert column(store, "error_message") == [None, None]


def test_the_reason_why_a_row_cannot_be_rendered_is_kept_up_to_date(store: Checkpoint) -> None:
    plan(store, [item(0, "", fails="old")])
    plan(store, [item(0, "", fails="new")])
    assert column(store, "error_message") == ["new"]


@pytest.mark.parametrize(
    ("retryable", "retry_errored", "again"),
    [(True, False, True), (False, False, False), (False, True, True), (True, True, True)],
)
def test_an_errored_row_is_tried_again_only_if_that_may_help_or_is_asked_for(
    store: Checkpoint, *, retryable: bool, retry_errored: bool, again: bool
) -> None:
    good, bad = plan(store, items("ab"))
    finish(store, succeeded(good), errored(bad, retryable=retryable))
    pending = plan(store, items("ab"), retry_errored=retry_errored)
    assert asked(pending) == (["2"] if again else [])


def test_attempts_are_numbered_on_over_executions(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    finish(store, errored(request, retryable=True))
    (request,) = plan(store, items("a"))
    assert request.attempts_made == 1
    store.record([AttemptStart(request.key, 2, NOON)], [], [])
    (request,) = plan(store, items("a"))
    assert request.attempts_made == 2
    finish(store, succeeded(request))
    assert plan(store, items("a")) == []
    assert rows(store)[0]["attempts"] == 3
    assert rows(store)[0]["error_type"] is None


def test_a_failed_attempt_leaves_its_row_pending(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    begin(store, request)
    store.record([], [errored(request).last], [])
    assert column(store, "status") == ["pending"]
    assert column(store, "error_type") == [None]
    assert asked(plan(store, items("a"))) == ["1"]


@pytest.mark.parametrize("chunk", [250, 999])
def test_thousands_of_identical_rows_get_one_request_each(store: Checkpoint, chunk: int) -> None:
    count = 2 * MANY + 100
    answer_all(store, plan(store, items(["a"] * count), chunk=chunk))
    more = items(["a"] * (count + 7))
    assert plan(store, more[:50], signature="2") == []
    pending = plan(store, more, signature="3", chunk=chunk)
    assert len(pending) == 7
    keys = [key for (key,) in store.db.execute("SELECT request_id FROM items")]
    assert len(set(keys)) == count + 7


@pytest.mark.parametrize("change", [{"asks": "edited"}, {"asks": "", "fails": "bad"}])
def test_of_many_identical_rows_an_edited_one_frees_its_answer(
    store: Checkpoint, change: dict[str, str]
) -> None:
    count = MANY + 10
    answer_all(store, plan(store, items(["a"] * count), chunk=500))
    table = items(["a"] * (count + 2))
    assert asked(store.plan(table[count : count + 1], retry_errored=False)) == [str(count + 1)]
    store.plan([item(2, **change)], retry_errored=False)
    assert store.plan(table[count + 1 :], retry_errored=False) == []


def test_an_execution_that_stopped_while_planning_holds_nothing_back(store: Checkpoint) -> None:
    table = items(["a"] * (MANY + 10))
    answer_all(store, plan(store, table, chunk=500))
    for signature in ("2", "3"):
        start(store, len(table), signature)
        assert store.plan(table[:500], retry_errored=False) == []
    assert store.plan(table[500:], retry_errored=False) == []


def test_planning_identical_rows_costs_the_same_for_every_chunk(store: Checkpoint) -> None:
    table = items(["a"] * 5 * MANY)
    start(store, len(table))
    steps: list[int] = []

    def step() -> None:
        steps[-1] += 1

    store.db.conn.set_progress_handler(step, 100)
    for first in range(0, len(table), 250):
        steps.append(0)
        store.plan(table[first : first + 250], retry_errored=False)
    assert steps[-1] < 2 * steps[1]


@settings(max_examples=40, deadline=None)
@given(
    versions=st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=6),
    chunk=st.integers(1, 4),
)
def test_any_sequence_of_inputs_sends_only_what_was_never_answered(
    versions: list[list[str]], chunk: int
) -> None:
    answered: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Checkpoint(Path(directory), writable=True)) as store,
    ):
        # Not what is under test here, and most of the time that it takes.
        store.db.execute("PRAGMA synchronous = OFF")
        for number, version in enumerate(versions):
            wanted = Counter(version)
            pending = plan(store, items(version), signature=str(number), chunk=chunk)
            answer_all(store, pending)
            assert len(pending) == (wanted - answered).total()
            answered |= wanted
            assert column(store, "status") == ["succeeded"] * len(version)
            held = store.db.execute("SELECT request_id FROM items").fetchall()
            assert len(set(held)) == len(version)
            assert fingerprints(store) == [item(0, ask).fingerprint for ask in version]


# The index of the fingerprints, which the first plan does without


def is_indexed(store: Checkpoint) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'requests_by_fingerprint'"
    return store.db.execute(query).fetchone() is not None


def occurrences(store: Checkpoint) -> list[int]:
    return [number for (number,) in store.db.execute("SELECT occurrence FROM requests ORDER BY id")]


@pytest.mark.parametrize("dedupe", [False, True])
def test_the_first_plan_does_without_the_index(store: Checkpoint, *, dedupe: bool) -> None:
    number = 20_000
    table = items([*map(str, range(number)), "7", "19999", "7", "last"])
    start(store, len(table))
    for first in range(0, number, 2_500):
        chunk = table[first : min(first + 2_500, number)]
        assert len(store.plan(chunk, retry_errored=False, dedupe=dedupe)) == len(chunk)
    pending = [
        *store.plan(table[number : number + 2], retry_errored=False, dedupe=dedupe),
        *store.plan(table[number + 2 :], retry_errored=False, dedupe=dedupe),
    ]
    assert asked(pending) == (["20004"] if dedupe else ["20001", "20002", "20003", "20004"])
    assert occurrences(store)[number:] == ([1] if dedupe else [2, 2, 3, 1])
    assert not is_indexed(store)
    store.finish_plan(len(table))
    assert is_indexed(store)
    assert fingerprints(store) == [each.fingerprint for each in table]


def test_a_row_that_releases_its_request_in_the_first_plan_leaves_it_to_another(
    store: Checkpoint,
) -> None:
    start(store, 3)
    answer_all(store, store.plan(items("ab"), retry_errored=False))
    store.plan([item(0, "c")], retry_errored=False)
    assert store.plan([item(2, "a")], retry_errored=False) == []
    assert occurrences(store) == [1, 1, 1]


def test_fingerprints_with_the_same_hash_are_different(store: Checkpoint) -> None:
    start(store, 3)
    store.plan(items("a"), retry_errored=False)
    # Hashes of 64 bits cannot be made equal here, so the request of this one changes.
    store.db.execute("UPDATE requests SET fingerprint = ?", (item(0, "b").fingerprint,))
    assert asked(store.plan([item(1, "a"), item(2, "b")], retry_errored=False)) == ["2", "3"]
    assert occurrences(store) == [1, 1, 2]


def test_a_first_plan_that_was_cut_short_is_found_again(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        start(store, 3)
        answer_all(store, store.plan(items("ab"), retry_errored=False))
        assert not is_indexed(store)
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        assert asked(plan(store, items("cab"), signature="2")) == ["1"]
        assert occurrences(store) == [1, 1, 1]
        assert is_indexed(store)


def test_a_chunk_that_was_not_written_is_new_again(store: Checkpoint) -> None:
    start(store, 2)
    store.db.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON items BEGIN SELECT raise(ABORT, 'no'); END"
    )
    with pytest.raises(CheckpointError):
        store.plan(items("ab"), retry_errored=False)
    store.db.execute("DROP TRIGGER refuse")
    assert asked(store.plan(items("ab"), retry_errored=False)) == ["1", "2"]
    assert occurrences(store) == [1, 1]


def test_a_full_disk_under_the_index_is_not_blamed_on_the_temporary_files(
    store: Checkpoint,
) -> None:
    start(store, 2)
    store.plan(items("ab"), retry_errored=False)
    (pages,) = store.db.execute("PRAGMA page_count").fetchone()
    store.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CheckpointFull):
        store.finish_plan(2)
    store.db.execute(f"PRAGMA max_page_count = {pages + 10}")
    store.finish_plan(2)
    assert is_indexed(store)


def fingerprints(store: Checkpoint) -> list[bytes]:
    found = store.db.execute(
        "SELECT fingerprint FROM items i JOIN requests q ON q.id = i.request_id ORDER BY ordinal"
    )
    return [fingerprint for (fingerprint,) in found]


# Executions and records


def test_what_a_crash_left_open_is_counted_and_settled_once(store: Checkpoint) -> None:
    one, two, three = plan(store, items("abc"))
    begin(store, one, two, three)
    finish_open = succeeded(three)
    store.record([], [finish_open.last], [finish_open])
    assert totals(store).in_flight == 2
    assert start(store, 3) == 2
    found = totals(store)
    assert (found.in_flight, found.maybe_billed, found.attempts) == (0, 2, 3)
    assert found.last_error == "interrupted: the process ended before the answer arrived"
    assert start(store, 3) == 0


def test_the_run_remembers_its_job(store: Checkpoint) -> None:
    start(store, 1, "first")
    start(store, 1, "second")
    assert store.job() == (DOCUMENT, "/base", "second")


def test_a_checkpoint_without_a_run_says_so(store: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="contains no run yet; run the job first"):
        store.job()


def test_a_group_of_events_is_written_together(store: Checkpoint) -> None:
    one, two = plan(store, items("ab"))
    begin(store, one)
    store.record(
        [AttemptStart(two.key, 1, NOON)], [succeeded(one).last], [succeeded(one, "answer")]
    )
    assert column(store, "response") == ["answer", None]
    assert totals(store).in_flight == 1


def test_the_later_of_two_outcomes_of_one_attempt_in_a_group_counts(store: Checkpoint) -> None:
    one, two, three = plan(store, items("abc"))
    begin(store, one, two, three)
    failed, good = errored(one).last, succeeded(one).last
    store.record([], [failed, errored(two).last, good, succeeded(three).last, failed], [])
    store.record([], [changed(failed, key=two.key), changed(good, key=two.key)], [])
    types = [kind for (kind,) in store.db.execute("SELECT error_type FROM attempts ORDER BY 1")]
    assert types == [None, None, failed.error_type]
    (tokens,) = store.db.execute(
        "SELECT output_tokens FROM attempts WHERE request_id = ?", (one.key,)
    ).fetchone()
    assert tokens is None


def test_a_group_is_written_whole_or_not_at_all(store: Checkpoint) -> None:
    one, two = plan(store, items("ab"))
    begin(store, one)
    twice = [AttemptStart(two.key, 1, NOON), AttemptStart(one.key, 1, NOON)]
    with pytest.raises(CheckpointError):
        store.record(twice, [], [])
    assert totals(store).attempts == 1
    begin(store, two)
    assert totals(store).attempts == 2


USAGE = Usage(
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=30,
    cache_write_tokens=40,
    reasoning_tokens=5,
)
COST = Cost(uncached_input=1, cache_read=20, cache_write=300, output=4_000, cache_saved=7)


def test_rows_hold_the_columns_of_the_results_in_their_order(store: Checkpoint) -> None:
    (request,) = plan(store, items("a", ids=["id 1"]))
    attempt = Attempt(
        request.key,
        1,
        1.25,
        http_status=200,
        request_id="req_1",
        model="m-1",
        usage=USAGE,
        cost=COST,
    )
    completion = Completion(
        ("one", "two"),
        "stop",
        "m-1",
        "resp_1",
        USAGE,
        reasoning="why",
        tool_calls="[]",
        ending=Ending.REFUSAL,
        refusal="no",
        citations="[1]",
        logprobs='{"content":[]}',
        stop_sequence="END",
        choices="[{}, {}]",
        server_tools="[2]",
        raw=b'{"id": "\xc3\xa9\xff"}',
    )
    finish(store, Result(request.key, Status.SUCCEEDED, attempt, NOON, completion))
    found = store.columns(0, 9, list(result_kinds({"logprobs", "raw"})))
    assert by_row(found) == [
        {
            "ordinal": 0,
            "custom_id": "id 1",
            "status": "succeeded",
            "response": "one",
            "responses": '["one","two"]',
            "reasoning": "why",
            "tool_calls": "[]",
            "stop_reason": "stop",
            "model": "m-1",
            "ending": "refusal",
            "refusal": "no",
            "citations": "[1]",
            "logprobs": '{"content":[]}',
            "raw": '{"id": "é�"}',
            "stop_sequence": "END",
            "choices": "[{}, {}]",
            "server_tools": "[2]",
            "response_id": "resp_1",
            "request_id": "req_1",
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_tokens": 30,
            "cache_write_tokens": 40,
            "reasoning_tokens": 5,
            "cost_usd": 4_321,
            "attempts": 1,
            "latency_s": 1.25,
            "finished_at": NOON_US,
            "http_status": 200,
            "error_type": None,
            "error_message": None,
        }
    ]


def test_an_errored_row_tells_of_its_last_attempt(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    begin(store, request)
    store.record([], [errored(request, error_message="first").last], [])
    again = changed(request, attempts_made=1)
    finish(store, errored(again, http_status=503, error_message="second", request_id="req_2"))
    (row,) = rows(store)
    assert row["status"] == "errored"
    assert row["response"] is row["responses"] is None
    told = {name: row[name] for name in ("attempts", "http_status", "error_message", "request_id")}
    assert told == {
        "attempts": 2,
        "http_status": 503,
        "error_message": "second",
        "request_id": "req_2",
    }


def test_a_single_choice_has_no_list_of_choices(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    finish(store, succeeded(request, "only"))
    assert (column(store, "response"), column(store, "responses")) == (["only"], [None])


def test_rows_are_read_by_range_in_the_order_of_the_input(store: Checkpoint) -> None:
    plan(store, items("abcdefg"))
    assert [row["ordinal"] for row in rows(store, 2, 5)] == [2, 3, 4]
    assert rows(store, 7, 9) == []


def test_attempts_are_listed_in_chunks_by_request_and_number(store: Checkpoint) -> None:
    one, two = plan(store, items("ab", ids="AB"))
    begin(store, two)
    begin(store, one)
    failed = errored(one, maybe_billed=True, usage=USAGE, cost=COST, request_id="req").last
    store.record([], [failed], [])
    begin(store, changed(one, attempts_made=1), at=NOON + timedelta(seconds=3))
    chunks = [by_row(chunk) for chunk in store.attempt_columns(1)]
    assert [len(chunk) for chunk in chunks] == [1, 1, 1]
    listed = [row for chunk in store.attempt_columns(2) for row in by_row(chunk)]
    assert listed == [chunk[0] for chunk in chunks]
    assert [(row["custom_id"], row["attempt"]) for row in listed] == [("A", 1), ("A", 2), ("B", 1)]
    assert listed[0] == {
        "custom_id": "A",
        "attempt": 1,
        "execution": 1,
        "started_at": NOON_US,
        "latency_s": 0.5,
        "http_status": 400,
        "error_type": "invalid_request_error",
        "error_message": "too long",
        "request_id": "req",
        "model": "m",
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read_tokens": 30,
        "cache_write_tokens": 40,
        "reasoning_tokens": 5,
        "cost_usd": 4_321,
        "cost_source": "price_list",
        "service_tier": None,
        "web_searches": None,
        "maybe_billed": 1,
        "dropped": None,
    }
    assert listed[1]["started_at"] == NOON_US + 3_000_000
    assert listed[1]["latency_s"] is None


def test_text_of_every_kind_comes_back_as_it_was(store: Checkpoint) -> None:
    text = "naïve 東京 🙂 \x00 \r\n \x1b[31m ' \" ; DROP TABLE results"
    (request,) = plan(store, items("a", ids=[text]))
    finish(store, succeeded(request, text))
    assert column(store, "response") == column(store, "custom_id") == [text]


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [(12_000, 12_000), (999_999, 999_999), (9 * 10**9, 1_000_000)],
    ids=["dear", "absurd", "beyond-64-bits"],
)
def test_an_answer_above_10000_usd_stays_a_cost(store: Checkpoint, claimed: int, kept: int) -> None:
    usage = Usage(input_tokens=2**53 - 1, output_tokens=1)
    requests = plan(store, items("abcdefghijklmnopqrst"))
    for request in requests:
        cost = Cost(0, 0, 0, claimed * 10**12)
        finish(store, succeeded(request, usage=usage, cost=cost))
    assert column(store, "cost_usd") == [kept * 10**12] * 20
    found = totals(store)
    assert (found.unpriced, found.cost.total) == (0, 20 * kept * 10**12)
    assert store.spent() == 20 * kept * 10**12


# Totals


def test_totals_of_an_empty_checkpoint_are_zero(store: Checkpoint) -> None:
    found = totals(store)
    assert (found.total, found.attempts, found.cost.total, found.executions) == (0, 0, 0, ())
    assert found.latency_s == {"p50": None, "p90": None, "p99": None}
    assert found.last_error is None


def test_totals_count_rows_by_status(store: Checkpoint) -> None:
    table = [*items("abcde"), item(5, "", fails="bad")]
    one, two, three, four, _ = plan(store, table)
    finish(store, succeeded(one), errored(two), errored(three, retryable=True))
    begin(store, four)
    found = totals(store)
    counts = (found.total, found.succeeded, found.errored, found.pending)
    assert counts == (6, 1, 3, 2)
    assert (found.to_retry, found.in_flight) == (1, 1)


def test_rows_that_were_not_planned_yet_are_pending(store: Checkpoint) -> None:
    start(store, 10)
    store.plan(items("ab"), retry_errored=False)
    assert totals(store).pending == 10


def test_costs_and_tokens_add_up_exactly_over_all_attempts(store: Checkpoint) -> None:
    one, two = plan(store, items("ab"))
    finish(store, succeeded(one, usage=USAGE, cost=COST))
    big = Cost(10**15 + 1, 0, 0, 0)
    finish(store, succeeded(two, usage=Usage(input_tokens=1), cost=big, model="m-2"))
    found = totals(store)
    assert found.cost == Cost(10**15 + 2, 20, 300, 4_000, 7)
    assert list(found.cost_by_model.items()) == [("m-2", 10**15 + 1), ("m-1", 4_321)]
    assert found.usage == changed(USAGE, input_tokens=101)
    assert found.unpriced == 0


def test_answers_without_a_price_are_counted(store: Checkpoint) -> None:
    one, two, three = plan(store, items("abc"))
    finish(store, succeeded(one, usage=USAGE), succeeded(two, cost=COST), errored(three))
    assert totals(store).unpriced == 1


def test_latencies_are_nearest_ranks_of_the_successful_attempts(store: Checkpoint) -> None:
    pending = plan(store, items([f"ask {n}" for n in range(101)]))
    results = [succeeded(r, latency_s=float(n)) for n, r in enumerate(pending[:100], 1)]
    finish(store, *results, errored(pending[100], latency_s=1e6))
    assert totals(store).latency_s == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_what_may_have_been_billed_counts_as_spent_with_what_was_reserved(
    store: Checkpoint,
) -> None:
    requests = plan(store, items("abcdef"))
    store.record([AttemptStart(r.key, 1, NOON, 1_000) for r in requests], [], [])
    known, unknown, lost, refused, rejected, _in_flight = requests
    store.record([], [succeeded(known, cost=Cost(7, 0, 0, 3)).last], [])
    store.record([], [succeeded(unknown, cost=None).last], [])
    store.record([], [errored(lost, maybe_billed=True).last], [])
    store.record([], [errored(refused).last], [])
    # It used tokens, at a price that is not known.
    store.record([], [errored(rejected, usage=Usage(5, 5), cost=None).last], [])
    start(store, 6)  # what was in flight when the process died may have been billed
    assert store.spent() == 10 + 1_000 + 1_000 + 0 + 1_000 + 1_000


def test_retries_are_the_attempts_that_another_one_followed(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    for number, cause in enumerate(("rate_limit", "rate_limit", "transient")):
        begin(store, changed(request, attempts_made=number))
        failed = changed(errored(request, cause=cause).last, number=number + 1)
        store.record([], [failed], [])
    begin(store, changed(request, attempts_made=3))
    start(store, 1)
    begin(store, changed(request, attempts_made=4))
    found = totals(store).retries_by_cause
    assert found == {"rate_limit": 2, "transient": 1, "interrupted": 1}


def test_errors_are_counted_by_type_with_an_example(store: Checkpoint) -> None:
    table = [*items("abc"), item(3, "", fails="bad")]
    one, two, three = plan(store, table)
    finish(store, errored(one), errored(two, error_type="overloaded_error"), errored(three))
    assert totals(store).errors_by_type == {
        "invalid_request_error": (2, "too long"),
        "overloaded_error": (1, "too long"),
        "template_error": (1, "bad"),
    }


def test_the_last_error_is_the_latest(store: Checkpoint) -> None:
    pending = plan(store, items("abc"))
    for n, request in zip((1, 2, 0), pending, strict=True):
        begin(store, request, at=NOON + timedelta(seconds=n))
        store.record([], [errored(request, error_message=f"at {n}").last], [])
    assert totals(store).last_error == "invalid_request_error: at 2"


def test_executions_add_up_their_waits_and_times(store: Checkpoint) -> None:
    start(store, 1)
    store.finish_execution(RunEnd.MAX_COST, "money", {"retry": 1.5, "request rate": 2.0})
    start(store, 1)
    store.finish_execution(RunEnd.FINISHED, None, {"retry": 0.5})
    found = totals(store)
    assert found.waits_s_by_cause == {"retry": 2.0, "request rate": 2.0}
    ends = [(e["outcome"], e["reason"]) for e in found.executions]
    assert ends == [(RunEnd.MAX_COST, "money"), (RunEnd.FINISHED, None)]
    assert 0 <= found.wall_time_s < 5
    assert found.wall_time_s == sum(e["wall_time_s"] for e in found.executions)


def test_an_execution_that_died_lasted_until_its_last_sign_of_life(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    died = datetime.now(UTC) + timedelta(seconds=100)
    begin(store, request, at=died)
    finished = succeeded(request, latency_s=20.0)
    store.record([], [finished.last], [finished])
    found = totals(store)
    assert found.executions[0]["outcome"] is RunEnd.UNFINISHED
    assert found.wall_time_s == pytest.approx(120, abs=5)


def test_an_outcome_that_nobody_knows_is_none(store: Checkpoint) -> None:
    start(store, 1)
    store.finish_execution(RunEnd.MAX_COST, "money", {})
    store.db.execute("UPDATE executions SET outcome = 'max_coat_usd'")
    assert totals(store).executions[0]["outcome"] is RunEnd.UNFINISHED


def test_a_clock_that_was_set_back_gives_no_negative_time(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    begin(store, request, at=NOON - timedelta(days=9_000))
    assert totals(store).wall_time_s == 0


# Files that are refused


def test_a_foreign_sqlite_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as foreign, foreign:
        foreign.execute("CREATE TABLE notes (text)")
    refused(tmp_path, "SQLite file of another program; it was left as it is")


def test_a_foreign_wal_file_is_refused_without_tidying_it_up(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "live.db")) as foreign:
        foreign.execute("PRAGMA journal_mode = WAL")
        foreign.execute("CREATE TABLE notes (text)")
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"live.db{suffix}", tmp_path / f"{FILE_NAME}{suffix}")
    refused(tmp_path, "SQLite file of another program", suffixes=("", "-wal"))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"custom_id,response\n" * 1_000)
    refused(tmp_path, "damaged or not a SQLite file .* start over with --new")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_database_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    filled(tmp_path)
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, "damaged or not a SQLite file")


def test_damage_that_shows_only_later_is_a_checkpoint_error_too(tmp_path: Path) -> None:
    filled(tmp_path)
    tables = ("run", "executions", "requests", "items", "attempts", "results")
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        found = dict(db.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    with (tmp_path / FILE_NAME).open("r+b") as file:
        for table in tables:
            file.seek((found[table] - 1) * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)
    with closing(Checkpoint(tmp_path, writable=False)) as store:
        for read in (
            totals,
            Checkpoint.job,
            lambda s: s.columns(0, 9, ["status"]),
            lambda s: [*s.attempt_columns(9)],
        ):
            with pytest.raises(CheckpointError, match="damaged"):
                read(store)
    with (
        closing(Checkpoint(tmp_path, writable=True)) as store,
        pytest.raises(CheckpointError, match="damaged"),
    ):
        start(store, 1)


def test_a_mistake_of_ours_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path, writable=True)
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        totals(store)


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as newer, newer:
        newer.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('batchrun', 'm999_future', '2030-01-01')"
        )
    refused(tmp_path, "newer version of batchrun; it was left as it is. Upgrade batchrun")


@pytest.mark.parametrize("name", ["m001_initial", "m001_tables"])
def test_a_file_of_an_earlier_development_version_is_refused(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as earlier, earlier:
        earlier.execute(
            "UPDATE _sqlite_migrations SET name = ? WHERE name = 'm001_checkpoint'", (name,)
        )
    refused(tmp_path, "earlier development version of batchrun.*--new.*export")


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DROP TABLE pieces", "pieces.id"),
        ("ALTER TABLE turns DROP COLUMN checksum", "turns.checksum"),
    ],
)
def test_a_file_without_a_table_of_this_version_is_refused(
    tmp_path: Path, change: str, missing: str
) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other, other:
        other.execute(change)
    refused(tmp_path, f"another version of batchrun .it has no column {missing}.*--new.*export")


def test_a_table_that_goes_missing_later_is_not_a_traceback(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(Checkpoint(tmp_path, writable=False)) as store:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other, other:
            other.execute("DROP TABLE prices")
        with pytest.raises(CheckpointError, match="another version of batchrun .no such table"):
            totals(store)


def refused(directory: Path, message: str, suffixes: Sequence[str] = ("",)) -> None:
    """Neither writer nor reader may accept the file, nor change a byte of it or its mode."""
    paths = [directory / f"{FILE_NAME}{suffix}" for suffix in suffixes]
    paths[0].chmod(0o644)
    before = [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) for path in paths]
    for writable in (True, False):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint(directory, writable=writable)
    after = [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) for path in paths]
    assert after == before


def filled(directory: Path) -> None:
    """Leave a finished run behind, as large as a few dozen pages."""
    with closing(Checkpoint(directory, writable=True)) as store:
        pending = plan(store, items([f"ask {n}" for n in range(100)]))
        finish(store, *(succeeded(request, "long " * 300) for request in pending))


def test_reading_a_directory_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no checkpoint\.db"):
        Checkpoint(tmp_path, writable=False)
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_file_that_a_crash_left_empty_does_not_spoil_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(CheckpointError, match="contains no run yet"):
        Checkpoint(tmp_path, writable=False)
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        answer_all(store, plan(store, items("a")))
    with closing(Checkpoint(tmp_path, writable=False)) as store:
        assert column(store, "response") == ["to 1"]


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A directory that may be read but not written to."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def test_a_directory_that_may_not_be_written_to_is_refused(forbidden: Path) -> None:
    forbidden.chmod(0o555)
    with as_nobody():
        with pytest.raises(CheckpointError, match="check the disk and permissions"):
            Checkpoint(forbidden, writable=True)
        with pytest.raises(CheckpointError, match="cannot be used as run directory"):
            open_directory(forbidden / "run", new=False)
    assert list(forbidden.iterdir()) == []


def test_a_finished_run_can_be_read_where_nothing_may_be_written(forbidden: Path) -> None:
    filled(forbidden)
    (forbidden / FILE_NAME).chmod(0o444)
    forbidden.chmod(0o555)
    with as_nobody(), closing(Checkpoint(forbidden, writable=False)) as store:
        assert totals(store).succeeded == 100
    assert [path.name for path in forbidden.iterdir()] == [FILE_NAME]


# Beside a writer, and after it


def test_the_file_is_private_and_whole_once_it_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with (
        open_directory(directory, new=False),
        closing(Checkpoint(directory, writable=True)) as store,
    ):
        answer_all(store, plan(store, items("ab")))
        modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert modes == dict.fromkeys([FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"], 0o600)
    assert [path.name for path in directory.iterdir()] == [FILE_NAME]


def test_a_file_that_was_restored_for_all_to_read_becomes_private_again(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o644)
    Checkpoint(tmp_path, writable=True).close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_copy_of_the_file_alone_holds_everything_even_while_someone_reads(
    tmp_path: Path,
) -> None:
    store = Checkpoint(tmp_path, writable=True)
    answer_all(store, plan(store, items("ab")))
    with closing(Checkpoint(tmp_path, writable=False)) as reader:
        assert totals(reader).succeeded == 2
        store.close()
        copy = tmp_path / "copy"
        copy.mkdir()
        shutil.copy(tmp_path / FILE_NAME, copy)
        with closing(Checkpoint(copy, writable=False)) as copied:
            assert totals(copied).succeeded == 2


def test_a_reader_sees_what_is_committed_while_the_writer_goes_on(tmp_path: Path) -> None:
    with (
        closing(Checkpoint(tmp_path, writable=True)) as writer,
        closing(Checkpoint(tmp_path, writable=False)) as reader,
    ):
        one, two = plan(writer, items("ab"))
        begin(writer, one, two)
        assert totals(reader).in_flight == 2
        done = succeeded(one)
        writer.record([], [done.last], [done])
        assert (totals(reader).succeeded, totals(reader).in_flight) == (1, 1)
        assert column(reader, "status") == ["succeeded", "pending"]


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)):
        pass
    with (
        closing(Checkpoint(tmp_path, writable=False)) as reader,
        pytest.raises(CheckpointError),
    ):
        start(reader, 1)


def test_totals_are_of_one_moment(tmp_path: Path) -> None:
    with (
        closing(Checkpoint(tmp_path, writable=True)) as writer,
        closing(Checkpoint(tmp_path, writable=False)) as reader,
    ):
        (request,) = plan(writer, items("a"))
        begin(writer, request)
        with reader.transaction():
            assert totals(reader).succeeded == 0
            done = succeeded(request)
            writer.record([], [done.last], [done])
            assert totals(reader).succeeded == 0
        assert totals(reader).succeeded == 1


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from batchrun.checkpoint import Checkpoint, open_directory
from tests.support.checkpoints import begin, finish, items, plan, succeeded

directory = Path(sys.argv[1])
lock = open_directory(directory, new=False)
store = Checkpoint(directory, writable=True)
one, two, three = plan(store, items("abc"))
begin(store, one, two)
done = succeeded(one, "paid for")
store.record([], [done.last], [done])
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def writer_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, has one answer and one request in flight."""
    command = [sys.executable, "-c", WRITER, str(directory), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def test_a_killed_process_leaves_its_answers_and_no_lock(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with writer_process(directory) as child:
        assert is_locked(directory)
        with pytest.raises(CheckpointError, match="another batchrun process"):
            open_directory(directory, new=False)
        with closing(Checkpoint(directory, writable=False)) as reader:
            assert (totals(reader).succeeded, totals(reader).in_flight) == (1, 1)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not is_locked(directory)
        with closing(Checkpoint(directory, writable=False)) as reader:
            assert column(reader, "response") == ["paid for", None, None]
        with (
            open_directory(directory, new=False),
            closing(Checkpoint(directory, writable=True)) as store,
        ):
            assert start(store, 3) == 1
            pending = store.plan(items("abc"), retry_errored=False)
            assert [(r.custom_id, r.attempts_made) for r in pending] == [("2", 1), ("3", 0)]


# The lock


def test_a_second_holder_is_refused_at_once(tmp_path: Path) -> None:
    with open_directory(tmp_path, new=False):
        taken = []
        for _ in range(10):
            before = time.monotonic()
            with pytest.raises(CheckpointError, match=r"another batchrun process .*status"):
                open_directory(tmp_path, new=False)
            taken.append(time.monotonic() - before)
        assert min(taken) < 0.2
    with open_directory(tmp_path, new=False):
        pass


def test_a_locked_run_is_refused_before_anything_else_is_looked_at(tmp_path: Path) -> None:
    refuse_locked(tmp_path / "nothing there yet")
    refuse_locked(tmp_path)
    with open_directory(tmp_path, new=False), pytest.raises(CheckpointError, match="is working"):
        refuse_locked(tmp_path)


def test_new_is_refused_while_somebody_works_and_moves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with open_directory(directory, new=False):
        filled(directory)
        with pytest.raises(CheckpointError, match="another batchrun process"):
            open_directory(directory, new=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_asking_whether_a_run_is_locked_does_not_lock_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with DirectoryLock(tmp_path):
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_somebody_who_only_looks_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    # What `is_locked` does, for as long as the test likes.
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.05, os.close, [fd])
    timer.start()
    with open_directory(tmp_path, new=False):
        assert is_locked(tmp_path)
    timer.join()


def test_a_directory_that_cannot_be_asked_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be used as run directory"):
        is_locked(tmp_path / "nowhere")


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match="cannot be used as run directory"):
        open_directory(tmp_path / "run", new=False)


def test_new_keeps_every_earlier_run_beside(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    for _ in range(3):
        with open_directory(directory, new=True):
            assert not any(directory.iterdir())
            filled(directory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert directory.stat().st_mode & 0o777 == 0o700
    with closing(Checkpoint(tmp_path / "run.1", writable=False)) as earlier:
        assert totals(earlier).succeeded == 100


def test_new_moves_a_damaged_checkpoint_aside_too(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / FILE_NAME).write_bytes(b"rubbish")
    with open_directory(directory, new=True):
        assert not any(directory.iterdir())
    assert (tmp_path / "run.1" / FILE_NAME).read_bytes() == b"rubbish"


def test_new_leaves_a_folder_alone_that_holds_no_run(tmp_path: Path) -> None:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "job.toml").touch()
    with open_directory(directory, new=True):
        assert [path.name for path in directory.iterdir()] == ["job.toml"]


class MovedAside(type(Path())):  # type: ignore[misc]
    """A directory that somebody with --new moves aside between our opening and locking it."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        here = Path(self)
        aside = here.with_name("run.1")
        if not aside.exists():
            here.rename(aside)
            here.mkdir()
        return here.stat(follow_symlinks=follow_symlinks)


def test_the_lock_is_on_what_is_at_the_path_not_on_what_was_moved_away(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with DirectoryLock(MovedAside(directory)):
        assert is_locked(directory)
        assert not is_locked(tmp_path / "run.1")


def test_libraries_that_nothing_here_uses_are_not_loaded_with_it() -> None:
    """Pandas is among the test dependencies; to load it takes longer than all the rest."""
    code = (
        "import sys, batchrun.checkpoint\n"
        "assert not {'pandas', 'numpy'} & sys.modules.keys()\n"
        "import pandas, batchrun.checkpoint\n"
        "assert pandas.DataFrame\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("length", [2_000, 9_000, 70_000])
def test_long_answers_take_little_more_than_their_bytes(tmp_path: Path, length: int) -> None:
    rows = 6_000_000 // length  # with fewer, the pages of empty tables count
    assert write_answers(tmp_path, [length] * rows) <= 1.3 * rows * length


@pytest.mark.parametrize("length", [5_000, 10_000, 20_000])
def test_long_conversations_take_little_more_than_their_bytes(tmp_path: Path, length: int) -> None:
    rows = 3_000_000 // length
    assert write_answers(tmp_path, [length] * rows, in_turns=True) <= 1.35 * rows * length


def test_a_connection_is_closed_after_the_statement_of_another_thread(tmp_path: Path) -> None:
    # Otherwise Python crashes, so this is not tried in the process of the tests.
    code = """
import threading
from concurrent.futures import ThreadPoolExecutor
from batchrun.checkpoint.sqlite import Database
for _ in range(20):
    db, begun, more = Database(), threading.Event(), threading.Event()
    db.conn.create_function("wait", 0, lambda: begun.set() or more.wait(0.01))
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(db.execute, "SELECT wait()")
        begun.wait()
        db.close()
        found.result()
print("closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
