"""The checkpoint: a SQLite file with all requests, attempts and results of a run.

`Checkpoint` is the file, and `CheckpointJournal` its asynchronous side. `FullDiskRetry` waits for room on a
full disk, and `DirectoryLock` keeps a second execution out. `totals` adds up a run, and `history` shows its
course over time. `write_scores` stores scores. `compare_rows` and `differing_rows` compare runs. `file_flaws`
and `state_flaws` verify one.
"""

from batchrun.checkpoint.columns import ATTEMPT_KINDS, result_kinds
from batchrun.checkpoint.directory import (
    FILES,
    JUDGE_FOLDER,
    SIMULATED_BATCHES,
    check_directory,
    judge_folders,
    open_directory,
    other_files,
    part_folders,
)
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
    PARTS_FILE,
    DirectoryLock,
    is_locked,
    refuse_locked,
    shared_lock,
)
from batchrun.checkpoint.merged_parts import EVERYTHING, SCORED, merged
from batchrun.checkpoint.pairs import compare_rows, differing_rows
from batchrun.checkpoint.part_totals import totals_of_parts
from batchrun.checkpoint.planning import (
    Comparison,
    PlannedChunk,
    Reuse,
    answers_without_body,
    has_answers,
    latest_plan,
    places_of_requests,
)
from batchrun.checkpoint.repair import (
    Repair,
    forget_damaged_costs,
    forget_damaged_requests,
    repair,
)
from batchrun.checkpoint.request_counts import RequestCounts, RequestSize, request_counter
from batchrun.checkpoint.row_details import chosen_rows, row_details, score_ranges
from batchrun.checkpoint.sqlite import FullDiskRetry
from batchrun.checkpoint.statistics import dropped_parameters, last_outcome, totals
from batchrun.checkpoint.store import FILE_NAME, Checkpoint, NewExecution
from batchrun.checkpoint.stored_answers import (
    applied_reject,
    replace_statuses,
    reviewable_answers,
)
from batchrun.checkpoint.stored_batches import (
    batch_members,
    batches,
    close_batch,
    collect_batch,
    has_open_batches,
    intend_batch,
    note_other,
    note_sent,
    note_state,
    note_upload,
    remote_ids,
    reserved_by_batches,
    row_at,
    rows_not_submitted,
    void_batch,
)
from batchrun.checkpoint.stored_prices import (
    GivenPrice,
    attempts_to_count,
    forget_prices,
    given_price,
    keep_given_price,
    note_price,
    providers,
    write_costs,
)
from batchrun.checkpoint.stored_scores import (
    Labels,
    answer_logprobs,
    answers,
    is_scored,
    judged_rows,
    score_rows,
    score_totals,
    settled_answers,
    write_scores,
)
from batchrun.checkpoint.stored_verdicts import (
    StoredVerdict,
    answers_by_id,
    answers_to_judge,
    stored_verdicts,
)
from batchrun.checkpoint.timeline import history
