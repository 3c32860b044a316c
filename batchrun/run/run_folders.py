"""The folders with the checkpoints of a run, which may be in parts; what reads them alone."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint
from batchrun.errors import CheckpointError
from batchrun.run.parts import (
    is_partitioned,
    missing_message,
    missing_parts,
    read_parts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.pricing.totals import RunTotals


def totals_of_run(directory: Path) -> RunTotals:
    """Add up a run, which may be in parts.

    Raises:
        CheckpointError: when no part has begun, or one cannot be used.
    """
    if is_partitioned(directory):
        folders = _begun_folders(directory)
        return checkpoint.totals_of_parts(folders, read_parts(directory).rows)
    with closing(checkpoint.Checkpoint(directory, writable=False)) as store:
        return checkpoint.totals(store)


def stored_document(directory: Path) -> tuple[dict[str, Any], str, str]:
    """Return the document of a run's job, the folder of its paths and the signature of its plan.

    Raises:
        CheckpointError: when there is no usable checkpoint; of a partitioned run, in its first part.
    """
    with closing(checkpoint.Checkpoint(folders_of(directory)[0], writable=False)) as store:
        document, base, signature = store.job()
    document.pop("part", None)
    return document, base, signature


def folders_of(directory: Path) -> list[Path]:
    """Return the directories with the checkpoints of a run: those of its parts, or its own."""
    return _begun_folders(directory) if is_partitioned(directory) else [directory]


def has_begun(directory: Path) -> bool:
    """Return whether a run, or one of its parts, has begun."""
    if is_partitioned(directory):
        return bool(checkpoint.part_folders(directory))
    return checkpoint.holds_run(directory)


@contextmanager
def opened_checkpoint(
    directory: Path, tables: Sequence[str] | None = None
) -> Iterator[checkpoint.Checkpoint]:
    """Open the checkpoint of a run for reading; of a partitioned one, a temporary copy of its parts.

    Args:
        directory: the run directory.
        tables: the tables to copy from parts, in addition to the run and its executions; None for all.

    Raises:
        CheckpointError: when there is no usable checkpoint.
        RecordsDamaged: when records of a part are damaged.
        OutputError: when there is no room for temporary files.
    """
    if not is_partitioned(directory):
        with closing(checkpoint.Checkpoint(directory, writable=False)) as store:
            yield store
        return
    parts = read_parts(directory)
    folders = _begun_folders(directory)
    for folder in folders:
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            checkpoint.check_intact(store)
    size = parts.partition_rows
    firsts = [(int(folder.name.removeprefix("part-")) - 1) * size for folder in folders]
    tables = checkpoint.EVERYTHING if tables is None else tables
    with checkpoint.merged(list(zip(folders, firsts, strict=True)), parts.rows, tables) as store:
        yield store


def _begun_folders(directory: Path) -> list[Path]:
    folders = checkpoint.part_folders(directory)
    if not folders:
        raise CheckpointError(f"{directory}: contains no run yet; run the job first")
    if missing := missing_parts(directory):
        raise CheckpointError(missing_message(directory, missing))
    return folders
