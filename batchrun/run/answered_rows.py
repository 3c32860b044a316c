"""The rows of a run with their answers, read again from the input and the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.records import Item
    from batchrun.source import Source


CHUNK_ROWS = 1_000
CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A row that succeeded, and the texts of all its answers: samples, or choices.

    `logprobs` has the log probabilities of a single answer, as JSON; None if they are unknown.
    """

    item: Item
    texts: Sequence[str]
    logprobs: str | None = None


def answered_rows(
    source: Source,
    store: checkpoint.Checkpoint,
    columns: Sequence[str],
    *,
    logprobs: bool = False,
) -> Iterator[list[AnsweredRow]]:
    """Yield the rows that succeeded, in order, a few megabytes at a time; optionally with `logprobs`."""
    for items in _row_chunks(source, store, columns):
        first, end = items[0].ordinal, items[-1].ordinal + 1
        found = checkpoint.answers(store, first, end)
        tokens = checkpoint.answer_logprobs(store, first, end) if logprobs else {}
        by_row = {row[0]: row[1:] for row in found}
        rows = []
        for item in items:
            custom_id, *answer = by_row.get(item.ordinal, (None,))
            # Another id: the table has changed, which is reported when the outputs are written.
            if custom_id == item.custom_id:
                rows.append(AnsweredRow(item, texts_of(*answer), tokens.get(item.ordinal)))
        yield rows


def _row_chunks(
    source: Source, store: checkpoint.Checkpoint, columns: Sequence[str]
) -> Iterator[list[Item]]:
    """Yield the rows in chunks whose answers have a few megabytes."""
    for items in source.items(columns, CHUNK_ROWS):
        rest = items
        while rest:
            count = store.rows_within(rest[0].ordinal, rest[-1].ordinal + 1, CHUNK_BYTES)
            yield rest[:count]
            rest = rest[count:]


def texts_of(response: str | None, responses: str | None) -> list[str]:
    """Return all answers of a row: the choices, if there are several."""
    found: Any = orjson.loads(responses) if responses else [response]
    return [text or "" for text in found]
