"""Two runs side by side: the rows that both have, joined by `custom_id` inside SQLite.

With several samples for each row, the text of the first sample and the score over all samples are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import RESULT
from batchrun.checkpoint.file import attached, usable
from batchrun.evaluation import Pairs
from batchrun.evaluation.history import Differing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.checkpoint.store import Checkpoint


# For up to this many rows the differences are listed; for more, their sums are enough.
MOST_DIFFERENCES = 2_000

_JOIN = """FROM main.items i JOIN other.items j ON j.custom_id = i.custom_id
    JOIN main.results r ON r.request_id = i.request_id AND r.status = 'succeeded'
    JOIN other.results s ON s.request_id = j.request_id AND s.status = 'succeeded'
    LEFT JOIN main.scores a ON a.scorer = :scorer AND a.ordinal = i.ordinal / (SELECT samples FROM main.run)
    LEFT JOIN other.scores b ON b.scorer = :scorer AND b.ordinal = j.ordinal / (SELECT samples FROM other.run)
    WHERE i.ordinal % (SELECT samples FROM main.run) = 0
    AND j.ordinal % (SELECT samples FROM other.run) = 0"""
_RESPONSE = RESULT["response"].value("r")
_OTHER = RESULT["response"].value("s", "other.pieces")
# The columns of the next two have the names of what they become: the fields of `Pairs`.
_COUNTS = f"""SELECT count(*) AS common,
    coalesce(sum({_RESPONSE} IS {_OTHER}), 0) AS same_text,
    count(a.predicted || b.predicted) AS predicted,
    coalesce(sum(a.predicted = b.predicted), 0) AS same_prediction,
    count(a.score + b.score) AS scored,
    coalesce(sum(a.score NOT IN (0, 1) OR b.score NOT IN (0, 1)), 0) = 0 AS is_binary,
    coalesce(sum(a.score NOT BETWEEN 0 AND 1 OR b.score NOT BETWEEN 0 AND 1), 0) = 0 AS is_share,
    coalesce(sum(a.score > b.score), 0) AS first_higher,
    coalesce(sum(a.score < b.score), 0) AS second_higher,
    coalesce(sum(b.score - a.score), 0) AS total,
    coalesce(sum((b.score - a.score) * (b.score - a.score)), 0) AS squares {_JOIN}"""
_CLUSTERS = f"""SELECT count(*) AS clusters, coalesce(sum(total * total), 0.0) AS squares,
    coalesce(sum(total * rows), 0.0) AS by_rows, coalesce(sum(rows * rows), 0.0) AS row_squares FROM (
    SELECT sum(b.score - a.score) AS total, count(*) AS rows {_JOIN}
    AND a.score IS NOT NULL AND b.score IS NOT NULL AND a.cluster IS NOT NULL GROUP BY a.cluster)"""  # noqa: S608 - no values
_DIFFERENCES = f"""SELECT b.score - a.score, count(*) {_JOIN}
    AND a.score IS NOT NULL AND b.score IS NOT NULL GROUP BY 1"""

# Predictions where both have scores, texts otherwise.
_DIFFERS = f"""CASE WHEN a.score IS NULL OR b.score IS NULL THEN {_RESPONSE} IS NOT {_OTHER}
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
        (counts,) = one.db.query(_COUNTS, {"scorer": scorer})
        (clusters,) = one.db.query(_CLUSTERS, {"scorer": scorer})
        few = counts["scored"] <= MOST_DIFFERENCES
        differences = one.db.execute(_DIFFERENCES, {"scorer": scorer}).fetchall() if few else None
    are = {name: bool(counts.pop(name)) for name in ("is_binary", "is_share")}
    return Pairs(
        **counts,
        **are,
        differences=None if differences is None else dict(differences),
        clusters=clusters["clusters"] or None,
        cluster_sums=(clusters["squares"], clusters["by_rows"], clusters["row_squares"]),
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
