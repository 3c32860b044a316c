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
class SampledRow:
    """A row of the input with what came of it; `cost` is in pico-dollars.

    Long texts are cut. `prompt` is None as long as nobody has read the input again.
    """

    ordinal: int
    custom_id: str
    status: str
    response: str | None
    error: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None
    latency_s: float | None
    attempts: int | None
    ending: str | None = None
    score: float | None = None
    predicted: str | None = None
    expected: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What a report shows beside the totals; nothing in it grows with the number of rows."""

    series: Series | None
    latency_s: Histogram | None
    input_tokens: Histogram | None
    output_tokens: Histogram | None
    samples: tuple[SampledRow, ...]


@dataclass(frozen=True, slots=True)
class SideAnswer:
    """What one of several runs made of a row: its answer or its error, cut where it is long."""

    status: str
    text: str
    score: float | None
    predicted: str | None


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """A row that several runs do not agree on.

    Attributes:
        custom_id: what it is called in all of them.
        expected: the right answer, where there is one to name.
        answers: one for each run; None where it has no such row.
    """

    custom_id: str
    expected: str | None
    answers: tuple[SideAnswer | None, ...]


@dataclass(frozen=True, slots=True)
class Differing:
    """How many rows some run answered differently from the first, and some of these rows."""

    count: int
    rows: tuple[DifferingRow, ...]
