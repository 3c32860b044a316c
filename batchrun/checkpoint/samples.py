"""Rows that are asked several times: their consecutive items put together."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Where these stand among the columns of results: behind the ordinal and the custom_id.
_STATUS, _RESPONSE, _RESPONSES = 2, 3, 4
_AMOUNTS = range(11, 18)  # tokens, cost, attempts
_FINISHED = 19
_ERROR = range(20, 23)  # http_status, error_type, error_message


def together(columns: Sequence[list[Any]], samples: int) -> list[list[Any]]:
    """Return the columns of results with one row for each row of the input.

    It succeeded when all of its samples did, and errored when one of them did. `responses` has the
    texts of all; amounts are sums; everything else is of the first sample, or of the first error.
    """
    items = zip(*columns, strict=True)
    rows = [_together(row, group, samples) for row, group in _grouped(items, samples)]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]


def _together(row: int, group: Sequence[tuple[Any, ...]], samples: int) -> tuple[Any, ...]:
    first = group[0]
    failed = next((item for item in group if item[_STATUS] == Status.ERRORED), None)
    has_all = len(group) == samples and all(item[_STATUS] == Status.SUCCEEDED for item in group)
    found = [row, *first[1:]]
    found[_STATUS] = (
        Status.ERRORED if failed else Status.SUCCEEDED if has_all else Status.PENDING
    ).value
    texts = [item[_RESPONSE] for item in group]
    found[_RESPONSES] = None if texts == [None] * len(texts) else orjson.dumps(texts).decode()
    for place in _AMOUNTS:
        known = [item[place] for item in group if item[place] is not None]
        found[place] = sum(known) if known else None
    found[_FINISHED] = max((item[_FINISHED] for item in group if item[_FINISHED]), default=None)
    for place in _ERROR:
        found[place] = (failed or first)[place]
    return tuple(found)


def answers_together(items: Iterable[tuple[Any, ...]], samples: int) -> list[tuple[Any, ...]]:
    """Return (ordinal, custom_id, response, responses) of the rows whose samples all succeeded."""
    return [
        (row, group[0][1], group[0][2], orjson.dumps([item[2] for item in group]).decode())
        for row, group in _grouped(items, samples)
        if len(group) == samples
    ]


def _grouped(
    items: Iterable[tuple[Any, ...]], samples: int
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    for row, group in groupby(items, key=lambda item: item[0] // samples):
        yield row, list(group)
