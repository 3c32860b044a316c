"""Compared runs for people: the numbers of each, and its differences from the first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchrun.evaluation.intervals import holm
from batchrun.evaluation.metrics import (
    difference_interval,
    interval,
    mean_score,
    p_value,
    part_of,
)
from batchrun.records import PICO_PER_USD, unusual_endings
from batchrun.report.formatting import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batchrun.evaluation import Pairs, ScoreTotals
    from batchrun.pricing.totals import RunTotals


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run.

    Attributes:
        directory: the run directory.
        model: the model in the job.
        input: a digest of the table.
        totals: its counts, costs and times.
        score: the totals of its scores.
        pairs: the comparison with the first run; None for the first.
        p_holm: the p-value of the difference from the first run, corrected for the number of runs.
        scorers: the same for each scorer with a name.
    """

    directory: Path
    model: str
    input: str
    totals: RunTotals
    score: ScoreTotals
    pairs: Pairs | None
    p_holm: float | None = None
    scorers: Mapping[str, ComparedRun] = field(default_factory=dict)

    @property
    def has_scores(self) -> bool:
        """Whether anything was scored."""
        return self.score.scored > 0

    @property
    def not_scored_yet(self) -> int:
        """Answers that arrived after the scores were written; all of them without `[score]`."""
        return max(0, self.totals.succeeded - self.score.scored - self.score.unscored)

    @property
    def mean(self) -> float | None:
        """The mean score; None if nothing was scored."""
        return mean_score(self.score)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean score."""
        return interval(self.score)

    @property
    def p_value(self) -> float | None:
        """The uncorrected p-value of the difference from the first run."""
        tested = None if self.pairs is None else p_value(self.pairs)
        return tested[0] if tested else None

    @property
    def test(self) -> str | None:
        """The name of the test of the p-value."""
        tested = None if self.pairs is None else p_value(self.pairs)
        return tested[1] if tested else None

    @property
    def is_in_points(self) -> bool:
        """Whether the difference from the first run is one of accuracies, shown in percentage points."""
        return self.pairs is not None and self.pairs.is_binary and self.score.is_binary

    @property
    def cost(self) -> float | None:
        """The run's cost in USD; None if it is not completely known."""
        return None if self.totals.unpriced else self.totals.cost.total / PICO_PER_USD

    @property
    def cost_per_correct(self) -> float | None:
        """The run's cost in USD for each answer whose score is 1 or more."""
        cost, correct = self.cost, self.score.right_answers
        return cost / correct if cost is not None and correct else None


TESTS = {
    "mcnemar": "McNemar, exact",
    "sign_flip": "permutation of signs, exact",
    "t": "paired t",
}


def corrected(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs with p-values that are corrected for the number of comparisons (Holm)."""
    p_values = holm([run.p_value for run in runs])
    found = [replace(run, p_holm=p) for run, p in zip(runs, p_values, strict=True)]
    for name in scorers_of(runs):
        named = [run for run in found if name in run.scorers]
        again = iter(corrected([run.scorers[name] for run in named]))
        found = [
            replace(run, scorers={**run.scorers, name: next(again)}) if run in named else run
            for run in found
        ]
    return found


def scorers_of(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of the scorers of runs, in the order in which they first occur."""
    return list(dict.fromkeys(name for run in runs for name in run.scorers))


def names_of(runs: Sequence[ComparedRun]) -> dict[Path, str]:
    """Return a name for each run: the name of its folder, or its path if names repeat."""
    paths = [run.directory for run in runs]
    are_unique = len({path.name for path in paths}) == len(paths)
    return {path: path.name if are_unique else str(path) for path in paths}


def full_score(runs: Sequence[ComparedRun]) -> float:
    """Return the score of a full bar."""
    if all(run.score.is_binary for run in runs):
        return 1.0
    bounds = [run.interval[1] for run in runs if run.interval]
    return max(0.0, *(run.mean or 0.0 for run in runs), *bounds) or 1.0


def run_cells(run: ComparedRun, names: Mapping[Path, str]) -> dict[str, str]:
    """Return the numbers of a run as text by column; empty text if there is none."""
    totals, score = run.totals, run.score
    return {
        "run": names[run.directory],
        "model": run.model,
        "rows": f"{totals.total:,}",
        "ok": f"{totals.succeeded:,}",
        "score": _score(run.mean, is_share=score.is_binary),
        "95 % CI": _bounds(run.interval, is_share=score.is_binary),
        "cost": "unknown" if run.cost is None else f"${run.cost:,.4f}",
        "per correct": "" if run.cost_per_correct is None else f"${run.cost_per_correct:,.6f}",
        "p50": _seconds(totals.latency_s.get("p50")),
        "p90": _seconds(totals.latency_s.get("p90")),
    }


def pair_cells(run: ComparedRun, pairs: Pairs, names: Mapping[Path, str]) -> dict[str, str]:
    """Return the comparison of a run with the first as text by column; empty text if there is no number."""
    difference = pairs.total / pairs.scored if pairs.scored else None
    return {
        "run": names[run.directory],
        "rows": f"{pairs.common:,}",
        "same text": _score(part_of(pairs.same_text, pairs.common), is_share=True),
        "same answer": _score(part_of(pairs.same_prediction, pairs.predicted), is_share=True),
        "difference": ""
        if difference is None
        else _number(difference, "+", is_share=run.is_in_points),
        "95 % CI": _bounds(difference_interval(pairs), "+", is_share=run.is_in_points),
        "p": "" if run.p_holm is None else f"{run.p_holm:.2g}",
        "test": TESTS.get(run.test or "", ""),
    }


def scorer_cells(
    runs: Sequence[ComparedRun], names: Mapping[Path, str]
) -> list[tuple[ComparedRun, dict[str, str], float]]:
    """Return the results of each named scorer for each run: the numbers, their text by column, the full score."""
    found = []
    for name in scorers_of(runs):
        own = [run.scorers[name] for run in runs if name in run.scorers]
        for run in own:
            pair = {} if run.pairs is None else pair_cells(run, run.pairs, names)
            cells = run_cells(run, names)
            cells = {
                "scorer": name,
                "run": cells["run"],
                "score": cells["score"],
                "95 % CI": cells["95 % CI"],
                "difference": pair.get("difference", ""),
                "its 95 % CI": pair.get("95 % CI", ""),
                "p": pair.get("p", ""),
                "scored": f"{run.score.scored:,}",
            }
            found.append((run, cells, full_score(own)))
    return found


def notes_on(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> list[str]:
    """Return notes about differences that could mislead the reader."""
    notes = [
        f"{run.not_scored_yet:,} answers of {names[run.directory]} have no score yet: "
        f"batchrun score {run.directory}"
        for run in runs
        if run.has_scores and run.not_scored_yet
    ]
    notes += [
        f"{names[run.directory]} used a different table than the first run: "
        "rows are matched by custom_id, which is the row number unless [input] id is set"
        for run in runs
        if run.input != runs[0].input
    ]
    notes += [
        f"{names[run.directory]}: {unusual} of {counted(sum(run.totals.endings.values()), 'answer')}"
        for run in runs
        if (unusual := _unusual(run.totals))
    ]
    tested = [run for run in runs if run.p_value is not None]
    if tested:
        notes.append("difference: run minus the first, over the rows that both have")
    if len(tested) > 1:
        notes.append(f"p: corrected for {len(tested)} comparisons (Holm)")
    if tested and len(scorers_of(runs)) > 1:
        notes.append("p by scorer: not corrected for the number of scorers")
    if any(run.pairs is not None and run.pairs.clusters is not None for run in tested):
        notes.append("95 % CI and p: rows of the same cluster are not counted as independent")
    return notes


def _unusual(totals: RunTotals) -> str:
    """Return the number of answers that are neither complete nor end with tool calls."""
    unusual = unusual_endings(totals.endings).items()
    return ", ".join(f"{count:,} ended with {ending}" for ending, count in unusual)


def _score(value: float | None, *, is_share: bool) -> str:
    if value is None:
        return ""
    return _number(value, is_share=is_share) + (" %" if is_share else "")


def _bounds(bounds: tuple[float, float] | None, sign: str = "", *, is_share: bool) -> str:
    if bounds is None:
        return ""
    return " to ".join(_number(bound, sign, is_share=is_share) for bound in bounds)


def _number(value: float, sign: str = "", *, is_share: bool) -> str:
    """Return a score as text; a share in percentage points."""
    return f"{value * 100:{sign}.1f}" if is_share else f"{value:{sign}.3f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
