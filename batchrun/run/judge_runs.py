"""The run of a judge: its job, its folder in the run directory, and the table of the answers that it judges."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.job import Job
from batchrun.job.judge import judge_document
from batchrun.records import changed
from batchrun.run.answered_rows import answered_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Checkpoint
    from batchrun.job import JudgeConfig
    from batchrun.records import Item
    from batchrun.run.judging import Judge
    from batchrun.source import Source


# Sections of a job that hold for its judges, too.
_SHARED = ("date", "input", "limits", "retry", "price")


class AnswerTable:
    """The answers of a run as the table of a judge: one item for each answer.

    Args:
        judge: renders the requests.
        source: the input of the run.
        store: the checkpoint of the run.

    Attributes:
        count: number of answers.
        stamp: changes when the answers change.
    """

    def __init__(self, judge: Judge, source: Source, store: Checkpoint) -> None:
        self._judge = judge
        self._source = source
        self._store = store
        found = checkpoint.answers_to_judge(store)
        self.count, self.stamp = found.answers, found.stamp

    def items(self, _columns: Sequence[str], chunk_rows: int) -> Iterator[list[Item]]:
        """Yield the answers in order, numbered from 0, in chunks of at most `chunk_rows`."""
        number = 0
        for rows in answered_rows(self._source, self._store, self._judge.columns):
            every = [each for row in rows for each in self._judge.items(row)]
            for start in range(0, len(every), chunk_rows):
                chunk = every[start : start + chunk_rows]
                yield [changed(each, ordinal=number + n) for n, each in enumerate(chunk)]
                number += len(chunk)


def check_verdicts(folder: Path) -> None:
    """Check that the verdicts in the folder of a judge, if there are any, are unchanged.

    Raises:
        RecordsDamaged: if one has changed.
    """
    if checkpoint.holds_run(folder):
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            checkpoint.check_intact(store)


def judge_folder(scorer: str) -> str:
    """Return the name of the folder of a scorer's judge in the run directory."""
    return f"{checkpoint.JUDGE_FOLDER}-{scorer}" if scorer else checkpoint.JUDGE_FOLDER


def judge_job(job: Job, config: JudgeConfig, folder: str) -> Job:
    """Return the job of a judge: its own requests, with the limits and prices of the job."""
    sections = {key: job.document[key] for key in _SHARED if key in job.document}
    document = {
        **sections,
        "name": f"{job.name} {folder}",
        "request": config.document,
        "judge": judge_document(config),
    }
    return Job.from_document(document, job.base)
