"""Measure how often each 95 % interval holds the truth, by simulation.

    python -m benchmarks.coverage

Each simulated run draws a new truth, from everything that is possible. Of a confidence sequence, which
is looked at after every row, all intervals of a run must hold it. The last table shows after how many
rows a sequence is precise to ±2 %.
"""

from __future__ import annotations

from random import Random
from statistics import median
from typing import TYPE_CHECKING

from batchrun.evaluation import ScoreSums, interval
from batchrun.evaluation.intervals import tango
from batchrun.evaluation.metrics import difference_interval
from batchrun.evaluation.scores import Pairs
from batchrun.evaluation.sequences import ConfidenceSequence

if TYPE_CHECKING:
    from collections.abc import Callable

    Interval = tuple[float, float] | None

COUNTS = (5, 10, 20, 50, 200, 2_000)
DRAWS = 4_000
POPULATIONS = {20: 2_000, 200: 2_000, 2_000: 300, 20_000: 30}
ROUNDING = 1e-9
PRECISE = 0.02
ACCURACIES = (0.5, 0.7, 0.9)
TABLES = (10_000, 100_000)


def accuracy(chance: Random, count: int) -> tuple[Interval, float]:
    """Scores of 0 and 1."""
    truth = chance.random()
    return interval(_sums([float(chance.random() < truth) for _ in range(count)])), truth


def mean(chance: Random, count: int) -> tuple[Interval, float]:
    """Scores between 0 and 1."""
    a, b = chance.uniform(0.5, 4), chance.uniform(0.5, 4)
    return interval(_sums([chance.betavariate(a, b) for _ in range(count)])), a / (a + b)


def mean_of_samples(chance: Random, count: int) -> tuple[Interval, float]:
    """The share of five answers that are right, to rows of different difficulty."""
    a, b = chance.uniform(0.3, 3), chance.uniform(0.3, 3)
    rows = (chance.betavariate(a, b) for _ in range(count))
    scores = [sum(chance.random() < row for _ in range(5)) / 5 for row in rows]
    return interval(_sums(scores)), a / (a + b)


def mean_of_any(chance: Random, count: int) -> tuple[Interval, float]:
    """Scores on a scale of their own."""
    truth = chance.uniform(-3, 9)
    return interval(_sums([chance.gauss(truth, 2) for _ in range(count)])), truth


def clustered(chance: Random, count: int) -> tuple[Interval, float]:
    """Scores of 0 and 1 that are alike within clusters of four rows; `count` clusters."""
    a, b = chance.uniform(1, 4), chance.uniform(1, 4)
    scores = []
    for _ in range(count):
        share = chance.betavariate(a, b)
        scores.append([float(chance.random() < share) for _ in range(4)])
    totals = [sum(cluster) for cluster in scores]
    sums = _sums([score for cluster in scores for score in cluster])
    moments = (sum(t * t for t in totals), 4.0 * sum(totals), 16.0 * count)
    alike = ScoreSums(
        scored=sums.scored,
        total=sums.total,
        squares=sums.squares,
        is_binary=True,
        correct=sums.correct,
        clusters=count,
        cluster_sums=moments,
    )
    return interval(alike), a / (a + b)


def difference_of_accuracies(chance: Random, count: int) -> tuple[Interval, float]:
    """The difference of two runs over the same rows, with scores of 0 and 1."""
    low, high = sorted((chance.random(), chance.random()))
    draws = [chance.random() for _ in range(count)]
    first, second = sum(d < low for d in draws), sum(low <= d < high for d in draws)
    return tango(first, second, count), (high - low) - low


def difference_of_means(chance: Random, count: int) -> tuple[Interval, float]:
    """The difference of two runs over the same rows, with scores between 0 and 1."""
    truth = chance.uniform(-0.3, 0.3)
    found = [truth + chance.uniform(-0.5, 0.5) for _ in range(count)]
    total, squares = sum(found), sum(value**2 for value in found)
    pairs = Pairs(count, 0, 0, 0, count, False, 0, count, total, squares)
    return difference_interval(pairs), truth


INTERVALS: dict[str, Callable[[Random, int], tuple[Interval, float]]] = {
    each.__name__: each
    for each in (
        accuracy,
        mean,
        mean_of_samples,
        mean_of_any,
        clustered,
        difference_of_accuracies,
        difference_of_means,
    )
}


def draws_of(count: int) -> int:
    """Return how many runs of `count` rows are simulated: more of small ones, where intervals differ most.

    With 40,000 draws, a share near 95 % is exact to 0.2 points, with 4,000 to 0.7.
    """
    return 1_000 if count > 200 else max(DRAWS, 200_000 // count)


def coverage(name: str, count: int, draws: int = DRAWS) -> float:
    """Return the share of simulated runs of `count` rows whose interval holds the truth."""
    chance = Random(f"{name} {count}")
    held = 0
    for _ in range(draws):
        bounds, truth = INTERVALS[name](chance, count)
        held += bounds is not None and bounds[0] <= truth <= bounds[1]
    return held / draws


def path_coverage(population: int, draws: int, *, binary: bool = True) -> float:
    """Return the share of simulated runs in which every interval of the sequence holds the mean.

    A tenth of the rows has no score. The rows are drawn until all are.

    Args:
        population: rows of the table.
        draws: simulated runs.
        binary: scores are 0 or 1; otherwise between 0 and 1.
    """
    chance = Random(f"sequence {population} {binary}")
    return sum(_holds_everywhere(chance, population, binary=binary) for _ in range(draws)) / draws


def _holds_everywhere(chance: Random, population: int, *, binary: bool) -> bool:
    share, a = chance.random(), chance.uniform(0.3, 3)
    table = [
        float(chance.random() < share) if binary else chance.betavariate(a, 1)
        for _ in range(population)
    ]
    known = [value for value in table if chance.random() < 0.9] or table
    rows: list[float | None] = [*known, *[None] * (population - len(known))]
    truth = sum(known) / len(known)
    chance.shuffle(rows)
    sequence = ConfidenceSequence(population)
    for score in rows:
        if score is None:
            sequence.skip()
        else:
            sequence.add(score)
        low, high = sequence.bounds
        if not low - ROUNDING <= truth <= high + ROUNDING:
            return False
    return True


def rows_until_precise(population: int, accuracy: float, draws: int = 3) -> float:
    """Return after how many rows a sequence is precise to ±2 %: the median of simulated runs."""
    chance = Random(f"precise {population} {accuracy}")
    return median(_rows_sent(chance, population, accuracy) for _ in range(draws))


def _rows_sent(chance: Random, population: int, accuracy: float) -> int:
    right = round(population * accuracy)
    scores = [1.0] * right + [0.0] * (population - right)
    chance.shuffle(scores)
    sequence = ConfidenceSequence(population)
    for sent, score in enumerate(scores, start=1):
        sequence.add(score)
        if sequence.half_width <= PRECISE:
            return sent
    return population


def _sums(scores: list[float]) -> ScoreSums:
    return ScoreSums(
        scored=len(scores),
        total=sum(scores),
        squares=sum(score**2 for score in scores),
        is_binary=all(score in {0, 1} for score in scores),
        is_share=all(0 <= score <= 1 for score in scores),
        correct=sum(score >= 1 for score in scores),
    )


if __name__ == "__main__":
    print(f"{'rows':<26}" + "".join(f"{count:>8,}" for count in COUNTS))
    for kind in INTERVALS:
        shares = [coverage(kind, count, draws_of(count)) for count in COUNTS]
        print(f"{kind:<26}" + "".join(f"{share:>8.1%}" for share in shares))
    print(f"{'sequence, rows of the table':<28}" + "".join(f"{n:>8,}" for n in POPULATIONS))
    for binary in (True, False):
        shares = [path_coverage(n, draws, binary=binary) for n, draws in POPULATIONS.items()]
        name = "scores of 0 and 1" if binary else "scores between 0 and 1"
        print(f"{name:<28}" + "".join(f"{share:>8.1%}" for share in shares))
    print(f"{'rows for ±2 %':<28}" + "".join(f"{share:>8.0%}" for share in ACCURACIES))
    for population in TABLES:
        sent = [rows_until_precise(population, share) for share in ACCURACIES]
        print(f"{f'of {population:,} rows':<28}" + "".join(f"{rows:>8,}" for rows in sent))
