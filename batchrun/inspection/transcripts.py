"""Conversations with answers and scores, row by row: for fine-tuning and for log viewers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint
from batchrun.errors import RenderError
from batchrun.evaluation import ScoreColumn
from batchrun.job import Job
from batchrun.render import Renderer
from batchrun.run.damage import check_intact
from batchrun.run.job_scores import evaluation_of
from batchrun.run.parts import is_partitioned
from batchrun.run.run_folders import opened_checkpoint
from batchrun.run.signatures import same_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.records import Item, Kind
    from batchrun.source import Source


CHUNK_ROWS = 500
CHUNK_BYTES = 8 * 1024 * 1024
_COLUMNS = (
    *("status", "response", "reasoning", "tool_calls", "model", "ending", "error_type"),
    *("error_message", "input_tokens", "output_tokens", "latency_s", "finished_at"),
)
# Of each scorer: fields of `RowScore`.
_FIELDS: tuple[tuple[str, Kind], ...] = (
    *(("score", "number"), ("predicted", "text"), ("expected", "text"), ("reason", "text")),
    *(("answers", "integer"), ("correct", "integer")),
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A row with its conversation and its answer.

    Attributes:
        item: the row with all its columns.
        turns: (role, text) of the turns, the system prompt first; None if they are not only text, such as
            with images.
        answer: columns of the results.
        scores: fields of `RowScore` by name of the scorer; the name is empty for the scores over all
            scorers. Empty if the row has no scores.
    """

    item: Item
    turns: tuple[tuple[str, str], ...] | None
    answer: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def passes(self) -> bool:
        """Whether all answers passed every scorer; without a scorer, whether there is an answer."""
        is_right = all((one["correct"] or 0) >= one["answers"] for one in self.scores.values())
        return self.answer["status"] == "succeeded" and is_right


@dataclass(frozen=True, slots=True)
class OpenTranscripts:
    """A run whose transcripts can be read."""

    job: Job
    source: Source
    store: checkpoint.Checkpoint

    @property
    def scorers(self) -> tuple[str, ...]:
        """The names of the scorers."""
        return tuple(config.name for config in self.job.scores)

    def read(self) -> Iterator[Transcript]:
        """Yield every row of the input, in order."""
        renderer = Renderer(self.job, self.source.columns)
        names = dict.fromkeys(("", *self.scorers)) if self.scorers else {}
        columns = [
            ScoreColumn(name, kind, name, scorer) for scorer in names for name, kind in _FIELDS
        ]
        for items in self.source.items(self.source.columns, CHUNK_ROWS):
            rest = items
            while rest:
                first, end = rest[0].ordinal, rest[-1].ordinal + 1
                count = self.store.rows_within(first, end, CHUNK_BYTES)
                yield from self._chunk(rest[:count], renderer, columns)
                rest = rest[count:]

    def _chunk(
        self, items: Sequence[Item], renderer: Renderer, columns: Sequence[ScoreColumn]
    ) -> Iterator[Transcript]:
        first, end = items[0].ordinal, items[-1].ordinal + 1
        found = self.store.columns(first, end, _COLUMNS)
        answers = {
            ordinal: {name: found[name][place] for name in _COLUMNS}
            for place, ordinal in enumerate(found["ordinal"])
        }
        rows = checkpoint.score_rows(self.store, columns, first, end) if columns else []
        scores = {row[0]: _by_scorer(columns, row[1:]) for row in rows}
        for item in items:
            answer = answers.get(item.ordinal, dict.fromkeys(_COLUMNS) | {"status": "pending"})
            yield Transcript(item, _turns(renderer, item), answer, scores.get(item.ordinal, {}))


def _by_scorer(columns: Sequence[ScoreColumn], values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for column, value in zip(columns, values, strict=True):
        found.setdefault(column.scorer, {})[column.field] = value
    return {name: fields for name, fields in found.items() if fields["answers"] is not None}


def _turns(renderer: Renderer, item: Item) -> tuple[tuple[str, str], ...] | None:
    try:
        return renderer.text_turns(item.values)
    except RenderError:
        return None


@contextmanager
def open_transcripts(directory: Path) -> Iterator[OpenTranscripts]:
    """Open a run, with its answers scored.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone.
        OutputError: when the input has changed.
    """
    with opened_checkpoint(directory) as store:
        document, base, signature = store.job()
        job = Job.from_document(document, Path(base), origin=str(store.path))
        source = same_input(job, signature)
        check_intact(store, directory, job.output)
        evaluation = evaluation_of(job, source)
        if evaluation is not None:
            again = not evaluation.runs_code and not is_partitioned(directory)
            evaluation.score(source, store, again=again)
        yield OpenTranscripts(job, source, store)
