"""The rates of a model, and costs computed with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from batchrun.records import Cost, CostSource

if TYPE_CHECKING:
    from batchrun.records import Usage

FROM_JOB = "[price] of the job file"
# Rates are whole numbers of 1e-18 USD, so that a list with 12 decimals per million tokens is exact.
_PER_MILLION = 10**12  # of a rate in USD per million tokens: 1e18 / 1e6
_PER_THOUSAND = 10**15  # of one in USD per thousand searches or requests
_PER_PICO = 10**6


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in 1e-18 USD per token, and the model in the price list that they belong to.

    None is an unknown price; for reasoning it means the price of other output. `web_search` is the price of
    one search, `request` of one request. `batch` is the share of token prices that applies in batches,
    as the job says.
    """

    matched: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    audio_input: int | None = None
    audio_cache_read: int | None = None
    audio_output: int | None = None
    reasoning: int | None = None
    web_search: int | None = None
    request: int = 0
    batch: Fraction | None = None

    @property
    def in_batches(self) -> Rates:
        """The rates in a batch."""
        return self if self.batch is None else self.times(self.batch)

    def highest(self, input_tokens: int, output_tokens: int) -> int:
        """Return the highest possible cost of tokens, in pico-dollars."""
        dearest = max(
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input or 0,
            self.audio_cache_read or 0,
        )
        output = max(self.output, self.reasoning or 0, self.audio_output or 0)
        return -(-(input_tokens * dearest + output_tokens * output + self.request) // _PER_PICO)

    def times(self, factor: Fraction) -> Rates:
        """Return the rates with all prices of tokens multiplied."""
        names = {name for name in _TOKEN_RATES if getattr(self, name) is not None}
        changed = {name: round(getattr(self, name) * factor) for name in names}
        return replace(self, **changed)

    def usd(self) -> dict[str, float]:
        """Return the known rates in USD per million tokens, or per thousand searches or requests."""
        known = {name: rate for name, rate in asdict(self).items() if isinstance(rate, int)}
        if not self.request:
            del known["request"]
        return {
            name: rate / (_PER_THOUSAND if name in _EACH else _PER_MILLION)
            for name, rate in known.items()
        }


_EACH = frozenset({"web_search", "request"})
_TOKEN_RATES = frozenset(Rates.__slots__) - _EACH - {"matched", "batch"}


def rates_of_job(
    *,
    input: float,  # noqa: A002 - the job file's word
    output: float,
    cache_read: float | None = None,
    cache_write: float | None = None,
    cache_write_1h: float | None = None,
    audio_input: float | None = None,
    audio_output: float | None = None,
    web_search: float | None = None,
    batch: float | None = None,
) -> Rates:
    """Return the exact rates of a job file.

    The job has USD per million tokens, and per thousand web searches; `batch` is a share of them.
    """
    base, write = per_million(input), per_million(input if cache_write is None else cache_write)
    return Rates(
        matched=FROM_JOB,
        input=base,
        output=per_million(output),
        cache_read=base if cache_read is None else per_million(cache_read),
        cache_write=write,
        cache_write_1h=write if cache_write_1h is None else per_million(cache_write_1h),
        audio_input=None if audio_input is None else per_million(audio_input),
        audio_cache_read=None if audio_input is None else per_million(audio_input),
        audio_output=None if audio_output is None else per_million(audio_output),
        web_search=None if web_search is None else per_thousand(web_search),
        batch=None if batch is None else Fraction(str(batch)),
    )


def per_million(price: float | Decimal) -> int:
    """Convert a rate in USD per million tokens to the unit of `Rates`."""
    return _scaled(price, _PER_MILLION)


def per_thousand(price: float | Decimal) -> int:
    """Convert a rate in USD per thousand searches or requests to the unit of `Rates`."""
    return _scaled(price, _PER_THOUSAND)


def _scaled(price: float | Decimal, factor: int) -> int:
    return int((Decimal(str(price)) * factor).to_integral_value(ROUND_HALF_EVEN))


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """Tokens with special rates: parts of the input, the cache reads and the output."""

    audio: int = 0
    audio_read: int = 0
    audio_output: int = 0
    reasoning: int = 0


_NONE = _SpecialTokens()


def cost_of(
    usage: Usage, rates: Rates, *, searches: int = 0, source: CostSource = CostSource.PRICE_LIST
) -> Cost | None:
    """Return the cost of an exchange, None when a rate that it needs is unknown.

    Contradictory counts are reduced: no part is larger than the whole.

    Args:
        usage: the tokens, in inclusive counts.
        rates: rates of the model.
        searches: web searches by the provider.
        source: source of the rates.
    """
    total, output = usage.input_tokens, usage.output_tokens
    if total is None or output is None or (searches and rates.web_search is None):
        return None
    read = min(usage.cache_read_tokens or 0, total)
    write = min(usage.cache_write_tokens or 0, total - read)
    write_1h = min(usage.cache_write_1h_tokens or 0, write)
    special: _SpecialTokens | None = _NONE
    if usage.audio_input_tokens or usage.audio_output_tokens or rates.reasoning is not None:
        special = _special_tokens(usage, rates, total - read - write, read, output)
    if special is None:
        return None
    text_read = read - special.audio_read
    text_output = output - special.audio_output - special.reasoning
    return Cost(
        _pico(
            (total - read - write - special.audio) * rates.input
            + special.audio * (rates.audio_input or 0)
        ),
        _pico(text_read * rates.cache_read + special.audio_read * (rates.audio_cache_read or 0)),
        _pico((write - write_1h) * rates.cache_write + write_1h * rates.cache_write_1h),
        _pico(
            text_output * rates.output
            + special.reasoning * (rates.reasoning or 0)
            + special.audio_output * (rates.audio_output or 0)
        ),
        cache_saved=_pico(
            text_read * (rates.input - rates.cache_read)
            + special.audio_read * ((rates.audio_input or 0) - (rates.audio_cache_read or 0))
        ),
        other=_pico(searches * (rates.web_search or 0) + rates.request),
        source=source,
    )


def _special_tokens(
    usage: Usage, rates: Rates, uncached: int, read: int, output: int
) -> _SpecialTokens | None:
    """Return the tokens with special rates; None when such a rate, or their number, is unknown."""
    audio_read = min(usage.audio_cache_read_tokens or 0, read)
    audio = min(max(0, (usage.audio_input_tokens or 0) - audio_read), uncached)
    audio_output = min(usage.audio_output_tokens or 0, output)
    priced = (
        (audio, rates.audio_input),
        (audio_read, rates.audio_cache_read),
        (audio_output, rates.audio_output),
    )
    if any(amount and rate is None for amount, rate in priced):
        return None
    if rates.reasoning is None:
        return _SpecialTokens(audio, audio_read, audio_output)
    if usage.reasoning_tokens is None:
        return None
    return _SpecialTokens(
        audio, audio_read, audio_output, min(usage.reasoning_tokens, output - audio_output)
    )


def _pico(amount: int) -> int:
    """Round 1e-18 USD to pico-dollars, half up."""
    return (amount + _PER_PICO // 2) // _PER_PICO
