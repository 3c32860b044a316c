"""Answers of a simulated judge: reasons, and a last line with one of the verdicts that the prompt offers.

If the prompt has a reference answer, or two answers to compare, in tags, these texts decide. So a simulated
judge agrees with a comparison by text, and prefers the same answer in either order.
"""

from __future__ import annotations

import math
import re
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchrun.simulator.prose import MARK, describe, find_topics

if TYPE_CHECKING:
    from batchrun.simulator.draws import RandomDraws

# "Verdict: X", and then what X may be.
_DEMAND = re.compile(
    r"Verdict: X\s+X is (?:one of: (?P<labels>[^\n]+?)\.?\s*\Z"
    r"|a (?P<whole>whole )?number from (?P<low>-?[\d.]+)[^\n]*? to (?P<high>-?[\d.]+))"
)
_PART = r"<{0}>\s*(.*?)\s*</{0}>"
_REFERENCE, _ANSWER, _A, _B = (
    re.compile(_PART.format(tag), re.DOTALL)
    for tag in ("reference_answer", "answer", "answer_A", "answer_B")
)


def judge_answer(question: str, draws: RandomDraws) -> str | None:
    """Return the answer of a judge; None if the prompt does not ask for a verdict."""
    demand = _DEMAND.search(question)
    if demand is None:
        return None
    material = question[: demand.start()]
    if demand["labels"] is not None:
        labels = [label.strip() for label in demand["labels"].split(",")]
        verdict = _label(labels, material, draws)
    else:
        verdict = _number(demand, draws)
    return f"{MARK} {describe(find_topics(material), draws)}\nVerdict: {verdict}"


def _label(labels: list[str], material: str, draws: RandomDraws) -> str:
    reference, answer = _REFERENCE.search(material), _ANSWER.search(material)
    if reference is not None and answer is not None:
        is_in = reference[1].casefold() in answer[1].casefold()
        return labels[0] if is_in else labels[-1 - draws.below(max(1, len(labels) - 1))]
    one, other = _A.search(material), _B.search(material)
    if one is not None and other is not None and {"A", "B", "tie"} <= set(labels):
        if one[1] == other[1]:
            return "tie"
        return "A" if _rank(one[1]) > _rank(other[1]) else "B"
    return draws.pick(labels)


def _rank(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _number(demand: re.Match[str], draws: RandomDraws) -> str:
    low, high = float(demand["low"]), float(demand["high"].rstrip("."))
    if demand["whole"]:
        return str(math.ceil(low) + draws.below(max(1, math.floor(high) - math.ceil(low) + 1)))
    return f"{low + (high - low) * draws.share():.2f}"
