"""A leaderboard: runs ranked by their scores, as text and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.report.compared_runs import full_score, pair_cells, run_cells, scorer_cells
from batchrun.report.formatting import counted, usd
from batchrun.report.html import Tile, html_page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from batchrun.report.compared_runs import ComparedRun


@dataclass(frozen=True, slots=True)
class Ranking:
    """The runs over one table, the best first; the others are compared with it."""

    table: str
    runs: tuple[ComparedRun, ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The rankings of a folder of runs; the one with the most runs comes first.

    Attributes:
        folder: the folder of the runs.
        rankings: one for each table.
        problems: runs that are left out, and why.
    """

    folder: Path
    rankings: tuple[Ranking, ...]
    problems: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """Notes about differences that could mislead the reader."""
        notes = list(self.problems)
        unscored = [
            str(run.directory)
            for ranking in self.rankings
            for run in ranking.runs
            if not run.has_scores
        ]
        if unscored:
            notes.append(f"without scores: {', '.join(unscored)}")
        if any(run.pairs is not None for ranking in self.rankings for run in ranking.runs):
            notes.append(
                "difference: run minus the best of its table, over the rows that both have; "
                "p: corrected for the number of runs (Holm)"
            )
            notes.append(
                "The best of many runs is partly the luckiest: its score is likely to be lower on new rows"
            )
        return notes


def ranked_cells(rank: int, run: ComparedRun, folder: Path) -> dict[str, str]:
    """Return a line of a ranking as text by column."""
    names = {run.directory: _name(run, folder)}
    cells = run_cells(run, names)
    pair = {} if run.pairs is None else pair_cells(run, run.pairs, names)
    return {
        "run": f"{rank}. {cells['run']}",
        "model": cells["model"],
        "rows": cells["ok"],
        "score": cells["score"],
        "95 % CI": cells["95 % CI"],
        "difference": pair.get("difference", ""),
        "p": pair.get("p", ""),
        "cost": cells["cost"],
        "per correct": cells["per correct"],
        "p50": cells["p50"],
    }


def leaderboard_page(
    board: Leaderboard, *, links: Mapping[Path, str], is_simulated: bool, written_us: int
) -> str:
    """Return the whole document.

    Args:
        board: the rankings.
        links: the reports of runs, by their directories.
        is_simulated: whether some answers are from the simulator.
        written_us: now, in microseconds since 1970 UTC.
    """
    return html_page(
        "leaderboard.html.jinja",
        title=f"Leaderboard of {board.folder.resolve().name}",
        subtitle=[counted(len(board.rankings), "table")],
        is_simulated=is_simulated,
        notes=board.notes,
        written_us=written_us,
        tiles=list(_tiles(board)),
        full_score=full_score,
        rankings=[
            (each, list(_lines(each, board.folder, links)), scorer_lines(each, board.folder))
            for each in board.rankings
        ],
    )


def _tiles(board: Leaderboard) -> Iterator[Tile]:
    runs = [run for ranking in board.rankings for run in ranking.runs]
    yield Tile("Runs", f"{len(runs):,}")
    best = board.rankings[0].runs[0]
    if best.mean is not None:
        cells = run_cells(best, {best.directory: _name(best, board.folder)})
        yield Tile("Best score", cells["score"], f"{cells['run']}, {board.rankings[0].table}")
    unpriced = sum(run.cost is None for run in runs)
    cost = sum(run.totals.cost.total for run in runs)
    yield Tile("Cost", usd(cost), f"without {counted(unpriced, 'run')}" if unpriced else "")


def _lines(
    ranking: Ranking, folder: Path, links: Mapping[Path, str]
) -> Iterator[tuple[ComparedRun, dict[str, str], str | None]]:
    for rank, run in enumerate(ranking.runs, 1):
        yield run, ranked_cells(rank, run, folder), links.get(run.directory)


def scorer_lines(ranking: Ranking, folder: Path) -> list[tuple[ComparedRun, dict[str, str], float]]:
    """Return the results of each named scorer for the runs of a ranking, in its order."""
    return scorer_cells(ranking.runs, {run.directory: _name(run, folder) for run in ranking.runs})


def _name(run: ComparedRun, folder: Path) -> str:
    return str(run.directory.relative_to(folder))
