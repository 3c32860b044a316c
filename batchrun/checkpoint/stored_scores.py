"""The scores in a checkpoint: one for each row that succeeded, and their totals.

Scores follow from the answers and the job, and are written again whenever the outputs are. For a checkpoint
that is opened read-only, they are in a temporary table of the connection.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from heapq import nlargest
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint.columns import RESULT, combine_answers
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.schema import SCORES
from batchrun.checkpoint.statistics import scored_endings
from batchrun.evaluation import (
    ClassCount,
    ClassTotals,
    Confusion,
    RowScore,
    ScoreSums,
    ScoreTotals,
    fold,
)
from batchrun.evaluation.calibration import calibration
from batchrun.evaluation.scores import NONE, OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.evaluation import ScoreColumn


CHUNK_ROWS = 5_000
_row = attrgetter(*(field.name for field in fields(RowScore)))  # `astuple` copies every value
# The most labels, fields of JSON and values of a column of `by` that `summary.json` lists.
MOST_CLASSES = 50
MOST_FIELDS = 200
MOST_SLICES = 200
_NOTHING = ScoreSums(scored=0, total=0.0, squares=0.0, is_binary=True, correct=0)
_SUM_FIELDS = [each.name for each in fields(ScoreSums)]

_BY_CONFIDENCE = """SELECT confidence, count(*), count(*) FILTER (WHERE score >= :pass_at)
    FROM scores WHERE scorer = :scorer AND score IS NOT NULL AND correct IS NOT NULL
    AND confidence IS NOT NULL GROUP BY confidence ORDER BY confidence"""
_ANSWERS = f"""SELECT i.ordinal, i.custom_id,
        {RESULT["response"].value("r")}, {RESULT["responses"].value("r")}
    FROM items i JOIN results r ON r.request_id = i.request_id
    WHERE i.ordinal >= ? AND i.ordinal < ? AND r.status = 'succeeded' ORDER BY i.ordinal"""  # noqa: S608 - our own names
_UNSETTLED = """SELECT count(i.ordinal), count(*) FILTER (WHERE i.request_id IS NOT NULL
    AND r.request_id IS NULL) FROM items i LEFT JOIN results r ON r.request_id = i.request_id
    WHERE i.ordinal >= ? AND i.ordinal < ?"""
_FIELDS = [field.name for field in fields(RowScore)]
_INSERT = f"""INSERT INTO scores ({", ".join(_FIELDS)})
    VALUES ({", ".join("?" * len(_FIELDS))})"""  # noqa: S608 - our own names
# The sums over rows, computed from sums over clusters for the standard errors; without clusters, all rows
# are in one.
_SUMS = """SELECT column, value, sum(rows), sum(unscored), sum(total), sum(squares), min(is_binary),
    min(is_share), CASE WHEN min(is_counted) THEN sum(correct) END,
    CASE WHEN count(cluster) THEN count(*) FILTER (WHERE rows) END,
    sum(total * total), sum(total * rows), sum(rows * rows)
    FROM (
        SELECT {key} AS column, {value} AS value, s.cluster, count(s.score) AS rows,
            count(*) - count(s.score) AS unscored, coalesce(sum(s.score), 0.0) AS total,
            coalesce(sum(s.score * s.score), 0.0) AS squares,
            coalesce(sum(s.score NOT IN (0, 1) OR s.kind IN ('share', 'any')), 0) = 0
                AS is_binary,
            coalesce(sum(s.score NOT BETWEEN 0 AND 1 OR s.kind = 'any'), 0) = 0 AS is_share,
            count(iif(s.score IS NULL, NULL, s.correct)) = count(s.score) AS is_counted,
            count(*) FILTER (WHERE s.score >= :pass_at) AS correct
        FROM scores s {join} WHERE s.scorer = :scorer GROUP BY 1, 2, 3
    ) GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"""
_OF_ALL = _SUMS.format(key="NULL", value="NULL", join="")
_OF_SLICES = _SUMS.format(key="j.key", value="j.value", join="JOIN json_each(s.slices) j")
_VOTES = """SELECT coalesce(sum(majority), 0),
    count(*) FILTER (WHERE score IS NOT NULL AND predicted IS NULL) FROM scores WHERE scorer = ?"""
_PROBLEM = """SELECT problem FROM scores WHERE scorer = ? AND problem IS NOT NULL
    ORDER BY ordinal LIMIT 1"""
_BY_CORRECT = """SELECT answers, correct, count(*) FROM scores
    WHERE scorer = ? AND score IS NOT NULL AND correct IS NOT NULL GROUP BY answers, correct"""
# The SQL function `label` maps labels that count as the same to one text.
_CLASSES = """SELECT class, coalesce(min(name), min(said)), sum(support), sum(predicted), sum(both)
    FROM (
        SELECT label(expected) AS class, min(expected) AS name, NULL AS said, count(*) AS support,
            0 AS predicted, coalesce(sum(label(predicted) = label(expected)), 0) AS both
        FROM scores
        WHERE scorer = :scorer AND score IS NOT NULL AND expected IS NOT NULL GROUP BY 1
        UNION ALL
        SELECT label(predicted), NULL, min(predicted), 0, count(*), 0
        FROM scores WHERE scorer = :scorer AND score IS NOT NULL AND expected IS NOT NULL
            AND predicted IS NOT NULL GROUP BY 1
    ) GROUP BY class"""
# The same for sets of labels, which are JSON arrays.
_SETS = """SELECT class, class, sum(support), sum(predicted), sum(both) FROM (
        SELECT e.value AS class, 1 AS support, 0 AS predicted,
            EXISTS (SELECT 1 FROM json_each(s.predicted) p WHERE p.value = e.value) AS both
        FROM scores s JOIN json_each(s.expected) e
        WHERE s.scorer = :scorer AND s.score IS NOT NULL AND s.expected IS NOT NULL
        UNION ALL
        SELECT p.value, 0, 1, 0 FROM scores s JOIN json_each(s.predicted) p
        WHERE s.scorer = :scorer AND s.score IS NOT NULL AND s.expected IS NOT NULL
            AND s.predicted IS NOT NULL
    ) GROUP BY class"""
_BY_FIELD = """SELECT f.key, count(*), sum(f.value) FROM scores s JOIN json_each(s.fields) f
    WHERE s.scorer = ? AND s.score IS NOT NULL GROUP BY f.key
    ORDER BY min(s.ordinal), min(f.id) LIMIT ?"""
_PAIRS = """SELECT label(expected), label(predicted), count(*) FROM scores
    WHERE scorer = ? AND score IS NOT NULL AND expected IS NOT NULL GROUP BY 1, 2"""


def answer_logprobs(store: Checkpoint, first: int, end: int) -> dict[int, str]:
    """Return the log probabilities of rows with a single answer, by ordinal, as JSON."""
    if store.samples != 1:
        return {}
    found = store.columns(first, end, ("status", "responses", "logprobs"))
    return {
        ordinal: logprobs
        for ordinal, status, several, logprobs in zip(
            *(found[name] for name in ("ordinal", "status", "responses", "logprobs")), strict=True
        )
        if logprobs is not None and several is None and status == "succeeded"
    }


def answers(store: Checkpoint, first: int, end: int) -> list[tuple[Any, ...]]:
    """Return the answers of the rows from ordinal `first` up to `end` that succeeded.

    Columns: ordinal, custom_id, response, responses (JSON, or None).
    """
    with usable(store.path):
        samples = store.samples
        found = store.db.execute(_ANSWERS, (first * samples, end * samples)).fetchall()
    return found if samples == 1 else combine_answers(found, samples)


def settled_answers(
    store: Checkpoint, ordinals: Sequence[int]
) -> list[tuple[str | None, str | None] | None]:
    """Return the answers of these rows up to the first one that is not finished.

    Returns:
        Response and responses of each row, as in `answers`; None for a row that has failed.
    """
    samples = store.samples
    found: list[tuple[str | None, str | None] | None] = []
    for ordinal in ordinals:
        with usable(store.path):
            window = (ordinal * samples, (ordinal + 1) * samples)
            planned, unfinished = store.db.execute(_UNSETTLED, window).fetchone()
        if unfinished or planned < samples:
            break
        row = answers(store, ordinal, ordinal + 1)
        found.append((row[0][2], row[0][3]) if row else None)
    return found


def write_scores(store: Checkpoint, scores: Iterable[RowScore], scored_by: str) -> None:
    """Replace all scores by these, in one transaction.

    Args:
        store: the checkpoint.
        scores: the scores; the iterator may read from the store.
        scored_by: identifies the scoring rules of the job; see `is_scored`.
    """
    rest = iter(scores)
    with store.transaction():
        if store.is_writable:
            store.db.execute("DELETE FROM scores")
            store.update_run("scored = ?", scored_by)
        else:
            store.db.execute("DROP TABLE IF EXISTS temp.scores")
            store.db.execute(SCORES.replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
        while chunk := [_row(mark) for mark in islice(rest, CHUNK_ROWS)]:
            store.db.conn.executemany(_INSERT, chunk)


def score_rows(
    store: Checkpoint, columns: Sequence[ScoreColumn], first: int, end: int
) -> list[tuple[Any, ...]]:
    """Return the ordinal and these columns of rows from ordinal `first` up to `end`, in order."""
    tables = {name: f"s{n}" for n, name in enumerate({"": 0, **{c.scorer: 0 for c in columns}})}
    wanted = "".join(f", {tables[column.scorer]}.{column.field}" for column in columns)
    joined = "".join(
        f" LEFT JOIN scores {table} ON {table}.scorer = ? AND {table}.ordinal = s0.ordinal"
        for name, table in tables.items()
        if name
    )
    query = f"""SELECT s0.ordinal{wanted} FROM scores s0{joined}
        WHERE s0.scorer = '' AND s0.ordinal >= ? AND s0.ordinal < ? ORDER BY s0.ordinal"""  # noqa: S608 - our own names
    with usable(store.path):
        return store.db.execute(query, [*filter(None, tables), first, end]).fetchall()


def is_scored(store: Checkpoint, scored_by: str) -> bool:
    """Return whether the present answers have been scored by these rules."""
    with usable(store.path):
        row = store.db.execute("SELECT scored FROM run").fetchone()
    return bool(row and row[0] == scored_by)


class Labels(Enum):
    """The kind of a scorer's predictions, for the counts by label."""

    NONE = "no labels"
    EXACT = "labels"
    FOLDED = "labels that are the same if they differ only in how they are written"
    SETS = "sets of labels"


def score_totals(
    store: Checkpoint,
    scorer: str = "",
    *,
    labels: Labels = Labels.NONE,
    pass_at: float | None = None,
) -> ScoreTotals:
    """Add up the scores of one scorer, in bounded memory.

    Args:
        store: the checkpoint.
        scorer: its name; empty for the scores over all scorers.
        labels: whether predictions are labels, which are counted for each label.
        pass_at: the lowest score that passes; 1 by default.
    """
    with store.transaction():
        given = {"scorer": scorer, "pass_at": 1.0 if pass_at is None else pass_at}
        sums = next((found for _, _, found in _sums(store, _OF_ALL, given)), _NOTHING)
        majority, unanswered = store.db.execute(_VOTES, (scorer,)).fetchone()
        problem = store.db.execute(_PROBLEM, (scorer,)).fetchone()
        by_correct = store.db.execute(_BY_CORRECT, (scorer,))
        return ScoreTotals(
            **{name: getattr(sums, name) for name in _SUM_FIELDS},
            majority=None if sums.correct is None else majority,
            unanswered=unanswered,
            problem=problem[0] if problem else None,
            by_correct={(n, right): rows for n, right, rows in by_correct},
            classes=_classes(store, scorer, labels) if sums.scored else None,
            fields=_by_field(store, scorer),
            slices=_slices(store, given),
            calibration=calibration(store.db.execute(_BY_CONFIDENCE, given)),
            endings=scored_endings(store.db, scorer),
        )


_JUDGED = """SELECT count(*) FILTER (WHERE state = 'missing'),
    count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'unreadable'),
    avg(consistency) FROM scores WHERE scorer = ?"""
_COMPARED = """SELECT expected, predicted, count(*) FROM scores
    WHERE scorer = ? AND score IS NOT NULL AND expected IS NOT NULL GROUP BY 1, 2"""


def judged_rows(store: Checkpoint, scorer: str) -> dict[str, Any]:
    """Return the fields of `JudgeTotals` that are about the rows of a scorer with a judge."""
    with store.transaction():
        missing, failed, unreadable, consistency = store.db.execute(_JUDGED, (scorer,)).fetchone()
        compared = store.db.execute(_COMPARED, (scorer,)).fetchall()
    return {
        "missing": missing,
        "failed": failed,
        "unreadable": unreadable,
        "consistency": consistency,
        "verdicts": {(person, judge): rows for person, judge, rows in compared},
    }


def _sums(
    store: Checkpoint, query: str, given: Mapping[str, Any]
) -> Iterator[tuple[str, str, ScoreSums]]:
    """Yield column, value and sums of each slice; for all rows, column and value are None."""
    for row in store.db.execute(query, dict(given)):
        column, value, scored, unscored, total, squares, binary, share, correct, clusters, *more = (
            row
        )
        yield (
            column,
            value,
            ScoreSums(
                scored=scored,
                unscored=unscored,
                total=total,
                squares=squares,
                is_binary=bool(binary),
                is_share=bool(share),
                correct=correct,
                clusters=clusters,
                cluster_sums=(more[0], more[1], more[2]),
            ),
        )


def _slices(store: Checkpoint, given: Mapping[str, Any]) -> dict[str, dict[str, ScoreSums]]:
    """Return the sums by the values of each column; of many values, the most frequent ones."""
    found: dict[str, dict[str, ScoreSums]] = {}
    for column, value, sums in _sums(store, _OF_SLICES, given):
        of_column = found.setdefault(column, {})
        if len(of_column) < MOST_SLICES:
            of_column[value] = sums
    return found


def _by_field(store: Checkpoint, scorer: str) -> dict[str, tuple[int, float]]:
    rows = store.db.execute(_BY_FIELD, (scorer, MOST_FIELDS))
    return {path: (count, total) for path, count, total in rows}


def _classes(store: Checkpoint, scorer: str, labels: Labels) -> ClassTotals | None:
    if labels is Labels.NONE:
        return None
    is_set, folds = labels is Labels.SETS, labels is Labels.FOLDED
    store.db.conn.create_function("label", 1, _fold if folds else _same, deterministic=True)
    sums = _Sums()
    query = _SETS if is_set else _CLASSES
    counted = sums.watch(store.db.execute(query, {"scorer": scorer}))
    largest = nlargest(MOST_CLASSES, counted, key=lambda found: (found[2], found[3], found[0]))
    if not sums.count:
        return None
    return ClassTotals(
        count=sums.count,
        micro_f1=2 * sums.correct / (sums.support + sums.predicted),
        macro_precision=sums.precision / sums.count,
        macro_recall=sums.recall / sums.count,
        macro_f1=sums.f1 / sums.count,
        classes=tuple(ClassCount(*found[1:]) for found in largest),
        confusion=Confusion((), ())
        if is_set
        else _confusion(store.db.execute(_PAIRS, (scorer,)), [found[:2] for found in largest]),
    )


class _Sums:
    """Sums for the means over all labels."""

    def __init__(self) -> None:
        self.count = self.support = self.predicted = self.correct = 0
        self.precision = self.recall = self.f1 = 0.0

    def watch(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of labels unchanged, and add them up."""
        for row in rows:
            counts = ClassCount(*row[1:])
            self.count += 1
            self.support += counts.support
            self.predicted += counts.predicted
            self.correct += counts.correct
            self.precision += counts.precision
            self.recall += counts.recall
            self.f1 += counts.f1
            yield row


def _confusion(
    pairs: Iterable[tuple[str, str | None, int]], known: Sequence[tuple[str, str]]
) -> Confusion:
    """Return the confusion matrix; labels that are not known are counted together."""
    names = [*(name for _, name in known), OTHER, NONE]
    place = {label: n for n, (label, _) in enumerate(known)}
    cells = [[0] * len(names) for _ in names]
    other, none = len(known), len(known) + 1
    for expected, predicted, count in pairs:
        column = none if predicted is None else place.get(predicted, other)
        cells[place.get(expected, other)][column] += count
    used = [n for n in range(len(names)) if n < other or any(cells[n]) or any(c[n] for c in cells)]
    return Confusion(
        tuple(names[n] for n in used), tuple(tuple(cells[i][j] for j in used) for i in used)
    )


def _fold(label: str | None) -> str | None:
    return None if label is None else fold(label)


def _same(label: str | None) -> str | None:
    return label
