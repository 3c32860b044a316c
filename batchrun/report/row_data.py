"""The rows of a page as embedded data: an index for filters and sorting, and the texts in blocks.

So a page stays one file that needs no network. Blocks are compressed, and the script of the page decodes a
block when its rows are shown. So a page of 100,000 rows opens as fast as one of a few rows.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.records import PICO_PER_USD, unusual_endings
from batchrun.report.formatting import UNFIT, latency, usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchrun.evaluation.history import AnswerDetails, RowDetails, ScoreDetails


# A browser opens a page of this many rows in about a second.
MOST_ROWS = 100_000
# Rows of a block: as many as are shown at once.
BLOCK_ROWS = 50
LONGEST_TEXT, SHORTEST_TEXT = 4_000, 500
# Characters of all texts together, from which on long texts are cut.
MOST_TEXT = 100_000_000
MOST_SLICES = 200
DIFFER, BETTER, WORSE = "differ", "better", "worse"
AMOUNTS = ("output tokens", "cost", "latency")
WRONG, DISAGREE = "wrong", "scorers disagree"


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """The rows in a page; the index and the blocks are compressed, in base64.

    Attributes:
        count: number of rows.
        kinds: kinds of rows, for a filter.
        slices: columns for filters, with their values.
        scores: names of the scores, for a filter.
        sortable: names of the numbers that rows can be sorted by.
        has_expected: whether a row has an expected value; `has_reasons`: whether a judge gave reasons.
    """

    count: int
    kinds: Sequence[str]
    slices: Mapping[str, Sequence[str]]
    scores: Sequence[str]
    sortable: Sequence[str]
    has_expected: bool
    has_reasons: bool
    index: str
    blocks: Sequence[str]


class RowData:
    """Collects rows for a page.

    Args:
        count: approximate number of rows; determines the maximum length of texts.
        names: names of the runs; a single one for the page of one run.
        scorers: names of scorers with their passing scores; None if none is defined.
    """

    def __init__(
        self, count: int, names: Sequence[str], scorers: Mapping[str, float | None]
    ) -> None:
        self._names = [UNFIT.sub("�", name) for name in names]
        self._scorers = dict(scorers)
        room = MOST_TEXT // (max(1, count) * (len(names) + 1))
        self._longest = max(SHORTEST_TEXT, min(LONGEST_TEXT, room))
        self._blocks: list[str] = []
        self._block: list[list[Any]] = []
        self._kinds: dict[str, int] = {}
        self._kinds_of: list[int] = []
        self._slices: dict[str, _Values] = {}
        self._numbers: dict[str, list[float | None]] = {}
        self._has_expected = self._has_reasons = False
        self._count = 0

    def add(self, row: RowDetails) -> None:
        """Add a row."""
        self._kinds_of.append(sum(1 << self._bit(kind) for kind in self._kinds_in(row)))
        self._note_slices(row)
        for name, number in self._sortable(row):
            if name not in self._numbers:
                self._numbers[name] = [None] * self._count
            self._numbers[name].append(number)
        answers = [None if answer is None else self._answer(answer) for answer in row.answers]
        self._has_expected |= row.expected is not None
        texts = (row.custom_id, row.prompt, row.expected)
        self._block.append([*map(self._cut, texts), answers])
        self._count += 1
        if len(self._block) == BLOCK_ROWS:
            self._end_block()

    def finish(self) -> EmbeddedRows:
        """Return the data for the page."""
        if self._block:
            self._end_block()
        kinds, pass_at = list(self._kinds), self._pass_at()
        slices = {name: each for name, each in self._slices.items() if each.is_useful}
        index = {
            "count": self._count,
            "size": BLOCK_ROWS,
            "names": self._names,
            "kinds": kinds,
            "kindsOf": self._kinds_of,
            "slices": {name: each.as_json for name, each in slices.items()},
            "numbers": self._numbers,
            "passAt": pass_at,
            "hasExpected": self._has_expected,
            "hasReasons": self._has_reasons,
        }
        return EmbeddedRows(
            count=self._count,
            kinds=_ordered(kinds),
            slices={name: each.names for name, each in slices.items()},
            scores=list(pass_at),
            sortable=[name for name in self._numbers if self._has(name)],
            has_expected=self._has_expected,
            has_reasons=self._has_reasons,
            index=_packed(index),
            blocks=self._blocks,
        )

    @property
    def _is_comparison(self) -> bool:
        return len(self._names) > 1

    def _kinds_in(self, row: RowDetails) -> set[str]:
        if self._is_comparison:
            return _compared_kinds(row)
        (answer,) = row.answers
        return set() if answer is None else _kinds(answer, self._scorers)

    def _bit(self, kind: str) -> int:
        return self._kinds.setdefault(kind, len(self._kinds))

    def _note_slices(self, row: RowDetails) -> None:
        said = {self._cut(name) or "": value for name, value in row.slices.items()}
        for name in said.keys() - self._slices.keys():
            self._slices[name] = _Values([None] * self._count)
        for name, values in self._slices.items():
            values.add(said.get(name))

    def _sortable(self, row: RowDetails) -> Iterable[tuple[str, float | None]]:
        for run, answer in enumerate(row.answers):
            for scorer in self._scorers:
                said = None if answer is None else answer.scores.get(scorer)
                yield self._score_name(run, scorer), None if said is None else said.score
        if not self._is_comparison:
            (answer,) = row.answers
            yield from _amounts(answer)

    def _score_name(self, run: int, scorer: str) -> str:
        if self._is_comparison:
            return f"{self._names[run]}: {scorer}" if scorer else self._names[run]
        return scorer or "score"

    def _pass_at(self) -> dict[str, float]:
        """Return the names of the scores with a passing score, with that score."""
        every = {
            self._score_name(run, scorer): pass_at
            for run in range(len(self._names))
            for scorer, pass_at in self._scorers.items()
            if pass_at is not None
        }
        return {name: pass_at for name, pass_at in every.items() if self._has(name)}

    def _has(self, name: str) -> bool:
        """Return whether some row has this number."""
        return any(number is not None for number in self._numbers.get(name, ()))

    def _answer(self, answer: AnswerDetails) -> dict[str, Any]:
        scores = [self._score(name, said) for name, said in answer.scores.items()]
        facts = {
            "status": answer.status,
            "ending": answer.ending,
            "text": self._cut(answer.text),
            "error": self._cut(answer.error),
            "details": _details(answer),
            "scores": scores,
        }
        return {name: value for name, value in facts.items() if value}

    def _score(self, name: str, said: ScoreDetails) -> list[Any]:
        self._has_reasons |= said.reason is not None
        passed = _passed(said, self._scorers.get(name))
        score = None if said.score is None else f"{said.score:.4g}"
        texts = (said.predicted, said.expected, said.reason, said.problem)
        return [name, score, passed, *map(self._cut, texts)]

    def _cut(self, text: str | None) -> str | None:
        if text is None:
            return None
        short = text if len(text) <= self._longest else f"{text[: self._longest]}…"
        return UNFIT.sub("�", short)

    def _end_block(self) -> None:
        self._blocks.append(_packed(self._block))
        self._block = []


class _Values:
    """The distinct values of a column, and the value of every row as an index into them."""

    def __init__(self, places: list[int | None]) -> None:
        self._names: dict[str, int] = {}
        self._places = places

    def add(self, value: str | None) -> None:
        name = None if value is None else UNFIT.sub("�", value)[:100]
        self._places.append(
            None if name is None else self._names.setdefault(name, len(self._names))
        )

    @property
    def names(self) -> list[str]:
        """The values in the order of their numbers."""
        return list(self._names)

    @property
    def is_useful(self) -> bool:
        """Whether there are few enough values for a filter."""
        return 1 < len(self._names) <= MOST_SLICES

    @property
    def as_json(self) -> dict[str, Any]:
        return {"values": self.names, "places": self._places}


def _passed(said: ScoreDetails, pass_at: float | None) -> bool | None:
    return None if said.score is None or pass_at is None else said.score >= pass_at


def _kinds(answer: AnswerDetails, scorers: Mapping[str, float | None]) -> set[str]:
    kinds = {answer.status}
    if answer.ending is not None:
        kinds |= set(unusual_endings({answer.ending: 1}))
    passed = {name: _passed(said, scorers.get(name)) for name, said in answer.scores.items()}
    if passed.get("") is False:
        kinds.add(WRONG)
    if {True, False} <= {is_right for name, is_right in passed.items() if name}:
        kinds.add(DISAGREE)
    return kinds


def _compared_kinds(row: RowDetails) -> set[str]:
    """Return in which ways the runs differ; see `checkpoint.differing_rows`."""
    first, *others = row.answers
    kinds = {"errored" for answer in row.answers if answer and answer.status == "errored"}
    for other in others:
        if first is None or other is None or {first.status, other.status} != {"succeeded"}:
            continue
        if first.score is None or other.score is None:
            kinds |= {DIFFER} if first.text != other.text else set()
            continue
        if first.score != other.score:
            kinds |= {DIFFER, BETTER if other.score > first.score else WORSE}
        elif first.scores[""].predicted != other.scores[""].predicted:
            kinds.add(DIFFER)
    return kinds


def _ordered(kinds: Iterable[str]) -> list[str]:
    """Return kinds in the order of the filter; endings come last."""
    known = (DIFFER, BETTER, WORSE, "succeeded", "errored", "pending", WRONG, DISAGREE)
    place = {kind: n for n, kind in enumerate(known)}
    return sorted(kinds, key=lambda kind: (place.get(kind, len(place)), kind))


def _amounts(answer: AnswerDetails | None) -> Iterable[tuple[str, float | None]]:
    if answer is None:
        return
    cost = None if answer.cost is None else answer.cost / PICO_PER_USD
    yield from zip(AMOUNTS, (answer.output_tokens, cost, answer.latency_s), strict=True)


def _details(answer: AnswerDetails) -> list[str]:
    found = []
    if answer.input_tokens:
        found.append(f"{answer.input_tokens:,} → {answer.output_tokens or 0:,} tokens")
    if answer.cost is not None:
        found.append(usd(answer.cost))
    if answer.latency_s is not None:
        found.append(latency(answer.latency_s))
    if answer.attempts and answer.attempts > 1:
        found.append(f"{answer.attempts} attempts")
    return found


def _packed(value: object) -> str:
    return base64.b64encode(zlib.compress(orjson.dumps(value), 6)).decode()
