"""The rows of a page: read from the checkpoints of runs, with prompts from the input if it still exists."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.errors import JobError, RenderError
from batchrun.job import Job
from batchrun.render import Renderer
from batchrun.report.row_data import MOST_ROWS, EmbeddedRows, RowData
from batchrun.run.signatures import input_signature
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.evaluation.history import RowDetails
    from batchrun.records import Item


def embedded_rows(
    stores: Sequence[checkpoint.Checkpoint],
    names: Sequence[str],
    job: Job | None,
    source: Source | None,
    *,
    also: Sequence[int] = (),
) -> EmbeddedRows:
    """Return the rows of runs for their page.

    Args:
        stores: the runs; the page has the rows of the first.
        names: names of the runs.
        job: job of the first run; None if it cannot be used. Likewise its `source`.
        source: the input.
        also: ordinals of rows to include if only a part of the rows is shown.

    Raises:
        CheckpointError: when a checkpoint cannot be used.
    """
    most = MOST_ROWS // len(stores)
    ordinals = checkpoint.chosen_rows(stores[0], most, also)
    data = RowData(len(ordinals), names, _pass_at(stores, job))
    rows = checkpoint.row_details(stores, ordinals)
    for row in rows if job is None or source is None else _with_prompts(rows, job, source):
        data.add(row)
    return data.finish()


def usable_input(store: checkpoint.Checkpoint) -> tuple[Job, Source]:
    """Return the job of a run and its input.

    Raises:
        JobError: when the input is gone or has changed, or the job cannot be used any more.
        CheckpointError: when the checkpoint cannot be used.
    """
    document, base, signature = store.job()
    job = Job.from_document(document, Path(base), origin=str(store.path))
    source = Source(job.input)
    if not signature.endswith(input_signature(job, source)):
        raise JobError(f"{job.input.path}: has changed since the run")
    return job, source


def _pass_at(stores: Sequence[checkpoint.Checkpoint], job: Job | None) -> dict[str, float | None]:
    """Return the scorers of some runs with their passing scores; None if none is defined."""
    ranges = [found for store in stores for found in checkpoint.score_ranges(store).items()]
    outside = {name for name, (low, high) in ranges if low < 0 or high > 1}
    given = {} if job is None else {score.name: score.pass_at for score in job.scores}
    found: dict[str, float | None] = {}
    for name, _ in ranges:
        default = None if name in outside else 1.0
        found[name] = default if given.get(name) is None else given[name]
    return found


def _with_prompts(rows: Iterable[RowDetails], job: Job, source: Source) -> Iterator[RowDetails]:
    """Add the prompts; reads the input once."""
    renderer = Renderer(job, source.columns)
    items = chain.from_iterable(renderer.read(source))
    item = next(items, None)
    for row in rows:
        while item is not None and item.ordinal < row.ordinal:
            item = next(items, None)
        # Another id: the table has changed while this was read.
        if item is None or (item.ordinal, item.custom_id) != (row.ordinal, row.custom_id):
            yield row
        else:
            yield replace(row, prompt=_prompt(renderer, item))


def _prompt(renderer: Renderer, item: Item) -> str | None:
    try:
        return renderer.turns_text(item.values)
    except RenderError:
        return None
