"""genai-prices' offline list: the entry of a model at a provider, and its rates under conditions.

An entry is used only if the name means exactly that model: a name that only begins like another one has no
price, and neither has an unknown provider. Facts that the list lacks are here, with their source.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchrun.formats.providers import PRESETS, preset_at, price_list_id
from batchrun.pricing.rates import Rates, per_million, per_thousand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import genai_prices
    import genai_prices.data_snapshot
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider

    from batchrun.records import Billing

if not TYPE_CHECKING:
    import lazy_loader

    # Loading it takes longer than `batchrun status` may take as a whole.
    genai_prices = lazy_loader.load("genai_prices")

_THINKING = "-thinking"
_LITELLM = "litellm"
_ALIKE = 0.8  # of a misspelt name and the right one: difflib's ratio
# Vertex AI and the Gemini API name models by their path.
_PATHS = {
    "google": ("models/", "google/", "publishers/google/models/", "publishers/anthropic/models/")
}
# The tier of answers of batches. Claude names it so; batchrun does for the others.
BATCH_TIER = "batch"
_STANDARD = frozenset({"", "default", "standard", "standard_only", "on_demand", "auto"})
_EVERYWHERE = frozenset({"", "global", "not_available"})
# https://console.groq.com/docs/flex-processing: "Pricing matches the on-demand tier" (November 2026).
_AS_STANDARD = frozenset({("groq", "service_tier", "flex")})
# https://platform.claude.com/docs/en/manage-claude/data-residency: 1.1 times every token price for
# inference in the US (November 2026).
_GEO = "inference_geo"
_SURCHARGES = {("anthropic", _GEO, "us"): Fraction(11, 10)}
# https://ai.google.dev/gemini-api/docs/pricing: one price of input for text, images and audio, unless
# another one is given for audio (November 2026).
_AUDIO_AS_TEXT = "google/gemini"
# Output with its own price that answers do not count separately.
_UNCOUNTED = ("output_image_mtok", "output_video_mtok", "output_citation_mtok")
_UNCOUNTED_INPUT = ("input_image_mtok", "input_video_mtok")
# Parts around the name of a model that do not make it another model: a date, a version, a region, a
# vendor.
_TAIL = re.compile(r"(?:[-@:._]?(?:v?\d[\d.]*k?|latest|preview|beta|exp|stable|instruct))*\Z")
_DATE_LENGTH = 8

Conditions = tuple[tuple[str, str], ...]
IN_BATCHES = ("processing", "batch")


def conditions_of(billing: Billing | None) -> Conditions:
    """Return the conditions that may change the price of an answer, in the terms of genai-prices."""
    if billing is None:
        return ()
    found: list[tuple[str, str]] = []
    tier = (billing.service_tier or "").strip().lower()
    if tier == BATCH_TIER:
        found.append(IN_BATCHES)
    elif tier not in _STANDARD:
        found.append(("service_tier", tier))
    if (speed := (billing.speed or "").strip().lower()) not in _STANDARD:
        found.append(("speed", speed))
    if (geo := (billing.inference_geo or "").strip().lower()) not in _EVERYWHERE:
        found.append((_GEO, geo))
    return tuple(found)


class PriceList:
    """The entries of one provider.

    Args:
        provider: genai-prices' id, or any other name; None looks it up by the address.
        base_url: the address. One that is not in the list has no prices.
    """

    def __init__(self, provider: str | None, base_url: str | None) -> None:
        self._name = provider
        self._base_url = base_url
        self._known: dict[tuple[str, ...], Entry | None] = {}

    @cached_property
    def _provider(self) -> Provider | None:
        """The provider in the list, which is loaded when a price is first looked up."""
        return _provider(self._name, self._base_url)

    @property
    def is_known(self) -> bool:
        """Whether the list has this provider."""
        return self._provider is not None or self._name == _LITELLM

    def entry(self, models: Sequence[str]) -> Entry | None:
        """Return the entry of the first model that the list has."""
        key = tuple(models)
        if key not in self._known:
            self._known[key] = self._look_up(models)
        return self._known[key]

    def _look_up(self, models: Sequence[str]) -> Entry | None:
        provider = None if self._provider is None else self._provider.id
        if provider == "aws":  # only the requested name contains the region
            models = models[::-1]
        if provider == "openrouter":
            # Answers may leave out a suffix: `:free` has its price, `:online` adds unknown fees.
            suffixed = [name for name in models if ":" in name]
            models = suffixed or models
        found = (self._of_model(name) for name in models)
        return next((entry for entry in found if entry is not None), None)

    def _of_model(self, model: str) -> Entry | None:
        provider = self._provider
        if self._name == _LITELLM:
            owner, slash, model = model.partition("/")
            provider = _by_id(owner) if slash else None
        return None if provider is None else _entry(provider, model)


def _provider(name: str | None, base_url: str | None) -> Provider | None:
    if name is not None:
        return _by_id(price_list_id(name))
    return None if base_url is None else _by_address(base_url)


def _by_id(name: str) -> Provider | None:
    return next(
        (each for each in genai_prices.data_snapshot.get_snapshot().providers if each.id == name),
        None,
    )


def _by_address(base_url: str) -> Provider | None:
    """Return the provider whose addresses begin like this one, if the host is its own."""
    parts = urlsplit(base_url)
    if parts.scheme != "https" or parts.port not in {None, 443}:
        return None
    host = f"https://{parts.hostname}"
    address = host + parts.path
    try:
        provider = genai_prices.data_snapshot.get_snapshot().find_provider(None, None, address)
    except LookupError:
        preset = preset_at(parts.hostname or "")
        return None if preset is None else _by_id(price_list_id(preset.id))
    alone = re.match(provider.api_pattern, host)
    if alone is not None:
        # `https://api.openai.com.example` is somebody else.
        return provider if alone.end() == len(host) else None
    # A pattern with a path, whose host cannot lie in the path of another.
    return None if ".*" in provider.api_pattern else provider


def _entry(provider: Provider, model: str) -> Entry | None:
    makers = [_by_id(name) for name in provider.fallback_model_providers or ()]
    owners = [provider, *(maker for maker in makers if maker is not None)]
    for owner in owners:
        for name in (each for one in _names(provider.id, model) for each in _spellings(one)):
            for found in owner.models:
                if _means(found.match, name):
                    # What a maker asks under conditions says nothing about another provider.
                    return Entry(provider.id, found, has_conditions=owner is provider)
    return None


def _names(provider: str, model: str) -> Iterator[str]:
    """Yield the names under which the list may have a model."""
    yield model
    # Gateways turn thinking on by a suffix; the price is the model's own.
    short = model.removesuffix(_THINKING)
    yield short
    for path in (f"{provider}/", *_PATHS.get(provider, ())):
        if short.startswith(path):
            yield short.removeprefix(path)


def _spellings(name: str) -> Iterator[str]:
    name = name.lower()
    yield name
    yield re.sub(r"-(20\d{2})(\d{2})(\d{2})(?=-|:|$)", r"-\1-\2-\3", name)


def _means(clause: Any, name: str) -> bool:  # noqa: ANN401 - genai-prices' clauses
    """Return whether a clause that a name satisfies means exactly that model, not a similar one."""
    if not clause.is_match(name):
        return False
    if isinstance(clause, genai_prices.types.ClauseOr):
        return any(_means(each, name) for each in clause.or_)
    if isinstance(clause, genai_prices.types.ClauseAnd):
        return all(_means(each, name) for each in clause.and_)
    if isinstance(clause, genai_prices.types.ClauseStartsWith):
        word, start = clause.starts_with.lower(), 0
    elif isinstance(clause, genai_prices.types.ClauseEndsWith):
        word, start = clause.ends_with.lower(), len(name) - len(clause.ends_with)
    elif isinstance(clause, genai_prices.types.ClauseContains):
        word, start = clause.contains.lower(), name.index(clause.contains.lower())
    else:
        return True
    if word.startswith("ft:"):  # what follows is the customer's own name
        return True
    before, after = name[:start], name[start + len(word) :]
    return (not before or not before[-1].isalnum()) and _is_tail(word, after)


def _is_tail(word: str, after: str) -> bool:
    if _TAIL.match(after) is None:
        return False
    if word[-1:].isdigit() and after[:1].isdigit():  # only within a date
        digits = re.search(r"\d+\Z", word)
        rest = re.match(r"\d+", after)
        return bool(digits and rest) and len(digits[0] + rest[0]) == _DATE_LENGTH  # type: ignore[index]
    return True


@dataclass(frozen=True, slots=True)
class Tier:
    """The rates of requests with more than `above` input tokens; None if the rates are unknown."""

    above: int
    rates: Rates | None


def rates_for(tiers: Sequence[Tier], input_tokens: int) -> Rates | None:
    """Return the rates of a request with this number of input tokens."""
    for tier in reversed(tiers):
        if input_tokens > tier.above:
            return tier.rates
    return None


class Entry:
    """A model's entry in the price list; long prompts may have a more expensive tier.

    Args:
        provider: the id of the provider.
        model: the entry, which may be that of the model's vendor.
        has_conditions: whether prices under conditions are this provider's own.
    """

    def __init__(self, provider: str, model: ModelInfo, *, has_conditions: bool) -> None:
        self.matched = f"{provider}/{model.id}"
        self._provider = provider
        self._model = model
        self._variants = (model.price_variants or []) if has_conditions else []
        self._is_dated = isinstance(model.prices, list) or any(
            variant.constraint is not None for variant in self._variants
        )
        self._tiers: dict[tuple[Conditions, datetime | None], list[Tier]] = {}

    def rates(
        self, input_tokens: int, moment: datetime, conditions: Conditions = ()
    ) -> Rates | None:
        """Return the rates of a request with this number of input tokens; None if they are unknown."""
        return rates_for(self.at(moment, conditions), input_tokens)

    def moments(self, moment: datetime) -> Sequence[datetime | None]:
        """Return the times at which a request that is sent now may be priced: prices change over time.

        None stands for the present time at each use.
        """
        if not self._is_dated:
            return [None]
        constraints = [each.constraint for each in _listed(self._model)]
        constraints += [each.constraint for each in self._variants]
        windows = [
            datetime.combine(moment, each.start_time)
            for each in constraints
            if isinstance(each, genai_prices.types.TimeOfDateConstraint)
        ]
        return [moment, moment + timedelta(days=1), *windows]

    def tiers(self, moment: datetime, conditions: Conditions = ()) -> list[tuple[int, Rates]]:
        """Return the rates of long prompts, by the number of tokens that they exceed."""
        later = self.at(moment, conditions)[1:]
        return [(tier.above, tier.rates) for tier in later if tier.rates is not None]

    def at(self, moment: datetime, conditions: Conditions) -> list[Tier]:
        """Return the rates at a moment, in ascending order of prompt length; empty if unknown."""
        # Prices change at full minutes at most.
        key = conditions, moment.replace(second=0, microsecond=0) if self._is_dated else None
        if key not in self._tiers:
            self._tiers[key] = self._read(moment, conditions)
        return self._tiers[key]

    def _read(self, moment: datetime, conditions: Conditions) -> list[Tier]:
        asked = dict(conditions)
        geo = (self._provider, _GEO, asked.pop(_GEO, ""))
        factor = _SURCHARGES.get(geo, Fraction(1))
        if geo[2] and geo not in _SURCHARGES:
            return []
        asked = {k: v for k, v in asked.items() if (self._provider, k, v) not in _AS_STANDARD}
        if not self._has_prices_for(asked, moment):
            return []
        price = self._model.get_prices(moment, asked or None)
        starts = {
            tier.start for value in price.__dict__.values() for tier in getattr(value, "tiers", ())
        }
        return [
            Tier(start, _rates(self.matched, price, start, factor))
            for start in sorted({-1, *starts})
        ]

    def _has_prices_for(self, asked: dict[str, str], moment: datetime) -> bool:
        """Return whether the list has prices for exactly these conditions."""
        return not asked or any(
            variant.when == asked
            and (variant.constraint is None or variant.constraint.active(moment))
            for variant in self._variants
        )


def _listed(model: ModelInfo) -> Sequence[ConditionalPrice]:
    return model.prices if isinstance(model.prices, list) else ()


def _rates(matched: str, price: ModelPrice, above: int, factor: Fraction) -> Rates | None:
    def at(name: str) -> Decimal | None:
        value = getattr(price, name, None)
        if value is None or isinstance(value, Decimal):
            return value
        reached = [tier.price for tier in value.tiers if above >= tier.start]
        return reached[-1] if reached else value.base  # type: ignore[no-any-return]

    def rate(name: str) -> int | None:
        found = at(name)
        return None if found is None else per_million(found)

    def each(name: str) -> int | None:
        found = at(name)
        return None if found is None else per_thousand(found)

    if "search" in matched and at("web_searches_kcount") is None:
        return None  # each answer has searched, and the fee for that is not in the list
    base, output = rate("input_mtok"), rate("output_mtok")
    audio, audio_read = rate("input_audio_mtok"), rate("cache_audio_read_mtok")
    if audio is None and matched.startswith(_AUDIO_AS_TEXT):
        audio, audio_read = base, _first(rate("cache_read_mtok"), base or 0)
    unlike = any(rate(name) not in {None, base} for name in _UNCOUNTED_INPUT)
    if base is None or output is None or unlike or any(at(name) for name in _UNCOUNTED):
        return None
    write = _first(rate("cache_write_mtok"), base)
    found = Rates(
        matched=matched,
        input=base,
        output=output,
        cache_read=_first(rate("cache_read_mtok"), base),
        cache_write=write,
        cache_write_1h=_first(rate("cache_write_1h_mtok"), write),
        audio_input=audio,
        audio_cache_read=audio_read,
        audio_output=rate("output_audio_mtok"),
        reasoning=rate("output_reasoning_mtok"),
        web_search=each("web_searches_kcount"),
        request=each("requests_kcount") or 0,
    )
    return found if factor == 1 else found.times(factor)


def _first(value: int | None, default: int) -> int:
    return default if value is None else value


@lru_cache(maxsize=8)
def _model_names(provider: str | None, base_url: str | None) -> tuple[str, ...]:
    found = _provider(provider, base_url)
    return () if found is None else tuple(sorted({model.id for model in found.models}))


def near_model(model: str, provider: str | None, base_url: str | None) -> str | None:
    """Return the provider's model that an unknown name probably means; None if there is none."""
    names = _model_names(provider, base_url)
    undated = model.rstrip("0123456789").rstrip("-")
    for name in (model, undated):
        if close := difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE):
            return close[0]
    return None


def known_models(start: str) -> list[str]:
    """Return the names in the price list that begin with `start`, of all providers."""
    every = (
        model.id
        for provider in genai_prices.data_snapshot.get_snapshot().providers
        for model in provider.models
    )
    return sorted({name for name in every if name.startswith(start)})


def near_provider(name: str) -> str | None:
    """Return the price list's id of a provider that is given by another name; None if there is none."""
    if _by_id(price_list_id(name)) is not None or name in PRESETS:
        return None
    found = genai_prices.data_snapshot.find_provider_by_id(
        genai_prices.data_snapshot.get_snapshot().providers, name
    )
    return None if found is None else found.id
