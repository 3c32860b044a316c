"""What a failed attempt means: one pure decision table, no clock and no I/O.

The table follows the error references of both APIs. A status that is not listed is judged by its
class: 5xx may pass, 4xx will not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.errors import ProviderFault

BASE_DELAY_S = 0.5
OVERLOADED_BASE_DELAY_S = 2.0
MAX_DELAY_S = 60.0


class Cause(StrEnum):
    """Why an attempt failed, as far as the next step depends on it."""

    NO = "no"  # the request itself is wrong: sending it again cannot help
    TRANSIENT = "transient"  # network or server trouble: send it again, a limited number of times
    RATE_LIMIT = "rate_limit"  # too fast or overloaded: wait, for a limited time
    INVALID = "invalid_answer"  # it arrived and is not what was asked for: ask again
    FATAL = "fatal"  # no request of this run can succeed: stop


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What follows from a failed attempt.

    `delay_s` is the provider's own wish and None when it expressed none; then the delay grows from
    `base_delay_s` with each try.
    """

    cause: Cause
    delay_s: float | None = None
    base_delay_s: float = BASE_DELAY_S


_FATAL_STATUSES = frozenset({401, 402, 403, 404})
_TRANSIENT_STATUSES = frozenset({408, 409})
_OVERLOADED = 529

# Errors under status 200, in a stream or instead of an answer, are judged by their type.
_SLOW_DOWN_TYPES = frozenset(
    {
        "overloaded_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "slow_down",
        "too_many_requests",
    }
)
_REFUSED_TYPES = frozenset(
    {"authentication_error", "invalid_api_key", "invalid_token", "permission_error"}
)
_WRONG_TYPES = frozenset({"invalid_request_error", "request_too_large"})

# Under status 429 (and 400 at some gateways) these say that money, not time, is missing.
_EXHAUSTED_TYPES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_error",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)


def classify(fault: ProviderFault) -> RetryDecision:
    """Judge a failed attempt by status, error type and the provider's explicit wishes."""
    if _is_fatal(fault):
        return RetryDecision(Cause.FATAL)
    if fault.http_status == 429:
        return RetryDecision(Cause.RATE_LIMIT, fault.retry_after_s)
    if fault.http_status == _OVERLOADED or _says(fault, _SLOW_DOWN_TYPES):
        return RetryDecision(Cause.RATE_LIMIT, fault.retry_after_s, OVERLOADED_BASE_DELAY_S)
    if fault.should_retry is False or _says(fault, _WRONG_TYPES):
        return RetryDecision(Cause.NO)
    if fault.should_retry or _may_pass(fault.http_status):
        return RetryDecision(Cause.TRANSIENT, fault.retry_after_s)
    return RetryDecision(Cause.NO)


def _is_fatal(fault: ProviderFault) -> bool:
    is_refused = fault.http_status in _FATAL_STATUSES or _says(fault, _REFUSED_TYPES)
    return is_refused or fault.error_type in _EXHAUSTED_TYPES


def _says(fault: ProviderFault, error_types: frozenset[str]) -> bool:
    """Whether an answer that had begun with 200 turned out to be such an error."""
    return fault.http_status == 200 and fault.error_type in error_types


def _may_pass(status: int | None) -> bool:
    # No status, or a 200 whose body was no completion: the exchange broke, the request did not.
    return status is None or status == 200 or status >= 500 or status in _TRANSIENT_STATUSES


def delay(decision: RetryDecision, failures: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait before the next attempt.

    Full jitter: uniform between 0 and an exponentially growing bound, so that clients that failed
    together do not come back together. What the provider asked for is a lower bound, with up to a
    tenth (at most a second) on top for the same reason. A wish shorter than the base delay (some
    servers send 0 for ever) is no licence for a busy loop: there, the growing delay applies, too.

    Args:
        decision: of the last failure.
        failures: how often this request has failed, from 1.
        random: returns a number in [0, 1).
    """
    bound = min(MAX_DELAY_S, decision.base_delay_s * 2.0 ** min(failures - 1, 30))
    if decision.delay_s is None:
        return random() * bound
    told = told_delay(decision.delay_s, random)
    return told if decision.delay_s >= decision.base_delay_s else max(told, random() * bound)


def told_delay(delay_s: float, random: Callable[[], float]) -> float:
    """Return what the provider asked for and up to a tenth, at most a second, on top."""
    return delay_s + random() * min(1.0, 0.1 * delay_s)
