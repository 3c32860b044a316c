"""The parts of a partitioned run: how rows are divided, and the plan and folder of each part.

The directory of such a run has a folder for each part, which is the directory of a separate run, and next to
it the results of the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from batchrun import checkpoint, job, output
from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.job import RunPart


PARTS_FILE = checkpoint.PARTS_FILE


@dataclass(frozen=True, slots=True)
class PartList:
    """How the rows of a run are divided.

    Attributes:
        partition_rows: rows of each part; the last one with rows may have fewer.
        rows: number of rows of the input.
        count: number of parts. Some at the end have no rows if the input has become shorter.
    """

    partition_rows: int
    rows: int
    count: int

    @property
    def parts(self) -> tuple[RunPart, ...]:
        """The parts in order."""
        size = self.partition_rows
        return tuple(job.RunPart(n + 1, n * size, size) for n in range(self.count))

    def rows_of(self, part: RunPart) -> int:
        """Return the number of rows of a part."""
        return max(0, min(part.rows, self.rows - part.first))


def is_partitioned(directory: Path) -> bool:
    """Return whether a directory has a partitioned run."""
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


def missing_parts(directory: Path) -> list[str]:
    """Return the names of missing parts: their folders are gone, and later parts or results exist."""
    there = {path.parent.name for path in directory.glob(f"part-*/{checkpoint.FILE_NAME}")}
    results = {path.stem for path in directory.glob("part-*.parquet")}
    begun = sorted(part for part in there | results if part.removeprefix("part-").isdecimal())
    last = int(begun[-1].removeprefix("part-")) if begun else 0
    names = (job.RunPart(number, 0, 0).name for number in range(1, last + 1))
    return [name for name in names if name not in there]


def missing_message(directory: Path, missing: Sequence[str]) -> str:
    """Return the message about a run with missing parts, and what to do."""
    first = directory / missing[0] / checkpoint.FILE_NAME
    more = f" (nor are those of {len(missing) - 1:,} more parts)" if len(missing) > 1 else ""
    return (
        f"{first}: is not there{more}, and without it its answers are lost. Restore it from a backup; to send "
        "its rows again, run the job with --yes"
    )


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
