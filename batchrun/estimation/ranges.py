"""The records of an estimate, and the projection from existing answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from batchrun.evaluation.intervals import Z
from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchrun.checkpoint import RequestCounts


@dataclass(frozen=True, slots=True)
class Range:
    """Tokens or pico-dollars: expected, lowest and highest. `high` is None without an upper bound."""

    low: int
    expected: int
    high: int | None

    def __add__(self, other: Range) -> Range:
        high = None if self.high is None or other.high is None else self.high + other.high
        return Range(self.low + other.low, self.expected + other.expected, high)


@dataclass(frozen=True, slots=True)
class Duration:
    """Minutes, and the limit that decides them; None when no limit is set.

    `high` is None without an upper bound.
    """

    low: float
    expected: float
    high: float | None
    limit: str | None


@dataclass(frozen=True, slots=True)
class RowsForPrecision:
    """The number of rows that an interval of the mean score needs.

    Attributes:
        rows: number of rows by half width of the interval, such as `0.02`.
        scored: number of scored rows that it is based on; 0 for an upper bound for scores from 0 to 1.
    """

    rows: Mapping[str, int]
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of a run, or of one cell of a matrix.

    Attributes:
        name: name of the job.
        cell: name of the cell; None without a matrix.
        directory: the run directory.
        rows: rows of the input.
        unrenderable: rows that cannot be rendered; `example` has the reason of the first one.
        held: requests that are not sent because they have an answer or failed permanently.
        requests: requests to send.
        duplicates: rows with the same request as an earlier row.
        dedupe: whether such rows share an answer.
        saved: requests that `dedupe` saves or would save; `saved_cost` is their cost in pico-dollars.
        models: the models that are used; `unpriced` are those without a known price.
        input: input tokens of the requests to send.
        output: tokens of their answers.
        cost: cost of both in pico-dollars, None when a price is unknown.
        batch_cost: the same with `run --batch`; None if batches are not possible, or their price
            is unknown.
        tier: the service tier that the requests ask for; empty for none, or if rows may differ.
        duration: duration of the run.
        answers: number of existing answers that the estimate is based on.
        warnings: what to change or know before the run.
        precision: number of rows that the score needs; None without a score from 0 to 1.
        judges: the estimates of its judges, whose requests and costs are additional.
        counted: how the input tokens were found, for each tokenizer.
    """

    name: str
    cell: str | None
    directory: Path
    rows: int
    unrenderable: int
    example: str | None
    held: int
    requests: int
    duplicates: int
    dedupe: bool
    saved: int
    saved_cost: int | None
    models: tuple[str, ...]
    unpriced: tuple[str, ...]
    input: Range
    output: Range
    cost: Range | None
    duration: Duration
    answers: int
    warnings: tuple[str, ...] = ()
    judges: tuple[Estimate, ...] = ()
    batch_cost: Range | None = None
    tier: str = ""
    precision: RowsForPrecision | None = None
    counted: tuple[str, ...] = ()

    @property
    def cost_usd(self) -> tuple[Decimal, Decimal | None] | None:
        """The lowest and the highest cost in USD, exactly; None when a price is unknown."""
        if self.cost is None:
            return None
        low, high = self.cost.low, self.cost.high
        return (
            Decimal(low) / PICO_PER_USD,
            None if high is None else Decimal(high) / PICO_PER_USD,
        )


# This many answers are better evidence than the characters of the prompts.
FEWEST_ANSWERS = 3


@dataclass(slots=True)
class InputSums:
    """Sums over answers: their input tokens as estimated and as billed."""

    estimated: float = 0.0
    billed: float = 0.0
    estimated_squares: float = 0.0
    products: float = 0.0
    billed_squares: float = 0.0

    def add(self, count: int, estimated: float, billed: float) -> None:
        """Add answers with the same tokens each."""
        self.estimated += count * estimated
        self.billed += count * billed
        self.estimated_squares += count * estimated**2
        self.products += count * estimated * billed
        self.billed_squares += count * billed**2

    @property
    def ratio(self) -> float:
        """Billed tokens for each estimated one."""
        return self.billed / self.estimated

    @property
    def squared_errors(self) -> float:
        """Sum of the squared differences between what was billed and the ratio times the estimate."""
        ratio = self.ratio
        return self.billed_squares - 2 * ratio * self.products + ratio**2 * self.estimated_squares


@dataclass(slots=True)
class OutputSums:
    """Sums over answers: their output tokens, and the most of one."""

    tokens: float = 0.0
    squares: float = 0.0
    longest: int = 0

    def add(self, count: int, tokens: float, longest: int) -> None:
        """Add answers with as many tokens each on average."""
        self.tokens += count * tokens
        self.squares += count * tokens**2
        self.longest = max(self.longest, longest)


@dataclass(slots=True)
class AnswerSums:
    """Sums over answers."""

    count: int = 0
    input: InputSums = field(default_factory=InputSums)
    output: OutputSums = field(default_factory=OutputSums)
    cache_read: int = 0
    cache_write: int = 0
    latency_s: float = 0.0

    def add(self, counted: RequestCounts) -> None:
        """Add the answers to identical requests."""
        n = counted.answers
        if not n or counted.input is None or counted.output is None:
            return
        self.count += n
        self.input.add(n, counted.expected, counted.input / n)
        self.output.add(n, counted.output / n, counted.longest or 0)
        self.cache_read += counted.cache_read or 0
        self.cache_write += counted.cache_write or 0
        self.latency_s += counted.latency_s or 0.0

    @property
    def are_enough(self) -> bool:
        """Whether there are enough answers to base an estimate on them."""
        return self.count >= FEWEST_ANSWERS and self.input.estimated > 0

    def project_input(self, estimated: float, requests: int) -> Range:
        """Project the billed input of requests from their estimated tokens, by the observed ratio."""
        spread = self._spread(self.input.squared_errors, requests)
        return _interval(self.input.ratio * estimated, spread, None)

    def project_output(self, requests: int, most: int | None) -> Range:
        """Project the output of requests, which may have at most `most` tokens in total."""
        mean = self.output.tokens / self.count
        squares = self.output.squares - self.count * mean**2
        return _interval(mean * requests, self._spread(squares, requests), most)

    def _spread(self, squares: float, requests: int) -> float:
        """Return half of the 95 % prediction interval of a sum over further requests."""
        variance = max(0.0, squares) / (self.count - 1)
        return _student_t(self.count - 1) * math.sqrt(
            variance * (requests + requests**2 / self.count)
        )


def _interval(middle: float, spread: float, most: int | None) -> Range:
    high = math.ceil(middle + spread)
    low = max(0, math.floor(middle - spread))
    return Range(low, round(middle), high if most is None else max(round(middle), min(high, most)))


def _student_t(freedom: int) -> float:
    """Return Student's t for a 95 % interval (Cornish-Fisher expansion)."""
    g1 = (Z**3 + Z) / 4
    g2 = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    g3 = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3
