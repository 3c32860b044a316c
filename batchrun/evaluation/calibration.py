"""Calibration: whether the probabilities that a model gave its answers match the share that is right. No I/O.

It has the reliability diagram and the expected calibration error (ECE) of Guo et al. (2017), with ten bins of
equal width, and the area under the ROC curve (AUROC): how well probabilities separate right from wrong answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, fsum
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.evaluation.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Iterable


BINS = 10
LONGEST_LIST = 100_000


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows with a confidence from `low` to `high`: their number, mean confidence, and number of right ones."""

    low: float
    high: float
    rows: int
    confidence: float
    correct: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The quality of the confidence.

    Attributes:
        rows: number of rows with a confidence and a right or wrong answer.
        ece: expected calibration error, from 0 to 1.
        brier: mean squared difference between confidence and result.
        auroc: area under the ROC curve; None if all rows are right, or all are wrong.
        bins: the bins that have rows.
    """

    rows: int
    ece: float
    brier: float
    auroc: float | None
    bins: tuple[ReliabilityBin, ...]


def confidence(logprobs: str | None, text: str, predicted: str | None) -> float | None:
    """Return the probability of the tokens that spell a prediction.

    Args:
        logprobs: the tokens of the answer with their log probabilities, as JSON of Chat Completions.
        text: the answer.
        predicted: the prediction. If the text does not contain it literally, all tokens count.

    Returns:
        None if the tokens are unknown.
    """
    if logprobs is None:
        return None
    try:
        tokens: Any = orjson.loads(logprobs)["content"]
        pairs = [(str(token["token"]), float(token["logprob"])) for token in tokens[:LONGEST_LIST]]
    except (ValueError, LookupError, TypeError):
        return None
    if not pairs:
        return None
    start = text.rfind(predicted) if predicted else -1
    end = start + len(predicted or "")
    chosen, place = [], 0
    for token, logprob in pairs:
        if start < 0 or (place < end and place + len(token) > start):
            chosen.append(logprob)
        place += len(token)
    return min(1.0, exp(fsum(chosen or [logprob for _, logprob in pairs])))


def calibration(counts: Iterable[tuple[float, int, int]]) -> Calibration | None:
    """Return the quality of the confidence, in one pass; None if no row has a confidence.

    Args:
        counts: (confidence, rows, right rows), in ascending order of confidence.
    """
    bins = [[0, 0.0, 0] for _ in range(BINS)]
    rows = correct = 0
    squared = above = 0.0
    for value, count, right in counts:
        chosen = bins[min(BINS - 1, int(value * BINS))]
        chosen[0] += count
        chosen[1] += value * count
        chosen[2] += right
        squared += right * (1 - value) ** 2 + (count - right) * value**2
        # Pairs of a right and a wrong row where the right one is more confident; ties count half.
        above += right * ((rows - correct) + (count - right) / 2)
        rows += count
        correct += right
    if not rows:
        return None
    mixed = correct * (rows - correct)
    return Calibration(
        rows=rows,
        ece=sum(abs(total - right) for _, total, right in bins) / rows,
        brier=squared / rows,
        auroc=above / mixed if mixed else None,
        bins=tuple(
            ReliabilityBin(n / BINS, (n + 1) / BINS, int(count), total / count, int(right))
            for n, (count, total, right) in enumerate(bins)
            if count
        ),
    )


def calibration_facts(found: Calibration) -> dict[str, Any]:
    """Return `score.calibration` of `summary.json`."""
    return {
        "rows": found.rows,
        "ece": found.ece,
        "brier": found.brier,
        "auroc": found.auroc,
        "bins": [
            {
                "low": each.low,
                "high": each.high,
                "rows": each.rows,
                "confidence": each.confidence,
                "accuracy": each.correct / each.rows,
                "ci95": [round(bound, 12) for bound in wilson(each.correct, each.rows)],
            }
            for each in found.bins
        ],
    }


def calibration_line(found: Calibration) -> str:
    """Return the figures in one line."""
    auroc = "" if found.auroc is None else f", AUROC {found.auroc:.3f}"
    return f"confidence: ECE {found.ece:.3f}{auroc} over {found.rows:,} rows"
