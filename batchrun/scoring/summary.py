"""What the scores of a run say: for `summary.json`, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.records import unusual_endings
from batchrun.scoring.metrics import mean_interval, pass_at, wilson

if TYPE_CHECKING:
    from batchrun.scoring.records import ClassCount, ClassTotals, ScoreTotals

LONGEST_LABEL = 100
# More labels than this are not listed on a terminal.
MOST_LINES = 12


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
    }


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
    if unusual := unusual_endings(totals.endings):
        told = ", ".join(f"{count:,} {ending}" for ending, count in unusual.items())
        lines.append(f"among the scored answers: {told}")
    if totals.unanswered:
        lines.append(f"{_rows(totals.unanswered)} without an answer to compare, counted as wrong")
    if totals.unscored:
        lines.append(f"{_rows(totals.unscored)} not scored: {totals.problem}")
    if classes := totals.classes:
        lines.append(f"macro F1 {classes.macro_f1:.3f} over {classes.count:,} labels")
    return lines


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
