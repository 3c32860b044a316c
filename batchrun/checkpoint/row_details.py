"""Rows as report pages show them: the answers of one or more runs, with scores. Read in bounded chunks."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.columns import ERRORED, RESULTS_OF_ITEMS
from batchrun.checkpoint.file import usable
from batchrun.evaluation.history import AnswerDetails, RowDetails, ScoreDetails

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchrun.checkpoint.store import Checkpoint


CHUNK_ROWS = 500
# Rows at most this far apart are read with one query, with those between them.
MOST_BETWEEN = 20
# The columns of results that a page uses.
_SHOWN = (
    "custom_id",
    "status",
    "response",
    "responses",
    "ending",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "attempts",
    "latency_s",
    "error_type",
    "error_message",
)
# Spread over the input, and always the same: a product with an odd number mixes the low digits.
_MIXED = "ORDER BY (i.ordinal * 2654435761) % 4294967296 LIMIT ?"
_ERRORED = f"SELECT i.ordinal / ? FROM items i {RESULTS_OF_ITEMS} WHERE {ERRORED} {_MIXED}"  # noqa: S608 - no values
_UNUSUAL = f"""SELECT i.ordinal / ? FROM items i JOIN results r ON r.request_id = i.request_id
    WHERE r.ending NOT IN ('stop', 'tool_calls') {_MIXED}"""  # noqa: S608 - no values
_WRONG = f"SELECT i.ordinal FROM scores i WHERE i.scorer = '' AND i.score < 1 {_MIXED}"  # noqa: S608 - no values
# The names of scorers are found in the index one after the other, without reading every score.
_SCORES = """WITH RECURSIVE names (scorer) AS (SELECT min(scorer) FROM scores UNION ALL
        SELECT (SELECT min(s.scorer) FROM scores s WHERE s.scorer > names.scorer) FROM names
        WHERE names.scorer IS NOT NULL)
    SELECT s.ordinal, s.scorer, s.score, s.predicted, s.expected, s.reason, s.problem, s.slices
    FROM names n JOIN scores s ON s.scorer = n.scorer WHERE s.ordinal BETWEEN ? AND ?"""
_RANGES = (
    "SELECT scorer, min(score), max(score) FROM scores WHERE score IS NOT NULL GROUP BY scorer"
)
_IDS = "SELECT ordinal / ?1, custom_id FROM items WHERE ordinal % ?1 = 0"


def chosen_rows(store: Checkpoint, most: int, also: Sequence[int] = ()) -> Sequence[int]:
    """Return the ordinals of the rows that a page shows: all of them, or a selection if there are many.

    The selection has rows that errored, are wrong or ended unusually, and evenly spaced other rows.

    Args:
        store: the run.
        most: maximum number of rows to show.
        also: ordinals of rows to include; at most two fifths of the selection.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with usable(store.path):
        (total,) = store.db.execute("SELECT coalesce(total, 0) FROM run").fetchone()
        if total <= most:
            return range(total)
        share = most // 5
        chosen = set(also[: 2 * share])
        for query in (_ERRORED, _UNUSUAL):
            chosen |= {n for (n,) in store.db.execute(query, (store.samples, share // 2))}
        chosen |= {n for (n,) in store.db.execute(_WRONG, (share,))}
    rest = most - len(chosen)
    return sorted(chosen | {n * total // rest for n in range(rest)})


def score_ranges(store: Checkpoint) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest score of each scorer that has scores.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with usable(store.path):
        return {name: (low, high) for name, low, high in store.db.execute(_RANGES)}


def row_details(stores: Sequence[Checkpoint], ordinals: Sequence[int]) -> Iterator[RowDetails]:
    """Yield rows with the answer of each run, without their prompts.

    Args:
        stores: the runs; in all but the first, rows are found by `custom_id`.
        ordinals: ordinals of rows of the first run, in order.

    Raises:
        CheckpointError: when one of the checkpoints cannot be used.
    """
    first, *others = stores
    places = [_places(first, ordinals, other) for other in others]
    rest = iter(ordinals)
    while chunk := list(islice(rest, CHUNK_ROWS)):
        slices: dict[int, dict[str, str]] = {}
        found = _answers(first, chunk, slices)
        sides = [
            _answers(other, sorted(at[n] for n in chunk if n in at))
            for other, at in zip(others, places, strict=True)
        ]
        for ordinal, (custom_id, answer) in found.items():
            beside = (side.get(at.get(ordinal, -1)) for side, at in zip(sides, places, strict=True))
            answers = (answer, *(None if each is None else each[1] for each in beside))
            yield RowDetails(ordinal, custom_id, None, slices.get(ordinal, {}), answers)


def _places(first: Checkpoint, ordinals: Sequence[int], other: Checkpoint) -> dict[int, int]:
    """Return the ordinals in another run of these rows of the first, by their ordinals in the first."""
    wanted = set(ordinals)
    with usable(first.path):
        rows = first.db.execute(_IDS, (first.samples,))
        ids = {custom_id: ordinal for ordinal, custom_id in rows if ordinal in wanted}
    with usable(other.path):
        rows = other.db.execute(_IDS, (other.samples,))
        return {ids[custom_id]: ordinal for ordinal, custom_id in rows if custom_id in ids}


def _answers(
    store: Checkpoint, ordinals: Sequence[int], slices: dict[int, dict[str, str]] | None = None
) -> dict[int, tuple[str, AnswerDetails]]:
    """Return the ids and answers of a few rows by ordinal, in order; add their slices to `slices`."""
    wanted = set(ordinals)
    found: dict[int, tuple[str, AnswerDetails]] = {}
    for first, last in _stretches(ordinals):
        scores, sliced = _scores(store, first, last)
        if slices is not None:
            slices |= sliced
        columns = store.columns(first, last + 1, _SHOWN)
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            if (n := row["ordinal"]) in wanted:
                found[n] = (row["custom_id"], _answer(row, scores.get(n, {})))
    return found


def _stretches(ordinals: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last ordinal of each group of rows that is read with one query."""
    first = last = None
    for ordinal in ordinals:
        if first is None or last is None or ordinal - last > MOST_BETWEEN:
            if first is not None and last is not None:
                yield first, last
            first = ordinal
        last = ordinal
    if first is not None and last is not None:
        yield first, last


def _scores(
    store: Checkpoint, first: int, last: int
) -> tuple[dict[int, dict[str, ScoreDetails]], dict[int, dict[str, str]]]:
    """Return the scores of rows by scorer, and the values of the columns of `[score] by`."""
    found: dict[int, dict[str, ScoreDetails]] = {}
    slices: dict[int, dict[str, str]] = {}
    with usable(store.path):
        for ordinal, scorer, *values, sliced in store.db.execute(_SCORES, (first, last)):
            found.setdefault(ordinal, {})[scorer] = ScoreDetails(*values)
            if sliced is not None and ordinal not in slices:
                slices[ordinal] = orjson.loads(sliced)
    return found, slices


def _answer(row: Mapping[str, Any], scores: Mapping[str, ScoreDetails]) -> AnswerDetails:
    error = ": ".join(part for part in (row["error_type"], row["error_message"]) if part)
    return AnswerDetails(
        status=row["status"],
        ending=row["ending"],
        text=_text(row["response"], row["responses"]),
        error=error or None,
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost=row["cost_usd"],
        latency_s=row["latency_s"],
        attempts=row["attempts"],
        scores=scores,
    )


def _text(response: str | None, responses: str | None) -> str | None:
    """Return the answer of a row; with several answers, all of them, numbered."""
    if responses is None:
        return response
    texts: Iterable[tuple[int, Any]] = enumerate(orjson.loads(responses), 1)
    return "\n\n".join(f"{number}. {text or ''}" for number, text in texts)
