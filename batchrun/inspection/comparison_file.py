"""`batchrun compare --html`: the page with the rows on which runs disagree."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchrun import checkpoint, output
from batchrun.errors import JobError
from batchrun.inspection.comparison import opened_runs
from batchrun.inspection.shown_rows import embedded_rows, usable_input
from batchrun.job.paths import is_simulated
from batchrun.report.compared_runs import names_of
from batchrun.report.comparison_page import comparison_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batchrun.job import Job
    from batchrun.report.compared_runs import ComparedRun
    from batchrun.source import Source


# How many rows with different answers are found first, in runs with more rows than a page can hold.
MOST_ROWS = 40_000


def write_comparison(
    runs: Sequence[ComparedRun],
    path: Path,
    *,
    title: str = "",
    links: Mapping[Path, str] | None = None,
) -> None:
    """Write the comparison as a page: one file that needs no network.

    Args:
        runs: what `compare` returned.
        path: the file to write.
        title: title of the page; by default the number of runs.
        links: address of each run's own page, by its directory.

    Raises:
        JobError: when another file is there.
        CheckpointError: when a directory has no usable run any more.
        OutputError: when the file cannot be written.
    """
    output.refuse_foreign_page(path, "--html")
    with opened_runs([run.directory for run in runs]) as stores:
        differing = checkpoint.differing_rows(stores, MOST_ROWS)
        rows = embedded_rows(
            stores, list(names_of(runs).values()), *_input(stores[0]), also=differing.ordinals
        )
    text = comparison_page(
        runs,
        differing,
        rows,
        title=title or f"{len(runs)} runs side by side",
        is_simulated=any(is_simulated(run.directory) for run in runs),
        links=links or {},
        written_us=time.time_ns() // 1_000,
    )
    named = " ".join(str(run.directory) for run in runs)
    again = f"batchrun compare {named} --html {path}"
    output.write_text(path, text, again=again, in_run_directory=False)


def _input(store: checkpoint.Checkpoint) -> tuple[Job | None, Source | None]:
    """Return the job of a run and its input, if they can still be used."""
    try:
        return usable_input(store)
    except JobError:
        return None, None
