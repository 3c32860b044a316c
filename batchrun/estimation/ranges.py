"""The records of an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from batchrun.evaluation.metrics import Z
from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.checkpoint import Counted


@dataclass(frozen=True, slots=True)
class Range:
    """Tokens or pico-dollars: what is expected, and the bounds. `high` None: there is no bound."""

    low: int
    expected: int
    high: int | None

    def __add__(self, other: Range) -> Range:
        high = None if self.high is None or other.high is None else self.high + other.high
        return Range(self.low + other.low, self.expected + other.expected, high)


@dataclass(frozen=True, slots=True)
class Duration:
    """Minutes, and what it is that they follow from: a limit's name, None when nothing is set.

    `high` None knows no bound.
    """

    low: float
    expected: float
    high: float | None
    binds: str | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would send, take and cost.

    Attributes:
        name: of the job; `cell` is that of the cell, if it is one of a matrix.
        directory: the run directory.
        rows: of the input.
        unrenderable: those that cannot become a request, with the reason of the first in `example`.
        held: requests that need not be sent, for their answer is there or they failed for good.
        requests: still to be sent.
        duplicates: rows that ask the same as an earlier one.
        dedupe: whether these share an answer.
        saved: requests that `dedupe` saves, or would save; `saved_cost` pico-dollars.
        models: that are asked; `unpriced` those of them whose price is unknown.
        input: tokens of the requests to be sent.
        output: tokens of their answers.
        cost: of both in pico-dollars, None when a price is unknown.
        duration: how long it takes.
        answers: how many answers the estimate is calibrated by, 0 for none.
        warnings: what should be changed, or known.
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


# So many answers say more than the characters of the prompts.
FEWEST_ANSWERS = 3


@dataclass(slots=True)
class Answers:
    """Sums over answers: sizes as measured (x), input (y) and output (o) as billed."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    o: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    oo: float = 0.0
    cache_read: int = 0
    cache_write: int = 0
    latency_s: float = 0.0
    longest: int = 0

    def add(self, counted: Counted) -> None:
        """Count the answers to rows that ask the same."""
        n, x = counted.answers, counted.expected
        if not n or counted.input is None or counted.output is None:
            return
        y, o = counted.input / n, counted.output / n
        self.count += n
        self.x, self.y, self.o = self.x + n * x, self.y + n * y, self.o + n * o
        self.xx, self.xy, self.yy = self.xx + n * x * x, self.xy + n * x * y, self.yy + n * y * y
        self.oo += n * o * o
        self.cache_read += counted.cache_read or 0
        self.cache_write += counted.cache_write or 0
        self.latency_s += counted.latency_s or 0.0
        self.longest = max(self.longest, counted.longest or 0)

    @property
    def are_enough(self) -> bool:
        """Whether to go by them."""
        return self.count >= FEWEST_ANSWERS and self.x > 0

    def input(self, size: float, requests: int) -> Range:
        """Project the input of so many requests of this size together: by its ratio to that."""
        ratio = self.y / self.x
        squares = self.yy - 2 * ratio * self.xy + ratio**2 * self.xx
        return _around(ratio * size, self._spread(squares, requests), None)

    def output(self, requests: int, most: int | None) -> Range:
        """Project the output of so many requests, which together may have `most`."""
        mean = self.o / self.count
        squares = self.oo - self.count * mean**2
        return _around(mean * requests, self._spread(squares, requests), most)

    def _spread(self, squares: float, requests: int) -> float:
        """Return half of the 95 % interval of a sum over requests that were not sampled."""
        variance = max(0.0, squares) / (self.count - 1)
        return _student(self.count - 1) * math.sqrt(
            variance * (requests + requests**2 / self.count)
        )


def _around(middle: float, spread: float, most: int | None) -> Range:
    high = math.ceil(middle + spread)
    low = max(0, math.floor(middle - spread))
    return Range(low, round(middle), high if most is None else max(round(middle), min(high, most)))


def _student(freedom: int) -> float:
    """Return Student's t for the 95 % interval, by the expansion of Cornish and Fisher."""
    g1 = (Z**3 + Z) / 4
    g2 = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    g3 = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3
