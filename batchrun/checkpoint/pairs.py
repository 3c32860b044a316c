"""Two runs side by side: the rows that both have, joined by `custom_id` inside SQLite.

Of rows that were asked several times the first answers are compared, and the scores of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.checkpoint.schema import attached, usable
from batchrun.scoring import Pairs

if TYPE_CHECKING:
    from batchrun.checkpoint.store import Checkpoint

# So many differences are handed out one by one; of more, their sums say as much.
MOST_DIFFERENCES = 2_000

_JOIN = """FROM main.items i JOIN other.items j ON j.custom_id = i.custom_id
    JOIN main.outcomes r ON r.request_id = i.request_id AND r.status = 'succeeded'
    JOIN other.outcomes s ON s.request_id = j.request_id AND s.status = 'succeeded'
    LEFT JOIN main.scores a ON a.ordinal = i.ordinal / (SELECT samples FROM main.run)
    LEFT JOIN other.scores b ON b.ordinal = j.ordinal / (SELECT samples FROM other.run)
    WHERE i.ordinal % (SELECT samples FROM main.run) = 0
    AND j.ordinal % (SELECT samples FROM other.run) = 0"""
_COUNTS = f"""SELECT count(*), coalesce(sum(r.response IS s.response), 0),
    count(a.predicted || b.predicted), coalesce(sum(a.predicted = b.predicted), 0),
    count(a.score + b.score),
    coalesce(sum(a.score NOT IN (0, 1) OR b.score NOT IN (0, 1)), 0) = 0,
    coalesce(sum(a.score > b.score), 0), coalesce(sum(a.score < b.score), 0),
    coalesce(sum(b.score - a.score), 0),
    coalesce(sum((b.score - a.score) * (b.score - a.score)), 0) {_JOIN}"""
_DIFFERENCES = f"""SELECT b.score - a.score, count(*) {_JOIN}
    AND a.score IS NOT NULL AND b.score IS NOT NULL GROUP BY 1"""


def compare_rows(one: Checkpoint, other: Checkpoint) -> Pairs:
    """Compare the rows that succeeded in both runs.

    Raises:
        CheckpointError: when one of the checkpoints cannot be used.
    """
    with usable(other.path), attached(one.db, other.path):
        row = one.db.execute(_COUNTS).fetchone()
        few = row[4] <= MOST_DIFFERENCES
        differences = dict(one.db.execute(_DIFFERENCES).fetchall()) if few else None
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
        differences=differences,
    )
