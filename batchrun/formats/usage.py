"""Token counts and other facts about the price of an answer, in the dialects of both formats.

They become the inclusive counts of `Usage`. A missing count is None, never 0. The dialects are from
public API references and bug reports (DeepSeek, Moonshot, Kimi, Groq, xAI, Gemini, LiteLLM,
OpenRouter, Perplexity and gateways that serve Claude).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchrun.formats.parsing import as_count, as_dict, text_or_none
from batchrun.records import PICO_PER_USD, Billing, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

# A larger number is not the price of one answer.
_MOST_USD = 10**6
_XAI_TICKS_PER_USD = 10**10
# Decimal also reads "nan", "inf", "1_000", digits of other scripts and very large exponents.
_DECIMAL = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,40}")
_GATEWAY_WRITES = ("claude_cache_creation_5_m_tokens", "claude_cache_creation_1_h_tokens")
# Names that most servers of the chat format do not use. Without any of them there is less to look for.
_RARE_COUNTS = frozenset(
    {
        *("input_tokens", "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
        *("cache_creation", "cache_creation_input_tokens", *_GATEWAY_WRITES),
    }
)
_CACHE_WRITES = frozenset(
    {
        *("cache_creation", "cache_creation_token_details", "cache_write_tokens"),
        *("cache_creation_tokens", "cache_creation_input_tokens"),
    }
)
_RARE_FACTS = frozenset(
    {
        *("service_tier", "speed", "inference_geo", "server_tool_use", "num_search_queries"),
        *("cost", "cost_in_usd_ticks"),
    }
)


_NOTHING = Billing()


def messages_usage(usage: object) -> Usage:
    """Convert exclusive token counts to inclusive ones.

    In this format, `input_tokens` does not include tokens read from or written to the cache.
    """
    counts = as_dict(usage)
    if "input_tokens" not in counts and "prompt_tokens" in counts:
        return chat_usage(counts)  # a gateway that uses the chat format's names
    read = as_count(counts.get("cache_read_input_tokens"))
    write = as_count(counts.get("cache_creation_input_tokens"))
    uncached = as_count(counts.get("input_tokens"))
    details = as_dict(counts.get("output_tokens_details"))
    write_5m, write_1h = _writes(as_dict(counts.get("cache_creation")))
    if write is None:
        write = _sum(write_5m, write_1h)
    return Usage(
        input_tokens=None if uncached is None else uncached + (read or 0) + (write or 0),
        output_tokens=as_count(counts.get("output_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        reasoning_tokens=_first(details.get("thinking_tokens"), details.get("reasoning_tokens")),
    )


def chat_usage(usage: object) -> Usage:
    """Read token counts; in this format, `prompt_tokens` includes tokens read from the cache."""
    counts = as_dict(usage)
    prompt, completion = _prompt_details(counts), _completion_details(counts)
    if "prompt_tokens" not in counts and _is_exclusive(counts):
        return messages_usage(counts)
    total_input, write, write_1h = as_count(counts.get("prompt_tokens")), None, None
    if _RARE_COUNTS.isdisjoint(counts) and _CACHE_WRITES.isdisjoint(prompt):
        read = as_count(prompt.get("cached_tokens"))
    else:
        read, (write, write_1h) = _cache_read(counts, prompt), _cache_write(counts, prompt)
        total_input = _first(total_input, counts.get("input_tokens"))
    if total_input is not None and (read or 0) + (write or 0) > total_input:
        # Parts cannot exceed the total: this server does not count the cache in the prompt.
        total_input += (read or 0) + (write or 0)
    return Usage(
        input_tokens=total_input,
        output_tokens=_output(counts, total_input),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        reasoning_tokens=_first(completion.get("reasoning_tokens"), counts.get("reasoning_tokens")),
        audio_input_tokens=as_count(prompt.get("audio_tokens")),
        audio_cache_read_tokens=as_count(
            as_dict(prompt.get("cached_tokens_details")).get("audio_tokens")
        ),
        audio_output_tokens=as_count(completion.get("audio_tokens")),
    )


def chat_counts(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage object of an answer or of a chunk: its own, Groq's, or a choice's (Kimi)."""
    if found := as_dict(payload.get("usage")):
        return found
    if found := as_dict(as_dict(payload.get("x_groq")).get("usage")):
        return found
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if found := as_dict(as_dict(choice).get("usage")):
            return found
    return {}


def billing(payload: Mapping[str, Any], counts: Mapping[str, Any]) -> Billing:
    """Read what determines the price apart from the tokens, or the price itself.

    Args:
        payload: the body of an answer.
        counts: the usage object in it.
    """
    tier = text_or_none(payload.get("service_tier"))
    if _RARE_FACTS.isdisjoint(counts):
        return Billing(service_tier=tier) if tier else _NOTHING
    server_tools = as_dict(counts.get("server_tool_use"))
    return Billing(
        service_tier=tier or text_or_none(counts.get("service_tier")),
        speed=text_or_none(counts.get("speed")),
        inference_geo=text_or_none(counts.get("inference_geo")),
        web_search_requests=_first(
            server_tools.get("web_search_requests"), counts.get("num_search_queries")
        ),
        stated_cost=_stated_cost(counts),
    )


def updated(counts: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Update counts with later ones of a stream, which replace them field by field.

    Some servers start with zeros; others send the input once and 0 afterwards.
    """
    for name, value in later.items():
        is_input = "input" in name or "prompt" in name
        if value is not None and not (is_input and value == 0 and counts.get(name)):
            counts[name] = value


def _output(counts: Mapping[str, Any], total_input: int | None) -> int | None:
    """Return all output tokens, including reasoning that only the total counts.

    Source: the usage of xAI and of Gemini's compatible endpoint.
    """
    output = _first(counts.get("completion_tokens"), counts.get("output_tokens"))
    total = as_count(counts.get("total_tokens"))
    if total is None or total_input is None or total < total_input:
        return output
    return max(output or 0, total - total_input)


def _cache_read(counts: Mapping[str, Any], prompt: Mapping[str, Any]) -> int | None:
    return _most(
        prompt.get("cached_tokens"),
        counts.get("cached_tokens"),  # Moonshot
        counts.get("prompt_cache_hit_tokens"),  # DeepSeek
        counts.get("cache_read_input_tokens"),  # LiteLLM
    )


def _cache_write(
    counts: Mapping[str, Any], prompt: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Return the tokens written to the cache, and those of them written for one hour."""
    write_5m, write_1h = (as_count(counts.get(name)) for name in _GATEWAY_WRITES)
    for details in (
        counts.get("cache_creation"),
        prompt.get("cache_creation"),
        prompt.get("cache_creation_token_details"),
    ):
        if details is not None:
            shorter, longer = _writes(as_dict(details))
            write_5m, write_1h = _most(write_5m, shorter), _most(write_1h, longer)
    write = _most(
        prompt.get("cache_write_tokens"),
        prompt.get("cache_creation_tokens"),
        prompt.get("cache_creation_input_tokens"),
        counts.get("cache_creation_input_tokens"),
        _sum(write_5m, write_1h),
    )
    return write, write_1h


def _prompt_details(counts: Mapping[str, Any]) -> dict[str, Any]:
    return as_dict(counts.get("prompt_tokens_details")) or as_dict(
        counts.get("input_tokens_details")
    )


def _completion_details(counts: Mapping[str, Any]) -> dict[str, Any]:
    return as_dict(counts.get("completion_tokens_details")) or as_dict(
        counts.get("output_tokens_details")
    )


def _is_exclusive(counts: Mapping[str, Any]) -> bool:
    """Whether these are counts of the messages format, whose input excludes the cache."""
    names = ("cache_read_input_tokens", "cache_creation_input_tokens")
    return "input_tokens" in counts and any(name in counts for name in names)


def _writes(details: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return (
        as_count(details.get("ephemeral_5m_input_tokens")),
        as_count(details.get("ephemeral_1h_input_tokens")),
    )


def _stated_cost(counts: Mapping[str, Any]) -> int | None:
    """Return the cost that the provider states, in pico-dollars.

    OpenRouter: `cost`, plus the upstream's cost if users bring their own key. Perplexity:
    `cost.total_cost`. xAI: `cost_in_usd_ticks`; 10 billion ticks are a dollar.
    """
    cost = counts.get("cost")
    usd = _amount(as_dict(cost).get("total_cost")) if isinstance(cost, dict) else _amount(cost)
    if usd is not None and counts.get("is_byok") is True:
        usd += _amount(as_dict(counts.get("cost_details")).get("upstream_inference_cost")) or 0
    if usd is None and (ticks := as_count(counts.get("cost_in_usd_ticks"))) is not None:
        usd = Decimal(ticks) / _XAI_TICKS_PER_USD
    return None if usd is None else round(usd * PICO_PER_USD)


def _amount(value: object) -> Decimal | None:
    """Return an amount of money, which some gateways send as text; None for anything else.

    A number is read from its decimal text, so that 0.1 is exactly a tenth.
    """
    is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
    text = str(value).strip() if is_number else ""
    if not _DECIMAL.fullmatch(text):
        return None
    amount = Decimal(text)
    return amount if 0 <= amount <= _MOST_USD else None


def _first(*values: object) -> int | None:
    for value in values:
        if value is not None and (count := as_count(value)) is not None:
            return count
    return None


def _most(*values: object) -> int | None:
    """Return the largest count, because servers send 0 in fields that they do not use."""
    most: int | None = None
    for value in values:
        if value is not None and (count := as_count(value)) is not None:
            most = count if most is None else max(most, count)
    return most


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
