"""`--fail-under`: whether scores reach the threshold of a pipeline. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun import evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.evaluation.scores import ScoreTotals


# The exit code when a score is too low; errors that leave a result incomplete come first.
SCORE_TOO_LOW = 8
_OUTWEIGHED = {0, 3}


def below_threshold(scores: Mapping[str, ScoreTotals | None], least: float) -> str | None:
    """Return a message about mean scores below a threshold; None if all reach it.

    A run without any score is below every threshold.

    Args:
        scores: scores by name of the run.
        least: the threshold.
    """
    low = {
        name: totals
        for name, totals in scores.items()
        if totals is None or (mean := evaluation.mean_score(totals)) is None or mean < least
    }
    if not low:
        return None
    scores_below = [
        f"{f'{name}: ' if len(scores) > 1 else ''}"
        f"{'there is no score' if totals is None else evaluation.score_line(totals)}"
        for name, totals in low.items()
    ]
    hint = ""
    if 1 < least <= 100 and all(t is None or t.is_share for t in low.values()):
        hint = f"; scores are from 0 to 1, so write --fail-under {least / 100:g} if you mean {least:g} %"
    return f"--fail-under {least:g} was not reached: {'; '.join(scores_below)}{hint}"


def code_with_threshold(exit_code: int, problem: str | None) -> int:
    """Return the exit code of a command, with the problem that `below_threshold` found."""
    return SCORE_TOO_LOW if problem is not None and exit_code in _OUTWEIGHED else exit_code
