"""Long texts are in pieces in the file, and everywhere else they are what they were."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.checkpoint import (
    EVERYTHING,
    FILE_NAME,
    Checkpoint,
    compare_rows,
    find_damage,
    merged,
    repair,
    state_flaws,
    totals,
)
from batchrun.checkpoint.columns import LONG
from batchrun.checkpoint.encoding import LONG_OF_TURNS
from batchrun.checkpoint.long_texts import (
    LONGEST_BYTES,
    MOST_IN_ROW,
    PIECE_BYTES,
    SHORT_BYTES,
    whole,
)
from batchrun.records import Turn, changed
from tests.support.checkpoints import (
    begin,
    column,
    finish,
    items,
    plan,
    rows,
    start,
    succeeded,
)

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.records import PlannedRequest, Result

BORDERS = (
    0,
    SHORT_BYTES,
    MOST_IN_ROW,
    PIECE_BYTES,
    2 * PIECE_BYTES,
    7 * PIECE_BYTES,
    LONGEST_BYTES,
)
ALPHABETS = ("a", "é", "a漢", "a\x00é", "😀", '\\"\n')
lengths = st.sampled_from(BORDERS).flatmap(
    lambda border: st.integers(max(0, border - 20), border + 20)
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Text of about so many bytes, all of it different from place to place."""
    alphabet, length = draw(st.sampled_from(ALPHABETS)), draw(lengths)
    found = "".join(alphabet[n % len(alphabet)] + f"{n}"[-1] for n in range(length))
    return found.encode()[:length].decode("utf-8", "ignore")


def completed(request: PlannedRequest, **facts: Any) -> Result:
    result = succeeded(request)
    assert result.completion is not None
    return changed(result, completion=changed(result.completion, **facts))


def pieces(store: Checkpoint) -> int:
    found: int = store.db.execute("SELECT count(*) FROM pieces").fetchone()[0]
    return found


@settings(max_examples=25, deadline=None)
@given(texts(), texts(), texts(), texts())
@example("a" * 300_000, "é" * 200_000, "[]", "")
def test_texts_of_every_length_come_back_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, one: str, other: str, reasoning: str, raw: str
) -> None:
    directory = tmp_path_factory.mktemp("run")
    with closing(Checkpoint(directory, writable=True)) as store:
        first, second, third = plan(store, items("abc"))
        facts = {"texts": (one, other), "reasoning": reasoning, "tool_calls": other or None}
        packed = {"raw": raw.encode(), "logprobs": raw}
        finish(store, completed(first, **facts, **packed), succeeded(second, other))
        finish(store, succeeded(third, one))
    with closing(Checkpoint(directory, writable=False)) as store:
        found = rows(store)
        names = ["response", "responses", "reasoning", "tool_calls", "raw", "logprobs"]
        (values,) = [
            dict(zip(("ordinal", *names), row, strict=True))
            for row in zip(*store.columns(0, 1, names).values(), strict=True)
        ]
        assert values == {
            "ordinal": 0,
            "response": one,
            "responses": orjson.dumps([one, other]).decode(),
            "reasoning": reasoning,
            "tool_calls": other or None,
            "raw": raw,
            "logprobs": raw,
        }
        assert [row["response"] for row in found] == [one, other, one]
        assert not find_damage(store).count
        assert not list(state_flaws(store, shared=False))
    with closing(sqlite3.connect(directory / FILE_NAME)) as db:
        shown = db.execute("SELECT response, responses, reasoning FROM result_rows").fetchall()
        in_row = db.execute("SELECT typeof(response) FROM results").fetchall()
    assert shown == [
        (one, values["responses"], reasoning),
        (other, None, None),
        (one, None, None),
    ]
    assert all(
        (kind == "integer") <= (SHORT_BYTES < len(text.encode()) <= LONGEST_BYTES)
        for (kind,), text in zip(in_row, (one, other, one), strict=True)
    )


@pytest.mark.parametrize("length", [2 * MOST_IN_ROW, LONGEST_BYTES])
def test_pieces_are_whole_characters_of_at_most_their_size(tmp_path: Path, length: int) -> None:
    text = ("a漢é😀" * length).encode()[: length - 2].decode("utf-8", "ignore")
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        finish(store, *(succeeded(request, text) for request in plan(store, items("ab"))))
        found = store.db.execute("SELECT request_id, text FROM pieces ORDER BY id").fetchall()
    for key in (1, 2):
        of_row = [piece for owner, piece in found if owner == key]
        assert "".join(of_row) == text
        assert all(PIECE_BYTES - 3 <= len(p.encode()) <= PIECE_BYTES for p in of_row[:-1])


def test_an_answer_that_replaces_another_leaves_no_piece_of_it(tmp_path: Path) -> None:
    long = "so " * 3_000
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        first, second = plan(store, items("ab"))
        finish(store, succeeded(first, long), succeeded(second, long))
        before = pieces(store)
        again = changed(first, attempts_made=1)
        finish(store, succeeded(again, "short"))
        assert pieces(store) == before / 2
        assert column(store, "response") == ["short", long]
        finish(store, succeeded(changed(first, attempts_made=2), long * 2))
        assert pieces(store) == before * 1.5
        assert column(store, "response") == [long * 2, long]
        assert not find_damage(store).count


def test_a_damaged_id_deletes_no_piece_of_another_row(tmp_path: Path) -> None:
    long = "so " * 3_000
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        first, second = plan(store, items("ab"))
        finish(store, succeeded(first, long), succeeded(second, long * 2))
        store.db.execute(
            "UPDATE results SET response = (SELECT response FROM results WHERE request_id = 2) "
            "WHERE request_id = 1"
        )
        assert find_damage(store).count == 1
        assert repair(store).given_up == 1
        assert column(store, "response") == [None, long * 2]
        assert not find_damage(store).count


def test_runs_with_long_answers_are_compared_and_their_parts_merged(tmp_path: Path) -> None:
    answers = ["long " * 1_000, "other " * 2_000, "short", "last " * 30_000]
    for name, last in (("one", answers[3]), ("two", answers[3] + "!")):
        (tmp_path / name).mkdir()
        with closing(Checkpoint(tmp_path / name, writable=True)) as store:
            pending = plan(store, items("abcd"))
            said = [*answers[:3], last]
            for request, text in reversed(list(zip(pending, said, strict=True))):
                finish(store, succeeded(request, text))
    folders = [(tmp_path / "one", 0), (tmp_path / "two", 4)]
    with (
        closing(Checkpoint(tmp_path / "one", writable=False)) as one,
        closing(Checkpoint(tmp_path / "two", writable=False)) as two,
    ):
        pairs = compare_rows(one, two)
        assert (pairs.common, pairs.same_text) == (4, 3)
    with merged(folders, 8, EVERYTHING) as store:
        assert column(store, "response") == [*answers, *answers[:3], answers[3] + "!"]
        assert not find_damage(store).count
        assert totals(store).succeeded == 8


@settings(max_examples=15, deadline=None)
@given(texts(), texts(), texts())
@example("é" * 200_000, "[]", "")
def test_turns_of_every_length_come_back_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, said: str, calls: str, results: str
) -> None:
    directory = tmp_path_factory.mktemp("run")
    with closing(Checkpoint(directory, writable=True)) as store:
        first, second = plan(store, items("ab"))
        calling = Turn(first.key, 1, said, f"[{calls}]")
        paused = Turn(first.key, 2, said, "[]", "[]")
        waiting = Turn(second.key, 1, said, f"[{calls}]")
        begin(store, first, second)
        store.record([], [], [], [calling, waiting])
        answered = changed(calling, results=results)
        store.record([], [], [], [answered, paused])
        held = pieces(store)
        store.record([], [], [], [answered])  # the same again, as after a crash of a worker
        assert pieces(store) >= held
    with closing(Checkpoint(directory, writable=True)) as store:
        again = plan(store, items("ab"))
        assert [request.turns for request in again] == [(answered, paused), (waiting,)]
        assert not find_damage(store).count


def test_turns_with_their_results_leave_no_piece_of_those_without(tmp_path: Path) -> None:
    said, results = "s" * 4 * PIECE_BYTES, "r" * 3 * PIECE_BYTES
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        (request,) = plan(store, items("a"))
        turn = Turn(request.key, 1, said, "[1]")
        store.record([], [], [], [turn])
        assert pieces(store) == 4
        store.record([], [], [], [changed(turn, results=results)])
        assert pieces(store) == 7


def test_a_conversation_with_a_damaged_turn_is_given_up_with_its_pieces(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        (request,) = plan(store, items("a"))
        turns = [Turn(request.key, n, f"{n}" * 5_000, "[1]", "r" * 5_000) for n in (1, 2)]
        begin(store, request)
        store.record([], [], [], [changed(turn, results=None) for turn in turns])
        store.record([], [], [], turns)
        store.db.execute("UPDATE pieces SET text = 'x' || text WHERE id = 0 OR text LIKE '2%'")
        assert find_damage(store).count
        repair(store)
        assert pieces(store) == 0
        assert not find_damage(store).count


def test_the_same_long_answer_to_every_row_is_found(tmp_path: Path) -> None:
    long = "the same " * 500
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        finish(store, *(succeeded(request, long) for request in plan(store, items("abcd"))))
        assert totals(store).same_answer == long


def test_every_column_in_pieces_is_declared_so(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        start(store, 0)
        for table, long in (("results", LONG), ("turns", LONG_OF_TURNS)):
            found = store.db.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
            assert {name for name, kind in found if kind == "ANY"} == {*long}
    assert "pieces" in whole("r.response")
