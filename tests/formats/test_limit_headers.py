"""What both vendors' limit headers say, also when they say nonsense."""

from __future__ import annotations

import pytest

from batchrun.formats import limit_state
from batchrun.records import Allowance, LimitState

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def anthropic(name: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    prefix = f"anthropic-ratelimit-{name}"
    return {
        f"{prefix}-limit": limit,
        f"{prefix}-remaining": remaining,
        f"{prefix}-reset": reset,
    }


def chat(name: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": limit,
        f"x-ratelimit-remaining-{name}": remaining,
        f"x-ratelimit-reset-{name}": reset,
    }


def test_input_and_output_tokens_are_not_swapped() -> None:
    headers = {
        **anthropic("requests", "50", "49", "2023-11-14T22:13:22Z"),
        **anthropic("tokens", "48000", "47000", "2023-11-14T22:13:21Z"),
        **anthropic("input-tokens", "40000", "39000", "2023-11-14T22:13:25+00:00"),
        **anthropic("output-tokens", "8000", "8000", "2023-11-14T22:13:20Z"),
    }
    assert limit_state(headers, NOW) == LimitState(
        requests=Allowance(50, 49, 2.0),
        tokens=Allowance(48_000, 47_000, 1.0),
        input_tokens=Allowance(40_000, 39_000, 5.0),
        output_tokens=Allowance(8_000, 8_000, 0.0),
    )


def test_a_time_is_measured_from_the_servers_own_clock() -> None:
    headers = anthropic("requests", "50", "49", "2023-11-14T22:13:30Z")
    headers["date"] = "Tue, 14 Nov 2023 22:13:26 GMT"
    assert limit_state(headers, NOW + 9_999) == LimitState(requests=Allowance(50, 49, 4.0))


@pytest.mark.parametrize("limit", ["0.5", "0.99", "0", "-1"])
def test_a_limit_that_lets_not_even_one_request_through_is_not_believed(limit: str) -> None:
    assert limit_state(chat("requests", limit, "0", "1s"), NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("1m30s", 90.0),
        ("6m0s", 360.0),
        ("1.5s", 1.5),
        ("2h1m0.5s", 7_260.5),
        ("1d", 86_400.0),
        ("7", 7.0),
        ("soon", None),
        ("1x2s", None),
        ("-3", None),
        ("", None),
    ],
)
def test_durations_of_the_chat_format(text: str, seconds: float | None) -> None:
    state = limit_state(chat("tokens", "100", "90", text))
    assert state is not None
    assert state.tokens is not None
    assert state.tokens.reset_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [("-1", "-1"), ("0", "0"), ("x", "1"), ("5", ""), ("nan", "1"), ("inf", "1"), ("5", "-1")],
)
def test_what_is_no_limit_counts_as_not_said(limit: str, remaining: str) -> None:
    assert limit_state(chat("requests", limit, remaining, "1s")) is None
    both = chat("requests", limit, remaining, "1s") | chat("tokens", "9", "12", "1s")
    assert limit_state(both) == LimitState(tokens=Allowance(9, 9, 1.0))


def test_without_limit_headers_nothing_is_said() -> None:
    assert limit_state({"date": "x", "retry-after": "5"}) is None


@pytest.mark.parametrize("reset", ["", "tomorrow", "2023-11-14T22:13:30", "9999999"])
def test_a_reset_that_cannot_be_read_leaves_the_rest(reset: str) -> None:
    state = limit_state(anthropic("requests", "50", "49", reset), NOW)
    assert state == LimitState(requests=Allowance(50, 49, None))
