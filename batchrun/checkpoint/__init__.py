"""The checkpoint: a SQLite file that knows what was asked, what was sent and what came back.

`Checkpoint` is the file, `CheckpointJournal` its asynchronous side, `FullDiskRetry` waits for room on a full disk,
`DirectoryLock` keeps a second execution out, `totals` adds a run up and `history` tells how it went;
`scores` keeps what the answers are worth, `compare_rows` and `differing_rows` compare runs, `file_flaws` and
`state_flaws` verify one.
"""

from batchrun.checkpoint.answers import RequestCounter, RequestCounts, RequestSize, request_counter
from batchrun.checkpoint.columns import ATTEMPT_KINDS, result_kinds
from batchrun.checkpoint.directory import FILES, check_directory, open_directory, other_files
from batchrun.checkpoint.integrity import (
    COUNTED,
    check_intact,
    check_places,
    file_flaws,
    find_damage,
    is_planned,
    last_version,
    planned_rows,
    restore_values,
    right_values,
    score_flaws,
    state_flaws,
)
from batchrun.checkpoint.journal import CheckpointJournal
from batchrun.checkpoint.lock import (
    MATRIX_FILE,
    DirectoryLock,
    is_locked,
    refuse_locked,
    shared_lock,
)
from batchrun.checkpoint.pairs import (
    applied_reject,
    compare_rows,
    differing_rows,
    replace_statuses,
    reviewable_answers,
)
from batchrun.checkpoint.planning import (
    Comparison,
    PlannedChunk,
    Reuse,
    answers_without_body,
    has_answers,
    latest_plan,
)
from batchrun.checkpoint.repair import (
    Repair,
    forget_damaged_costs,
    forget_damaged_requests,
    repair,
)
from batchrun.checkpoint.sqlite import FullDiskRetry
from batchrun.checkpoint.statistics import (
    GivenPrice,
    attempts_to_count,
    forget_prices,
    given_price,
    keep_given_price,
    last_outcome,
    note_price,
    providers,
    totals,
    write_costs,
)
from batchrun.checkpoint.store import FILE_NAME, Checkpoint, NewExecution
from batchrun.checkpoint.stored_batches import (
    batch_members,
    batches,
    close_batch,
    collect_batch,
    intend_batch,
    note_other,
    note_sent,
    note_state,
    note_upload,
    remote_ids,
    void_batch,
)
from batchrun.checkpoint.stored_scores import (
    answers,
    is_scored,
    score_rows,
    score_totals,
    write_scores,
)
from batchrun.checkpoint.timeline import history

__all__ = [
    "ATTEMPT_KINDS",
    "COUNTED",
    "FILES",
    "FILE_NAME",
    "MATRIX_FILE",
    "Checkpoint",
    "CheckpointJournal",
    "Comparison",
    "DirectoryLock",
    "FullDiskRetry",
    "GivenPrice",
    "NewExecution",
    "PlannedChunk",
    "Repair",
    "RequestCounter",
    "RequestCounts",
    "RequestSize",
    "Reuse",
    "answers",
    "answers_without_body",
    "applied_reject",
    "attempts_to_count",
    "batch_members",
    "batches",
    "check_directory",
    "check_intact",
    "check_places",
    "close_batch",
    "collect_batch",
    "compare_rows",
    "differing_rows",
    "file_flaws",
    "find_damage",
    "forget_damaged_costs",
    "forget_damaged_requests",
    "forget_prices",
    "given_price",
    "has_answers",
    "history",
    "intend_batch",
    "is_locked",
    "is_planned",
    "is_scored",
    "keep_given_price",
    "last_outcome",
    "last_version",
    "latest_plan",
    "note_other",
    "note_price",
    "note_sent",
    "note_state",
    "note_upload",
    "open_directory",
    "other_files",
    "planned_rows",
    "providers",
    "refuse_locked",
    "remote_ids",
    "repair",
    "replace_statuses",
    "request_counter",
    "restore_values",
    "result_kinds",
    "reviewable_answers",
    "right_values",
    "score_flaws",
    "score_rows",
    "score_totals",
    "shared_lock",
    "state_flaws",
    "totals",
    "void_batch",
    "write_costs",
    "write_scores",
]
