"""The records of an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from pathlib import Path


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
