"""The history of a run: series over time, distributions, samples. All frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Span:
    """An execution's place in the time that a run was at work; microseconds.

    Attributes:
        execution: its number.
        started_us: when it began, since 1970 UTC.
        offset_us: how long earlier executions took.
        length_us: how long it took.
    """

    execution: int
    started_us: int
    offset_us: int
    length_us: int


@dataclass(frozen=True, slots=True)
class Series:
    """How a run went over the time that it was at work, in equal steps.

    Every sequence has a number for each step. Attempts and what they used count where they ended.

    Attributes:
        step_s: how long a step is, in seconds.
        spans: the executions that sent something.
        succeeded: attempts that brought an answer.
        refused: attempts that the provider refused because they were too many.
        failed: attempts that failed otherwise.
        in_flight: how many attempts were under way, on average.
        input_tokens: tokens sent.
        output_tokens: tokens received.
        cost: pico-dollars, by model; the less costly ones together as the last.
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
    """How often values are how large: `counts[i]` of them from `start + i * width` up to the next.

    `beyond` values lie above the last. `at` names some percentiles, such as `p50`.
    """

    start: float
    width: float
    counts: tuple[int, ...]
    beyond: int
    at: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScoreDetails:
    """What one scorer says of the answers to a row; see `RowScore` for the fields."""

    score: float | None
    predicted: str | None
    expected: str | None
    reason: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class AnswerDetails:
    """What a run made of a row, as pages show it.

    Attributes:
        status: of the row.
        ending: how the answer ended; None without one.
        text: the answer, or all answers with their numbers; None without one.
        error: its type and message; None without one.
        cost: in pico-dollars.
        scores: by the name of the scorer; that over all scorers has an empty name.
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
    """A row of the input with what one or several runs made of it.

    Attributes:
        ordinal: its place in the input of the first run.
        custom_id: what it is called in all of them.
        prompt: what was asked; None when the input could not be read again.
        slices: its values of the columns that scores are shown by.
        answers: one for each run; None where it has no such row.
    """

    ordinal: int
    custom_id: str
    prompt: str | None
    slices: Mapping[str, str]
    answers: tuple[AnswerDetails | None, ...]

    @property
    def expected(self) -> str | None:
        """The right answer, where there is one to name."""
        scores = [s for answer in self.answers if answer for s in answer.scores.values()]
        return next((s.expected for s in scores if s.expected is not None), None)


@dataclass(frozen=True, slots=True)
class Differing:
    """How many rows some run answered differently from the first, and the places of some of them."""

    count: int
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class History:
    """What a report shows beside the totals; nothing in it grows with the number of rows."""

    series: Series | None
    latency_s: Histogram | None
    input_tokens: Histogram | None
    output_tokens: Histogram | None
