"""Stored answers that a changed `[request] reject` may reject, or accept after all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.columns import LAST_ATTEMPTS, RESULT
from batchrun.checkpoint.encoding import SENT, STATUSES
from batchrun.checkpoint.file import usable
from batchrun.records import Completion, Ending, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.errors import Rejection

CHUNK_ROWS = 1_000
# Answers that are rejected, or may be. Text with an ASCII letter or digit is certainly not empty; for other
# text the caller decides.
_RESPONSE = RESULT["response"].value("r")
_ANSWERS = f"""SELECT r.request_id, a.error_type, {_RESPONSE} AS response,
        {RESULT["tool_calls"].value("r")} AS tool_calls, r.ending, r.refusal, r.choices
    FROM results r JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE r.request_id > ? AND (a.error_type GLOB 'rejected_*' OR (r.status = 'succeeded' AND (
        r.ending NOT IN ('stop', 'tool_calls') OR r.choices IS NOT NULL
        OR {_RESPONSE} NOT GLOB '*[0-9A-Za-z]*')))
    ORDER BY r.request_id LIMIT ?"""  # noqa: S608 - our own names
_RESULT = "UPDATE results SET status = ?, retryable = 0 WHERE request_id = ?"
_IS_DAMAGED = f"""SELECT {STATUSES.differs("r")} OR {SENT.differs("a")} FROM results r
    {LAST_ATTEMPTS} WHERE r.request_id = ?"""  # noqa: S608 - our own names
_ATTEMPT = "UPDATE attempts AS d SET error_type = ?, error_message = ?, cause = ? WHERE {}"
_IS_LAST = """d.request_id = ? AND d.number = (SELECT attempts FROM results r
    WHERE r.request_id = d.request_id)"""
_RULE = "SELECT job -> '$.request.reject' FROM run"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The parts of an answer that `[request] reject` judges, with its present error."""

    key: int
    error_type: str | None
    completion: Completion


def applied_reject(store: Checkpoint) -> frozenset[str] | None:
    """Return the `[request] reject` that stored answers were judged by; None before any run."""
    with usable(store.path):
        row = store.db.execute(_RULE).fetchone()
    return None if row is None else frozenset(orjson.loads(row[0] or "[]"))


def reviewable_answers(store: Checkpoint) -> Iterator[list[StoredAnswer]]:
    """Yield the answers that `[request] reject` may apply to, in chunks.

    Answers that another rule found invalid are left out.
    """
    last = 0
    while True:
        with usable(store.path):
            rows = list(store.db.query(_ANSWERS, (last, CHUNK_ROWS)))
        if not rows:
            return
        yield [StoredAnswer(row["request_id"], row["error_type"], _completion(row)) for row in rows]
        last = rows[-1]["request_id"]


def replace_statuses(
    store: Checkpoint, verdicts: Sequence[tuple[int, Rejection | None]], cause: str
) -> None:
    """Set answers to errored or succeeded, by the key of their requests.

    `cause` is stored with the attempts whose answers are rejected.
    """
    with store.transaction():
        for key, rejection in verdicts:
            status = Status.SUCCEEDED.value
            error: tuple[str | None, ...] = (None, None, None)
            if rejection is not None:
                status, error = (
                    Status.ERRORED.value,
                    (rejection.error_type, rejection.message, cause),
                )
            if store.db.execute(_IS_DAMAGED, (key,)).fetchone()[0]:
                continue  # a new checksum would hide the damage
            store.db.execute(_RESULT, (status, key))
            store.db.execute(STATUSES.seal("request_id = ?"), (key,))
            store.db.execute(_ATTEMPT.format(_IS_LAST), (*error, key))
            store.db.execute(SENT.seal(_IS_LAST), (key,))


def _completion(row: Mapping[str, Any]) -> Completion:
    return Completion(
        (row["response"] or "",),
        None,
        None,
        None,
        Usage(),
        tool_calls=row["tool_calls"],
        ending=Ending(row["ending"] or Ending.UNKNOWN),
        refusal=row["refusal"],
        choices=row["choices"],
    )
