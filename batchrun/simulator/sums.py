"""Problems whose result is asked for behind `####`: the simulator guesses, and is right at times."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.simulator.dice import Dice

RESULT_MARK = "####"
_MOST_NUMBERS = 6
_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?:,\d{3})*(?:\.\d{1,6})?(?!\w)")


def guess(problem: str, dice: Dice) -> str:
    """Return what may be the result of a problem: a sum, a product or the like of its numbers."""
    found = [float(text.replace(",", "")) for text in _NUMBER.findall(problem)[:_MOST_NUMBERS]]
    first, second, *_ = [*found, 1.0, 1.0]
    guesses = (sum(found), first - second, first * second, first / (second or 1.0))
    return f"{dice.pick(guesses):.10g}"
