"""The statistics of scores: intervals of confidence, pass@k."""

from __future__ import annotations

from math import comb, exp, fsum, lgamma, log, sqrt
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from batchrun.evaluation.agreement import judge_facts, judge_lines
from batchrun.records import unusual_endings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.evaluation.agreement import JudgeTotals
    from batchrun.evaluation.scores import ClassCount, ClassTotals, Pairs, ScoreTotals


CONFIDENCE = 0.95
# Half of what is left out lies on either side.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 2_000
NEGLIGIBLE = 1e-18


def wilson(correct: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score, which stays within 0 and 1.

    Args:
        correct: how many were right.
        count: of how many, above 0.
    """
    share = correct / count
    spread = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    middle = share + Z**2 / (2 * count)
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def mean_interval(total: float, squares: float, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean by the normal approximation; None of a single value.

    Args:
        total: the sum of the values.
        squares: the sum of their squares.
        count: how many there are.
    """
    if count < 2:
        return None
    mean = total / count
    variance = max(0.0, (squares - count * mean**2) / (count - 1))
    spread = Z * sqrt(variance / count)
    return mean - spread, mean + spread


def pass_at(k: int, by_correct: Mapping[tuple[int, int], int]) -> float | None:
    """Return the chance that of `k` answers to a row one at least is right, over all rows.

    The unbiased estimator of Chen et al. (2021): 1 - C(n - c, k) / C(n, k) for a row with `c` right
    answers of `n`. Rows with fewer than `k` answers are left out; None when there are no others.

    Args:
        k: how many answers.
        by_correct: (answers, right answers) → rows.
    """
    rows, passed = 0, 0.0
    for (answers, correct), count in by_correct.items():
        if answers >= k:
            rows += count
            passed += count * (1 - comb(answers - correct, k) / comb(answers, k))
    return passed / rows if rows else None


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: chance that both are equally good.

    Args:
        only_one: rows that only the one got right.
        only_other: rows that only the other got right.
    """
    rows, fewer = only_one + only_other, min(only_one, only_other)
    # Twice the lower tail of a fair coin, added up from its largest term; logarithms, because
    # the numbers of combinations have as many digits as there are rows.
    term = exp(lgamma(rows + 1) - lgamma(fewer + 1) - lgamma(rows - fewer + 1) - rows * log(2))
    tail, heads = 0.0, fewer
    while heads >= 0 and term > tail * NEGLIGIBLE:
        tail += term
        term *= heads / (rows - heads + 1)
        heads -= 1
    return min(1.0, 2 * tail)


def bootstrap_interval(values: Mapping[float, int]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the percentiles of resampled means; always the same.

    Args:
        values: how often each value was seen.
    """
    chance = Random(0)  # noqa: S311 - drawn, not secret
    count = sum(values.values())
    kinds, weights = list(values), list(values.values())
    means = sorted(fsum(chance.choices(kinds, weights, k=count)) / count for _ in range(RESAMPLES))
    cut = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return means[cut], means[-cut - 1]


LONGEST_LABEL = 100
# More labels than this are not listed on a terminal.
MOST_LINES = 12


def difference_interval(pairs: Pairs) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean difference between two runs.

    Scores of 0 and 1, and many rows, have that of the normal approximation, others the bootstrap's.
    """
    if pairs.is_binary or not pairs.differences:
        return mean_interval(pairs.total, pairs.squares, pairs.scored)
    return bootstrap_interval(pairs.differences)


def p_value(pairs: Pairs) -> float | None:
    """Return McNemar's exact p-value; None unless scores are 0 or 1."""
    if not pairs.scored or not pairs.is_binary:
        return None
    return mcnemar(pairs.first_higher, pairs.second_higher)


def part_of(part: int, whole: int) -> float | None:
    """Return a share from 0 to 1; None of nothing."""
    return part / whole if whole else None


def score_facts(totals: ScoreTotals) -> dict[str, Any]:
    """Return `score` of `summary.json`.

    `accuracy` is null when scores are not all 0 or 1; `mean` holds then, too. `ci95` is the interval
    of either.
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
        "ci_method": "wilson" if totals.is_binary else "normal",
        "samples": _samples(totals),
        "macro_precision": classes.macro_precision if classes else None,
        "macro_recall": classes.macro_recall if classes else None,
        "macro_f1": classes.macro_f1 if classes else None,
        "label_count": classes.count if classes else None,
        "labels": [_class_facts(one) for one in classes.classes] if classes else None,
        "confusion": _confusion(classes) if classes else None,
        "judge": None if totals.judge is None else judge_facts(*_judged(totals.judge)),
        "scorers": {name: score_facts(own) for name, own in totals.scorers.items()},
    }


def _judged(totals: JudgeTotals) -> tuple[JudgeTotals, list[float] | None]:
    """Return what a judge did, with the interval of its agreement with people."""
    bounds = wilson(totals.agreed, totals.compared) if totals.compared else None
    return totals, _rounded(bounds)


def mean_score(totals: ScoreTotals) -> float | None:
    """Return the mean score, None when nothing was scored."""
    return totals.total / totals.scored if totals.scored else None


def interval(totals: ScoreTotals) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean score, None when there is too little to tell."""
    if not totals.scored:
        return None
    if totals.is_binary:
        return wilson(totals.correct, totals.scored)
    return mean_interval(totals.total, totals.squares, totals.scored)


def score_lines(totals: ScoreTotals) -> list[str]:
    """Return what a person reads about the scores: sentences, then tables."""
    lines = score_notes(totals)
    facts = _samples(totals)
    if facts is not None:
        passes = ", ".join(f"pass@{k} {_percent(v)}" for k, v in facts["pass_at"].items())
        lines.append(f"majority vote {_percent(facts['majority_accuracy'])}, {passes}")
    return lines + _class_table(totals.classes)


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
    if totals.unanswered:
        lines.append(f"{_rows(totals.unanswered)} without an answer to compare, counted as wrong")
    if totals.unscored:
        lines.append(f"{_rows(totals.unscored)} not scored: {totals.problem}")
    if classes := totals.classes:
        lines.append(f"macro F1 {classes.macro_f1:.3f} over {classes.count:,} labels")
    return lines + [line for judge in totals.judges for line in judge_lines(*_judged(judge))]


def score_line(totals: ScoreTotals) -> str:
    """Return the mean score with its interval in one line."""
    mean, bounds = mean_score(totals), interval(totals)
    if mean is None:
        return "nothing was scored"
    if not totals.is_binary:
        spread = f" (95 % CI {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        return f"mean {mean:.3f}{spread} over {_rows(totals.scored)}"
    low, high = bounds or (mean, mean)
    return (
        f"accuracy {_percent(mean)} (95 % CI {low * 100:.1f} to {high * 100:.1f}), "
        f"{totals.correct:,} of {_rows(totals.scored)}"
    )


def _samples(totals: ScoreTotals) -> dict[str, Any] | None:
    """What several answers to a row come to; None where each has one."""
    most = max((answers for answers, _ in totals.by_correct), default=1)
    if most < 2:
        return None
    powers = sorted({1, most, *(2**n for n in range(1, most.bit_length()) if 2**n < most)})
    return {
        "most": most,
        "majority_accuracy": totals.majority / totals.scored,
        "pass_at": {str(k): pass_at(k, totals.by_correct) for k in powers},
    }


def _class_facts(one: ClassCount) -> dict[str, Any]:
    return {
        "label": _short(one.name),
        "support": one.support,
        "predicted": one.predicted,
        "correct": one.correct,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
    }


def _confusion(classes: ClassTotals) -> dict[str, Any]:
    """Rows are the right labels, columns what was answered."""
    confusion = classes.confusion
    return {"labels": [_short(name) for name in confusion.labels], "matrix": confusion.cells}


def _class_table(classes: ClassTotals | None) -> list[str]:
    if classes is None or classes.count > MOST_LINES:
        return []
    width = max(len(_short(one.name)) for one in classes.classes)
    lines = [f"{'label':<{width}}  {'rows':>7}  precision  recall     F1"]
    lines += [
        f"{_short(one.name):<{width}}  {one.support:>7,}  {one.precision:>9.3f}  {one.recall:>6.3f}"
        f"  {one.f1:>5.3f}"
        for one in classes.classes
    ]
    return lines


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share * 100:.1f} %"


def _rounded(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else [round(bound, 12) for bound in bounds]
