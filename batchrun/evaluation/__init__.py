"""Scores answers: compares them with expected values, and computes metrics. No I/O.

`Scorer` scores one row; `score_facts` and `score_lines` describe the scores of many.
"""

from __future__ import annotations

from batchrun.evaluation.answer_text import fold
from batchrun.evaluation.metrics import (
    interval,
    mean_score,
    score_facts,
    score_line,
    score_lines,
    score_notes,
)
from batchrun.evaluation.scorer import Scorer, weighted_mean
from batchrun.evaluation.scores import (
    AnswerScore,
    ClassCount,
    ClassTotals,
    Confusion,
    Pairs,
    RowScore,
    ScoreColumn,
    ScoreSums,
    ScoreTotals,
    score_columns,
)
