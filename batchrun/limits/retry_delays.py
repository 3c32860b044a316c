"""How long to wait after a failed attempt before the next one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


# The bound of the first delay. It doubles with each failure; an overloaded server gets more time at once.
BASE_DELAY_S = 0.5
OVERLOADED_BASE_DELAY_S = 2.0
MAX_DELAY_S = 60.0


class Cause(StrEnum):
    """Why an attempt failed, as far as the next step depends on it."""

    NO = "no"  # the request itself is wrong: sending it again cannot help
    TRANSIENT = "transient"  # network or server trouble: send it again, a limited number of times
    RATE_LIMIT = "rate_limit"  # too fast or overloaded: wait, for a limited time
    INVALID = "invalid_answer"  # it arrived and is not what was asked for: ask again
    UNDECIDED = "undecided"  # refused before anything was answered: whose fault it is will show
    UNSUPPORTED = "unsupported_parameter"  # send it again without the parameter, at once
    FATAL = "fatal"  # no request of this run can succeed: stop


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What follows from a failed attempt.

    `delay_s` is the delay that the provider asked for. If it is None, the delay grows from
    `base_delay_s` with each failure.
    """

    cause: Cause
    delay_s: float | None = None
    base_delay_s: float = BASE_DELAY_S


def delay(decision: RetryDecision, failures: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait before the next attempt.

    Full jitter: uniform between 0 and an exponentially growing bound, so that clients that failed
    together do not return together. The delay that the provider asked for is a lower bound; up to a tenth
    (at most a second) is added for the same reason. A delay shorter than the base delay is obeyed only
    once: some servers always send 0, so from the second failure on the growing delay applies as well.

    Args:
        decision: the decision about the last failure.
        failures: number of failures of this request, from 1.
        random: returns a number in [0, 1).
    """
    bound = min(MAX_DELAY_S, decision.base_delay_s * 2.0 ** min(failures - 1, 30))
    if decision.delay_s is None:
        return random() * bound
    asked_s = with_jitter(decision.delay_s, random)
    is_obeyed = failures == 1 or decision.delay_s >= decision.base_delay_s
    return asked_s if is_obeyed else max(asked_s, random() * bound)


def with_jitter(delay_s: float, random: Callable[[], float]) -> float:
    """Return a delay that the provider asked for, plus up to a tenth of it and at most a second."""
    return delay_s + random() * min(1.0, 0.1 * delay_s)
