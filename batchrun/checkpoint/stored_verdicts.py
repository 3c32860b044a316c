"""Reads what judging needs from checkpoints: the answers of a run, and the verdicts of a judge.

A judge has a separate checkpoint, in a folder of the run directory. So the counts and costs of the run's
rows do not include the judge's requests, attempts and results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from batchrun.checkpoint.columns import RESULT
from batchrun.checkpoint.file import usable
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchrun.checkpoint.store import Checkpoint


# A row's answers count when all of its samples succeeded; each of several choices is an answer.
_ANSWERS = f"""SELECT count(*), coalesce(sum(answers), 0), coalesce(max(last_us), 0), coalesce(sum(keys), 0)
    FROM (
        SELECT sum(CASE WHEN r.responses IS NULL THEN 1
                ELSE json_array_length({RESULT["responses"].value("r")}) END)
            AS answers, max(r.finished_us) AS last_us, sum(r.request_id * (i.ordinal + 1)) AS keys
        FROM items i JOIN results r ON r.request_id = i.request_id
        WHERE r.status = 'succeeded' GROUP BY i.ordinal / :samples HAVING count(*) = :samples
    )"""  # noqa: S608 - our own names
_RESPONSE = RESULT["response"].value("r")
_VERDICTS = f"""SELECT q.fingerprint, r.status, {_RESPONSE}, a.error_type, a.error_message
    FROM requests q JOIN results r ON r.request_id = q.id
    LEFT JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE q.fingerprint IN ({{marks}}) ORDER BY q.fingerprint, q.occurrence"""  # noqa: S608 - our own names


_BY_ID = f"""SELECT i.custom_id, {_RESPONSE} FROM temp.named n
    JOIN items i ON i.ordinal = n.ordinal
    JOIN results r ON r.request_id = i.request_id AND r.status = 'succeeded'
    WHERE n.custom_id IN (SELECT value FROM json_each(?))"""  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """Number of answers of a run that can be judged. `stamp` changes when the answers change."""

    answers: int
    stamp: str


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """The result of one request to a judge: its text, or the reason why there is none."""

    text: str | None
    error_type: str | None = None
    error_message: str | None = None


def answers_to_judge(store: Checkpoint) -> AnswerCount:
    """Count the answers of the rows whose samples all succeeded."""
    with usable(store.path):
        found = store.db.execute(_ANSWERS, {"samples": store.samples}).fetchone()
    return AnswerCount(found[1], ":".join(map(str, found)))


def answers_by_id(store: Checkpoint, custom_ids: Sequence[str]) -> dict[str, str]:
    """Return the answers of the rows with these ids that succeeded; with several samples, the first."""
    with usable(store.path):
        store.db.execute(
            """CREATE TEMP TABLE IF NOT EXISTS named (custom_id TEXT PRIMARY KEY, ordinal INTEGER)"""
        )
        if store.db.execute("SELECT NOT EXISTS (SELECT 1 FROM temp.named)").fetchone()[0]:
            store.db.execute(
                """INSERT OR IGNORE INTO temp.named SELECT custom_id, ordinal FROM items
                WHERE ordinal % ? = 0""",
                (store.samples,),
            )
        found = store.db.execute(_BY_ID, (orjson.dumps(list(custom_ids)).decode(),)).fetchall()
    return {custom_id: response or "" for custom_id, response in found}


def stored_verdicts(
    store: Checkpoint, fingerprints: Iterable[bytes]
) -> dict[bytes, list[StoredVerdict]]:
    """Return the results of a judge's requests; those with the same fingerprint in order of occurrence.

    Args:
        store: the checkpoint of the judge.
        fingerprints: fingerprints of the requests; at most a few thousand.
    """
    wanted = list(dict.fromkeys(fingerprints))
    query = _VERDICTS.format(marks=",".join("?" * len(wanted)))
    found: dict[bytes, list[StoredVerdict]] = {}
    with usable(store.path):
        for fingerprint, status, text, *error in store.db.execute(query, wanted):
            is_answered = status == Status.SUCCEEDED
            verdict = StoredVerdict(text if is_answered else None, *error)
            found.setdefault(fingerprint, []).append(verdict)
    return found
