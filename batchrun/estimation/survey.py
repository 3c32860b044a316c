"""What an estimate warns of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Literal

from batchrun.estimation.duration import Load, duration
from batchrun.estimation.ranges import Answers, Estimate, Range
from batchrun.estimation.tokens import Tokens
from batchrun.pricing import cost_of
from batchrun.records import PICO_PER_USD, Billing, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Counted
    from batchrun.job import Job
    from batchrun.pricing import PriceBook, Rates
    from batchrun.records import RenderedItem


# `max_tokens` is far above need when it is so many times the longest of so many answers.
FAR_ABOVE = 4
FEWEST_ANSWERS = 10
ROOM = 1.5  # what is left above the longest answer in the value that is proposed
ROUND = 10


def warnings(
    job: Job, estimate: Estimate, loads: Sequence[Load], answers: Answers
) -> tuple[str, ...]:
    """Return what should be changed, or known, before the run."""
    return (
        *_about_rows(estimate),
        *_about_max_tokens(loads, answers),
        *_about_limits(job, loads),
        *_about_money(job, estimate),
    )


def _about_rows(estimate: Estimate) -> Iterator[str]:
    if estimate.unrenderable:
        yield (
            f"{estimate.unrenderable:,} rows cannot become a request and will be errored, such as "
            f"{estimate.example}"
        )


def _about_max_tokens(loads: Sequence[Load], answers: Answers) -> Iterator[str]:
    if answers.count < FEWEST_ANSWERS:
        return
    for load in loads:
        if not load.requests or load.most_output is None:
            continue
        allowed = load.most_output // load.requests
        enough = -(-round(ROOM * answers.longest) // ROUND) * ROUND
        if allowed >= FAR_ABOVE * max(answers.longest, ROUND):
            yield (
                f"max_tokens lets an answer of {load.model} have {allowed:,} tokens, and the longest "
                f"of {answers.count:,} had {answers.longest:,}: providers hold what is allowed "
                f"against your rate until the answer has come; {enough:,} would do"
            )


def _about_limits(job: Job, loads: Sequence[Load]) -> Iterator[str]:
    limits = job.limits
    for load in loads:
        if not load.requests:
            continue
        taken_in = load.input.expected // load.requests
        given_out = (load.most_output or 0) // load.requests
        for name, needed, limit in (
            ("tokens_per_minute", taken_in + given_out, limits.tokens_per_minute),
            ("input_tokens_per_minute", taken_in, limits.input_tokens_per_minute),
            ("output_tokens_per_minute", given_out, limits.output_tokens_per_minute),
        ):
            if limit is not None and needed > limit:
                yield (
                    f"a request to {load.model} needs about {needed:,} tokens with its max_tokens, "
                    f"more than [limits] {name} = {limit:g}: it would be errored, not sent"
                )


def _about_money(job: Job, estimate: Estimate) -> Iterator[str]:
    if estimate.unpriced:
        yield (
            f"the price of {', '.join(estimate.unpriced)} is not known; give it in [price] or "
            '[price."MODEL"], in USD per million tokens, or name who answers in [request] provider'
        )
    cap = job.limits.max_cost_usd
    cost = estimate.cost
    if cap is None or cost is None:
        return
    high = cost.high
    if high is None or high > cap * PICO_PER_USD:
        yield f"[limits] max_cost_usd = {cap:g} may stop the run before its end"


# Without any answer: answers take up a tenth of what `max_tokens` allows, or all of it.
LEAST_SHARE = 0.1
# Without `max_tokens` there is no bound; this much is expected.
UNBOUNDED_OUTPUT = 256
# A conversation with tools has one turn, mostly two, or three; each sends again what came before.
TURNS = (1, 2, 3)
NOTHING = Range(0, 0, 0)


@dataclass(slots=True)
class Batch:
    """Requests and their sizes together. `most_output` None: one of them has no `max_tokens`."""

    requests: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    system: float = 0.0
    most_output: int | None = 0

    def count(self, counted: Counted, requests: int) -> None:
        """Count so many requests of one kind."""
        if not requests:
            return
        self.requests += requests
        self.tokens += Tokens(counted.low, counted.expected, counted.high) * requests
        self.system += counted.system * requests
        if self.most_output is not None:
            most = counted.most_output
            self.most_output = None if most is None else self.most_output + most * requests


@dataclass(slots=True)
class Stratum:
    """The requests to one model at one price: those to be sent, and those that `dedupe` spares."""

    model: str
    rates: Rates | None
    sent: Batch = field(default_factory=Batch)
    spared: Batch = field(default_factory=Batch)


class Survey:
    """Gathers what the rows of a job ask, and makes the estimate of it.

    Args:
        job: the job.
        prices: put a cost on tokens.
        service_tier: that every request asks for, None where rows may differ.
    """

    def __init__(self, job: Job, prices: PriceBook, service_tier: str | None = None) -> None:
        self._job = job
        self._billing = Billing(service_tier=service_tier)
        self._prices = prices
        self._strata: dict[tuple[str, Rates | None], Stratum] = {}
        self._by_model: dict[str, Answers] = {}
        self._answers = Answers()
        self._rows = self._bad = self._held = self._duplicates = 0
        self._example: str | None = None

    def look_at(self, rendered: Sequence[RenderedItem]) -> None:
        """Count rows as they are rendered."""
        self._rows += len(rendered)
        for item in rendered:
            if item.fingerprint is None:
                self._bad += 1
                self._example = self._example or f"{item.custom_id}: {item.error_message}"

    def count(self, counted: Counted) -> None:
        """Count rows that ask the same."""
        request = self._job.request
        wanted = counted.number * request.samples
        alone = max(0, wanted - counted.held)
        shared = 0 if counted.held else 1
        self._held += min(wanted, counted.held)
        self._duplicates += counted.number - 1
        size = round(counted.expected)
        rates = self._prices.rates(size, counted.model, billing=self._billing)
        fresh = Stratum(counted.model, rates)
        stratum = self._strata.setdefault((counted.model, rates), fresh)
        stratum.sent.count(counted, shared if request.dedupe else alone)
        if request.samples == 1:  # several samples of a row are answers of their own
            stratum.spared.count(counted, alone - shared)
        self._by_model.setdefault(counted.model, Answers()).add(counted)
        self._answers.add(counted)

    def estimate(self, directory: Path) -> Estimate:
        """Return the estimate of what was counted."""
        strata = list(self._strata.values())
        loads = [self._load(stratum.model, stratum.sent) for stratum in strata]
        unpriced = tuple(sorted({each.model for each in strata if each.rates is None}))
        found = Estimate(
            name=self._job.name,
            cell=None if self._job.cell is None else self._job.cell.name,
            directory=directory,
            rows=self._rows,
            unrenderable=self._bad,
            example=self._example,
            held=self._held,
            requests=sum(load.requests for load in loads),
            duplicates=self._duplicates,
            dedupe=self._job.request.dedupe,
            saved=sum(stratum.spared.requests for stratum in strata),
            saved_cost=None if unpriced else self._cost("spared").expected,
            models=tuple(sorted({stratum.model for stratum in strata})),
            unpriced=unpriced,
            input=reduce(add, (load.input for load in loads), NOTHING),
            output=reduce(add, (load.output for load in loads), NOTHING),
            cost=None if unpriced else self._cost("sent"),
            duration=duration(self._job.limits, loads, self._latency_s()),
            answers=self._answers.count if self._answers.are_enough else 0,
        )
        return replace(found, warnings=warnings(self._job, found, loads, self._answers))

    def _latency_s(self) -> float | None:
        """Return how long an answer takes on average, None when there is none to go by."""
        answers = self._answers
        return answers.latency_s / answers.count if answers.are_enough else None

    def _answers_of(self, model: str) -> Answers | None:
        """Return what to go by: answers of the model, or of all, or none."""
        for answers in (self._by_model[model], self._answers):
            if answers.are_enough:
                return answers
        return None

    def _load(self, model: str, batch: Batch) -> Load:
        answers = self._answers_of(model)
        if answers is None:
            tokens = self._by_characters(batch)
        else:
            tokens = (
                answers.input(batch.tokens.expected, batch.requests),
                answers.output(batch.requests, batch.most_output),
            )
        return Load(model, batch.requests, *tokens, batch.most_output)

    def _by_characters(self, batch: Batch) -> tuple[Range, Range]:
        fewest, mostly, many = TURNS if self._job.tools.module is not None else (1, 1, 1)
        size, most = batch.tokens, batch.most_output
        taken_in = Range(
            round(fewest * size.low), round(mostly * size.expected), round(many * size.high)
        )
        if most is None:
            return taken_in, Range(batch.requests, UNBOUNDED_OUTPUT * batch.requests, None)
        least = round(LEAST_SHARE * most)
        return taken_in, Range(least, mostly * (least + most) // 2, many * most)

    def _cost(self, which: Literal["sent", "spared"]) -> Range:
        """Add up the costs of strata, whose prices are known, in pico-dollars."""
        parts = [
            self._cost_of(stratum.model, stratum.rates, getattr(stratum, which))
            for stratum in self._strata.values()
            if stratum.rates is not None
        ]
        return reduce(add, parts, NOTHING)

    def _cost_of(self, model: str, rates: Rates, batch: Batch) -> Range:
        load = self._load(model, batch)
        low_cache, cache, high_cache = self._caching(model, batch)
        return Range(
            _price(rates, load.input.low, load.output.low, low_cache),
            _price(rates, load.input.expected, load.output.expected, cache),
            None
            if load.input.high is None or load.output.high is None
            else _price(rates, load.input.high, load.output.high, high_cache),
        )

    def _caching(self, model: str, batch: Batch) -> tuple[_Cached, _Cached, _Cached]:
        """Return which shares of the input are read from the cache and written to it.

        Without answers to go by, the system prompt is read where it is marked, or at worst written.
        """
        answers = self._answers_of(model)
        if answers is not None:
            if not answers.y:  # the provider counts no input
                return _Cached(), _Cached(), _Cached()
            seen = _Cached(answers.cache_read / answers.y, answers.cache_write / answers.y)
            return seen, seen, seen
        if self._job.request.cache_ttl is None or not batch.tokens.expected:
            return _Cached(), _Cached(), _Cached()
        share = batch.system / batch.tokens.expected
        is_long = self._job.request.cache_ttl == "1h"
        return _Cached(share), _Cached(share), _Cached(0.0, share, is_long=is_long)


@dataclass(frozen=True, slots=True)
class _Cached:
    """Shares of the input that are read from the cache, and written to it for 5 minutes or 1 h."""

    read: float = 0.0
    written: float = 0.0
    is_long: bool = False


def _price(rates: Rates, input_tokens: int, output_tokens: int, cached: _Cached) -> int:
    """Return what tokens cost, in pico-dollars, at the price of a request of this stratum."""
    written = round(cached.written * input_tokens)
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=round(cached.read * input_tokens),
        cache_write_tokens=written,
        cache_write_1h_tokens=written if cached.is_long else 0,
    )
    # At one price: that of long prompts goes by the request, not by the sum of all.
    cost = cost_of(usage, rates)
    return 0 if cost is None else cost.total
