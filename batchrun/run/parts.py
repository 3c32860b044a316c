"""The parts of a partitioned run: which there are, what each has to do, and where it is kept.

The directory of such a run has a folder for each part, which is the directory of a run of its own, and
beside it the results of the part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from batchrun import checkpoint, output
from batchrun.dispatch import BATCH
from batchrun.errors import CheckpointError, JobError
from batchrun.job import RunPart
from batchrun.run.preparation import Prepared, judging_plan
from batchrun.run.scoring import Evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.run.preparation import RunOptions

PARTS_FILE = checkpoint.PARTS_FILE


@dataclass(frozen=True, slots=True)
class PartList:
    """How the rows of a run are divided.

    Attributes:
        partition_rows: rows of each part; the last one with rows may have fewer.
        rows: of the input.
        count: parts. Some at the end have no rows when the input has become shorter.
    """

    partition_rows: int
    rows: int
    count: int

    @property
    def parts(self) -> tuple[RunPart, ...]:
        """The parts in order."""
        size = self.partition_rows
        return tuple(RunPart(n + 1, n * size, size) for n in range(self.count))

    def rows_of(self, part: RunPart) -> int:
        """Return how many rows a part has."""
        return max(0, min(part.rows, self.rows - part.first))


def is_partitioned(directory: Path) -> bool:
    """Say whether a directory has a partitioned run."""
    return (directory / PARTS_FILE).is_file()


def read_parts(directory: Path) -> PartList:
    """Return how a partitioned run is divided.

    Raises:
        CheckpointError: when the list cannot be read.
    """
    path = directory / PARTS_FILE
    try:
        found = orjson.loads(path.read_bytes())
        listed = PartList(*(int(found[key]) for key in ("partition_rows", "rows", "parts")))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); write it again: an object with the numbers "
            "partition_rows, rows and parts. The parts in the same directory are kept"
        ) from None
    if listed.partition_rows < 1:
        raise CheckpointError(f"{path}: partition_rows must be 1 or more")
    return listed


def write_parts(directory: Path, parts: PartList) -> None:
    """Write how a run is divided.

    Raises:
        OutputError: when it cannot be written.
    """
    content = {
        "partition_rows": parts.partition_rows,
        "rows": parts.rows,
        "parts": parts.count,
    }
    text = orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
    output.write_text(directory / PARTS_FILE, f"{text}\n")


def division_of(plan: Prepared, options: RunOptions) -> PartList | None:
    """Return how a run is divided; None for a run in one part.

    A run stays as it was begun, whatever `partition_rows` says later.

    Raises:
        JobError: when the run is divided, and is to be sent in batches.
    """
    size, count = plan.job.output.partition_rows, 0
    if not options.new and is_partitioned(plan.directory):
        begun = read_parts(plan.directory)
        size, count = begun.partition_rows, begun.count
    elif plan.total <= size or (not options.new and _has_checkpoint(plan.directory)):
        return None
    if options.dispatcher is BATCH:
        raise JobError(
            f"--batch: this run has {plan.total:,} rows and is divided into parts of {size:,}, which are "
            "worked on one after the other, so a batch would wait for the one before it. To send it "
            f"in batches, start it with [output] partition_rows = {plan.total} and another "
            "--output-dir, or --new"
        )
    return PartList(size, plan.total, max(count, -(-plan.total // size)))


def division_notes(plan: Prepared, parts: PartList | None) -> list[str]:
    """Return a message when a run is divided in another way than the job says."""
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
        plan: of the whole run.
        parts: how it is divided.
        part: one of them.
        options: how to run.
    """
    job = plan.job.of_part(part)
    source = plan.source.of_part(part)
    divided = replace(
        plan,
        job=job,
        source=source,
        total=parts.rows_of(part),
        directory=plan.directory / part.name,
        judges=(),
    )
    if plan.evaluation is None or not plan.judges:
        return divided
    evaluation = Evaluation.of(job, source)
    if evaluation is None:
        return divided
    evaluation.load()
    judges = tuple(judging_plan(divided, judge, options) for judge in evaluation.judges)
    return replace(divided, evaluation=evaluation, judges=judges)


def options_of_part(options: RunOptions, part: RunPart) -> RunOptions:
    """Return the options with which a part is run; the directory of the whole is open already."""
    rows = options.rows
    if rows is not None:
        end = part.first + part.rows
        rows = frozenset(row - part.first for row in rows if part.first <= row < end)
    return replace(options, new=False, rows=rows)
