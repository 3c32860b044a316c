"""The checkpoint: a SQLite file that knows what was asked, what was sent and what came back.

`Checkpoint` is the file, `Journal` its asynchronous side, `DirectoryLock` keeps a second execution
out, `totals` adds a run up and `history` tells how it went; `scores` keeps what the answers are worth, `compare_rows`
compares two runs.
"""

from batchrun.checkpoint.journal import Journal
from batchrun.checkpoint.lock import DirectoryLock, is_locked, open_directory
from batchrun.checkpoint.pairs import compare_rows
from batchrun.checkpoint.scores import answers, is_scored, score_rows, score_totals, write_scores
from batchrun.checkpoint.store import FILE_NAME, Checkpoint
from batchrun.checkpoint.timeline import history
from batchrun.checkpoint.totals import totals

__all__ = [
    "FILE_NAME",
    "Checkpoint",
    "DirectoryLock",
    "Journal",
    "answers",
    "compare_rows",
    "history",
    "is_locked",
    "is_scored",
    "open_directory",
    "score_rows",
    "score_totals",
    "totals",
    "write_scores",
]
