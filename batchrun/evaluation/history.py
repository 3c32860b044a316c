"""Records of the history of a run: series over time, distributions, rows. All are frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Span:
    """An execution's place in the working time of a run. Times are microseconds.

    Attributes:
        execution: its number.
        started_us: when it began, since 1970 UTC.
        offset_us: duration of the earlier executions.
        length_us: duration of this execution.
    """

    execution: int
    started_us: int
    offset_us: int
    length_us: int


@dataclass(frozen=True, slots=True)
class Series:
    """The course of a run over its working time, in equal steps.

    Every sequence has a number for each step. Attempts and their usage count in the step in which they ended.

    Attributes:
        step_s: length of a step in seconds.
        spans: the executions that sent something.
        succeeded: attempts with an answer.
        refused: attempts that the provider refused because of a rate limit.
        failed: attempts that failed otherwise.
        in_flight: average number of attempts in flight.
        input_tokens: tokens sent.
        output_tokens: tokens received.
        cost: pico-dollars by model; the models with the lowest costs are combined as the last entry.
    """

    step_s: float
    spans: tuple[Span, ...]
    succeeded: tuple[int, ...]
    refused: tuple[int, ...]
    failed: tuple[int, ...]
    in_flight: tuple[float, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    cost: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution: `counts[i]` values are from `start + i * width` up to the next bin.

    `beyond` values are above the last bin. `at` has some percentiles, such as `p50`.
    """

    start: float
    width: float
    counts: tuple[int, ...]
    beyond: int
    at: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScoreDetails:
    """The score of a row by one scorer; see `RowScore` for the fields."""

    score: float | None
    predicted: str | None
    expected: str | None
    reason: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class AnswerDetails:
    """The answer of a run to a row, as pages show it.

    Attributes:
        status: status of the row.
        ending: how the answer ended; None without an answer.
        text: the answer, or all answers, numbered; None without an answer.
        error: type and message of the error; None without one.
        cost: in pico-dollars.
        scores: scores by name of the scorer; the name of the score over all scorers is empty.
    """

    status: str
    ending: str | None
    text: str | None
    error: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None
    latency_s: float | None
    attempts: int | None
    scores: Mapping[str, ScoreDetails]

    @property
    def score(self) -> float | None:
        """The score over all scorers."""
        overall = self.scores.get("")
        return None if overall is None else overall.score


@dataclass(frozen=True, slots=True)
class RowDetails:
    """A row of the input with the answers of one or several runs.

    Attributes:
        ordinal: its ordinal in the input of the first run.
        custom_id: its id in all runs.
        prompt: the prompt; None if the input could not be read again.
        slices: its values in the columns of `[score] by`.
        answers: one for each run; None if the run has no such row.
    """

    ordinal: int
    custom_id: str
    prompt: str | None
    slices: Mapping[str, str]
    answers: tuple[AnswerDetails | None, ...]

    @property
    def expected(self) -> str | None:
        """The expected answer, if there is one to show."""
        scores = [s for answer in self.answers if answer for s in answer.scores.values()]
        return next((s.expected for s in scores if s.expected is not None), None)


@dataclass(frozen=True, slots=True)
class Differing:
    """The number of rows that some run answered differently from the first, and the ordinals of some."""

    count: int
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The charts of a report; their size does not grow with the number of rows."""

    series: Series | None
    latency_s: Histogram | None
    input_tokens: Histogram | None
    output_tokens: Histogram | None
