"""What answers that are there say about those that are still to come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.estimation.records import Range
from batchrun.scoring.metrics import Z

if TYPE_CHECKING:
    from batchrun.checkpoint import Counted

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
