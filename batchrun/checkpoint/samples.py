"""Rows that are asked several times: their consecutive items put together."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.columns import RESULTS
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# What the others are put together by.
NEEDED = ("status", "response")
_OF_SAMPLES = {column.name: column.of_samples for column in RESULTS}


def together(found: Mapping[str, list[Any]], samples: int) -> dict[str, list[Any]]:
    """Return columns of results with one value for each row of the input.

    A row succeeded when all of its samples did, and errored when one of them did. `responses` has the
    texts of all; amounts are sums; everything else is of the first sample, or of the first error.

    Args:
        found: `ordinal`, the columns of `NEEDED` and any others, with a value for each sample.
        samples: how many of them a row has.
    """
    rows = [range(*span) for span in _spans(found["ordinal"], samples)]
    merged = {name: _merged(name, rows, found, samples) for name in found if name != "ordinal"}
    return {"ordinal": [found["ordinal"][row.start] // samples for row in rows], **merged}


def _merged(
    name: str, rows: Sequence[range], found: Mapping[str, list[Any]], samples: int
) -> list[Any]:
    values, statuses = found[name], found["status"]
    match _OF_SAMPLES[name]:
        case "status":
            return [_status(values[row.start : row.stop], samples) for row in rows]
        case "responses":
            return [_texts(found["response"][row.start : row.stop]) for row in rows]
        case "sum":
            known = ([values[n] for n in row if values[n] is not None] for row in rows)
            return [sum(each) if each else None for each in known]
        case "latest":
            return [max((values[n] for n in row if values[n]), default=None) for row in rows]
        case "failed":
            failed = (next((n for n in row if statuses[n] == Status.ERRORED), None) for row in rows)
            pairs = zip(rows, failed, strict=True)
            return [values[row.start if at is None else at] for row, at in pairs]
        case _:
            return [values[row.start] for row in rows]


def _status(statuses: Sequence[str], samples: int) -> str:
    if Status.ERRORED in statuses:
        return Status.ERRORED.value
    is_whole = len(statuses) == samples and set(statuses) == {Status.SUCCEEDED}
    return (Status.SUCCEEDED if is_whole else Status.PENDING).value


def _texts(texts: Sequence[str | None]) -> str | None:
    return None if texts == [None] * len(texts) else orjson.dumps(texts).decode()


def _spans(ordinals: Sequence[int], samples: int) -> Iterator[tuple[int, int]]:
    """Yield where the samples of each row begin and end."""
    start = 0
    for _, group in groupby(ordinals, key=lambda ordinal: ordinal // samples):
        end = start + sum(1 for _ in group)
        yield start, end
        start = end


def answers_together(items: Iterable[tuple[Any, ...]], samples: int) -> list[tuple[Any, ...]]:
    """Return (ordinal, custom_id, response, responses) of the rows whose samples all succeeded."""
    rows = ((row, list(group)) for row, group in groupby(items, key=lambda i: i[0] // samples))
    return [
        (row, group[0][1], group[0][2], orjson.dumps([item[2] for item in group]).decode())
        for row, group in rows
        if len(group) == samples
    ]
