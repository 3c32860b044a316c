"""Batches in the checkpoint: their steps, their members, and what the planner knows of them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import checkpoint
from batchrun.checkpoint import Checkpoint, Comparison, find_damage, state_flaws, totals
from batchrun.errors import CheckpointError
from batchrun.formats import BatchState, RemoteBatch
from batchrun.formats.sent_batches import DAMAGED, UNKNOWN_ACCOUNT, SentBatch
from batchrun.records import Attempt, AttemptStart, PlannedRequest, Result, Status, changed
from tests.support.checkpoints import BATCH, NOON, asked, items, plan, rows, start, succeeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

REMOTE = RemoteBatch(id="remote", state=BatchState.RUNNING, rows=2, created_us=5, expires_us=9)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Checkpoint]:
    opened = Checkpoint(tmp_path, writable=True)
    yield opened
    assert list(state_flaws(opened, shared=False)) == []
    assert find_damage(opened).count == 0
    opened.close()


def intend(
    store: Checkpoint, requests: Sequence[PlannedRequest], tag: str = "t0", **facts: Any
) -> SentBatch:
    batch = replace(BATCH, tag=tag, rows=len(requests), **facts)
    starts = [AttemptStart(r.key, r.attempts_made + 1, NOON, 7) for r in requests]
    checkpoint.intend_batch(store, batch, starts)
    return batch


def only(store: Checkpoint) -> SentBatch:
    (batch,) = checkpoint.batches(store)
    return batch


def failed(request: PlannedRequest, error_type: str = "batch_expired") -> Attempt:
    return Attempt(
        request.key, request.attempts_made + 1, 3.0, error_type=error_type, cause="transient"
    )


def test_the_steps_of_a_batch(store: Checkpoint) -> None:
    first, second, _ = plan(store, items("abc"))
    intend(store, [first, second])
    assert (only(store).stage, only(store).out, only(store).reserved) == ("intended", 2, 14)
    checkpoint.note_upload(store, "t0", "file-1")
    checkpoint.note_sent(store, "t0", REMOTE, is_proven=False)
    found = only(store)
    assert (found.stage, found.input_file, found.remote_id) == ("sent", "file-1", "remote")
    assert (found.state, found.is_proven) == (BatchState.RUNNING, False)
    assert (found.created_us, found.expires_us, found.done) == (5, 9, None)
    ended = replace(REMOTE, state=BatchState.ENDED, done=1, failed=0, expires_us=None)
    checkpoint.note_state(store, "t0", ended)
    assert (only(store).state, only(store).done, only(store).expires_us) == ("ended", 1, 9)
    assert {key: m.number for key, m in checkpoint.batch_members(store, "t0").items()} == {
        first.key: 1,
        second.key: 1,
    }
    checkpoint.collect_batch(store, "t0", [], [succeeded(first)])
    assert (only(store).out, only(store).is_proven) == (1, True)
    left = checkpoint.close_batch(
        store, "t0", "batch_expired", "expired", maybe_billed=False, latency_s=4.0
    )
    assert (left, only(store).stage, only(store).out) == (1, "collected", 0)
    assert checkpoint.batches(store, open_only=True) == []
    assert [row["status"] for row in rows(store)] == ["succeeded", "pending", "pending"]
    assert totals(store).maybe_billed == 0


def test_rows_in_a_batch_are_neither_sent_nor_done(store: Checkpoint) -> None:
    first, second, _ = plan(store, items("abc"))
    intend(store, [first, second])
    start(store, 3)
    planned = store.plan_chunk(items("abc"), retry_errored=True)
    assert (asked(planned.requests), planned.out) == (["3"], 2)
    found = store.count_unsettled(0, 3, retry_errored=False)
    assert (found.to_send, found.unrenderable, found.out) == (1, 0, 2)
    # The rows have moved, one of them is gone, and one is new.
    planned = store.plan_chunk(items("cbx"), retry_errored=False)
    assert (asked(planned.requests), planned.out) == (["1", "3"], 1)
    comparison = Comparison(store, shared=False)
    comparison.add(item.fingerprint for item in items("abb"))
    reuse = comparison.result(retry_errored=False)
    assert (reuse.reused, reuse.out, reuse.new) == (0, 2, 1)
    comparison = Comparison(store, shared=True)
    comparison.add(item.fingerprint for item in items("abb"))
    reuse = comparison.result(retry_errored=False)
    assert (reuse.reused, reuse.out, reuse.new) == (0, 3, 0)


def test_the_start_of_an_execution_leaves_members_alone(store: Checkpoint) -> None:
    first, second, _ = plan(store, items("abc"))
    intend(store, [first])
    store.record([AttemptStart(second.key, 1, NOON)], [], [])
    assert [lost.key for lost in store.unfinished_attempts()] == [second.key]
    assert start(store, 3) == 1
    assert only(store).out == 1
    found = totals(store)
    assert (found.in_flight, found.maybe_billed, found.open_batches[0].out) == (0, 1, 1)


def test_a_void_batch_leaves_nothing_behind(store: Checkpoint) -> None:
    first, second = plan(store, items("ab"))
    intend(store, [first, second])
    checkpoint.void_batch(store, "t0", "not found")
    assert (only(store).stage, only(store).reason, only(store).out) == ("void", "not found", 0)
    again = store.plan(items("ab"), retry_errored=False)
    assert [(r.attempts_made, r.batch_error) for r in again] == [(0, None)] * 2
    assert store.spent() == 0


def test_expired_rows_are_pending_again(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    intend(store, [request])
    checkpoint.collect_batch(store, "t0", [failed(request)], [])
    checkpoint.close_batch(store, "t0", "batch_missing", "", maybe_billed=True, latency_s=1)
    (again,) = store.plan(items("a"), retry_errored=False)
    assert (again.attempts_made, again.batch_error) == (1, "batch_expired")
    # Expiry does not count towards max_attempts, other failures do.
    intend(store, [again], "t1")
    assert [m.failures for m in checkpoint.batch_members(store, "t1").values()] == [0]
    checkpoint.collect_batch(store, "t1", [failed(again, "overloaded_error")], [])
    checkpoint.close_batch(store, "t1", "batch_missing", "", maybe_billed=True, latency_s=1)
    (again,) = store.plan(items("a"), retry_errored=False)
    intend(store, [again], "t2")
    assert [m.failures for m in checkpoint.batch_members(store, "t2").values()] == [1]


def test_a_missing_answer_may_have_been_billed(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    intend(store, [request])
    checkpoint.close_batch(store, "t0", "batch_missing", "gone", maybe_billed=True, latency_s=1)
    assert totals(store).maybe_billed == 1
    assert store.spent() == 7
    assert asked(store.plan(items("a"), retry_errored=False)) == ["1"]


def test_no_request_is_in_two_batches(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    intend(store, [request])
    later = changed(request, attempts_made=1)
    with pytest.raises((CheckpointError, sqlite3.IntegrityError)):
        intend(store, [later], "t1")
    assert [batch.tag for batch in checkpoint.batches(store)] == ["t0"]


def test_another_batch_is_looked_for_again(store: Checkpoint) -> None:
    (request,) = plan(store, items("a"))
    intend(store, [request])
    checkpoint.note_sent(store, "t0", REMOTE, is_proven=False)
    assert only(store).remote_id == "remote"
    checkpoint.note_other(store, "t0", "remote")
    found = only(store)
    assert (found.stage, found.remote_id, found.refused_ids) == ("intended", None, ("remote",))
    assert (found.state, found.created_us) == (None, None)
    assert found.out == 1


def test_money_of_members_is_spent_until_their_answers_are_there(store: Checkpoint) -> None:
    first, second = plan(store, items("ab"))
    intend(store, [first, second])
    assert (store.spent(), store.known_cost()) == (14, 0)
    refused = Result(first.key, Status.ERRORED, failed(first, "invalid_request_error"), NOON)
    checkpoint.collect_batch(store, "t0", [], [refused])
    assert store.spent() == 7


def test_an_execution_counts_what_it_submits_as_sent_and_what_it_collects_as_answered(
    store: Checkpoint,
) -> None:
    def last() -> tuple[int, int]:
        found = totals(store).last_execution
        assert found is not None
        return found.sent, found.succeeded

    first, second, third = plan(store, items("abc"))
    intend(store, [first, second])
    assert last() == (2, 0)
    start(store, 3)
    assert last() == (0, 0)
    checkpoint.collect_batch(store, "t0", [], [succeeded(first)])
    assert last() == (0, 1)
    intend(store, [third], "t1")
    assert last() == (1, 1)


def test_the_number_of_requests_is_checked_against_the_members(store: Checkpoint) -> None:
    first, second = plan(store, items("ab"))
    intend(store, [first, second])
    assert list(state_flaws(store, shared=False)) == []
    checkpoint.collect_batch(store, "t0", [], [succeeded(first)])
    store.db.execute("UPDATE batches SET rows = 3")
    (flaw,) = state_flaws(store, shared=False)
    assert flaw.problem == "holds batch t0 of 3 requests, but has 2 of their attempts"
    store.db.execute("UPDATE batches SET rows = 2")


def test_latency_of_batches_is_not_that_of_requests(store: Checkpoint) -> None:
    first, second = plan(store, items("ab"))
    intend(store, [first])
    checkpoint.collect_batch(store, "t0", [], [succeeded(first, latency_s=40_000.0)])
    store.record([AttemptStart(second.key, 1, NOON)], [], [])
    result = succeeded(second, latency_s=2.0)
    store.record([], [result.last], [result])
    assert totals(store).latency_s == {"p50": 2.0, "p90": 2.0, "p99": 2.0}


def damage(store: Checkpoint, assignments: str) -> None:
    store.db.execute(f"UPDATE batches SET {assignments}")
    (found,) = find_damage(store).first
    assert "the stored batch 1 is damaged" in str(found)
    with pytest.raises(CheckpointError, match="Nothing was sent"):
        checkpoint.check_plan(store)


FLIPPED = {
    "the stage": "stage = 'sEnt'",
    "the tag": "tag = 'p0'",
    "the id": "remote_id = 'rmmote'",
    "an id that is not UTF-8": "remote_id = CAST(x'72656dff7465' AS TEXT)",
    "the file": "input_file = 'fild-1'",
    "the account": "account = 'digesu'",
    "the state": "state = 'runnino'",
    "the number of rows": "rows = rows | 16",
    "a proof": "is_proven = 0",
    "the start": "intended_us = intended_us | (1 << 61)",
}


@pytest.mark.parametrize("name", FLIPPED)
def test_a_batch_with_a_flipped_bit_is_looked_for_again(store: Checkpoint, name: str) -> None:
    first, second, _ = plan(store, items("abc"))
    intend(store, [first, second])
    checkpoint.note_upload(store, "t0", "file-1")
    checkpoint.note_sent(store, "t0", REMOTE)
    damage(store, FLIPPED[name])
    found = checkpoint.repair(store)
    assert (found.restored, found.given_up) == (1, 0)
    batch = only(store)
    assert (batch.stage, batch.remote_id, batch.rows, batch.out) == ("intended", None, 2, 2)
    assert batch.reason == DAMAGED


def test_a_damaged_batch_that_cannot_be_restored_is_looked_for_again(store: Checkpoint) -> None:
    first, second, _ = plan(store, items("abc"))
    intend(store, [first, second])
    checkpoint.note_sent(store, "t0", REMOTE)
    damage(store, "stage = 'void', remote_id = 'x', rows = 7, refused_ids = '{'")
    checkpoint.repair(store)
    batch = only(store)
    assert (batch.stage, batch.remote_id, batch.rows, batch.out) == ("intended", None, 2, 2)
    assert (batch.account, batch.reason, batch.refused_ids) == (UNKNOWN_ACCOUNT, DAMAGED, ())


def test_a_stage_that_cannot_be_is_a_message(store: Checkpoint) -> None:
    first, *_ = plan(store, items("abc"))
    intend(store, [first])
    store.db.execute("UPDATE batches SET stage = 'x'")
    with pytest.raises(CheckpointError, match="'x' is not a valid BatchStage"):
        checkpoint.batches(store)
    checkpoint.repair(store)
