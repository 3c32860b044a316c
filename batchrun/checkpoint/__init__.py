"""The checkpoint: a SQLite file with all requests, attempts and results of a run.

`Checkpoint` is the file, and `CheckpointJournal` its asynchronous side. `FullDiskRetry` waits for room on a
full disk, and `DirectoryLock` keeps a second execution out. `totals` adds up a run, and `history` shows its
course over time. `write_scores` stores scores. `compare_rows` and `differing_rows` compare runs. `file_flaws`
and `state_flaws` verify one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
