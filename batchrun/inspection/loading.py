"""Loads the job of a command: from a job file, or made for a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint, source
from batchrun.job import Job
from batchrun.job.sections import table_input

if TYPE_CHECKING:
    from collections.abc import Mapping


TABLE_PREFIX = "batchrun_"


def load_job(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Job:
    """Load a job file, or create a job for a table.

    Args:
        path: the job file or the table.
        overrides: dotted keys and their values, such as `{"request.model": "m"}`.

    Raises:
        JobError: if the job is wrong.
    """
    path, overrides = Path(path), overrides or {}
    if not source.is_table(path.name):
        return Job.load(path, overrides)
    columns = source.Source(table_input(path, overrides)).columns
    if set(columns) & set(checkpoint.result_kinds()):
        # A table that names its request columns (model …) must not need a job file for that.
        overrides = {"output.prefix": TABLE_PREFIX, **overrides}
    return Job.for_table(path, columns, overrides)
