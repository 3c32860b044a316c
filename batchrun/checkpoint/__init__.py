"""The checkpoint: a SQLite file that knows what was asked, what was sent and what came back.

`Checkpoint` is the file, `Journal` its asynchronous side, `Patience` waits for room on a full disk,
`DirectoryLock` keeps a second execution out, `totals` adds a run up; `scores` keeps what the answers
are worth, `compare_rows` compares two runs.
"""

from batchrun.checkpoint.census import Asked, Census, Counted, census
from batchrun.checkpoint.journal import Journal
from batchrun.checkpoint.lock import (
    MATRIX_FILE,
    DirectoryLock,
    is_locked,
    open_directory,
    refuse_locked,
)
from batchrun.checkpoint.pairs import compare_rows
from batchrun.checkpoint.patience import Patience
from batchrun.checkpoint.reuse import Comparison, has_answers, was_begun_as
from batchrun.checkpoint.scores import answers, score_rows, score_totals, write_scores
from batchrun.checkpoint.store import FILE_NAME, Checkpoint
from batchrun.checkpoint.totals import totals

__all__ = [
    "FILE_NAME",
    "MATRIX_FILE",
    "Asked",
    "Census",
    "Checkpoint",
    "Comparison",
    "Counted",
    "DirectoryLock",
    "Journal",
    "Patience",
    "answers",
    "census",
    "compare_rows",
    "has_answers",
    "is_locked",
    "open_directory",
    "refuse_locked",
    "score_rows",
    "score_totals",
    "totals",
    "was_begun_as",
    "write_scores",
]
