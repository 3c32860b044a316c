"""`batchrun compare`: runs side by side, each compared with the first. Reads checkpoints, sends nothing."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import checkpoint
from batchrun.errors import harmless
from batchrun.evaluation.metrics import difference_interval, is_tested_by_counts, part_of
from batchrun.report.compared_runs import (
    ComparedRun,
    corrected,
    names_of,
    notes_on,
    pair_cells,
    run_cells,
    scorer_cells,
)
from batchrun.report.formatting import in_columns
from batchrun.report.preference_text import preference_facts, preference_lines
from batchrun.run.matrix_runs import compared_runs
from batchrun.run.run_folders import opened_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.evaluation import Pairs, ScoreTotals
    from batchrun.run.comparisons import JudgedPairs


def compare(directories: Sequence[Path | str]) -> list[ComparedRun]:
    """Compare runs with the first of them, row by row where both have the same `custom_id`.

    The directory of a matrix stands for those of its cells.

    Raises:
        JobError: when there are fewer than two, or one is given twice.
        CheckpointError: when a directory has no usable run.
    """
    return side_by_side(compared_runs(directories))


def side_by_side(directories: Sequence[Path]) -> list[ComparedRun]:
    """Compare these runs with the first of them, which may be the only one.

    Raises:
        CheckpointError: when a directory has no usable run.
    """
    with opened_runs(directories) as stores:
        found = zip(directories, stores, strict=True)
        return corrected([_compared(directory, store, stores[0]) for directory, store in found])


@contextmanager
def opened_runs(directories: Sequence[Path]) -> Iterator[list[checkpoint.Checkpoint]]:
    """Open the checkpoints of runs.

    Raises:
        CheckpointError: when a directory has no usable run.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(opened_checkpoint(directory)) for directory in directories]


def _compared(
    directory: Path, store: checkpoint.Checkpoint, first: checkpoint.Checkpoint
) -> ComparedRun:
    document, _, signature = store.job()
    checkpoint.check_intact(store)

    def by(scorer: str, totals: ScoreTotals) -> ComparedRun:
        return ComparedRun(
            directory=directory,
            model=str(document["request"].get("model", "")),
            input=signature.rpartition(":")[2],
            totals=counted,
            score=totals,
            pairs=None if store is first else checkpoint.compare_rows(first, store, scorer),
        )

    counted = checkpoint.totals(store)
    own = {
        name: by(name, checkpoint.score_totals(store, name, pass_at=pass_at))
        for name, pass_at in _named_scorers(document).items()
    }
    return replace(by("", checkpoint.score_totals(store)), scorers=own)


def _named_scorers(document: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the names of the scorers of a job, each with its `pass_at`."""
    section = document.get("score") or []
    scorers = section if isinstance(section, list) else [section]
    return {str(each["name"]): each.get("pass_at") for each in scorers if each.get("name")}


def comparison_json(runs: Sequence[ComparedRun], judged: JudgedPairs | None = None) -> str:
    """Return the comparison for programs: money in USD, times in seconds, shares from 0 to 1."""
    facts: dict[str, Any] = {"runs": [run_facts(run, runs[0]) for run in runs]}
    if judged is not None:
        names = [str(directory) for directory in judged.directories]
        facts["preferences"] = {
            "directory": str(judged.directory),
            **preference_facts(names, judged.model, judged.counts, judged.totals),
        }
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()


def run_facts(run: ComparedRun, first: ComparedRun) -> dict[str, Any]:
    """Return the numbers of a run and its differences from the first, in the units of `comparison_json`."""
    totals = run.totals
    return {
        "directory": str(run.directory),
        "name": totals.name,
        "model": run.model,
        "counts": totals.counts,
        "endings": dict(totals.endings),
        **_score_facts(run, first),
        "cost_usd": run.cost,
        "cost_per_correct_usd": run.cost_per_correct,
        "latency_s": {name: totals.latency_s.get(name) for name in ("p50", "p90")},
        "scorers": {name: _score_facts(own, first) for name, own in run.scorers.items()},
    }


def _score_facts(run: ComparedRun, first: ComparedRun) -> dict[str, Any]:
    return {
        "scored": run.score.scored,
        "correct": run.score.correct,
        "mean": run.mean,
        "accuracy": run.mean if run.score.is_binary else None,
        "ci95": run.interval,
        "against_first": None if run.pairs is None else _pair_facts(run.pairs, run, first),
    }


def _pair_facts(pairs: Pairs, run: ComparedRun, first: ComparedRun) -> dict[str, Any]:
    return {
        "common": pairs.common,
        "same_input": run.input == first.input,
        "same_text": part_of(pairs.same_text, pairs.common),
        "same_prediction": part_of(pairs.same_prediction, pairs.predicted),
        "scored": pairs.scored,
        "higher": pairs.second_higher,
        "lower": pairs.first_higher,
        "difference": pairs.total / pairs.scored if pairs.scored else None,
        "ci95": difference_interval(pairs),
        "ci_method": "tango" if is_tested_by_counts(pairs) else "t",
        "clusters": pairs.clusters,
        "p_value": run.p_value,
        "p_holm": run.p_holm,
        "test": run.test,
    }


def comparison_text(
    runs: Sequence[ComparedRun], judged: JudgedPairs | None = None, *, width: int | None = None
) -> str:
    """Return the comparison for people.

    Args:
        runs: what `compare` returned.
        judged: what `judge_pairs` returned.
        width: maximum width of a table, such as that of a terminal; None for no limit.
    """
    names = names_of(runs)
    lines = _table("run", [run_cells(run, names) for run in runs], width)
    pairs = [pair_cells(run, run.pairs, names) for run in runs if run.pairs is not None]
    if pairs:
        lines += ["", *_table(f"against {names[runs[0].directory]}", pairs, width)]
    if by_scorer := [cells for _, cells, _ in scorer_cells(runs, names)]:
        lines += ["", *_table("scorer", by_scorer, width)]
    if notes := notes_on(runs, names):
        lines += ["", *notes]
    if judged is not None:
        shown = [names[directory] for directory in judged.directories]
        lines += ["", *preference_lines(shown, judged.model, judged.counts, judged.totals)]
        lines.append(f"verdicts: {judged.directory}")
    return "\n".join(harmless(line) for line in lines)


def _table(first: str, rows: Sequence[Mapping[str, str]], width: int | None) -> list[str]:
    """Return rows with a header; `first` is the heading of the first column."""
    heads = [first, *list(rows[0])[1:]]
    return in_columns([heads, *(list(row.values()) for row in rows)], width)
