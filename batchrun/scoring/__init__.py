"""What answers are worth: comparing them with what is expected, and adding that up. Pure.

`Judge` scores one row, `score_facts` and `score_lines` tell of many.
"""

from batchrun.scoring.judge import Judge
from batchrun.scoring.matching import fold
from batchrun.scoring.records import (
    ClassCount,
    ClassTotals,
    Confusion,
    Mark,
    Pairs,
    ScoreTotals,
    Verdict,
)
from batchrun.scoring.summary import (
    interval,
    mean_score,
    score_facts,
    score_line,
    score_lines,
    score_notes,
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
