"""The page of a comparison: the runs, each against the first, and rows that they answer differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.report.compared_runs import (
    full_score,
    names_of,
    notes_on,
    pair_cells,
    run_cells,
    scorer_cells,
)
from batchrun.report.formatting import counted, usd
from batchrun.report.html import Tile, html_page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.evaluation.history import Differing
    from batchrun.report.compared_runs import ComparedRun
    from batchrun.report.row_data import EmbeddedRows


def comparison_page(
    runs: Sequence[ComparedRun],
    differing: Differing,
    rows: EmbeddedRows,
    *,
    title: str,
    is_simulated: bool,
    links: Mapping[Path, str],
    written_us: int,
) -> str:
    """Return the whole document.

    Args:
        runs: the runs; the others are compared with the first.
        differing: number of rows that the runs answer differently.
        rows: rows of the first run, with the answers of all runs.
        title: title of the page.
        is_simulated: whether some answers are from the simulator.
        links: the pages of runs, by their directories.
        written_us: the present time, in microseconds since 1970 UTC.
    """
    names = names_of(runs)
    models = list(dict.fromkeys(run.model for run in runs))
    return html_page(
        "comparison.html.jinja",
        title=title,
        subtitle=[*models[:3], "…" if len(models) > 3 else ""],
        is_simulated=is_simulated,
        notes=notes_on(runs, names),
        written_us=written_us,
        tiles=list(_tiles(runs, differing, names)),
        names=list(names.values()),
        runs=[(run, run_cells(run, names), links.get(run.directory)) for run in runs],
        is_scored=any(run.has_scores for run in runs),
        full_score=full_score(runs),
        full_cost=max(run.cost or 0.0 for run in runs) or 1.0,
        pairs=[(run.pairs, pair_cells(run, run.pairs, names)) for run in runs if run.pairs],
        is_in_points=all(run.is_in_points for run in runs if run.pairs),
        scorers=scorer_cells(runs, names),
        differing=differing,
        rows=rows,
        first_total=runs[0].totals.total,
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
    cost = sum(run.totals.cost.total for run in runs)
    unpriced = sum(run.cost is None for run in runs)
    if unpriced and not cost:
        yield Tile("Cost", "unknown")
    else:
        yield Tile("Cost", usd(cost), f"without {counted(unpriced, 'run')}" if unpriced else "")
    yield from _best_tiles(runs, names)
    if len(runs) > 1:
        yield Tile("Rows that differ", f"{differing.count:,}", "from the first run's answer")


def _best_tiles(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> Iterator[Tile]:
    """Return tiles for the best score and the lowest cost, with the names of these runs."""
    scored = [run for run in runs if run.mean is not None]
    if scored:
        best = max(scored, key=lambda run: run.mean or 0.0)
        ties = sum(run.mean == best.mean for run in scored)
        named = _named(best, ties, len(scored), names)
        yield Tile("Best score", run_cells(best, names)["score"], named)
    priced = [run for run in runs if run.cost is not None]
    if priced and len(runs) > 1:
        best = min(priced, key=lambda run: run.cost or 0.0)
        ties = sum(run.cost == best.cost for run in priced)
        named = _named(best, ties, len(priced), names)
        yield Tile("Lowest cost", usd(best.totals.cost.total), named)


def _named(run: ComparedRun, ties: int, total: int, names: Mapping[Path, str]) -> str:
    """Return the name of a run, and how many of `total` runs have the same number."""
    if ties == total > 1:
        return f"the same for all {total:,} runs"
    return names[run.directory] + (f" and {ties - 1:,} more" if ties > 1 else "")
