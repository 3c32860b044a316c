"""`batchrun compare FOLDER`: the runs in a folder, ranked by their scores for each table. Sends nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from batchrun import output
from batchrun.errors import CheckpointError, JobError, harmless
from batchrun.inspection.comparison import run_facts, side_by_side
from batchrun.inspection.run_lookup import runs_below
from batchrun.job.paths import is_simulated
from batchrun.report.formatting import in_columns
from batchrun.report.ranking import (
    Leaderboard,
    Ranking,
    leaderboard_page,
    ranked_cells,
    scorer_lines,
)
from batchrun.run.run_folders import stored_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.report.compared_runs import ComparedRun


REPORT = "report.html"


def leaderboard(folder: Path) -> Leaderboard:
    """Rank the runs in a folder: one ranking for each table and way of scoring.

    The other runs of a table are compared with the best one. Runs that cannot be read are left out, and
    named in `problems`.

    Raises:
        JobError: when no run in the folder can be read.
    """
    by_table: dict[tuple[str, str], list[ComparedRun]] = {}
    problems = []
    for directory in runs_below(folder):
        try:
            table = _table_of(directory)
            if table is not None:
                (run,) = side_by_side([directory])
                by_table.setdefault(table, []).append(run)
        except (CheckpointError, JobError) as problem:
            problems.append(f"{directory.relative_to(folder)} is left out: {problem}")
    if not by_table:
        raise JobError(f"{folder}: has no runs that can be compared")
    rankings = [_ranking(name, runs) for (_, name), runs in by_table.items()]
    rankings.sort(key=lambda ranking: (-len(ranking.runs), ranking.table))
    return Leaderboard(folder, tuple(rankings), tuple(problems))


def leaderboard_json(board: Leaderboard) -> str:
    """Return the rankings for programs, in the units of `comparison_json`."""
    facts: dict[str, Any] = {
        "folder": str(board.folder),
        "tables": [
            {
                "table": ranking.table,
                "runs": [run_facts(run, ranking.runs[0]) for run in ranking.runs],
            }
            for ranking in board.rankings
        ],
        "problems": list(board.problems),
    }
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def leaderboard_text(board: Leaderboard, *, width: int | None = None) -> str:
    """Return the rankings for people.

    Args:
        board: what `leaderboard` returned.
        width: maximum width of a table, such as that of a terminal; None for no limit.
    """
    lines: list[str] = []
    for ranking in board.rankings:
        rows = [ranked_cells(n, run, board.folder) for n, run in enumerate(ranking.runs, 1)]
        lines += ["", ranking.table] if lines else [ranking.table]
        lines += _table(rows, width)
        if scorers := [cells for _, cells, _ in scorer_lines(ranking, board.folder)]:
            lines += ["", *_table(scorers, width)]
    lines += ["", *board.notes] if board.notes else []
    return "\n".join(harmless(line) for line in lines)


def _table(rows: Sequence[Mapping[str, str]], width: int | None) -> list[str]:
    return in_columns([list(rows[0]), *(list(row.values()) for row in rows)], width)


def write_leaderboard(board: Leaderboard, path: Path) -> None:
    """Write the rankings as a page: one file that needs no network.

    Raises:
        JobError: when another file is there.
        OutputError: when the file cannot be written.
    """
    output.refuse_foreign_page(path, "--html")
    runs = [run for ranking in board.rankings for run in ranking.runs]
    text = leaderboard_page(
        board,
        links=_links(runs, path),
        is_simulated=any(is_simulated(run.directory) for run in runs),
        written_us=time.time_ns() // 1_000,
    )
    again = f"batchrun compare {board.folder} --html {path}"
    output.write_text(path, text, again=again, in_run_directory=False)


def _table_of(directory: Path) -> tuple[str, str] | None:
    """Return a key that comparable runs share, and its title; None for the verdicts of a judge.

    The key consists of the table and the way in which its answers are scored.
    """
    document, _, signature = stored_document(directory)
    if "judge" in document:
        return None
    score = document.get("score") or []
    key = orjson.dumps(score, option=orjson.OPT_SORT_KEYS, default=str).decode()
    scorers = [_described(each) for each in (score if isinstance(score, list) else [score])]
    table = Path(str(document["input"]["path"])).name
    name = f"{table}, scored by {' and '.join(scorers)}" if scorers else table
    return f"{signature.rpartition(':')[2]} {key}", name


def _described(score: Mapping[str, Any]) -> str:
    if "judge" in score:
        return "a judge"
    return "a function" if "function" in score else f'match = "{score.get("match", "exact")}"'


def _ranking(table: str, runs: Sequence[ComparedRun]) -> Ranking:
    """Put the best run first, and compare the others with it."""
    best_first = sorted(runs, key=lambda run: (run.mean is None, -(run.mean or 0.0)))
    return Ranking(table, tuple(side_by_side([run.directory for run in best_first])))


def _links(runs: Sequence[ComparedRun], path: Path) -> dict[Path, str]:
    """Return the addresses of the runs' reports, relative to the page."""
    found = {}
    for run in runs:
        report = (run.directory / REPORT).resolve()
        here = path.resolve().parent
        if report.is_file() and report.is_relative_to(here):
            found[run.directory] = quote(str(report.relative_to(here)))
    return found
