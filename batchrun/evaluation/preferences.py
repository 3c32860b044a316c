"""Preferences of a judge: wins and ties of runs, position bias, strengths by Bradley and Terry. No I/O.

Each pair of answers is judged in both orders. The outcome of a row is the mean of both, so that a judge
that only prefers the first place gives a tie.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import exp, log, sqrt
from random import Random
from typing import TYPE_CHECKING, Any

from batchrun.evaluation.intervals import mcnemar, wilson
from batchrun.evaluation.scores import VerdictState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    # Two runs by their numbers, the first one smaller.
    Pair = tuple[int, int]
    # The outcome of each pair in a row: 1 if its first run wins, 0 if the second does, 0.5 for a tie.
    RowOutcome = tuple[tuple[Pair, float], ...]


RESAMPLES, FEWEST_RESAMPLES, MOST_DRAWS = 1_000, 100, 1_000_000
STEPS, PRECISION, ROUGH = 2_000, 1e-9, 1e-4
# Half a win of each run over each other that it met: without it, a run that never lost would be
# infinitely strong.
PRIOR = 0.5
LARGE = 30  # from here on, a Poisson number is drawn as a normal one


@dataclass(slots=True)
class PositionCounts:
    """Verdicts for the answer that was shown first, for the other, and for none."""

    first: int = 0
    second: int = 0
    ties: int = 0

    def add(self, score: float) -> None:
        """Count a verdict: above 0.5 it prefers the answer that was shown first."""
        self.first += score > 0.5
        self.second += score < 0.5
        self.ties += score == 0.5


@dataclass(slots=True)
class UnjudgedCounts:
    """Verdicts that have not been asked for, and those without a result."""

    missing: int = 0
    failed: int = 0
    unreadable: int = 0

    def add(self, states: Sequence[VerdictState]) -> None:
        """Count verdicts without a result."""
        self.missing += states.count(VerdictState.MISSING)
        self.failed += states.count(VerdictState.FAILED)
        self.unreadable += states.count(VerdictState.UNREADABLE)

    @property
    def total(self) -> int:
        """All of them."""
        return self.missing + self.failed + self.unreadable


@dataclass(slots=True)
class PreferenceCounts:
    """Counts the verdicts on pairs of answers.

    Attributes:
        outcomes: number of rows by outcome.
        positions: verdicts by the position of the answer that they prefer.
        unjudged: verdicts that there are not.
        same_text: pairs with the same text twice, which are ties without a judge.
        both: pairs with verdicts in both orders; `agreed` are those whose verdicts agree.
    """

    outcomes: Counter[RowOutcome] = field(default_factory=Counter)
    positions: PositionCounts = field(default_factory=PositionCounts)
    unjudged: UnjudgedCounts = field(default_factory=UnjudgedCounts)
    same_text: int = 0
    both: int = 0
    agreed: int = 0

    def add_same_text(self) -> None:
        """Count a pair with the same text twice."""
        self.same_text += 1

    def add_pair(self, shown_first: float, shown_second: float) -> float:
        """Count a pair with two verdicts; return the outcome for its first run.

        Args:
            shown_first: the verdict when the first run's answer came first.
            shown_second: the verdict when it came second, so 1 prefers the other run.
        """
        one, other = shown_first, 1 - shown_second
        self.both += 1
        self.agreed += (one > 0.5) == (other > 0.5) and (one < 0.5) == (other < 0.5)
        mean = (one + other) / 2
        return 0.5 if abs(mean - 0.5) < PRECISION else float(mean > 0.5)


@dataclass(frozen=True, slots=True)
class PairResult:
    """The comparison of two runs: rows that `first` won or lost, and ties.

    `win_rate` counts a tie as half a win; `ci95` is its interval by Wilson's score. `p` is the p-value of the
    sign test over the rows without ties: the probability of such a difference between equal runs.
    """

    first: int
    second: int
    wins: int
    losses: int
    ties: int

    @property
    def rows(self) -> int:
        """Number of rows with an outcome."""
        return self.wins + self.losses + self.ties

    @property
    def win_rate(self) -> float | None:
        """The share of wins, with ties as half a win; None without rows."""
        return (self.wins + self.ties / 2) / self.rows if self.rows else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The interval of the win rate. With ties, it is rather too wide than too narrow."""
        return wilson(self.wins + self.ties / 2, self.rows) if self.rows else None

    @property
    def p(self) -> float | None:
        """The two-sided p-value of the sign test; None without rows."""
        return mcnemar(self.wins, self.losses) if self.rows else None


@dataclass(frozen=True, slots=True)
class Strength:
    """The strength of a run by Bradley and Terry.

    `log_odds` are the log odds of a win over the first run, with a 95 % interval by bootstrap over rows.
    """

    run: int
    log_odds: float
    ci95: tuple[float, float]


def pair_results(counts: PreferenceCounts, runs: int) -> list[PairResult]:
    """Return the result of each pair of runs."""
    found = {pair: Counter[float]() for pair in _pairs(runs)}
    for outcome, rows in counts.outcomes.items():
        for pair, value in outcome:
            found[pair][value] += rows
    return [
        PairResult(*pair, wins=seen[1.0], losses=seen[0.0], ties=seen[0.5])
        for pair, seen in found.items()
    ]


def _pairs(runs: int) -> Iterator[Pair]:
    return ((one, other) for one in range(runs) for other in range(one + 1, runs))


def strengths(counts: PreferenceCounts, runs: int) -> list[Strength]:
    """Return the strength of each run; that of the first is 0. Empty without outcomes."""
    if not counts.outcomes:
        return []
    fitted = bradley_terry(_wins(counts.outcomes.items(), runs))
    chance = Random(0)  # noqa: S311 - drawn, not secret
    kinds = len(counts.outcomes)
    resamples = max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // kinds))
    drawn = [
        bradley_terry(_resampled(counts.outcomes, runs, chance), fitted, ROUGH)
        for _ in range(resamples)
    ]
    return [
        Strength(run, fitted[run], _percentiles([each[run] for each in drawn]))
        for run in range(runs)
    ]


def bradley_terry(
    wins: Sequence[Sequence[float]],
    start: Sequence[float] | None = None,
    precision: float = PRECISION,
) -> list[float]:
    """Return the maximum likelihood estimates of log strengths; that of the first is 0.

    This is the iteration of Hunter (2004), with `PRIOR` wins of each run over each other run that it met.

    Args:
        wins: `wins[i][j]` of run i over run j; a tie is half a win of both.
        start: the initial log strengths.
        precision: the iteration ends when log strengths change by less than this.
    """
    runs = range(len(wins))
    met = [[j for j in runs if j != i and wins[i][j] + wins[j][i]] for i in runs]
    total = [sum(wins[i][j] + PRIOR for j in met[i]) for i in runs]
    games = [{j: wins[i][j] + wins[j][i] + 2 * PRIOR for j in met[i]} for i in runs]
    strength = [exp(one) for one in start or [0.0] * len(wins)]
    for _ in range(STEPS):
        new = [
            total[i] / sum(n / (strength[i] + strength[j]) for j, n in games[i].items())
            if games[i]
            else strength[i]
            for i in runs
        ]
        scale = exp(sum(map(log, new)) / len(new))
        new = [one / scale for one in new]
        moved = max(abs(log(one / other)) for one, other in zip(new, strength, strict=True))
        strength = new
        if moved < precision:
            break
    return [log(one / strength[0]) for one in strength]


def _wins(outcomes: Iterable[tuple[RowOutcome, float]], runs: int) -> list[list[float]]:
    found = [[0.0] * runs for _ in range(runs)]
    for outcome, rows in outcomes:
        for (one, other), value in outcome:
            found[one][other] += rows * value
            found[other][one] += rows * (1 - value)
    return found


def _resampled(outcomes: Mapping[RowOutcome, int], runs: int, chance: Random) -> list[list[float]]:
    """Return the wins of a bootstrap sample of rows, with a Poisson number for each outcome."""
    return _wins(((outcome, _poisson(rows, chance)) for outcome, rows in outcomes.items()), runs)


def _poisson(mean: int, chance: Random) -> int:
    if mean > LARGE:
        return max(0, round(chance.gauss(mean, sqrt(mean))))
    number, left = 0, exp(-mean)
    product = chance.random()
    while product > left:
        number += 1
        product *= chance.random()
    return number


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    cut = round(0.025 * len(ordered))
    return ordered[cut], ordered[-cut - 1]


def position_facts(counts: PreferenceCounts) -> dict[str, Any]:
    """Return the position bias: how much the place of an answer decides, for `compare --json`."""
    decided = counts.positions.first + counts.positions.second
    return {
        "first_preferred": counts.positions.first / decided if decided else None,
        "ci95": wilson(counts.positions.first, decided) if decided else None,
        "ties": counts.positions.ties,
        "pairs_judged_in_both_orders": counts.both,
        "both_orders_agree": counts.agreed / counts.both if counts.both else None,
    }
