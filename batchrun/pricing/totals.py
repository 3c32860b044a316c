"""Sums of tokens and costs: of an execution, a model and a run. All frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.formats.sent_batches import SentBatch
    from batchrun.records import Cost, Usage


@dataclass(frozen=True, slots=True)
class PriceUse:
    """The price that the costs of a model were computed with.

    Attributes:
        model: the model that answered.
        source: the price list with its version, or the job file.
        as_of_us: the time that the price applies to, in microseconds since 1970 UTC.
        matched: the model in the price list; None if the price is not known.
        rates: USD per million tokens (`input`, `output`, `cache_read`, `cache_write`,
            `cache_write_1h`, and where they are known and differ `audio_input`, `audio_cache_read`,
            `audio_output`, `reasoning`), and per thousand (`web_search`, `request`).
        tiers: (input tokens, the rates of all tokens of a request with more of them).
        conditions: from the answers, such as `flex`, `batch`, `fast` or `us`.
    """

    model: str
    source: str
    as_of_us: int
    matched: str | None = None
    rates: Mapping[str, float] | None = None
    tiers: tuple[tuple[int, Mapping[str, float]], ...] = ()
    conditions: str = ""


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """The successful attempts of one model, and the tokens and cost of all its attempts.

    `cost` is in pico-dollars, None when the price is unknown. Tokens are None when no answer counted
    them.
    """

    model: str
    answers: int
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None


@dataclass(frozen=True, slots=True)
class ExecutionTotals:
    """The counts of one execution.

    Attributes:
        sent: requests that it sent or submitted in batches, each counted once for all its attempts.
        succeeded: requests whose answer it received, even if an earlier execution sent them; `errored`:
            those that failed.
        input_tokens: tokens of its attempts; None if no answer reported them. Likewise `output_tokens`.
        cost: cost of its attempts in pico-dollars; None if no price is known.
    """

    sent: int
    succeeded: int
    errored: int
    input_tokens: int | None
    output_tokens: int | None
    cost: int | None


@dataclass(frozen=True, slots=True)
class RunTotals:
    """The sums of a run over all its executions.

    Costs are pico-dollars; `unpriced` counts answers whose price is unknown. `maybe_billed` counts
    attempts that may have been billed although their answer never arrived. `waiting` is what the
    latest execution last reported to wait for, and `cap` is its `max_cost_usd`. `endings` counts the
    present answers of rows by their ending, with all samples and choices of a row. Tokens are None if
    there are answers but none of them reported these tokens.

    Attributes:
        unreported: number of unpriced answers for which the provider reported no tokens.
        stated: number of attempts whose cost the provider stated; their cost by kind of token is unknown.
        results: requests with a result, of all executions, including those that no row uses any more.
        busy_s: wall time of the executions that sent something.
        held_rows: rows of the input that hold such a result now; `held_cost` is their cost.
        last_execution: the counts of the latest execution alone.
        batches: all batches of the run, in the order in which they were intended.
        same_answer: the answer of every row, when several rows succeeded and all have the same one.
    """

    name: str
    total: int
    succeeded: int
    errored: int
    pending: int
    to_retry: int
    in_flight: int
    attempts: int
    maybe_billed: int
    unpriced: int
    usage: Usage
    cost: Cost
    cost_by_model: Mapping[str, int]
    latency_s: Mapping[str, float | None]
    retries_by_cause: Mapping[str, int]
    waits_s_by_cause: Mapping[str, float]
    errors_by_type: Mapping[str, tuple[int, str]]
    executions: tuple[Mapping[str, Any], ...]
    wall_time_s: float
    last_error: str | None
    waiting: str | None = None
    dropped: tuple[tuple[str, str], ...] = ()
    cap: int | None = None
    prices: tuple[PriceUse, ...] = ()
    models: tuple[ModelTotals, ...] = ()
    endings: Mapping[str, int] = field(default_factory=dict)
    results: float = 0
    busy_s: float = 0.0
    held_rows: float = 0
    held_cost: int = 0
    last_execution: ExecutionTotals | None = None
    unreported: int = 0
    stated: int = 0
    batches: tuple[SentBatch, ...] = ()
    same_answer: str | None = None

    @property
    def open_batches(self) -> tuple[SentBatch, ...]:
        """The batches whose results may still arrive."""
        return tuple(batch for batch in self.batches if batch.is_open)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, and all of them."""
        return {
            "total": self.total,
            "succeeded": self.succeeded,
            "errored": self.errored,
            "pending": self.pending,
        }

    @property
    def is_unpriced(self) -> bool:
        """Whether there are answers and none has a known price."""
        return bool(self.unpriced) and not self.cost_by_model

    @property
    def known_cost(self) -> int | None:
        """The cost of all attempts; None when no price is known."""
        return None if self.is_unpriced else self.cost.total

    @property
    def projected_cost(self) -> int | None:
        """The projected cost of the whole run, with the average cost for each pending row.

        None if no row is pending or some price is unknown.
        """
        rest = self.cost_of_rows(self.pending)
        return None if rest is None or not self.pending else self.cost.total + rest

    def cost_of_rows(self, rows: int) -> int | None:
        """Return the average cost of this number of rows; None when it is not known."""
        if not self.held_rows or self.unpriced:
            return None
        return round(self.held_cost * rows / self.held_rows)
