"""Stored answers, to be judged again after a change of `[request] reject`; nothing is sent for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from batchrun.checkpoint.recording import STATUSES
from batchrun.checkpoint.schema import usable
from batchrun.records import Completion, Ending, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.findings import Rejection

CHUNK_ROWS = 1_000
# Answers that may be rejected, or are. Text with a letter or a digit of ASCII is not empty; of other
# text the one who judges decides.
_ANSWERS = """SELECT r.request_id, a.error_type, r.response, r.tool_calls, r.ending, r.refusal, r.choices
    FROM outcomes r JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE r.request_id > ? AND (a.error_type GLOB 'rejected_*' OR (r.status = 'succeeded' AND (
        r.ending NOT IN ('stop', 'tool_calls') OR r.choices IS NOT NULL
        OR r.response NOT GLOB '*[0-9A-Za-z]*')))
    ORDER BY r.request_id LIMIT ?"""
_RESULT = "UPDATE outcomes SET status = ?, retryable = 0 WHERE request_id = ?"
_IS_DAMAGED = f"SELECT {STATUSES.differs('d')} FROM outcomes d WHERE request_id = ?"  # noqa: S608
_ATTEMPT = """UPDATE exchanges SET error_type = ?, error_message = ?, cause = ?
    WHERE request_id = ? AND number = (SELECT attempts FROM outcomes r WHERE r.request_id = ?)"""
_RULE = "SELECT job -> '$.request.reject' FROM run"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as far as it is judged by `[request] reject`, with the error that it has now."""

    key: int
    error_type: str | None
    completion: Completion


def judged_by(store: Checkpoint) -> frozenset[str] | None:
    """Return the `[request] reject` that stored answers were judged by; None before any run."""
    with usable(store.path):
        row = store.db.execute(_RULE).fetchone()
    return None if row is None else frozenset(orjson.loads(row[0] or "[]"))


def judgeable(store: Checkpoint) -> Iterator[list[StoredAnswer]]:
    """Yield the answers, in chunks, that `[request] reject` may concern.

    Those that another rule found invalid are left out.
    """
    last = 0
    while True:
        with usable(store.path):
            rows = store.db.execute(_ANSWERS, (last, CHUNK_ROWS)).fetchall()
        if not rows:
            return
        yield [StoredAnswer(row[0], row[1], _completion(*row[2:])) for row in rows]
        last = rows[-1][0]


def judge(store: Checkpoint, verdicts: Sequence[tuple[int, Rejection | None]], cause: str) -> None:
    """Make answers errored or succeeded, by the key of their requests.

    `cause` is that of the attempts whose answers are rejected.
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
                continue  # a new checksum would hide it
            store.db.execute(_RESULT, (status, key))
            store.db.execute(STATUSES.seal("request_id = ?"), (key,))
            store.db.execute(_ATTEMPT, (*error, key, key))


def _completion(
    response: str | None,
    tool_calls: str | None,
    ending: str | None,
    refusal: str | None,
    choices: str | None,
) -> Completion:
    return Completion(
        (response or "",),
        None,
        None,
        None,
        Usage(),
        tool_calls=tool_calls,
        ending=Ending(ending or Ending.UNKNOWN),
        refusal=refusal,
        choices=choices,
    )
