"""How the rows of a run are divided into parts, and the plan of each part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.errors import JobError
from batchrun.run.job_scores import evaluation_of
from batchrun.run.parts import PartList, is_partitioned, read_parts
from batchrun.run.preparation import Prepared, judging_plan

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.job import Job, RunPart
    from batchrun.run.run_options import RunOptions
    from batchrun.source import Source


def division_of(plan: Prepared, options: RunOptions) -> PartList | None:
    """Return how a run is divided; None for a run in one part.

    Raises:
        JobError: when the run is divided, and the job has `stop_at`.
    """
    parts = _division(plan.job, plan.directory, plan.total, is_new=options.new)
    if parts is not None:
        check_divided(plan, parts)
    return parts


def check_divided(plan: Prepared, parts: PartList) -> None:
    """Check that a job can be run in parts.

    Raises:
        JobError: when it has `stop_at`.
    """
    if any(config.stop_at is not None for config in plan.job.scores):
        raise JobError(
            f"[score] stop_at draws rows from the whole table, and this run of {plan.total:,} rows is divided "
            f"into parts of {parts.partition_rows:,}. Remove stop_at, or start the run with [output] "
            f"partition_rows = {plan.total} and another --output-dir, or --new"
        )


def _division(job: Job, directory: Path, rows: int, *, is_new: bool = False) -> PartList | None:
    """Return how a run with this number of rows is divided. A run that has begun keeps its division."""
    size, count = job.output.partition_rows, 0
    if not is_new and is_partitioned(directory):
        begun = read_parts(directory)
        # With another size, rows would move to other parts, whose checkpoints lack their answers.
        size, count = begun.partition_rows, begun.count
    elif rows <= size or (not is_new and _has_checkpoint(directory)):
        return None
    return PartList(size, rows, max(count, -(-rows // size)))


def divided(job: Job, source: Source, directory: Path, rows: int) -> list[tuple[Path, Source]]:
    """Return the directories that a run has its checkpoints in, or will have, each with its rows.

    Args:
        job: the job.
        source: its input.
        directory: the run directory; the run need not have begun.
        rows: number of rows of the input.
    """
    parts = _division(job, directory, rows)
    if parts is None:
        return [(directory, source)]
    return [(directory / part.name, source.of_part(part)) for part in parts.parts]


def division_notes(plan: Prepared, parts: PartList | None) -> list[str]:
    """Return a message if a run is divided in another way than the job says."""
    wanted = plan.job.output.partition_rows
    if parts is not None and parts.partition_rows != wanted:
        return [
            (
                f"[output] partition_rows = {wanted}: this run was started with parts of "
                f"{parts.partition_rows:,} rows and keeps them; to start over, add --new"
            )
        ]
    is_whole = plan.job.input.part is None and plan.answers is None
    if parts is None and is_whole and plan.total > wanted:
        return [
            (
                f"[output] partition_rows = {wanted}: this run was started without parts and keeps its "
                "single checkpoint; to start over in parts, add --new"
            )
        ]
    return []


def _has_checkpoint(directory: Path) -> bool:
    return (directory / checkpoint.FILE_NAME).exists()


def plan_of_part(plan: Prepared, parts: PartList, part: RunPart, options: RunOptions) -> Prepared:
    """Return the plan of one part of a run.

    Args:
        plan: plan of the whole run.
        parts: how it is divided.
        part: the part.
        options: how to run.
    """
    job = plan.job.of_part(part)
    source = plan.source.of_part(part)
    of_part = replace(
        plan,
        job=job,
        source=source,
        total=parts.rows_of(part),
        directory=plan.directory / part.name,
        judges=(),
    )
    if plan.evaluation is None or not plan.judges:
        return of_part
    evaluation = evaluation_of(job, source)
    if evaluation is None:
        return of_part
    evaluation.load()
    judges = tuple(judging_plan(of_part, judge, options) for judge in evaluation.judges)
    return replace(of_part, evaluation=evaluation, judges=judges)


def options_of_part(options: RunOptions, part: RunPart) -> RunOptions:
    """Return the options of a part. `new` is off: the directory of the whole run has been moved already."""
    rows = options.rows
    if rows is not None:
        end = part.first + part.rows
        rows = frozenset(row - part.first for row in rows if part.first <= row < end)
    return replace(options, new=False, rows=rows)
