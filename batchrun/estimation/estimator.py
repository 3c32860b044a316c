"""Add up the rows and answers of a job, and project tokens, cost and duration from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchrun.errors import short
from batchrun.estimation.advice import advice
from batchrun.estimation.duration import ModelLoad, run_duration
from batchrun.estimation.ranges import AnswerSums, Estimate, Range
from batchrun.estimation.tokenizers import Tokens, how_counted
from batchrun.formats.parameters import is_template
from batchrun.pricing import BATCH_TIER, cost_of
from batchrun.records import Billing, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchrun.checkpoint import RequestCounts
    from batchrun.job import Job
    from batchrun.pricing import PriceBook, Rates
    from batchrun.records import RenderedItem


# Without answers: between one token and `max_tokens`, and a half of that is expected.
USUAL_SHARE = 0.5
# But not more than this many, also where there is no `max_tokens` and so no upper bound.
USUAL_OUTPUT = 256
# A conversation with tools has one to three turns, usually two; each sends the previous ones again.
TURNS = (1, 2, 3)
NOTHING = Range(0, 0, 0)


@dataclass(slots=True)
class RequestSums:
    """Sums over requests. `most_output` is None when a request has no `max_tokens`."""

    requests: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    system: float = 0.0
    most_output: int | None = 0

    def add(self, counted: RequestCounts, requests: int) -> None:
        """Add a number of identical requests."""
        if not requests:
            return
        self.requests += requests
        self.tokens += Tokens(counted.low, counted.expected, counted.high) * requests
        self.system += counted.system * requests
        if self.most_output is not None:
            most = counted.most_output
            self.most_output = None if most is None else self.most_output + most * requests


@dataclass(slots=True)
class PriceGroup:
    """The requests to one model at one price: to be sent, and avoidable with `dedupe`."""

    model: str
    rates: Rates | None
    to_send: RequestSums = field(default_factory=RequestSums)
    avoidable: RequestSums = field(default_factory=RequestSums)


@dataclass(frozen=True, slots=True)
class CacheShares:
    """Shares of the input that are read from the cache, and written to it for 5 minutes or 1 h."""

    read: float = 0.0
    written: float = 0.0
    is_long: bool = False


class Estimator:
    """Makes the estimate of a job (or of one cell of a matrix).

    Args:
        job: the job.
        prices: the prices of the models.
        service_tier: the tier of every request; None if rows may differ.
    """

    def __init__(self, job: Job, prices: PriceBook, service_tier: str | None = None) -> None:
        self._job = job
        self._billing = Billing(service_tier=service_tier)
        self._prices = prices
        self._groups: dict[tuple[str, Rates | None], PriceGroup] = {}
        self._answers = AnswerSums()
        self._answers_by_model: dict[str, AnswerSums] = {}
        self._rows = self._unrenderable = self._held = self._duplicates = 0
        self._example: str | None = None

    def add_rows(self, rendered: Sequence[RenderedItem]) -> None:
        """Count rows, and those that cannot be rendered."""
        self._rows += len(rendered)
        for item in rendered:
            if item.fingerprint is None:
                self._unrenderable += 1
                self._example = self._example or f"{short(item.custom_id)}: {item.error_message}"

    def add_requests(self, counted: RequestCounts) -> None:
        """Add identical requests, and the existing answers to them."""
        request = self._job.request
        wanted = counted.number * request.samples
        alone = max(0, wanted - counted.held)
        shared = 0 if counted.held else 1
        self._held += min(wanted, counted.held)
        self._duplicates += counted.number - 1
        group = self._group(counted)
        group.to_send.add(counted, shared if request.dedupe else alone)
        if request.samples == 1:  # the samples of one row are never shared
            group.avoidable.add(counted, alone - shared)
        self._answers_by_model.setdefault(counted.model, AnswerSums()).add(counted)
        self._answers.add(counted)

    def _group(self, counted: RequestCounts) -> PriceGroup:
        size = round(counted.expected)
        rates = self._prices.rates(size, counted.model, billing=self._billing)
        return self._groups.setdefault((counted.model, rates), PriceGroup(counted.model, rates))

    def estimate(self, directory: Path) -> Estimate:
        """Return the estimate of everything that was added."""
        groups = list(self._groups.values())
        loads = [self._load(group.model, group.to_send) for group in groups]
        unpriced = tuple(sorted({group.model for group in groups if group.rates is None}))
        saved = self._cost((group, group.avoidable) for group in groups)
        found = Estimate(
            name=self._job.name,
            cell=None if self._job.cell is None else self._job.cell.name,
            directory=directory,
            rows=self._rows,
            unrenderable=self._unrenderable,
            example=self._example,
            held=self._held,
            requests=sum(load.requests for load in loads),
            duplicates=self._duplicates,
            dedupe=self._job.request.dedupe,
            saved=sum(group.avoidable.requests for group in groups),
            saved_cost=None if unpriced else saved.expected,
            models=tuple(sorted({group.model for group in groups})),
            unpriced=unpriced,
            input=sum((load.input for load in loads), NOTHING),
            output=sum((load.output for load in loads), NOTHING),
            cost=None if unpriced else self._cost((group, group.to_send) for group in groups),
            duration=run_duration(self._job.limits, loads, self._latency_s()),
            answers=self._answers.count if self._answers.are_enough else 0,
            counted=tuple(sorted({how_counted(group.model) for group in groups})),
        )
        tier = self._job.request.parameters.get("service_tier") or ""
        batch_cost = self._batch_cost(groups, found.cost)
        found = replace(found, batch_cost=batch_cost, tier="" if is_template(tier) else str(tier))
        return replace(found, warnings=advice(self._job, found, loads, self._answers))

    def _batch_cost(self, groups: Sequence[PriceGroup], live: Range | None) -> Range | None:
        """Return the cost in batches, if they are possible and their price is known."""
        request, billing = self._job.request, Billing(BATCH_TIER)
        if request.wire_format.batches is None or self._job.tools.module is not None:
            return None
        cost = NOTHING
        for group in groups:
            sums = group.to_send
            size = round(sums.tokens.expected / max(1, sums.requests))
            rates = self._prices.rates(size, group.model, billing=billing)
            if rates is None or live is None:
                return None
            cost += self._cost_of(group.model, rates, sums)
        return cost

    def _latency_s(self) -> float | None:
        """Return the mean latency of the answers; None if there are too few."""
        answers = self._answers
        return answers.latency_s / answers.count if answers.are_enough else None

    def _answers_of(self, model: str) -> AnswerSums | None:
        """Return the answers of the model, or else of all models; None if there are too few."""
        for answers in (self._answers_by_model[model], self._answers):
            if answers.are_enough:
                return answers
        return None

    def _load(self, model: str, sums: RequestSums) -> ModelLoad:
        answers = self._answers_of(model)
        if answers is None:
            tokens = self._tokens_without_answers(sums)
        else:
            tokens = (
                answers.project_input(sums.tokens.expected, sums.requests),
                answers.project_output(sums.requests, sums.most_output),
            )
        return ModelLoad(model, sums.requests, *tokens, sums.most_output)

    def _tokens_without_answers(self, sums: RequestSums) -> tuple[Range, Range]:
        fewest, usual, most = TURNS if self._job.tools.module is not None else (1, 1, 1)
        size, longest = sums.tokens, sums.most_output
        input_tokens = Range(
            round(fewest * size.low), round(usual * size.expected), round(most * size.high)
        )
        each = USUAL_OUTPUT * sums.requests
        if longest is None:
            return input_tokens, Range(sums.requests, usual * each, None)
        expected = usual * min(round(USUAL_SHARE * longest), each)
        return input_tokens, Range(sums.requests, max(expected, sums.requests), most * longest)

    def _cost(self, parts: Iterable[tuple[PriceGroup, RequestSums]]) -> Range:
        """Return the cost in pico-dollars of the groups whose price is known."""
        costs = (
            self._cost_of(group.model, group.rates, sums)
            for group, sums in parts
            if group.rates is not None
        )
        return sum(costs, NOTHING)

    def _cost_of(self, model: str, rates: Rates, sums: RequestSums) -> Range:
        load = self._load(model, sums)
        usual_cache, worst_cache = self._cache_shares(model, sums)
        return Range(
            _price(rates, load.input.low, load.output.low, usual_cache),
            _price(rates, load.input.expected, load.output.expected, usual_cache),
            None
            if load.input.high is None or load.output.high is None
            else _price(rates, load.input.high, load.output.high, worst_cache),
        )

    def _cache_shares(self, model: str, sums: RequestSums) -> tuple[CacheShares, CacheShares]:
        """Return the usual and the most expensive use of the cache.

        Without answers, a cached system prompt is usually read, and at worst always written.
        """
        answers = self._answers_of(model)
        if answers is not None:
            if not (billed := answers.input.billed):  # the provider reports no input tokens
                return CacheShares(), CacheShares()
            seen = CacheShares(answers.cache_read / billed, answers.cache_write / billed)
            return seen, seen
        if self._job.request.cache_ttl is None or not sums.tokens.expected:
            return CacheShares(), CacheShares()
        share = sums.system / sums.tokens.expected
        is_long = self._job.request.cache_ttl == "1h"
        return CacheShares(share), CacheShares(written=share, is_long=is_long)


def _price(rates: Rates, input_tokens: int, output_tokens: int, cache: CacheShares) -> int:
    """Return the cost of tokens in pico-dollars."""
    written = round(cache.written * input_tokens)
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=round(cache.read * input_tokens),
        cache_write_tokens=written,
        cache_write_1h_tokens=written if cache.is_long else 0,
    )
    # `rates` are those of one request: the price of long prompts does not apply to the sum.
    cost = cost_of(usage, rates)
    return 0 if cost is None else cost.total
