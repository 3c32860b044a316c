"""Checksums: what SQL computes of a stored row is what was written with it, until one bit changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchrun.checkpoint import (
    FILE_NAME,
    Checkpoint,
    encoding,
    find_damage,
    intend_batch,
    note_price,
)
from batchrun.checkpoint.integrity import KINDS
from batchrun.errors import Record
from batchrun.pricing.totals import PriceUse
from batchrun.records import (
    Attempt,
    AttemptStart,
    Billing,
    Completion,
    Cost,
    CostSource,
    Ending,
    Result,
    Status,
    Turn,
    Usage,
)
from tests.support.checkpoints import BATCH, NOON, finish, items, plan, succeeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST = 2**63 - 1
LONG = "ä long \N{GRINNING FACE} text\x00 with a null. " * 100
EVERYTHING = Completion(
    (LONG, ""),
    "stop",
    "m",
    "ü",
    Usage(),
    reasoning="",
    tool_calls="[]",
    ending=Ending.STOP,
    refusal="a\x1fb",
    citations=LONG * 3,
    logprobs='[{"token": "a"}]' * 500,
    stop_sequence="5",
    raw=bytes(range(256)) * 40,
)
ATTEMPTS = {
    "nothing known": Attempt(1, 1, 0.0),
    "a long wait": Attempt(1, 1, 123456.789012, model="m", error_message=""),
    "the largest": Attempt(
        1,
        1,
        1e-6,
        200,
        maybe_billed=True,
        usage=Usage(MOST, 0, -1, 127, 128, 255, 256, 2**32, -(2**63)),
        cost=Cost(1, 2, 3, 4, 5, 6, CostSource.STATED, -7),
        billing=Billing("flex", web_search_requests=10**30, stated_cost=MOST + 1),
    ),
    "texts": Attempt(1, 1, 1.0, 500, "5", "\N{GRINNING FACE}\x00 or ä", "no", model="\ud7ff\ue000"),
}


def stored(place: Path, attempt: Attempt, completion: Completion = EVERYTHING) -> Path:
    """A checkpoint with one row, whose only attempt this is."""
    with closing(Checkpoint(place, writable=True)) as store:
        plan(store, items(["a"]))
        status = Status.ERRORED if attempt.error_type else Status.SUCCEEDED
        finish(store, Result(1, status, attempt, NOON, completion))
        store.record([], [], [], [Turn(1, 1, "says ä", "[]", None)])
    return place / FILE_NAME


def damage(place: Path) -> list[Record]:
    with closing(Checkpoint(place, writable=False)) as store:
        return [damaged.record for damaged in find_damage(store).first]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_is_written_is_intact(tmp_path: Path, name: str) -> None:
    stored(tmp_path, ATTEMPTS[name])
    assert damage(tmp_path) == []


CHANGES: dict[str, tuple[str, Record]] = {
    "a bit of an integer": (
        "UPDATE attempts SET input_tokens = input_tokens - 1",
        Record.ATTEMPT,
    ),
    "the sign of an integer": (
        "UPDATE attempts SET cache_read_tokens = - cache_read_tokens",
        Record.ATTEMPT,
    ),
    "null for zero": ("UPDATE attempts SET output_tokens = NULL", Record.ATTEMPT),
    "zero for null": ("UPDATE attempts SET asked_model = '0'", Record.ATTEMPT),
    "a flag": ("UPDATE attempts SET maybe_billed = 0", Record.ATTEMPT),
    "a microsecond": (
        "UPDATE attempts SET latency_s = latency_s + 1e-6",
        Record.ATTEMPT,
    ),
    "money": ("UPDATE attempts SET batch_saved = -6", Record.COST),
    "neighbours exchanged": (
        "UPDATE attempts SET cost_cache_read = cost_cache_write, cost_cache_write = cost_cache_read",
        Record.COST,
    ),
    "a character": (
        "UPDATE results SET refusal = replace(refusal, 'b', 'c')",
        Record.ANSWER,
    ),
    "a character of a piece": (
        "UPDATE pieces SET text = replace(text, 'long', 'lonh') WHERE id = (SELECT min(id) FROM pieces)",
        Record.ANSWER,
    ),
    "a byte of bytes": (
        "UPDATE results SET raw = CAST(substr(raw, 1, 9) || x'80' || substr(raw, 11) AS BLOB)",
        Record.ANSWER,
    ),
    "text that is not UTF-8": (
        "UPDATE results SET response_id = CAST(x'C33C' AS TEXT)",
        Record.ANSWER,
    ),
    "a digit": ("UPDATE results SET stop_sequence = 6", Record.ANSWER),
    "text to another column": (
        "UPDATE results SET refusal = stop_sequence, stop_sequence = refusal",
        Record.ANSWER,
    ),
    "a status": ("UPDATE results SET status = 'erroree'", Record.STATUS),
    "a start": ("UPDATE attempts SET started_us = started_us + 1", Record.START),
    "a turn": ("UPDATE turns SET said = 'says å'", Record.TURN),
    "an id that is not UTF-8": (
        "UPDATE items SET custom_id = CAST(x'FF' AS TEXT)",
        Record.ROW,
    ),
    "a fingerprint": (
        "UPDATE requests SET fingerprint = CAST(x'60' || substr(fingerprint, 2) AS BLOB)",
        Record.REQUEST,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_found(tmp_path: Path, name: str) -> None:
    statement, record = CHANGES[name]
    with closing(sqlite3.connect(stored(tmp_path, ATTEMPTS["the largest"]))) as db, db:
        assert db.execute(statement).rowcount == 1
    assert damage(tmp_path) == [record]


@pytest.mark.parametrize("change", ["reserved = NULL", "reserved = 8", "execution = 7"])
def test_what_a_start_reserves_counts(tmp_path: Path, change: str) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        plan(store, items(["a"]))
        store.record([AttemptStart(1, 1, NOON, reserved=7)], [], [])
    assert damage(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        db.execute(f"UPDATE attempts SET {change}")
    assert damage(tmp_path) == [Record.START]


# Another value of the same type; SQLite makes the text of a null a number where the column has one.
ANOTHER = """CASE typeof({0}) WHEN 'integer' THEN ~{0} WHEN 'real' THEN {0} + 1
    WHEN 'text' THEN {0} || 'x' WHEN 'blob' THEN CAST(substr({0}, 2) AS BLOB) ELSE '7' END"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """A checkpoint with at least one record of each kind."""
    place = tmp_path_factory.mktemp("everything")
    stored(place, ATTEMPTS["the largest"])
    with closing(Checkpoint(place, writable=True)) as store:
        store.execution = 1
        intend_batch(store, BATCH, [])
        note_price(store, PriceUse("m", "list", 1, "m", {"input": 1.0}))
        assert find_damage(store).count == 0
        yield store


# Columns that no checksum covers.
UNCOVERED = {"executions": {"waiting"}, "attempts": {"batch", "answered_in"}}
TABLES = sorted({checked.table for checked in encoding.every_checked()})


@pytest.mark.parametrize("table", TABLES)
def test_each_column_of_each_table_counts(everything: Checkpoint, table: str) -> None:
    db = everything.db.conn
    columns = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
    if table == "run":
        columns.remove("id")  # SQLite allows no other
    missed = set()
    for column in columns:
        db.execute("BEGIN")
        changed = db.execute(f"UPDATE {table} SET {column} = {ANOTHER.format(column)}")
        assert changed.rowcount == 1
        if not find_damage(everything).count:
            missed.add(column)
        db.execute("ROLLBACK")
    assert missed == UNCOVERED.get(table, set())


def test_all_checksums_are_checked() -> None:
    assert {kind.table for kind in KINDS.values()} == {*encoding.every_checked()}


def test_bits_of_integers_count(tmp_path: Path) -> None:
    """Also where the integer has more or fewer digits than before."""
    path = stored(tmp_path, ATTEMPTS["nothing known"])
    for value in (0, 1, 127, 2**31, MOST, -1):
        with closing(Checkpoint(tmp_path, writable=True)) as store:
            attempt = Attempt(1, 1, 1.0, usage=Usage(value))
            store.record([], [attempt], [])
        for bit in (*range(0, 60, 5), 62, 63):
            other = value ^ (1 << bit) if bit < 63 else value ^ -(2**63)
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE attempts SET input_tokens = ?", (other,))
            assert damage(tmp_path) == [Record.ATTEMPT], (value, bit)


def test_a_new_column_changes_no_checksum_of_rows_without_a_value(tmp_path: Path) -> None:
    """A later version may add columns: its nulls are not covered."""
    row: dict[str, Any] = dict.fromkeys(encoding.SENT.columns)
    assert encoding.SENT.of(row | {"number": 1}) == encoding.checksum((1,))


def test_the_damaged_row_is_named_though_its_text_is_not_utf_8(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        for request in plan(store, items(["a", "b"])):
            finish(store, succeeded(request))
        store.db.execute(
            "UPDATE results SET response = CAST(x'79FF73' AS TEXT) WHERE request_id = 2"
        )
        found = find_damage(store).first
    assert [(damaged.record, damaged.custom_id) for damaged in found] == [(Record.ANSWER, "2")]
