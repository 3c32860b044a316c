"""`batchrun report`: a run's directory, and its input as far as it is still there, → `report.html`.

Of a matrix, a report of every cell and one of all of them side by side.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson

from batchrun import checkpoint, output
from batchrun.errors import CheckpointError, JobError, RunEnd
from batchrun.inspection.comparison import side_by_side, write_comparison
from batchrun.job import Job
from batchrun.job.paths import is_simulated
from batchrun.render import Renderer
from batchrun.report.run_page import RunPageInfo, run_page
from batchrun.run.damage import check_intact
from batchrun.run.matrix import is_matrix, runs_in
from batchrun.run.preparation import input_signature
from batchrun.run.scoring import Evaluation
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.evaluation import ScoreTotals
    from batchrun.evaluation.history import SampledRow
    from batchrun.pricing.totals import RunTotals
    from batchrun.records import Item, RenderedItem


FILE_NAME = "report.html"
LONGEST_PROMPT = 4_000
_UNSTOPPED = {RunEnd.UNFINISHED, RunEnd.FINISHED, RunEnd.SAMPLED, RunEnd.INTERRUPTED}


def write_report(directory: Path) -> Path:
    """Write `report.html` into the directory of a run, of a running one as of now.

    In the directory of a matrix, it compares the cells, and links to the report in each of them.

    Returns:
        The file.

    Raises:
        CheckpointError: when there is no usable checkpoint.
        OutputError: when the file cannot be written.
    """
    # A run that shares the directory of a matrix has its report there.
    if is_matrix(directory) and not (directory / checkpoint.FILE_NAME).exists():
        return _write_matrix_report(directory)
    return _write_run_report(directory)


def run_scores(directory: Path) -> dict[str, ScoreTotals | None]:
    """Return the scores that are stored with a run, or with the cells of a matrix, by name.

    None stands for a run whose job has no `[score]`.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    found: dict[str, ScoreTotals | None] = {}
    for run in runs_in(directory):
        with closing(checkpoint.Checkpoint(run, writable=False)) as store:
            document, _, _ = store.job()
            totals = checkpoint.score_totals(store)
        found[run.name] = totals if document.get("score") else None
    return found


def _write_matrix_report(directory: Path) -> Path:
    cells = runs_in(directory)
    if not cells:
        raise CheckpointError(f"{directory}: none of the matrix has been begun; run the job first")
    for cell in cells:
        _write_run_report(cell)
    path = directory / FILE_NAME
    output.refuse_foreign_page(path, "report")
    links = {cell: f"{quote(cell.name, safe='')}/{FILE_NAME}" for cell in cells}
    title = directory.resolve().name
    write_comparison(side_by_side(cells), path, title=title, links=links)
    return path


def _write_run_report(directory: Path) -> Path:
    with closing(checkpoint.Checkpoint(directory, writable=False)) as store:
        path = directory / FILE_NAME
        output.refuse_foreign_page(path, "report")
        text = _report(directory, store)
    output.write_text(path, text, again=f"batchrun report {directory}")
    return path


def _report(directory: Path, store: checkpoint.Checkpoint) -> str:
    document, base, signature = store.job()
    notes: list[str] = []
    score, prompts = None, None
    try:
        job = Job.from_document(document, Path(base), origin=str(store.path))
        check_intact(store, directory, job.output)
        source = Source(job.input)
        if not signature.endswith(input_signature(job, source)):
            raise JobError(f"{job.input.path}: has changed since the run")  # noqa: TRY301 - one way out
        score = _score(job, source, store)
        prompts = _Prompts(job, source)
    except JobError as problem:
        notes.append(f"Prompts and scores are not shown: {problem}")
    history = checkpoint.history(store)
    if prompts is not None:
        history = replace(history, samples=tuple(prompts.added(history.samples)))
    totals = checkpoint.totals(store)
    running = checkpoint.is_locked(directory)
    info = RunPageInfo(
        state="running" if running else _state(totals),
        facts=_facts(document),
        is_simulated=is_simulated(directory),
        notes=notes,
        written_us=time.time_ns() // 1_000,
    )
    return run_page(totals, history, score, info)


def _score(job: Job, source: Source, store: checkpoint.Checkpoint) -> ScoreTotals | None:
    """Add up the scores; judge the answers first where that was not done when they came."""
    evaluation = Evaluation.of(job, source)
    if evaluation is None:
        return None
    evaluation.score(source, store, again=False)
    return evaluation.totals(store)


def _state(totals: RunTotals) -> str:
    if not totals.executions:
        return "not started"
    outcome = totals.executions[-1]["outcome"]
    return outcome if outcome in _UNSTOPPED else "stopped"


def _facts(document: dict[str, object]) -> list[tuple[str, str]]:
    """What a reader wants to know of the job; nothing that could hold a secret."""
    wanted = {
        "Input": ("input", "path"),
        "Format": ("request", "format"),
        "Model": ("request", "model"),
        "System": ("request", "system"),
        "Prompt": ("request", "prompt"),
        "Temperature": ("request", "temperature"),
        "Max tokens": ("request", "max_tokens"),
        "Cost cap": ("limits", "max_cost_usd"),
    }
    found = []
    for label, (section, key) in wanted.items():
        values = document.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        if value is not None:
            found.append((label, value if isinstance(value, str) else orjson.dumps(value).decode()))
    return found


class _Prompts:
    """Reads the input again for the prompts of a few rows.

    Raises:
        JobError: when the templates do not fit the input.
    """

    def __init__(self, job: Job, source: Source) -> None:
        self._source = source
        self._renderer = Renderer(job, source.columns)

    def added(self, samples: Sequence[SampledRow]) -> Iterator[SampledRow]:
        """Yield the rows with their prompts."""
        found = self._prompts({row.ordinal for row in samples})
        for row in samples:
            custom_id, prompt = found.get(row.ordinal, (None, None))
            # Another id: the table has changed while this was read.
            yield replace(row, prompt=prompt) if custom_id == row.custom_id else row

    def _prompts(self, ordinals: set[int]) -> dict[int, tuple[str, str | None]]:
        """Return the ids and prompts of some rows."""
        chunks = self._renderer.chunks(self._wanted(ordinals))
        return {item.ordinal: (item.custom_id, _prompt(item)) for items in chunks for item in items}

    def _wanted(self, ordinals: set[int]) -> Iterator[Item]:
        last = max(ordinals, default=-1)
        for items in self._renderer.read(self._source):
            yield from (item for item in items if item.ordinal in ordinals)
            if items[-1].ordinal >= last:
                return


def _prompt(item: RenderedItem) -> str | None:
    """The conversation as text: the last turn, or all of them where there are several."""
    if item.request is None:
        return None
    turns = item.request.messages
    texts = [_text(turn.content) for turn in turns]
    if len(turns) > 1:
        texts = [f"{turn.role}: {text}" for turn, text in zip(turns, texts, strict=True)]
    return "\n".join(texts)[:LONGEST_PROMPT]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(str(block.get("text") or f"[{block.get('type')}]") for block in blocks)
