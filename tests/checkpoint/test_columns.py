"""What comes back from the checkpoint as columns is what went in, however odd or large."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.checkpoint import Checkpoint, result_kinds
from batchrun.output.frames import CHUNK_BYTES, CHUNK_ROWS, Results, joined_frames
from tests.support.checkpoints import answer_all, column, finish, items, plan, succeeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ODD = [
    "",
    '"',
    "\\",
    "\x00",
    "a\x00b",
    "\n\r\t\x1f\x7f",
    "é𝕏😀",
    "null",
    "[1,2]",
    '{"a": "b"}',
    "\u2028",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_back_as_they_are(tmp_path: Path, text: str) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        (request,) = plan(store, items("a"))
        finish(store, succeeded(request, text, request_id=text))
        assert column(store, "response") == [text]
        assert [chunk["request_id"] for chunk in store.attempt_columns(5)] == [[text]]


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e6), st.integers(0, 10**12))
def test_numbers_come_back_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, latency_s: float, tokens: int
) -> None:
    from batchrun.records import Usage

    with closing(Checkpoint(tmp_path_factory.mktemp("run"), writable=True)) as store:
        (request,) = plan(store, items("a"))
        usage = Usage(input_tokens=tokens, output_tokens=2**53 + 1)
        finish(store, succeeded(request, latency_s=latency_s, usage=usage))
        assert column(store, "latency_s") == [round(latency_s, 6)]
        assert column(store, "input_tokens") == [tokens]
        assert column(store, "output_tokens") == [2**53 + 1]


def test_columns_longer_than_a_text_of_sqlite_may_be_come_in_parts(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        answer_all(store, plan(store, items("abcdefg", ids=[letter * 300 for letter in "abcdefg"])))
        store.db.conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_500)
        assert column(store, "custom_id") == [letter * 300 for letter in "abcdefg"]
        assert column(store, "ordinal") == list(range(7))


class Talkative:
    """A checkpoint whose answers are long."""

    def __init__(self, characters: int) -> None:
        self._answer = "x" * characters
        self.asked: list[int] = []

    def rows_within(self, first: int, end: int, most_bytes: int) -> int:
        return end - first

    def columns(self, first: int, end: int, names: Sequence[str]) -> dict[str, list[object]]:
        self.asked.append(end - first)
        count = end - first
        known: dict[str, list[object]] = {
            "ordinal": list(range(first, end)),
            "custom_id": [str(n + 1) for n in range(first, end)],
            "status": ["succeeded"] * count,
            "response": [self._answer] * count,
        }
        return {name: known.get(name, [None] * count) for name in ("ordinal", *names)}

    def attempt_columns(self, chunk_rows: int) -> Iterator[dict[str, list[object]]]:
        raise NotImplementedError


class Rows:
    schema = pl.Schema({"n": pl.Int64})

    def frames(self, columns: object = None) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"n": range(30_000)})

    def ids(self, frame: pl.DataFrame, start: int) -> list[str]:
        return [str(start + n + 1) for n in range(frame.height)]


@pytest.mark.parametrize(("characters", "most"), [(10, CHUNK_ROWS), (40_000, 430)])
def test_rows_with_long_answers_are_written_in_smaller_parts(characters: int, most: int) -> None:
    rows = Talkative(characters)
    kinds = result_kinds()
    frames = joined_frames(Results(Rows(), rows, kinds), {name: name for name in kinds}, {})
    heights = [next(frames).height for _ in range(6)]
    frames.close()  # type: ignore[attr-defined]
    # One part is on its way while the size of the one before it is still unknown.
    assert max(heights[2:]) <= most
    assert max(heights[2:]) * characters <= CHUNK_BYTES or characters < 100
    if characters < 100:
        assert heights[-1] == CHUNK_ROWS
