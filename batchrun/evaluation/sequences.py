"""Confidence sequences: intervals of a mean score that stay valid however often they are checked. No I/O."""

from __future__ import annotations

from hashlib import blake2b
from math import log, log1p

from batchrun.evaluation.intervals import CONFIDENCE

# The sequence is narrowest near these half widths. They are fixed, so that it also holds for a
# precision that is chosen after looking.
TUNED_TO = (0.05, 0.02, 0.01, 0.005)
MOST_WEIGHT = 0.75
# What is assumed of the scores before the first one.
FIRST_MEAN, FIRST_VARIANCE = 0.5, 0.25
# Two sides of each of the sequences that share the error.
_EVIDENCE = log(2 * len(TUNED_TO) / (1 - CONFIDENCE))


def random_place(ordinal: int) -> int:
    """Return the place of a row in the random order in which rows are drawn; the lowest comes first.

    The order is the same for every run, so that two runs that ended early have most rows in common.
    """
    return int.from_bytes(blake2b(ordinal.to_bytes(8), digest_size=8).digest())


class ConfidenceSequence:
    """The 95 % interval of the mean score of a table while more and more of its rows are drawn.

    This is the empirical Bernstein confidence sequence of Waudby-Smith and Ramdas (2020), Confidence
    sequences for sampling without replacement, theorem 3.2, for several weights of the rows at once (a
    union bound). The probability that the true mean is outside at any time is at most 5 %.

    Args:
        population: the rows of the table.

    Attributes:
        scored: rows that were drawn and have a score.
        bounds: the interval; all earlier ones contain it.
    """

    def __init__(self, population: int) -> None:
        self._population = population
        self.scored = 0
        self.bounds = (0.0, 1.0)
        self._total = 0.0
        self._squares = FIRST_VARIANCE
        self._weighted = [_Weighted(width) for width in TUNED_TO]

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        low, high = self.bounds
        return (high - low) / 2

    def skip(self) -> None:
        """Note a drawn row without a score: the mean is over the other rows."""
        self._population -= 1
        if self.scored:
            self._narrow()

    def add(self, score: float) -> None:
        """Add the score of a drawn row.

        Args:
            score: from 0 to 1.
        """
        left = self._population - self.scored
        mean = (FIRST_MEAN + self._total) / (1 + self.scored)
        variance = self._squares / (1 + self.scored)
        surprise = (score - mean) ** 2
        for each in self._weighted:
            each.add(score + self._total / left, self._population / left, surprise, variance)
        self.scored += 1
        self._total += score
        self._squares += (score - (FIRST_MEAN + self._total) / (1 + self.scored)) ** 2
        self._narrow()

    def _narrow(self) -> None:
        """Intersect the interval with the present bounds, and with the certain bounds."""
        left = self._population - self.scored
        found = [
            (self._total / self._population, (self._total + left) / self._population),
            *(each.bounds for each in self._weighted),
        ]
        low = max(self.bounds[0], *(bounds[0] for bounds in found))
        high = min(self.bounds[1], *(bounds[1] for bounds in found))
        # They can only cross when the interval has already missed the mean, or by rounding.
        self.bounds = (low, high) if low <= high else self.bounds


class _Weighted:
    """The sums of one sequence, whose weights are optimal for one half width."""

    def __init__(self, half_width: float) -> None:
        self._half_width = half_width
        self._scores = self._weights = self._spread = 0.0

    def add(self, score: float, share: float, surprise: float, variance: float) -> None:
        """Add a score, corrected for the rows that were already drawn.

        Args:
            score: the score, with a correction by the mean of the drawn rows.
            share: number of all rows divided by the number of remaining rows.
            surprise: squared distance of the score from the expected mean.
            variance: the expected variance.
        """
        weight = min(MOST_WEIGHT, self._half_width / variance)
        self._scores += weight * score
        self._weights += weight * share
        self._spread += surprise * (-log1p(-weight) - weight)

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval."""
        middle = self._scores / self._weights
        spread = (self._spread + _EVIDENCE) / self._weights
        return middle - spread, middle + spread
