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
    ScoreTotals,
    Verdict,
)
from batchrun.scoring.summary import score_facts, score_line, score_lines

__all__ = [
    "ClassCount",
    "ClassTotals",
    "Confusion",
    "Judge",
    "Mark",
    "ScoreTotals",
    "Verdict",
    "fold",
    "score_facts",
    "score_line",
    "score_lines",
]
