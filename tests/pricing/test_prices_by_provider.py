"""Costs by provider, model and what an answer says of its tier: 55 of them, calculated by hand.

Rates are those that genai-prices 0.2.3 publishes for 28 November 2026, noon UTC, in USD per million
tokens; each row has those that it was calculated with. Groq's flex tier:
https://console.groq.com/docs/flex-processing. Inference in the US, times 1.1:
https://platform.claude.com/docs/en/manage-claude/data-residency.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot

from batchrun.pricing import BATCH_TIER, PriceBook, near_model, near_provider, rates_of_job
from batchrun.pricing.price_list import PriceList
from batchrun.records import PICO_PER_USD, Billing, CostSource, Usage

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)

ANTHROPIC, OPENAI = "https://api.anthropic.com", "https://api.openai.com"
OPENROUTER = "https://openrouter.ai/api"
GROQ, TOGETHER = "https://api.groq.com/openai", "https://api.together.xyz"
NOVITA, CEREBRAS = "https://api.novita.ai/openai", "https://api.cerebras.ai"
FIREWORKS = "https://api.fireworks.ai/inference"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/openai"
VERTEX = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/openapi"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
AZURE = "https://house.openai.azure.com"

PLAIN = Usage(1_000_000, 100_000)
CACHED = Usage(1_000_000, 100_000, cache_read_tokens=400_000)
# 1,000 uncached, 20,000 read, 300 written for five minutes, 40 for an hour.
MIXED = Usage(21_340, 500, 20_000, 340, 40)
SHORT = Usage(10_000, 2_000)
AUDIO = Usage(10_000, 1_000, audio_input_tokens=4_000)
SPOKEN = Usage(10_000, 1_000, audio_input_tokens=8_000, audio_output_tokens=900)


def tier(name: str) -> Billing:
    return Billing(service_tier=name)


# who answers · model · what the answer says · tokens · USD, None for unknown
PAIRS: list[tuple[str, str, Billing | None, Usage, str | None]] = [
    # 1 in, 5 out, 0.1 read, 1.25 written, 2 for an hour; searches 10 per thousand
    (ANTHROPIC, "claude-haiku-4-5-20251001", tier("standard"), PLAIN, "1.5"),
    (ANTHROPIC, "claude-haiku-4-5-20251001", None, MIXED, "0.005955"),
    (
        ANTHROPIC,
        "claude-haiku-4-5-20251001",
        Billing(web_search_requests=3),
        Usage(1_000, 100),
        "0.0315",
    ),
    # 0.5 in, 2.5 out, 0.05 read, 0.625 written, 1 for an hour
    (ANTHROPIC, "claude-haiku-4-5-20251001", tier("batch"), MIXED, "0.0029775"),
    # 3 in, 15 out; above 200,000 tokens of input 6 and 22.5; in batches 1.5, 7.5, 3, 11.25
    (ANTHROPIC, "claude-sonnet-4-5-20250929", None, Usage(200_000, 1_000), "0.615"),
    (ANTHROPIC, "claude-sonnet-4-5-20250929", None, Usage(200_001, 1_000), "1.222506"),
    (ANTHROPIC, "claude-sonnet-4-5-20250929", tier("batch"), Usage(200_001, 1_000), "0.611253"),
    # 5 in, 25 out; fast 10 in, 50 out, 1 read; in the US times 1.1
    (ANTHROPIC, "claude-opus-4-8", Billing(inference_geo="global"), SHORT, "0.1"),
    (ANTHROPIC, "claude-opus-4-8", Billing(speed="fast"), SHORT, "0.2"),
    (ANTHROPIC, "claude-opus-4-8", Billing(inference_geo="us"), SHORT, "0.11"),
    (
        ANTHROPIC,
        "claude-opus-4-8",
        Billing(speed="fast", inference_geo="us"),
        Usage(10_000, 2_000, 4_000),
        "0.1804",
    ),
    (ANTHROPIC, "claude-opus-4-8", Billing(inference_geo="mars"), SHORT, None),
    (ANTHROPIC, "claude-opus-4-8", tier("priority"), SHORT, None),  # by contract
    (ANTHROPIC, "claude-haiku-4-5", Billing(speed="fast"), SHORT, None),  # not offered
    # in batches 2 in, 10 out, 0.1 read
    (ANTHROPIC, "claude-opus-5-5", tier("batch"), Usage(10_000, 2_000, 4_000), "0.0324"),
    # 0.15 in, 0.6 out, 0.075 read; priority 0.25, 1, 0.125; in batches 0.075, 0.3, read as ever
    (OPENAI, "gpt-4o-mini", tier("default"), PLAIN, "0.21"),
    (OPENAI, "gpt-4o-mini-2024-07-18", tier("priority"), CACHED, "0.3"),
    (OPENAI, "gpt-4o-mini", tier("batch"), CACHED, "0.105"),
    (OPENAI, "gpt-4o-mini", tier("flex"), PLAIN, None),  # not offered
    # 0.25 in, 2 out, 0.025 read; flex 0.125, 1, 0.0125; priority 0.45, 3.6, 0.045
    (OPENAI, "gpt-5-mini", tier("default"), CACHED, "0.36"),
    (OPENAI, "gpt-5-mini", tier("flex"), CACHED, "0.18"),
    (OPENAI, "gpt-5-mini", tier("priority"), CACHED, "0.648"),
    (OPENAI, "gpt-5-mini", tier("scale"), CACHED, None),  # by contract
    # 2 in, 8 out; searches 10 per thousand
    (OPENAI, "gpt-4.1", Billing(web_search_requests=2), Usage(1_000, 100), "0.0228"),
    # 1.1 in, 4.4 out; 4,000 of the 5,000 were reasoning
    (OPENAI, "o3-mini", None, Usage(1_000, 5_000, reasoning_tokens=4_000), "0.0231"),
    # 2.5 in, 10 out; audio 32 in, 64 out
    (OPENAI, "gpt-audio", None, SPOKEN, "0.3196"),
    (OPENAI, "gpt-4o-audio-preview", None, SPOKEN, None),  # audio is not in the list
    (OPENAI, "gpt-4o-search-preview", None, PLAIN, None),  # nor are its searches
    (AZURE, "gpt-4o-mini", None, PLAIN, "0.21"),
    # as Anthropic's; no name of Anthropic's own, no suffix that adds fees
    (OPENROUTER, "anthropic/claude-haiku-4.5", None, PLAIN, "1.5"),
    (OPENROUTER, "anthropic/claude-4.5-haiku-20251001", None, CACHED, "1.14"),
    (OPENROUTER, "claude-haiku-4-5-20251001", None, PLAIN, None),
    (OPENROUTER, "anthropic/claude-haiku-4.5:online", None, PLAIN, None),
    (OPENROUTER, "openai/gpt-4o-mini", Billing(stated_cost=123 * 10**6), PLAIN, "0.000123"),
    # 0.59 in, 0.79 out
    (OPENROUTER, "meta-llama/llama-3.3-70b-instruct", None, PLAIN, "0.669"),
    # 0.3 in, 0.0833333333333333 written
    (OPENROUTER, "google/gemini-2.5-flash", None, Usage(1_000_000, 0, 0, 900_000), "0.105"),
    # 0.59 in, 0.79 out
    (GROQ, "llama-3.3-70b-versatile", tier("on_demand"), PLAIN, "0.669"),
    # 0.15 in, 0.6 out, 0.075 read; in batches 0.075, 0.3, 0.075
    (GROQ, "openai/gpt-oss-120b", tier("flex"), CACHED, "0.18"),
    (GROQ, "openai/gpt-oss-120b", tier("batch"), CACHED, "0.105"),
    (GROQ, "openai/gpt-oss-120b", tier("performance"), CACHED, None),  # by contract
    # 0.88 and 0.88; 0.135 and 0.4; 0.35 and 0.75; 0.15 and 0.6
    (TOGETHER, "meta-llama/Llama-3.3-70B-Instruct-Turbo", None, PLAIN, "0.968"),
    (NOVITA, "meta-llama/llama-3.3-70b-instruct", None, PLAIN, "0.175"),
    (CEREBRAS, "gpt-oss-120b", None, PLAIN, "0.425"),
    (FIREWORKS, "accounts/fireworks/models/gpt-oss-120b", None, PLAIN, "0.21"),
    # regional 1.1 in, 5.5 out, 0.11 read, 1.375 written, 2.2 for an hour; global as Anthropic's
    (BEDROCK, "us.anthropic.claude-haiku-4-5-20251001-v1:0", None, MIXED, "0.0065505"),
    (BEDROCK, "global.anthropic.claude-haiku-4-5-20251001-v1:0", None, MIXED, "0.005955"),
    # 0.06 in, 0.24 out
    (BEDROCK, "amazon.nova-lite-v1:0", None, PLAIN, "0.084"),
    # 1 in, 5 out
    (VERTEX, "publishers/anthropic/models/claude-haiku-4-5@20251001", None, PLAIN, "1.5"),
    # 0.3 in, 1 for audio, 2.5 out
    (VERTEX, "google/gemini-2.5-flash", None, AUDIO, "0.0083"),
    # 1.25 in, audio as text, 10 out; above 200,000 tokens of input 2.5 and 15
    (GEMINI, "models/gemini-2.5-pro", None, AUDIO, "0.0225"),
    (GEMINI, "gemini-2.5-pro", None, Usage(300_000, 1_000), "0.765"),
    # 0.27 in, 1.1 out, 0.07 read, from 0:30 to 16:30 UTC
    ("https://api.deepseek.com", "deepseek-chat", None, CACHED, "0.3"),
    # 3 in, 15 out, 0.75 read
    ("https://api.x.ai", "grok-4", None, CACHED, "3.6"),
    # in batches 0.075 in, 0.3 out, 0.0075 read
    ("https://api.mistral.ai", "mistral-small-latest", tier("batch"), CACHED, "0.078"),
    # 1 in, 1 out, 12 per thousand requests
    ("https://api.perplexity.ai", "sonar", None, Usage(1_000, 500), "0.0135"),
]


@pytest.mark.parametrize(
    ("base_url", "model", "billing", "usage", "usd"),
    PAIRS,
    ids=[f"{n}-{pair[1].rsplit('/', 1)[-1]}" for n, pair in enumerate(PAIRS)],
)
def test_a_cost_is_what_the_provider_publishes(
    base_url: str, model: str, billing: Billing | None, usage: Usage, usd: str | None
) -> None:
    cost = PriceBook(None, base_url).cost(usage, model, model, billing=billing, at=NOON)
    found = None if cost is None else Decimal(cost.total) / PICO_PER_USD
    assert found == (None if usd is None else Decimal(usd))


def test_at_least_40_of_them() -> None:
    assert len(PAIRS) >= 40
    assert len({(pair[0], pair[1], str(pair[2])) for pair in PAIRS}) >= 40


def test_prices_change_with_the_hour() -> None:
    book = PriceBook("deepseek")
    night = book.cost(CACHED, "deepseek-chat", at=NOON + timedelta(hours=8))
    assert night is not None
    # 0.135 in, 0.55 out, 0.035 read
    assert Decimal(night.total) / PICO_PER_USD == Decimal("0.15")
    bound = PriceBook("deepseek", at=NOON + timedelta(hours=8)).highest(
        10**6, 10**5, "deepseek-chat"
    )
    assert bound is not None
    assert bound >= 38 * 10**10, "an answer may come at the dearer hour"


@pytest.mark.parametrize(
    ("provider", "model", "live", "batch"),
    [
        # the dearest input is written to the cache for an hour: 2 and 1; out 5 and 2.5
        ("anthropic", "claude-haiku-4-5-20251001", "2.5", "1.25"),
        # in 0.15 and 0.075; out 0.6 and 0.3; read from the cache 0.075 in both
        ("openai", "gpt-4o-mini", "0.21", "0.105"),
        # the price list has no discount for it
        ("openai", "gpt-3.5-turbo-1106", "1.2", "1.2"),
        ("groq", "openai/gpt-oss-120b", "0.21", "0.105"),
        # no price in batches: unknown, not half and not 0
        ("azure", "gpt-4o-mini", "0.21", None),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "0.968", None),
    ],
)
def test_a_batch_is_bounded_by_its_own_price(
    provider: str, model: str, live: str, batch: str | None
) -> None:
    book = PriceBook(provider)
    bounds = [book.highest(10**6, 10**5, model, tier) for tier in (None, BATCH_TIER)]
    assert [usd(bound) for bound in bounds] == [usd_text(live), usd_text(batch)]


def usd(bound: int | None) -> Decimal | None:
    return None if bound is None else Decimal(bound) / PICO_PER_USD


def usd_text(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000",
        "http://localhost:8000/v1",
        "https://gateway.example",
        "https://api.anthropic.com.gateway.example",
        "https://gateway.example/api.googleapis.com",
        "https://api.anthropic.com:8443",
        "http://api.anthropic.com",
    ],
)
def test_a_server_that_the_list_does_not_know_never_has_the_prices_of_a_cloud(
    base_url: str,
) -> None:
    book = PriceBook(None, base_url)
    assert not book.knows_provider
    for model in ("claude-haiku-4-5-20251001", "gpt-4o-mini", "gemini-2.5-flash"):
        assert book.cost(PLAIN, model) is None
        assert near_model(model, None, base_url) is None


def test_a_named_provider_has_its_prices_wherever_it_is_reached() -> None:
    cost = PriceBook("openrouter", "http://127.0.0.1:8000").cost(PLAIN, "openai/gpt-4o-mini")
    assert cost is not None
    assert cost.total == 21 * 10**10
    assert PriceBook("a name of our own", OPENAI).cost(PLAIN, "gpt-4o-mini") is None
    assert PriceBook("openai-compatible", OPENAI).cost(PLAIN, "gpt-4o-mini") is None
    assert near_provider("bedrock") == "aws"
    assert near_provider("aws") is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-haiku-4-5-turbo"),
        ("anthropic", "claude-sonnet-4-55"),
        ("anthropic", "claude-opus-4-9"),
        ("anthropic", "not-claude-2"),
        ("aws", "anthropic.claude-haiku-4-5-fast-v1:0"),
        ("google", "gemini-2.5-pro-exp-image"),
        ("openrouter", "anthropic/claude-opus-4.9"),
        ("openai", "gpt-5-mini-high"),
    ],
)
def test_a_name_that_begins_like_another_is_not_that_model(provider: str, model: str) -> None:
    assert PriceBook(provider).rates(1, model) is None


def test_every_name_of_the_list_is_found_under_its_own_provider() -> None:
    """What tells neighbours apart must not reject what the list says itself."""
    missed = [
        f"{provider.id}: {model.id}"
        for provider in get_snapshot().providers
        for model in provider.models
        if provider.find_model(model.id) is model and not _is_found(provider.id, model.id)
    ]
    assert missed == []


def _is_found(provider: str, model: str) -> bool:
    entry = PriceList(provider, None).entry((model,))
    return entry is not None and entry.matched == f"{provider}/{model}"


def test_what_matched_is_recorded_with_its_conditions() -> None:
    book = PriceBook(None, OPENAI, at=NOON)
    used = book.used("gpt-5-mini-2025-08-07", "gpt-5-mini", billing=tier("flex"))
    assert (used.model, used.matched, used.conditions) == (
        "gpt-5-mini-2025-08-07",
        "openai/gpt-5-mini",
        "flex",
    )
    assert used.rates is not None
    assert (used.rates["input"], used.rates["output"]) == (0.125, 1)
    stated = book.used("gpt-5-mini", billing=Billing(stated_cost=5))
    assert (stated.source, stated.rates) == ("stated by the provider", None)


def test_bedrock_and_suffixes_go_by_what_was_asked_for() -> None:
    asked = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    cost = PriceBook("aws").cost(MIXED, "claude-haiku-4-5-20251001", asked)
    assert cost is not None
    assert cost.total == 5_955 * 10**6
    online = PriceBook("openrouter").cost(PLAIN, "openai/gpt-4o-mini", "openai/gpt-4o-mini:online")
    assert online is None


def test_a_stated_cost_is_the_cost_whatever_the_list_and_the_job_say() -> None:
    stated = Billing(stated_cost=7 * 10**9)
    own = rates_of_job(input=1, output=1)
    for book in (PriceBook("openrouter"), PriceBook(None, "http://127.0.0.1:1", fixed=own)):
        for usage in (PLAIN, Usage()):
            cost = book.cost(usage, "m", billing=stated)
            assert cost is not None
            assert (cost.total, cost.other, cost.source) == (7 * 10**9,) * 2 + (CostSource.STATED,)


def test_prices_of_the_job_by_model_come_before_its_price_for_all_and_the_list() -> None:
    book = PriceBook(
        None,
        OPENAI,
        fixed=rates_of_job(input=2, output=2),
        by_model={"gpt-4o-mini": rates_of_job(input=9, output=0)},
    )
    million = Usage(1_000_000, 0)
    for models, usd in (
        (("gpt-4o-mini-2024-07-18", "gpt-4o-mini"), 9),
        (("gpt-4o-mini",), 9),
        (("another",), 2),
    ):
        cost = book.cost(million, *models, billing=tier("flex"))
        assert cost is not None
        assert (cost.total, cost.source) == (usd * PICO_PER_USD, CostSource.JOB)


@pytest.mark.parametrize(("share", "usd"), [(None, 10), (0.5, 5), (0.3, 3)])
def test_a_price_of_the_job_may_say_what_batches_cost(share: float | None, usd: int) -> None:
    book = PriceBook(fixed=rates_of_job(input=4, output=6, batch=share))
    million = Usage(1_000_000, 1_000_000)
    cost, live = book.cost(million, "m", billing=tier(BATCH_TIER)), book.cost(million, "m")
    assert cost is not None
    assert live is not None
    assert (cost.total, live.total) == (usd * PICO_PER_USD, 10 * PICO_PER_USD)
    assert cost.batch_saved == (10 - usd) * PICO_PER_USD
    assert book.highest(10**6, 10**6, "m", BATCH_TIER) == usd * PICO_PER_USD


def test_what_a_price_of_the_job_leaves_out_is_unknown() -> None:
    bare = PriceBook(fixed=rates_of_job(input=1, output=1))
    assert bare.cost(SPOKEN, "m") is None
    assert bare.cost(PLAIN, "m", billing=Billing(web_search_requests=1)) is None
    whole = PriceBook(
        fixed=rates_of_job(input=1, output=1, audio_input=2, audio_output=3, web_search=5)
    )
    cost = whole.cost(SPOKEN, "m", billing=Billing(web_search_requests=4))
    assert cost is not None
    # 2,000 × 1 + 8,000 × 2 + 100 × 1 + 900 × 3 millionths, and 4 × 5 thousandths.
    assert cost.total == (2_000 + 16_000 + 100 + 2_700) * 10**6 + 20 * 10**9
