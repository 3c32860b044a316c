"""The prices of one job: its own, or those of the price list for its provider."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from batchrun.pricing.price_list import (
    BATCH_TIER,
    IN_BATCHES,
    PriceList,
    Tier,
    conditions_of,
    rates_for,
)
from batchrun.pricing.rates import FROM_JOB, cost_of, rates_of_job
from batchrun.pricing.totals import PriceUse
from batchrun.records import MOST_COST, Billing, Cost, CostSource, changed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.job import Job
    from batchrun.pricing.price_list import Conditions, Entry
    from batchrun.pricing.rates import Rates
    from batchrun.records import Usage

# A server may return a new model name with each answer: prices are kept for this many.
MOST_MODELS = 100
MOST_KNOWN = 1_000
# Some prices change with the hour of the day: they are looked up again after this time.
PERIOD_S = 1_800
STATED = "stated by the provider"
# Keys of extra_body: the provider searches and charges for that, but does not report how often.
FEE_KEYS = frozenset({"web_search_options", "search_parameters", "plugins"})
_NOTHING = Billing()


@dataclass(slots=True)
class _ModelPrice:
    """The price of a model under conditions: an entry of the list, or a price of the job."""

    entry: Entry | None
    conditions: Conditions
    tiers: Sequence[Tier] = ()
    until: float = 0.0

    def now(self) -> Sequence[Tier]:
        """Return the rates of this minute."""
        now = time.time()
        if now >= self.until and self.entry is not None:
            self.tiers = self.entry.at(datetime.fromtimestamp(now, UTC), self.conditions)
            self.until = now // 60 * 60 + 60
        return self.tiers


class PriceBook:
    """Computes the costs of usage.

    Args:
        provider: the price list's id, or any other name; None looks it up by `base_url`.
        base_url: the address. A server that is not in the price list has no prices.
        at: the time whose prices to use; None for the time of each request.
        fixed: rates of every model, in place of the price list.
        by_model: rates of single models; they take precedence.
        adds_fees: requests may cost more than their tokens, for example for searches. Then the price list
            is used only for answers that say how many searches there were.
    """

    def __init__(
        self,
        provider: str | None = None,
        base_url: str | None = None,
        *,
        at: datetime | None = None,
        fixed: Rates | None = None,
        by_model: Mapping[str, Rates] | None = None,
        adds_fees: bool = False,
    ) -> None:
        self.provider = provider
        self._list = PriceList(provider, base_url)
        self._at = at
        self._fixed = fixed
        self._by_model = by_model or {}
        self._adds_fees = adds_fees
        self._found: dict[tuple[object, ...], _ModelPrice] = {}
        self._bounds: dict[tuple[str, str | None], tuple[float, tuple[Sequence[Tier], ...]]] = {}

    @property
    def knows_provider(self) -> bool:
        """Whether the price list has the provider."""
        return self._list.is_known

    def cost(
        self,
        usage: Usage,
        *models: str | None,
        billing: Billing | None = None,
        at: datetime | None = None,
    ) -> Cost | None:
        """Return the cost of an exchange; None if a price or the tokens are unknown.

        Args:
            usage: the tokens, in inclusive counts.
            models: names to look up, in this order: the model that answered, the requested one.
            billing: what the answer says about its price.
            at: the time of the exchange; None is now.
        """
        if billing is not None and billing.stated_cost is not None:
            stated = min(billing.stated_cost, MOST_COST)
            return Cost(0, 0, 0, 0, other=stated, source=CostSource.STATED)
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        tiers, source = self._tiers(models, billing, at)
        rates = rates_for(tiers, usage.input_tokens)
        if rates is None:
            return None
        searches = 0 if billing is None else billing.web_search_requests or 0
        cost = cost_of(usage, rates, searches=searches, source=source)
        if cost is None or billing is None or billing.service_tier != BATCH_TIER:
            return cost
        standard, _ = self._tiers(models, _outside_of_batches(billing), at)
        live_rates = rates_for(standard, usage.input_tokens)
        live = None if live_rates is None else cost_of(usage, live_rates, searches=searches)
        return cost if live is None else changed(cost, batch_saved=max(0, live.total - cost.total))

    def highest(
        self, input_tokens: int, output_tokens: int, model: str, service_tier: str | None = None
    ) -> int | None:
        """Return the highest possible cost of tokens, in pico-dollars; None when unknown.

        A request for a tier may be served by the standard one as well, except in a batch (`batch`).
        """
        now = time.time()
        until, every = self._bounds.get((model, service_tier), (0.0, ()))
        if now >= until:
            if len(self._bounds) >= MOST_KNOWN:
                self._bounds.clear()
            until, every = now // 60 * 60 + 60, self._possible(model, service_tier)
            self._bounds[model, service_tier] = until, every
        found = [rates_for(tiers, input_tokens) for tiers in every]
        known = [rates.highest(input_tokens, output_tokens) for rates in found if rates is not None]
        return max(known) if len(known) == len(found) else None

    def _possible(self, model: str, service_tier: str | None) -> tuple[Sequence[Tier], ...]:
        """Return the rates that may apply to a request that is sent now."""
        asked = [] if service_tier is None else [Billing(service_tier)]
        every = asked if service_tier == BATCH_TIER else [None, *asked]
        found = [
            self._tiers((model,), billing, moment)[0]
            for billing in every
            for moment in self._moments(model)
        ]
        return tuple(tiers for n, tiers in enumerate(found) if tiers not in found[:n])

    def _moments(self, model: str) -> Sequence[datetime | None]:
        """Return the times at which a request to a model may be priced."""
        if self._own((model,)) is not None:
            return [None]
        entry = self._list.entry((model,))
        return [None] if entry is None else entry.moments(self._moment(None))

    def rates(
        self,
        input_tokens: int,
        *models: str | None,
        billing: Billing | None = None,
        at: datetime | None = None,
    ) -> Rates | None:
        """Return the rates of the first model that has a price."""
        return rates_for(self._tiers(models, billing, at)[0], input_tokens)

    def used(
        self, *models: str | None, billing: Billing | None = None, at: datetime | None = None
    ) -> PriceUse:
        """Return the price that the cost of an answer is computed with; `models` as for `cost`."""
        moment = self._moment(at)
        as_of_us = round(moment.timestamp() * 1_000_000)
        model = next((name for name in models if name), "")
        words = ", ".join(value for _, value in conditions_of(billing))
        if billing is not None and billing.stated_cost is not None:
            return PriceUse(model, STATED, as_of_us, conditions=words)
        rates_by_size, source = self._tiers(models, billing, at)
        rates = rates_for(rates_by_size, 1)
        name = FROM_JOB if source is CostSource.JOB else _list_version()
        if rates is None:
            return PriceUse(model, name, as_of_us, conditions=words)
        entry = None if source is CostSource.JOB else self._list.entry(_named(models))
        tiers = () if entry is None else entry.tiers(moment, conditions_of(billing))
        return PriceUse(
            model,
            name,
            as_of_us,
            rates.matched,
            rates.usd(),
            tuple((start, tier.usd()) for start, tier in tiers),
            conditions=words,
        )

    def _tiers(
        self, models: Sequence[str | None], billing: Billing | None, at: datetime | None
    ) -> tuple[Sequence[Tier], CostSource]:
        """Return the rates by the size of a request, and their source; no rates: unknown."""
        said = billing or _NOTHING
        key = (models, said.service_tier, said.speed, said.inference_geo)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._look_up(_named(models), conditions_of(billing))
        if found.entry is None:
            return found.tiers, CostSource.JOB if found.tiers else CostSource.PRICE_LIST
        if self._adds_fees and said.web_search_requests is None:
            return (), CostSource.PRICE_LIST
        if at is None and self._at is None:
            return found.now(), CostSource.PRICE_LIST
        return found.entry.at(self._moment(at), found.conditions), CostSource.PRICE_LIST

    def _look_up(self, names: tuple[str, ...], conditions: Conditions) -> _ModelPrice:
        if len(self._found) >= MOST_KNOWN:  # a server may send new names and tiers with each answer
            self._found.clear()
        own = self._own(names)
        if own is not None:
            own = own.in_batches if IN_BATCHES in conditions else own
            return _ModelPrice(None, conditions, (Tier(-1, own),))
        return _ModelPrice(self._list.entry(names), conditions)

    def _own(self, names: tuple[str, ...]) -> Rates | None:
        """Return the rates of the job for the first of these models that it has rates for."""
        return next((self._by_model[name] for name in names if name in self._by_model), self._fixed)

    def _moment(self, at: datetime | None) -> datetime:
        return at or self._at or datetime.now(UTC)


class NewPrices:
    """Returns each price when it is first used, so that it is stored once.

    Args:
        book: the prices.
    """

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._known: dict[tuple[object, ...], tuple[int, PriceUse]] = {}

    def of(
        self, usage: Usage, *models: str | None, billing: Billing, at: datetime
    ) -> PriceUse | None:
        """Return the price of an answer; None when it was returned before.

        Args:
            usage: its tokens.
            models: the model that answered, and the requested one.
            billing: what it says about its price.
            at: when it arrived.
        """
        is_stated = billing.stated_cost is not None
        if not models[0] or (usage.input_tokens is None and not is_stated):
            return None
        key = (models[0], billing.service_tier, billing.speed, billing.inference_geo, is_stated)
        period, known = int(at.timestamp() // PERIOD_S), self._known.get(key)
        if (known is None and len(self._known) >= MOST_MODELS) or (known and known[0] == period):
            return None
        price = self._book.used(*models, billing=billing, at=at)
        self._known[key] = period, price
        is_new = known is None or (price.matched, price.rates) != (known[1].matched, known[1].rates)
        return price if is_new else None


def _outside_of_batches(billing: Billing) -> Billing:
    """Return what a live answer would have said about its price."""
    searches = billing.web_search_requests
    if billing.speed is None and billing.inference_geo is None and searches is None:
        return _NOTHING
    return changed(billing, service_tier=None)


@cache
def _list_version() -> str:
    return f"genai-prices {version('genai-prices')}"


def _named(models: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(name for name in models if name)


def price_book(job: Job, provider: str | None = None, base_url: str | None = None) -> PriceBook:
    """Return the prices of a job: its own, or those of the price list.

    Args:
        job: the job.
        provider: replaces the provider of the job.
        base_url: replaces the address of the job.
    """
    if provider is None and base_url is None:
        provider = job.request.provider
    return PriceBook(
        provider,
        base_url or job.request.base_url,
        fixed=None if job.price is None else rates_of_job(**asdict(job.price)),
        by_model={name: rates_of_job(**asdict(each)) for name, each in job.model_prices.items()},
        adds_fees=bool(FEE_KEYS & job.request.extra_body.keys()),
    )
