"""What tokens cost: `Usage` and a model's name → `Cost`, exact to a millionth of a micro-dollar.

Prices are genai-prices' offline list. An unknown model has an unknown price, never 0. Rates are
looked up once per model: genai-prices takes 0.3 ms for a full calculation.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot

from batchrun.history import PriceUse
from batchrun.records import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.records import Usage

_PICO_PER_TOKEN = 10**6  # of a rate in USD per million tokens: 1e12 / 1e6
FROM_JOB = "[price] of the job file"
# A server may answer with ever new names; so many are told apart.
MOST_MODELS = 100
_THINKING = "-thinking"
_ALIKE = 0.8  # how alike a misspelt name is to the one that was meant, by difflib's ratio
_PROVIDERS = (("claude", "anthropic"), ("gpt-", "openai"), ("o1", "openai"), ("o3", "openai"))


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in pico-dollars per token, and the model in the price list that they belong to."""

    matched: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int


def rates_of_job(
    *,
    input: float,  # noqa: A002 - the job file's word
    output: float,
    cache_read: float | None = None,
    cache_write: float | None = None,
    cache_write_1h: float | None = None,
) -> Rates:
    """Return the rates that a job file gives, in USD per million tokens, exactly as written."""
    base, write = _pico(input), _pico(input if cache_write is None else cache_write)
    return Rates(
        matched=FROM_JOB,
        input=base,
        output=_pico(output),
        cache_read=base if cache_read is None else _pico(cache_read),
        cache_write=write,
        cache_write_1h=write if cache_write_1h is None else _pico(cache_write_1h),
    )


def _pico(price: float) -> int:
    return int(Decimal(str(price)) * _PICO_PER_TOKEN)


class PriceBook:
    """Looks up prices as of one moment.

    Args:
        at: when the requests are made; prices change over time. Default: now.
        fixed: rates of every model, in place of the price list.
    """

    def __init__(self, at: datetime | None = None, *, fixed: Rates | None = None) -> None:
        self._fixed = fixed
        self._at = at or datetime.now(UTC)
        self._known: dict[str, _ListPrice | None] = {}
        self._asked: dict[str | None, tuple[str | None, ...]] = {}

    def cost(self, usage: Usage, *models: str | None) -> Cost | None:
        """Return what an exchange cost, None when the price or the tokens are unknown.

        Args:
            usage: the tokens, in inclusive counts.
            models: names to look up in turn: as answered, as asked for.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        if models and models[0] not in self._asked and len(self._asked) < MOST_MODELS:
            self._asked[models[0]] = models
        rates = self.rates(usage.input_tokens, *models)
        return None if rates is None else _cost(usage, rates)

    def highest(self, input_tokens: int, output_tokens: int, model: str) -> int | None:
        """Return the most that so many tokens can cost, in pico-dollars; None when unknown."""
        rates = self.rates(input_tokens, model)
        if rates is None:
            return None
        dearest = max(rates.input, rates.cache_read, rates.cache_write, rates.cache_write_1h)
        return input_tokens * dearest + output_tokens * rates.output

    def rates(self, input_tokens: int, *models: str | None) -> Rates | None:
        """Return the rates of the first model that the price list knows."""
        if self._fixed is not None:
            return self._fixed
        for model in models:
            if model and (price := self._list_price(model)) is not None:
                return price.rates(input_tokens)
        return None

    def used(self, model: str) -> PriceUse:
        """Return which price the costs of a model, as it answered, are counted by."""
        source = FROM_JOB if self._fixed is not None else f"genai-prices {version('genai-prices')}"
        moment = round(self._at.timestamp() * 1_000_000)
        names = self._asked.get(model, (model,))
        rates = self.rates(1, *names)
        if rates is None:
            return PriceUse(model, source, moment)
        tiers = tuple((start, _numbers(tier)) for start, tier in self._tiers(names))
        return PriceUse(model, source, moment, rates.matched, _numbers(rates), tiers)

    def _tiers(self, names: Sequence[str | None]) -> Sequence[tuple[int, Rates]]:
        found = (self._list_price(name) for name in names if name and self._fixed is None)
        return next((price.tiers() for price in found if price is not None), ())

    def _list_price(self, model: str) -> _ListPrice | None:
        if model not in self._known:
            self._known[model] = _look_up(model, self._at)
        return self._known[model]


def _numbers(rates: Rates) -> dict[str, int]:
    numbers = asdict(rates)
    del numbers["matched"]
    return numbers


def _cost(usage: Usage, rates: Rates) -> Cost:
    total, output = usage.input_tokens or 0, usage.output_tokens or 0
    read = min(usage.cache_read_tokens or 0, total)
    write = min(usage.cache_write_tokens or 0, total - read)
    write_1h = min(usage.cache_write_1h_tokens or 0, write)
    return Cost(
        uncached_input=(total - read - write) * rates.input,
        cache_read=read * rates.cache_read,
        cache_write=(write - write_1h) * rates.cache_write + write_1h * rates.cache_write_1h,
        output=output * rates.output,
        cache_saved=read * (rates.input - rates.cache_read),
    )


class _ListPrice:
    """A model's entry in the price list; long prompts may have a dearer tier."""

    def __init__(self, matched: str, price: object) -> None:
        self._matched = matched
        self._price = price
        tiers = getattr(getattr(price, "input_mtok", None), "tiers", ())
        self._starts = tuple(tier.start for tier in tiers)
        self._by_tier: dict[int, Rates | None] = {}

    def rates(self, input_tokens: int) -> Rates | None:
        tier = sum(input_tokens > start for start in self._starts)
        if tier not in self._by_tier:
            self._by_tier[tier] = self._read(input_tokens)
        return self._by_tier[tier]

    def tiers(self) -> list[tuple[int, Rates]]:
        """Return the rates of long prompts, by how many tokens these exceed."""
        found = ((start, self.rates(start + 1)) for start in self._starts)
        return [(start, rates) for start, rates in found if rates is not None]

    def _read(self, input_tokens: int) -> Rates | None:
        base, output = (
            self._rate("input_mtok", input_tokens),
            self._rate("output_mtok", input_tokens),
        )
        if base is None or output is None:
            return None
        write = _first(self._rate("cache_write_mtok", input_tokens), base)
        return Rates(
            matched=self._matched,
            input=base,
            output=output,
            cache_read=_first(self._rate("cache_read_mtok", input_tokens), base),
            cache_write=write,
            cache_write_1h=_first(self._rate("cache_write_1h_mtok", input_tokens), write),
        )

    def _rate(self, name: str, input_tokens: int) -> int | None:
        value = getattr(self._price, name, None)
        if value is None:
            return None
        if not isinstance(value, Decimal):  # crossing into a tier sets the price of all tokens
            reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
            value = reached[-1] if reached else value.base
        return int(value * _PICO_PER_TOKEN)


def _look_up(model: str, at: datetime) -> _ListPrice | None:
    # Gateways turn thinking on by a suffix; the price is the model's own.
    for name in dict.fromkeys((model, model.removesuffix(_THINKING))):
        provider = next((owner for prefix, owner in _PROVIDERS if name.startswith(prefix)), None)
        try:
            found = calc_price(
                PricedUsage(input_tokens=1, output_tokens=1),
                name,
                provider_id=provider,
                genai_request_timestamp=at,
            )
        except LookupError:
            continue
        return _ListPrice(f"{found.provider.id}/{found.model.id}", found.model_price)
    return None


def _first(value: int | None, default: int) -> int:
    return default if value is None else value


def near_model(model: str) -> str | None:
    """Return the name in the price list that an unknown one was probably meant to be, if any."""
    names = {known.id for provider in get_snapshot().providers for known in provider.models}
    undated = model.rstrip("0123456789").rstrip("-")
    for name in (model, undated):
        if close := difflib.get_close_matches(name, sorted(names), n=1, cutoff=_ALIKE):
            return close[0]
    return None
