"""Costs, calculated by hand from the vendors' price lists, to the pico-dollar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.pricing import PriceBook, rates_of_job
from batchrun.records import PICO_PER_USD, Cost, CostSource, Usage

BOOK = PriceBook("anthropic", at=datetime(2025, 12, 1, tzinfo=UTC))
# One kind of token each: 1,000 uncached, 20,000 read, 300 written for 5 minutes, 40 for an hour.
MIXED = Usage(
    input_tokens=21_340,
    output_tokens=500,
    cache_read_tokens=20_000,
    cache_write_tokens=340,
    cache_write_1h_tokens=40,
    reasoning_tokens=400,
)
HAIKU = "claude-haiku-4-5-20251001"


def usd(cost: Cost | None) -> float:
    assert cost is not None
    return cost.total / PICO_PER_USD


@pytest.mark.parametrize(
    ("model", "input_price", "output_price"),
    [
        (HAIKU, 1, 5),
        ("claude-sonnet-4-20250514", 3, 15),
        ("claude-sonnet-4-20250514-thinking", 3, 15),
        ("claude-sonnet-4-5-20250929", 3, 15),
        ("claude-sonnet-4-5-20250929-thinking", 3, 15),
        ("claude-opus-4-20250514", 15, 75),
        ("claude-opus-4-20250514-thinking", 15, 75),
        ("claude-opus-4-1-20250805", 15, 75),
        ("claude-opus-4-1-20250805-thinking", 15, 75),
        ("claude-opus-4-5-20251101", 5, 25),
    ],
)
def test_prices_per_million_tokens(model: str, input_price: int, output_price: int) -> None:
    # Below 200,000 tokens of input, beyond which some models are dearer.
    assert usd(BOOK.cost(Usage(100_000, 0), model)) == input_price / 10
    assert usd(BOOK.cost(Usage(0, 1_000_000), model)) == output_price
    # Reading the cache costs a tenth of the input, writing it 1.25 or, for an hour, 2 times.
    assert usd(BOOK.cost(Usage(100_000, 0, 100_000), model)) == pytest.approx(input_price / 100)
    assert usd(BOOK.cost(Usage(100_000, 0, 0, 100_000), model)) == input_price / 8
    assert usd(BOOK.cost(Usage(100_000, 0, 0, 100_000, 100_000), model)) == input_price / 5


def test_a_cost_by_its_parts() -> None:
    assert BOOK.cost(MIXED, HAIKU) == Cost(
        uncached_input=1_000 * 1_000_000,
        cache_read=20_000 * 100_000,
        cache_write=300 * 1_250_000 + 40 * 2_000_000,
        output=500 * 5_000_000,
        cache_saved=20_000 * 900_000,
    )
    # 0.001 + 0.002 + 0.000375 + 0.00008 + 0.0025
    assert usd(BOOK.cost(MIXED, HAIKU)) == 0.005955


def test_a_single_token_is_not_rounded_away() -> None:
    cost = BOOK.cost(Usage(1, 0, 1), HAIKU)
    assert cost is not None
    assert cost.total == 100_000


def test_reasoning_is_paid_as_a_part_of_the_output() -> None:
    with_reasoning = BOOK.cost(Usage(10, 500, reasoning_tokens=400), HAIKU)
    assert with_reasoning == BOOK.cost(Usage(10, 500), HAIKU)


@pytest.mark.parametrize(
    "usage",
    [Usage(), Usage(10, None), Usage(None, 10), Usage(None, None, 5, 5)],
    ids=["nothing", "no-output", "no-input", "cache-only"],
)
def test_unknown_tokens_have_an_unknown_cost(usage: Usage) -> None:
    assert BOOK.cost(usage, HAIKU) is None


@pytest.mark.parametrize(
    "model", ["my-finetune", "claude-nonsense-9", "gpt-99", "default", "", "é\0", "x" * 10_000]
)
def test_an_unknown_model_has_an_unknown_price_never_zero(model: str) -> None:
    assert BOOK.cost(Usage(10, 10), model) is None


def test_without_a_model_there_is_no_price() -> None:
    assert BOOK.cost(Usage(10, 10)) is None
    assert BOOK.cost(Usage(10, 10), None, None) is None


def test_no_tokens_of_a_known_model_cost_nothing() -> None:
    assert BOOK.cost(Usage(0, 0), HAIKU) == Cost(0, 0, 0, 0)


def test_the_answered_model_comes_first_and_the_asked_one_stands_in() -> None:
    tokens = Usage(1_000_000, 0)
    assert usd(BOOK.cost(tokens, "claude-opus-4-5-20251101", HAIKU)) == 5.0
    assert usd(BOOK.cost(tokens, "gateway-alias", HAIKU)) == 1.0
    assert usd(BOOK.cost(tokens, None, HAIKU)) == 1.0
    assert BOOK.cost(tokens, "gateway-alias", "other-alias") is None


@pytest.mark.parametrize(
    ("model", "matched"),
    [
        (HAIKU, "anthropic/claude-haiku-4-5"),
        ("claude-opus-4-1-20250805-thinking", "anthropic/claude-opus-4-1"),
    ],
)
def test_the_matched_entry_of_the_price_list_is_told(model: str, matched: str) -> None:
    rates = BOOK.rates(1, model)
    assert rates is not None
    assert rates.matched == matched


@pytest.mark.parametrize(
    ("input_tokens", "dollars"),
    [(200_000, 0.6 + 0.015), (200_001, 1.200006 + 0.0225)],
    ids=["at-200k", "above-200k"],
)
def test_a_long_prompt_is_paid_at_the_dearer_tier_as_a_whole(
    input_tokens: int, dollars: float
) -> None:
    book = PriceBook("anthropic", at=datetime(2025, 12, 1, tzinfo=UTC))
    cost = book.cost(Usage(input_tokens, 1_000), "claude-sonnet-4-5-20250929")
    assert usd(cost) == pytest.approx(dollars, rel=1e-12)


def test_the_tier_is_told_by_all_input_cached_included() -> None:
    cost = BOOK.cost(Usage(200_001, 0, 200_001), "claude-sonnet-4-5-20250929")
    assert usd(cost) == pytest.approx(200_001 * 0.6e-6, rel=1e-12)


def test_a_model_with_one_tier_stays_at_its_price() -> None:
    assert usd(BOOK.cost(Usage(900_000, 0), HAIKU)) == pytest.approx(0.9)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(10, 0, cache_read_tokens=50),
        Usage(10, 0, cache_read_tokens=8, cache_write_tokens=8),
        Usage(10, 0, cache_write_tokens=2, cache_write_1h_tokens=9),
    ],
    ids=["more-read", "read-and-written", "more-for-an-hour"],
)
def test_cache_counts_that_contradict_the_total_never_make_a_negative_cost(usage: Usage) -> None:
    cost = BOOK.cost(usage, HAIKU)
    assert cost is not None
    assert min(cost.uncached_input, cost.cache_read, cost.cache_write, cost.cache_saved) >= 0
    assert cost.total <= 10 * 2_000_000


_COUNTS = st.none() | st.integers(0, 10**12 - 1)


@settings(max_examples=60)
@given(st.builds(Usage, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS))
def test_every_cost_is_whole_and_not_negative(usage: Usage) -> None:
    cost = BOOK.cost(usage, "claude-sonnet-4-5-20250929")
    if usage.input_tokens is None or usage.output_tokens is None:
        assert cost is None
        return
    assert cost is not None
    parts = (cost.uncached_input, cost.cache_read, cost.cache_write, cost.output)
    assert [type(part) for part in parts] == [int] * 4
    assert min(parts) >= 0
    assert cost.total == sum(parts)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30) | st.text(max_size=20).map(lambda tail: "claude-" + tail))
def test_any_name_has_a_price_or_none(model: str) -> None:
    cost = BOOK.cost(Usage(1_000_000, 1_000_000), model)
    assert cost is None or cost.total > 0


def test_prices_of_the_job_file_take_the_place_of_the_list_to_the_pico_dollar() -> None:
    fixed = rates_of_job(
        input=0.07, output=0.29, cache_read=0.007, cache_write=0.0875, cache_write_1h=0.14
    )
    assert PriceBook(fixed=fixed).cost(MIXED, HAIKU) == Cost(
        source=CostSource.JOB,
        uncached_input=1_000 * 70_000,
        cache_read=20_000 * 7_000,
        cache_write=300 * 87_500 + 40 * 140_000,
        output=500 * 290_000,
        cache_saved=20_000 * 63_000,
    )
    assert PriceBook(fixed=fixed).cost(Usage(1, 0), "my-finetune") == Cost(
        70_000, 0, 0, 0, source=CostSource.JOB
    )


def test_a_cache_without_a_price_of_its_own_costs_as_the_input() -> None:
    rates = rates_of_job(input=2, output=0)
    assert (rates.cache_read, rates.cache_write, rates.cache_write_1h) == (2 * 10**12,) * 3
    assert rates.output == 0
