"""How long to wait after a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.limits.retry_delays import (
    BASE_DELAY_S,
    MAX_DELAY_S,
    OVERLOADED_BASE_DELAY_S,
    Cause,
    RetryDecision,
    delay,
)


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
    # The first time it is taken at its word.
    assert asked <= delay(decision, 1, lambda: 0.999) <= 1.1 * asked


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
