"""Scores by scorer, by slice and by field, for the page of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchrun.evaluation import interval, mean_score
from batchrun.evaluation.intervals import wilson
from batchrun.report.charts import reliability_chart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.evaluation import ScoreSums, ScoreTotals
    from batchrun.report.charts import Chart

MOST_GROUPS = 50


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The score of a group of rows: its name, number of rows, and mean with interval, as numbers and text.

    `by_scorer` has the means by each scorer with a name.
    """

    name: str
    rows: int
    mean: float | None
    bounds: tuple[float, float] | None
    shown_mean: str
    shown_bounds: str
    by_scorer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredGroups:
    """A table of groups.

    Attributes:
        title: what the groups are formed by.
        heading: heading of the column of names.
        groups: the groups, at most `MOST_GROUPS`.
        left_out: number of further groups.
        full: the score of a full bar.
        scorers: names of the scorers in `by_scorer`.
    """

    title: str
    heading: str
    groups: tuple[ScoredGroup, ...]
    left_out: int
    full: float
    scorers: tuple[str, ...] = ()


def score_groups(score: ScoreTotals) -> Iterator[ScoredGroups]:
    """Yield the tables of a run: by scorer, then by the values of each column, and by field."""
    if score.scorers:
        yield _groups("Score by scorer", "Scorer", score.scorers)
    for column, slices in score.slices.items():
        table = _groups(f"Score by {column}", column, slices)
        own = [each.slices.get(column, {}) for each in score.scorers.values()]
        groups = (replace(one, by_scorer=_means(one.name, own)) for one in table.groups)
        yield replace(table, groups=tuple(groups), scorers=tuple(score.scorers))
    for name, totals in {"": score, **score.scorers}.items():
        if totals.fields:
            of = f": {name}" if name else ""
            yield _fields(f"Right answers by field{of}", totals.fields)


def _means(value: str, scorers: Sequence[Mapping[str, ScoreSums]]) -> tuple[str, ...]:
    """Return the mean score of a slice by each scorer, as text."""
    found = [slices.get(value) for slices in scorers]
    return tuple(
        "" if sums is None else _shown(mean_score(sums), is_binary=sums.is_binary) for sums in found
    )


def reliability_charts(score: ScoreTotals) -> Iterator[Chart]:
    """Yield the reliability diagram of each scorer whose predictions have a confidence."""
    for name, totals in {"": score, **score.scorers}.items():
        if totals.calibration is not None:
            title = (
                f"Right answers by confidence: {name}" if name else "Right answers by confidence"
            )
            yield reliability_chart(title, totals.calibration)


def _groups(title: str, heading: str, sums: Mapping[str, ScoreSums]) -> ScoredGroups:
    is_share = all(each.is_share for each in sums.values())
    shown = [(name, each) for name, each in sums.items()][:MOST_GROUPS]
    found = [
        _group(name, each.scored, mean_score(each), interval(each), is_binary=each.is_binary)
        for name, each in shown
    ]
    highest = max((bound for each in found for bound in (each.bounds or ())), default=0.0)
    means = max((each.mean or 0.0 for each in found), default=0.0)
    full = 1.0 if is_share else max(highest, means) or 1.0
    return ScoredGroups(title, heading, tuple(found), len(sums) - len(shown), full)


def _fields(title: str, fields: Mapping[str, tuple[int, float]]) -> ScoredGroups:
    shown = list(fields.items())[:MOST_GROUPS]
    found = [
        _group(path, rows, total / rows, wilson(total, rows), is_binary=True)
        for path, (rows, total) in shown
    ]
    return ScoredGroups(title, "Field", tuple(found), len(fields) - len(shown), 1.0)


def _group(
    name: str,
    rows: int,
    mean: float | None,
    bounds: tuple[float, float] | None,
    *,
    is_binary: bool,
) -> ScoredGroup:
    parts = (
        ()
        if bounds is None
        else (f"{bound * 100:.1f}" if is_binary else f"{bound:.3f}" for bound in bounds)
    )
    shown = _shown(mean, is_binary=is_binary)
    return ScoredGroup(name, rows, mean, bounds, shown, " to ".join(parts))


def _shown(mean: float | None, *, is_binary: bool) -> str:
    if mean is None:
        return "–"
    return f"{mean * 100:.1f} %" if is_binary else f"{mean:.3f}"
