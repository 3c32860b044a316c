"""What follows from a failed attempt: the decision table, and how long to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import ProviderFault
from batchrun.retry import (
    BASE_DELAY_S,
    MAX_DELAY_S,
    OVERLOADED_BASE_DELAY_S,
    Cause,
    RetryDecision,
    classify,
    delay,
)


def fault(
    status: int | None,
    error_type: str = "x",
    retry_after_s: float | None = None,
    *,
    should_retry: bool | None = None,
) -> ProviderFault:
    return ProviderFault(
        error_type,
        "message",
        status,
        retry_after_s=retry_after_s,
        should_retry=should_retry,
    )


@pytest.mark.parametrize(
    ("status", "error_type", "cause"),
    [
        (400, "invalid_request_error", Cause.NO),
        (413, "request_too_large", Cause.NO),
        (422, "invalid_request_error", Cause.NO),
        (401, "authentication_error", Cause.FATAL),
        (403, "permission_error", Cause.FATAL),
        (402, "billing_error", Cause.FATAL),
        (404, "not_found_error", Cause.FATAL),
        (408, "timeout_error", Cause.TRANSIENT),
        (409, "conflict_error", Cause.TRANSIENT),
        (429, "rate_limit_error", Cause.RATE_LIMIT),
        (429, "enforced_spend_limit_reached", Cause.FATAL),
        (429, "contract_spend_limit_reached", Cause.FATAL),
        (500, "api_error", Cause.TRANSIENT),
        (502, "api_error", Cause.TRANSIENT),
        (503, "api_error", Cause.TRANSIENT),
        (504, "timeout_error", Cause.TRANSIENT),
        (529, "overloaded_error", Cause.RATE_LIMIT),
    ],
)
def test_the_messages_format(status: int, error_type: str, cause: Cause) -> None:
    assert classify(fault(status, error_type)).cause is cause


@pytest.mark.parametrize(
    ("status", "error_type", "cause"),
    [
        (429, "insufficient_quota", Cause.FATAL),
        (429, "credit_balance_exhausted", Cause.FATAL),
        (429, "organization_spend_limit_exceeded", Cause.FATAL),
        (429, "project_spend_limit_exceeded", Cause.FATAL),
        (429, "organization_usage_limit_exceeded", Cause.FATAL),
        (429, "billing_hard_limit_reached", Cause.FATAL),
        (400, "billing_hard_limit_reached", Cause.FATAL),
        (429, "rate_limit_exceeded", Cause.RATE_LIMIT),
        (429, "slow_down", Cause.RATE_LIMIT),
        (429, "http_429", Cause.RATE_LIMIT),
        (400, "context_length_exceeded", Cause.NO),
        (422, "http_422", Cause.NO),
        (401, "invalid_api_key", Cause.FATAL),
        (403, "http_403", Cause.FATAL),
        (404, "model_not_found", Cause.FATAL),
        # a gateway's own words
        (400, "token_mismatched", Cause.NO),
        (400, "api_not_implemented", Cause.NO),
        (401, "invalid_token", Cause.FATAL),
        (429, "too_many_requests", Cause.RATE_LIMIT),
        (500, "api_error", Cause.TRANSIENT),
    ],
)
def test_the_chat_format(status: int, error_type: str, cause: Cause) -> None:
    assert classify(fault(status, error_type)).cause is cause


@pytest.mark.parametrize(
    ("status", "error_type", "cause"),
    [
        (None, "connection_error", Cause.TRANSIENT),
        (None, "timeout", Cause.TRANSIENT),
        (200, "invalid_response", Cause.TRANSIENT),
        (200, "invalid_token", Cause.FATAL),
        (200, "authentication_error", Cause.FATAL),
        (200, "invalid_request_error", Cause.NO),
        (200, "too_many_requests", Cause.RATE_LIMIT),
        (599, "http_599", Cause.TRANSIENT),
        (418, "http_418", Cause.NO),
        (307, "redirect", Cause.NO),
        (204, "http_204", Cause.NO),
    ],
)
def test_what_no_table_lists(status: int | None, error_type: str, cause: Cause) -> None:
    assert classify(fault(status, error_type)).cause is cause


@pytest.mark.parametrize(
    ("status", "should_retry", "cause"),
    [
        (400, True, Cause.TRANSIENT),
        (400, False, Cause.NO),
        (500, True, Cause.TRANSIENT),
        (500, False, Cause.NO),
        (200, False, Cause.NO),
        (None, False, Cause.NO),
        # too fast stays too fast, and a wrong key stays wrong, whatever a gateway says
        (429, True, Cause.RATE_LIMIT),
        (429, False, Cause.RATE_LIMIT),
        (529, False, Cause.RATE_LIMIT),
        (401, True, Cause.FATAL),
        (401, False, Cause.FATAL),
    ],
)
def test_the_provider_can_say_whether_to_retry(
    status: int | None, should_retry: bool, cause: Cause
) -> None:
    assert classify(fault(status, should_retry=should_retry)).cause is cause


@pytest.mark.parametrize("status", [408, 429, 500, 529])
def test_the_providers_delay_is_handed_on(status: int) -> None:
    assert classify(fault(status, retry_after_s=17.0)).delay_s == 17.0
    assert classify(fault(status)).delay_s is None


def test_an_overloaded_provider_is_given_more_time() -> None:
    assert classify(fault(529)).base_delay_s == OVERLOADED_BASE_DELAY_S > BASE_DELAY_S
    assert classify(fault(429)).base_delay_s == BASE_DELAY_S


def test_the_bound_doubles_up_to_a_minute() -> None:
    decision = RetryDecision(Cause.TRANSIENT)
    bounds = [delay(decision, failures, lambda: 1.0) for failures in range(1, 10)]
    assert bounds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_the_jitter_is_full() -> None:
    decision = RetryDecision(Cause.TRANSIENT)
    assert delay(decision, 4, lambda: 0.0) == 0.0
    assert delay(decision, 4, lambda: 0.25) == 1.0


def test_thousands_of_failures_do_not_overflow() -> None:
    assert delay(RetryDecision(Cause.RATE_LIMIT), 10**6, lambda: 1.0) == MAX_DELAY_S


@pytest.mark.parametrize(
    ("asked", "jitter", "seconds"),
    [
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 1.1),
        (5.0, 0.5, 5.25),
        (100.0, 0.0, 100.0),
        (100.0, 1.0, 101.0),
        (3600.0, 1.0, 3601.0),
    ],
)
def test_the_provider_is_obeyed_whatever_the_number_of_failures(
    asked: float, jitter: float, seconds: float
) -> None:
    decision = RetryDecision(Cause.RATE_LIMIT, asked)
    for failures in (1, 5, 50):
        assert delay(decision, failures, lambda: jitter) == pytest.approx(seconds)


@pytest.mark.parametrize("asked", [0.0, 0.001, 0.4])
def test_a_provider_that_asks_for_nearly_nothing_is_not_asked_in_a_busy_loop(asked: float) -> None:
    decision = RetryDecision(Cause.RATE_LIMIT, asked)
    waited = sum(delay(decision, failures, lambda: 0.5) for failures in range(1, 31))
    assert waited > 600.0
    assert delay(decision, 1, lambda: 0.0) == asked


@given(
    asked=st.none() | st.floats(0, 86_400),
    failures=st.integers(1, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
    base=st.sampled_from([BASE_DELAY_S, OVERLOADED_BASE_DELAY_S]),
)
def test_delays_stay_in_their_bounds(
    asked: float | None, failures: int, jitter: float, base: float
) -> None:
    seconds = delay(RetryDecision(Cause.TRANSIENT, asked, base), failures, lambda: jitter)
    if asked is None:
        assert 0 <= seconds <= min(MAX_DELAY_S, base * 2.0 ** min(failures - 1, 20))
    else:
        assert asked <= seconds <= max(asked + 1.0, MAX_DELAY_S)
