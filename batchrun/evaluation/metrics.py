"""Metrics of the scores of a run: means with confidence intervals, pass@k, labels, slices."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from batchrun.errors import truncated
from batchrun.evaluation.agreement import judge_facts, judge_lines
from batchrun.evaluation.calibration import calibration_facts, calibration_line
from batchrun.evaluation.intervals import (
    clustered_variance,
    effective_rows,
    mcnemar,
    rows_for_share,
    share_interval,
    sign_flips,
    t_interval,
    t_test,
    tango,
    variance_of_mean,
    wilson,
)
from batchrun.evaluation.reducers import pass_all, pass_any
from batchrun.records import unusual_endings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.evaluation.agreement import JudgeTotals
    from batchrun.evaluation.scores import ClassCount, ClassTotals, Pairs, ScoreSums, ScoreTotals


Interval = tuple[float, float]


def pass_at(k: int, by_correct: Mapping[tuple[int, int], int]) -> float | None:
    """Return pass@k: the probability that at least one of `k` answers is right, averaged over all rows.

    Rows with fewer than `k` answers are left out; None if there are no others.

    Args:
        k: number of answers.
        by_correct: (answers, right answers) → rows.
    """
    return _over_rows(pass_any, k, by_correct)


def pass_hat(k: int, by_correct: Mapping[tuple[int, int], int]) -> float | None:
    """Return pass^k: the probability that all of `k` answers are right; see `pass_at`."""
    return _over_rows(pass_all, k, by_correct)


def _over_rows(
    estimate: Callable[[int, int, int], float], k: int, by_correct: Mapping[tuple[int, int], int]
) -> float | None:
    rows, passed = 0, 0.0
    for (answers, correct), count in by_correct.items():
        if answers >= k:
            rows += count
            passed += count * estimate(k, answers, correct)
    return passed / rows if rows else None


# Half widths of intervals for which the number of rows is shown.
HALF_WIDTHS = (0.01, 0.02, 0.05)
LONGEST_LABEL = 100
# More labels than this are not listed on a terminal.
MOST_LINES = 12


def difference_interval(pairs: Pairs) -> Interval | None:
    """Return the 95 % interval of the mean difference between two runs; None if there is too little data.

    For scores of 0 and 1 it is Tango's, otherwise Student's t; clusters are taken into account.
    """
    if not pairs.scored:
        return None
    if is_tested_by_counts(pairs):
        return tango(pairs.first_higher, pairs.second_higher, pairs.scored)
    variance, freedom = _variance(pairs, pairs.scored)
    if freedom < 1:
        return None
    if variance == 0:
        is_same = pairs.is_share and not (pairs.first_higher or pairs.second_higher)
        return tango(0, 0, pairs.scored) if is_same else None
    return t_interval(pairs.total / pairs.scored, variance, freedom)


def is_tested_by_counts(pairs: Pairs) -> bool:
    """Return whether counts of discordant rows are sufficient: scores are 0 or 1, and rows independent."""
    return pairs.is_binary and pairs.clusters is None


def p_value(pairs: Pairs) -> tuple[float, str] | None:
    """Return the two-sided p-value of a difference between two runs, and the name of the test.

    For scores of 0 and 1, this is McNemar's exact test. For other scores, it is the exact sign-flip test if
    there are few differences, and otherwise Student's t.
    """
    if not pairs.scored:
        return None
    if is_tested_by_counts(pairs):
        return mcnemar(pairs.first_higher, pairs.second_higher), "mcnemar"
    if pairs.clusters is None and pairs.differences:
        exact = sign_flips(pairs.differences)
        if exact is not None:
            return exact, "sign_flip"
    variance, freedom = _variance(pairs, pairs.scored)
    if freedom < 1:
        return None
    return t_test(pairs.total / pairs.scored, variance, freedom), "t"


def _variance(sums: Pairs | ScoreSums, count: int) -> tuple[float, int]:
    """Return the variance of the mean, and the degrees of freedom; both 0 for a single row or cluster."""
    independent = count if sums.clusters is None else sums.clusters
    if independent < 2:
        return 0.0, 0
    if sums.clusters is None:
        return variance_of_mean(sums.total, sums.squares, count), count - 1
    variance = clustered_variance(sums.total, count, sums.clusters, sums.cluster_sums)
    return variance, sums.clusters - 1


def part_of(part: float, whole: int) -> float | None:
    """Return a share from 0 to 1; None if the whole is 0."""
    return part / whole if whole else None


def score_facts(totals: ScoreTotals) -> dict[str, Any]:
    """Return `score` of `summary.json`.

    `accuracy` is null if scores are not all 0 or 1; `mean` is always set. `ci95` is the interval of both.
    """
    classes = totals.classes
    return {
        "scored": totals.scored,
        "unscored": totals.unscored,
        "unscored_example": totals.problem,
        "unanswered": totals.unanswered,
        "correct": totals.correct,
        "endings": dict(totals.endings),
        "mean": mean_score(totals),
        "accuracy": mean_score(totals) if totals.is_binary else None,
        "ci95": _rounded(interval(totals)),
        "ci_method": interval_method(totals),
        "clusters": totals.clusters,
        "pass_rate": None if totals.correct is None else part_of(totals.correct, totals.scored),
        "pass_ci95": _rounded(pass_interval(totals)),
        "rows_for": rows_needed(totals),
        "samples": _samples(totals),
        "by": {
            column: {value: _slice_facts(sums) for value, sums in slices.items()}
            for column, slices in totals.slices.items()
        },
        "fields": {path: _field_facts(*counts) for path, counts in totals.fields.items()},
        "micro_f1": classes.micro_f1 if classes else None,
        "macro_precision": classes.macro_precision if classes else None,
        "macro_recall": classes.macro_recall if classes else None,
        "macro_f1": classes.macro_f1 if classes else None,
        "label_count": classes.count if classes else None,
        "labels": [_class_facts(one) for one in classes.classes] if classes else None,
        "confusion": _confusion(classes) if classes and classes.confusion.labels else None,
        "judge": None if totals.judge is None else judge_facts(*_judged(totals.judge)),
        "calibration": None
        if totals.calibration is None
        else calibration_facts(totals.calibration),
        "scorers": {name: score_facts(own) for name, own in totals.scorers.items()},
    }


def _judged(totals: JudgeTotals) -> tuple[JudgeTotals, list[float] | None]:
    """Return the totals of a judge, with the interval of its agreement with people."""
    bounds = wilson(totals.agreed, totals.compared) if totals.compared else None
    return totals, _rounded(bounds)


def mean_score(totals: ScoreSums) -> float | None:
    """Return the mean score; None if nothing was scored."""
    return totals.total / totals.scored if totals.scored else None


def interval(totals: ScoreSums) -> Interval | None:
    """Return the 95 % interval of the mean score; None if there is too little data."""
    if not totals.scored:
        return None
    mean, method = totals.total / totals.scored, interval_method(totals)
    if method == "wilson":
        return wilson(totals.total, totals.scored)
    variance, freedom = _variance(totals, totals.scored)
    if totals.clusters is not None and freedom < 1:
        return None
    if method == "effective_wilson":
        return share_interval(mean, variance, freedom, totals.clusters or totals.scored)
    return t_interval(mean, variance, freedom) if freedom >= 1 and variance > 0 else None


def interval_method(totals: ScoreSums) -> str:
    """Return the name of the method of `interval`."""
    if totals.is_binary and totals.clusters is None:
        return "wilson"
    return "effective_wilson" if totals.is_share else "t"


def pass_interval(totals: ScoreSums) -> Interval | None:
    """Return the 95 % interval of the share of rows that pass; None without such a share.

    For rows in clusters it is known only if the scores are 0 or 1: there are no sums of passes by cluster.
    """
    if totals.correct is None or not totals.scored:
        return None
    if totals.is_binary:
        return interval(totals)
    return wilson(totals.correct, totals.scored) if totals.clusters is None else None


def rows_needed(totals: ScoreSums) -> dict[str, int] | None:
    """Return the number of rows like these that an interval would need, for several half widths."""
    if interval(totals) is None or not totals.is_share:
        return None
    share, rows = totals.total / totals.scored, None
    if interval_method(totals) != "wilson":
        rows = effective_rows(share, *_variance(totals, totals.scored))
    # How many rows give the information of one independent score of 0 or 1.
    each = totals.scored / (rows or totals.clusters or totals.scored)
    return {f"{width:g}": ceil(each * rows_for_share(width, share)) for width in HALF_WIDTHS}


def score_lines(totals: ScoreTotals) -> list[str]:
    """Return the text about the scores: sentences, then tables."""
    lines = score_notes(totals)
    facts = _samples(totals)
    if facts is not None:
        passes = ", ".join(f"pass@{k} {_percent(v)}" for k, v in facts["pass_at"].items())
        lines.append(f"majority vote {_percent(facts['majority_accuracy'])}, {passes}")
    return lines + _class_table(totals.classes) + _field_lines(totals) + _slice_lines(totals)


def score_notes(totals: ScoreTotals) -> list[str]:
    """Return the sentences about the scores."""
    lines = [score_line(totals)]
    lines += [f"{name}: {score_line(own)}" for name, own in totals.scorers.items()]
    if totals.scored and not totals.total:
        lines.append(
            "no answer is right: compare some answers with the expected ones, and check match, "
            "answer and expected in [score]"
        )
    if unusual := unusual_endings(totals.endings):
        counts = ", ".join(f"{count:,} {ending}" for ending, count in unusual.items())
        lines.append(f"among the scored answers: {counts}")
    if totals.unanswered and not totals.scorers:  # a weighted mean has no answer of its own
        lines.append(f"{_rows(totals.unanswered)} without an answer to compare, counted as wrong")
    if totals.unscored:
        lines.append(f"{_rows(totals.unscored)} not scored: {totals.problem}")
    for name, own in {"": totals, **totals.scorers}.items():
        if own.calibration is not None:
            lines.append(f"{name}: " * bool(name) + calibration_line(own.calibration))
    if needed := rows_needed(totals):
        lines.append(f"about {_rows(needed['0.02'])} like these for ±2 %")
    if classes := totals.classes:
        lines.append(f"macro F1 {classes.macro_f1:.3f} over {classes.count:,} labels")
    return lines + [line for judge in totals.judges for line in judge_lines(*_judged(judge))]


def score_line(totals: ScoreSums) -> str:
    """Return the mean score with its interval in one line."""
    mean, bounds = mean_score(totals), interval(totals)
    if mean is None:
        return "nothing was scored"
    if not totals.is_binary or totals.correct is None:
        spread = f" (95 % CI {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        return f"mean {mean:.3f}{spread} over {_rows(totals.scored)}"
    low, high = bounds or (mean, mean)
    return (
        f"accuracy {_percent(mean)} (95 % CI {low * 100:.1f} to {high * 100:.1f}), "
        f"{totals.correct:,} of {_rows(totals.scored)}"
    )


def _slice_facts(sums: ScoreSums) -> dict[str, Any]:
    return {
        "scored": sums.scored,
        "unscored": sums.unscored,
        "correct": sums.correct,
        "mean": mean_score(sums),
        "accuracy": mean_score(sums) if sums.is_binary else None,
        "ci95": _rounded(interval(sums)),
    }


def _field_facts(rows: int, total: float) -> dict[str, Any]:
    bounds = wilson(total, rows)
    return {"rows": rows, "accuracy": total / rows, "ci95": _rounded(bounds)}


def _samples(totals: ScoreTotals) -> dict[str, Any] | None:
    """Return the metrics of several answers to a row; None if each row has one."""
    most = max((answers for answers, _ in totals.by_correct), default=1)
    if most < 2:
        return None
    powers = sorted({1, most, *(2**n for n in range(1, most.bit_length()) if 2**n < most)})
    return {
        "most": most,
        "majority_accuracy": part_of(totals.majority or 0.0, totals.scored),
        "pass_at": {str(k): pass_at(k, totals.by_correct) for k in powers},
        "pass_hat": {str(k): pass_hat(k, totals.by_correct) for k in powers},
    }


def _class_facts(one: ClassCount) -> dict[str, Any]:
    return {
        "label": truncated(one.name, LONGEST_LABEL),
        "support": one.support,
        "predicted": one.predicted,
        "correct": one.correct,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
    }


def _confusion(classes: ClassTotals) -> dict[str, Any]:
    """Return the confusion matrix: rows are expected labels, columns are answers."""
    confusion = classes.confusion
    return {
        "labels": [truncated(name, LONGEST_LABEL) for name in confusion.labels],
        "matrix": confusion.cells,
    }


def _class_table(classes: ClassTotals | None) -> list[str]:
    if classes is None or classes.count > MOST_LINES:
        return []
    width = max(len(truncated(one.name, LONGEST_LABEL)) for one in classes.classes)
    lines = [f"{'label':<{width}}  {'rows':>7}  precision  recall     F1"]
    lines += [
        f"{truncated(one.name, LONGEST_LABEL):<{width}}  {one.support:>7,}  {one.precision:>9.3f}  {one.recall:>6.3f}"
        f"  {one.f1:>5.3f}"
        for one in classes.classes
    ]
    return lines


def _field_lines(totals: ScoreTotals) -> list[str]:
    lines = [
        f"field {path}: right in {_percent(total / rows)} of {_rows(rows)}"
        for path, (rows, total) in totals.fields.items()
    ]
    return _first_lines(lines, "fields", "score.fields")


def _slice_lines(totals: ScoreTotals) -> list[str]:
    found: list[str] = []
    for column, slices in totals.slices.items():
        lines = [
            f"{column} = {truncated(value, LONGEST_LABEL)}: {score_line(of)}"
            for value, of in slices.items()
        ]
        found += _first_lines(lines, column, f"score.by.{column}")
    return found


def _first_lines(lines: list[str], what: str, key: str) -> list[str]:
    """Return the first lines, and a line that says where the others are."""
    if len(lines) <= MOST_LINES:
        return lines
    rest = f"{len(lines) - MOST_LINES:,} more, see {key} in summary.json"
    return [*lines[:MOST_LINES], f"{what}: {rest}"]


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share * 100:.1f} %"


def _rounded(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else [round(bound, 12) for bound in bounds]
