"""What answers are worth: comparing them with what is expected, and adding that up. Pure.

`Judge` scores one row, `score_facts` and `score_lines` tell of many.
"""

from __future__ import annotations

from batchrun.evaluation.matching import fold
from batchrun.evaluation.metrics import (
    interval,
    mean_score,
    score_facts,
    score_line,
    score_lines,
    score_notes,
)
from batchrun.evaluation.scorer import Judge
from batchrun.evaluation.scores import (
    ClassCount,
    ClassTotals,
    Confusion,
    Mark,
    Pairs,
    ScoreTotals,
    Verdict,
)

__all__ = [
    "ClassCount",
    "ClassTotals",
    "Confusion",
    "Judge",
    "Mark",
    "Pairs",
    "ScoreTotals",
    "Verdict",
    "fold",
    "interval",
    "mean_score",
    "score_facts",
    "score_line",
    "score_lines",
    "score_notes",
]
