"""Two runs side by side: the rows that both have, joined by `custom_id` inside SQLite.

With several samples for each row, the text of the first sample and the score over all samples are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from batchrun.checkpoint.columns import LAST_ATTEMPTS
from batchrun.checkpoint.encoding import SENT, STATUSES
from batchrun.checkpoint.file import attached, usable
from batchrun.evaluation import Pairs
from batchrun.evaluation.history import Differing
from batchrun.records import Completion, Ending, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.errors import Rejection


# For up to this many rows the differences are listed; for more, their sums are enough.
MOST_DIFFERENCES = 2_000

_JOIN = """FROM main.items i JOIN other.items j ON j.custom_id = i.custom_id
    JOIN main.results r ON r.request_id = i.request_id AND r.status = 'succeeded'
    JOIN other.results s ON s.request_id = j.request_id AND s.status = 'succeeded'
    LEFT JOIN main.scores a ON a.scorer = :scorer AND a.ordinal = i.ordinal / (SELECT samples FROM main.run)
    LEFT JOIN other.scores b ON b.scorer = :scorer AND b.ordinal = j.ordinal / (SELECT samples FROM other.run)
    WHERE i.ordinal % (SELECT samples FROM main.run) = 0
    AND j.ordinal % (SELECT samples FROM other.run) = 0"""
_COUNTS = f"""SELECT count(*), coalesce(sum(r.response IS s.response), 0),
    count(a.predicted || b.predicted), coalesce(sum(a.predicted = b.predicted), 0),
    count(a.score + b.score),
    coalesce(sum(a.score NOT IN (0, 1) OR b.score NOT IN (0, 1)), 0) = 0,
    coalesce(sum(a.score > b.score), 0), coalesce(sum(a.score < b.score), 0),
    coalesce(sum(b.score - a.score), 0),
    coalesce(sum((b.score - a.score) * (b.score - a.score)), 0),
    coalesce(sum(a.score NOT BETWEEN 0 AND 1 OR b.score NOT BETWEEN 0 AND 1), 0) = 0 {_JOIN}"""
_CLUSTERS = f"""SELECT count(*), sum(total * total), sum(total * rows), sum(rows * rows) FROM (
    SELECT sum(b.score - a.score) AS total, count(*) AS rows {_JOIN}
    AND a.score IS NOT NULL AND b.score IS NOT NULL AND a.cluster IS NOT NULL GROUP BY a.cluster)"""  # noqa: S608 - no values
_DIFFERENCES = f"""SELECT b.score - a.score, count(*) {_JOIN}
    AND a.score IS NOT NULL AND b.score IS NOT NULL GROUP BY 1"""

# Predictions where both have scores, texts otherwise.
_DIFFERS = """CASE WHEN a.score IS NULL OR b.score IS NULL THEN r.response IS NOT s.response
    ELSE a.predicted IS NOT b.predicted OR a.score <> b.score END"""
_COLLECT = f"""INSERT INTO temp.differing SELECT i.ordinal, coalesce(a.score <> b.score, 0) {_JOIN}
    AND {_DIFFERS} ON CONFLICT DO UPDATE SET matters = max(matters, excluded.matters)"""
# Rows whose scores differ first; among the others a mixed, but always the same choice.
_CHOOSE = """SELECT d.ordinal / (SELECT samples FROM main.run) FROM temp.differing d
    ORDER BY d.matters DESC, d.ordinal * 2654435761 % 4294967296 LIMIT ?"""


def compare_rows(one: Checkpoint, other: Checkpoint, scorer: str = "") -> Pairs:
    """Compare the rows that succeeded in both runs.

    Args:
        one: the first run.
        other: the run that is compared with it.
        scorer: name of the scorer whose scores are compared; empty for those over all scorers.

    Raises:
        CheckpointError: when one of the checkpoints cannot be used.
    """
    with usable(other.path), attached(one.db, other.path):
        row = one.db.execute(_COUNTS, {"scorer": scorer}).fetchone()
        clusters, *sums = one.db.execute(_CLUSTERS, {"scorer": scorer}).fetchone()
        few = row[4] <= MOST_DIFFERENCES
        differences = one.db.execute(_DIFFERENCES, {"scorer": scorer}).fetchall() if few else None
    return Pairs(
        common=row[0],
        same_text=row[1],
        predicted=row[2],
        same_prediction=row[3],
        scored=row[4],
        is_binary=bool(row[5]),
        first_higher=row[6],
        second_higher=row[7],
        total=row[8],
        squares=row[9],
        differences=None if differences is None else dict(differences),
        is_share=bool(row[10]),
        clusters=clusters or None,
        cluster_sums=(sums[0] or 0.0, sums[1] or 0.0, sums[2] or 0.0),
    )


def differing_rows(stores: Sequence[Checkpoint], most: int) -> Differing:
    """Find the rows that another run answered differently from the first.

    Only rows that succeeded in both are compared: by prediction and score if both have scores, by text
    otherwise.

    Args:
        stores: the runs, none of them twice.
        most: maximum number of rows to return; rows whose scores differ come first.

    Raises:
        CheckpointError: when one of the checkpoints cannot be used.
    """
    first = stores[0]
    with usable(first.path):
        first.db.execute(
            "CREATE TEMP TABLE differing (ordinal INTEGER PRIMARY KEY, matters INTEGER)"
        )
    for other in stores[1:]:
        with usable(other.path), attached(first.db, other.path):
            first.db.execute(_COLLECT, {"scorer": ""})
    with usable(first.path):
        (count,) = first.db.execute("SELECT count(*) FROM temp.differing").fetchone()
        chosen = sorted(ordinal for (ordinal,) in first.db.execute(_CHOOSE, (most,)))
        first.db.execute("DROP TABLE temp.differing")
    return Differing(count, tuple(chosen))


CHUNK_ROWS = 1_000
# Answers that are rejected, or may be. Text with an ASCII letter or digit is certainly not empty; for other
# text the caller decides.
_ANSWERS = """SELECT r.request_id, a.error_type, r.response, r.tool_calls, r.ending, r.refusal, r.choices
    FROM results r JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE r.request_id > ? AND (a.error_type GLOB 'rejected_*' OR (r.status = 'succeeded' AND (
        r.ending NOT IN ('stop', 'tool_calls') OR r.choices IS NOT NULL
        OR r.response NOT GLOB '*[0-9A-Za-z]*')))
    ORDER BY r.request_id LIMIT ?"""
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
            rows = store.db.execute(_ANSWERS, (last, CHUNK_ROWS)).fetchall()
        if not rows:
            return
        yield [StoredAnswer(row[0], row[1], _completion(*row[2:])) for row in rows]
        last = rows[-1][0]


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
