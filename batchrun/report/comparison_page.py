"""The page of a comparison: the runs, each against the first, and rows that they answer differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.report.compared_runs import names_of, notes_on, pair_cells, run_cells
from batchrun.report.html import Tile, html_page
from batchrun.report.text import counted, usd
from batchrun.scoring import interval, mean_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.history import Differing, DifferingRow
    from batchrun.report.compared_runs import ComparedRun, RunCells
    from batchrun.scoring import Pairs


@dataclass(frozen=True, slots=True)
class ComparisonPageInfo:
    """What the page says beside the runs.

    Attributes:
        title: of the page.
        is_simulated: whether some answers are from the simulator.
        links: the pages of runs, by their directories.
        written_us: now, in microseconds since 1970 UTC.
    """

    title: str
    is_simulated: bool
    links: Mapping[Path, str]
    written_us: int


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in the table of runs.

    Attributes:
        cells: its numbers.
        link: its own page.
        score: as a share of the highest possible or found score; `interval` are the shares of its bounds.
        cost: as a share of the highest cost.
    """

    run: ComparedRun
    cells: RunCells
    link: str | None
    score: float | None
    interval: tuple[float, float] | None
    cost: float


def comparison_page(
    runs: Sequence[ComparedRun], differing: Differing, info: ComparisonPageInfo
) -> str:
    """Return the whole document."""
    names = names_of(runs)
    models = list(dict.fromkeys(run.model for run in runs))
    pairs = [(run, run.pairs) for run in runs if run.pairs is not None]
    is_scored = any(run.has_scores for run in runs)
    return html_page(
        "comparison.html.jinja",
        title=info.title,
        subtitle=[*models[:3], "…" if len(models) > 3 else ""],
        is_simulated=info.is_simulated,
        notes=notes_on(runs, names),
        written_us=info.written_us,
        tiles=list(_tiles(runs, differing, names)),
        runs=_run_lines(runs, names, info.links),
        is_scored=is_scored,
        first=names[runs[0].directory],
        pairs=[(pair_cells(run, found, names), _test(found)) for run, found in pairs],
        are_pairs_scored=any(found.scored for _, found in pairs),
        are_points=all(found.is_binary for _, found in pairs),
        names=[names[run.directory] for run in runs],
        rows=differing.rows,
        kinds_of=_kinds,
        has_expected=any(row.expected is not None for row in differing.rows),
        part=_part(differing, is_scored=is_scored),
    )


def _tiles(
    runs: Sequence[ComparedRun], differing: Differing, names: Mapping[Path, str]
) -> Iterator[Tile]:
    missing = sum(run.totals.total - run.totals.succeeded for run in runs)
    yield Tile(
        "Runs", f"{len(runs):,}", f"{counted(missing, 'row')} not answered" if missing else ""
    )
    totals = [run.totals.total for run in runs]
    if len(set(totals)) == 1:
        yield Tile("Rows", f"{totals[0]:,}", "in each run" if len(runs) > 1 else "")
    else:
        yield Tile("Rows", f"{sum(totals):,}", "in all runs together")
    cost, unpriced = (
        sum(run.totals.cost.total for run in runs),
        sum(run.cost is None for run in runs),
    )
    if unpriced and not cost:
        yield Tile("Cost", "unknown")
    else:
        yield Tile("Cost", usd(cost), f"without {counted(unpriced, 'run')}" if unpriced else "")
    yield from _best_tiles(runs, names)
    if len(runs) > 1:
        yield Tile("Rows that differ", f"{differing.count:,}", "from the first run's answer")


def _best_tiles(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> Iterator[Tile]:
    """The best score and the lowest cost, with the names of these runs."""
    scores = {run.directory: mean for run in runs if (mean := mean_score(run.score)) is not None}
    if scores:
        best = max(scores, key=lambda directory: scores[directory])
        (run,) = (run for run in runs if run.directory == best)
        yield Tile("Best score", run_cells(run, names).score, _named(best, scores, names))
    costs = {run.directory: run.totals.cost.total for run in runs if run.cost is not None}
    if costs and len(runs) > 1:
        cheapest = min(costs, key=lambda directory: costs[directory])
        yield Tile("Lowest cost", usd(costs[cheapest]), _named(cheapest, costs, names))


def _named(first: Path, values: Mapping[Path, float], names: Mapping[Path, str]) -> str:
    """The name of a run, and how many others have the same value."""
    more = sum(value == values[first] for value in values.values()) - 1
    return names[first] + (f" and {more:,} more" if more else "")


def _run_lines(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], links: Mapping[Path, str]
) -> list[RunLine]:
    highest_cost = max((run.cost or 0.0 for run in runs), default=0.0) or 1.0
    highest_score = _highest_score(runs)
    lines = []
    for run in runs:
        mean, bounds = mean_score(run.score), interval(run.score)
        lines.append(
            RunLine(
                run=run,
                cells=run_cells(run, names),
                link=links.get(run.directory),
                score=None if mean is None else mean / highest_score,
                interval=bounds and (bounds[0] / highest_score, bounds[1] / highest_score),
                cost=(run.cost or 0.0) / highest_cost,
            )
        )
    return lines


def _highest_score(runs: Sequence[ComparedRun]) -> float:
    """The score that a full bar stands for."""
    if all(run.score.is_binary for run in runs):
        return 1.0
    bounds = [found[1] for run in runs if (found := interval(run.score))]
    return max(*(mean_score(run.score) or 0.0 for run in runs), *bounds, 0.0) or 1.0


def _test(pairs: Pairs) -> str:
    """The name of the test that the p-value or the interval is from."""
    if not pairs.scored:
        return ""
    if pairs.is_binary:
        return "McNemar, exact"
    return "normal approximation" if pairs.differences is None else "paired bootstrap"


def _part(differing: Differing, *, is_scored: bool) -> str:
    """Which of the differing rows are shown."""
    shown = len(differing.rows)
    part = f"{counted(differing.count, 'row')} whose answer differs from the first run's"
    if shown < differing.count:
        order = ", rows with different scores first" if is_scored else ""
        part = f"{shown:,} of {part}{order}"
    return part + ("; better, worse: than the first run" if is_scored else "")


def _kinds(row: DifferingRow) -> str:
    """Whether some run scores better or worse than the first."""
    first, *others = (None if answer is None else answer.score for answer in row.answers)
    if first is None:
        return ""
    found = {
        "better" if score > first else "worse" for score in others if score not in (None, first)
    }
    return " ".join(sorted(found))
