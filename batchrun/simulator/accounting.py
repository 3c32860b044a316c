"""Counts requests and bills, limits rates per minute, and remembers prompts for the cache."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchrun.simulator.calls import Fault, InputUsage, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchrun.simulator.calls import CachedPrefix

    Clock = Callable[[], float]  # seconds, from any origin, never going back

# 12 bytes occupy as much memory as 8 and make a false double bill unthinkable (1e-17 at a million).
DIGEST_BYTES = 12
_MOST_PREFIXES = 50_000
# Up to twice as many bodies are remembered, in about 120 bytes each. Whoever sends a body again does so soon.
_MOST_BODIES = 200_000
_LIFETIMES_S = {"5m": 300.0, "1h": 3600.0, "": 300.0}


def digest_of(body: bytes) -> bytes:
    """Return the digest under which `body` is counted."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """The requests and bills so far."""

    requests: int  # that were read, whatever became of them
    billed: int  # answers worked out, whether or not the client was still there for them
    billed_more_than_once: int  # distinct bodies
    extra_bills: int  # beyond the first of each body
    statuses: dict[int, int]  # HTTP status → number of answers
    max_in_flight: int  # most requests that were being answered at once
    batches: int = 0  # that were created
    billed_in_batches: int = 0  # those of the answers that were billed at the price of batches
    batch_tokens: tuple[int, int] = (0, 0)  # input and output of these answers


@dataclass(slots=True)
class BatchBill:
    """The bill of a batch.

    Attributes:
        billed: number of answers.
        input_tokens: input tokens of these answers.
        output_tokens: output tokens of these answers.
        bills: number of answers by body.
        failures: number of simulated failures by body.
    """

    billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    bills: Counter[bytes] = field(default_factory=Counter)
    failures: Counter[bytes] = field(default_factory=Counter)

    def add_answer(self, input_tokens: int, output_tokens: int) -> None:
        """Add an answer."""
        self.billed += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def add(self, other: BatchBill) -> None:
        """Add the sums of another bill."""
        self.billed += other.billed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


class BodyCounts:
    """Counts something by body digest. Of millions of bodies, only the latest are remembered.

    Attributes:
        total: sum of all counts.
        bodies: number of distinct bodies.
        repeated: number of bodies that were counted more than once.
    """

    def __init__(self) -> None:
        self._latest: dict[bytes, int] = {}
        self._earlier: dict[bytes, int] = {}
        self.total = self.bodies = self.repeated = 0

    def of(self, digest: bytes) -> int:
        """Return the count of a body; 0 if it is unknown."""
        return self._latest.get(digest) or self._earlier.get(digest, 0)

    def add(self, digest: bytes, count: int = 1) -> int:
        """Count a body; return its count."""
        before = self.of(digest)
        after = before + count
        if len(self._latest) >= _MOST_BODIES and digest not in self._latest:
            self._earlier, self._latest = self._latest, {}
        self._latest[digest] = after
        self.total += count
        self.bodies += before == 0
        self.repeated += before <= 1 < after
        return after


class UsageCounter:
    """Counts requests by body digest and status.

    Attributes:
        bills: billed answers by body.
        failures: simulated failures by body; the next try draws again.
        statuses: HTTP statuses of answers.
        batches: number of batches that were created.
        in_batches: the bills of batches among all bills.
    """

    def __init__(self) -> None:
        self.bills = BodyCounts()
        self.failures = BodyCounts()
        self.statuses: Counter[int] = Counter()
        self.batches = 0
        self.in_batches = BatchBill()
        self._requests = self._in_flight = self._max_in_flight = 0

    def add_batch(self) -> None:
        """Count a batch that was created."""
        self.batches += 1

    def charge(self, bill: BatchBill) -> None:
        """Charge for a batch that has ended."""
        for digest, count in bill.bills.items():
            self.bills.add(digest, count)
        for digest, count in bill.failures.items():
            self.failures.add(digest, count)
        self.in_batches.add(bill)

    def begin(self) -> int:
        """Count a request as in flight, and return its number, from 1."""
        self._requests += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        return self._requests

    def end(self) -> None:
        """Count a request as no longer in flight."""
        self._in_flight -= 1

    def tries(self, digest: bytes) -> int:
        """Return how often this body was already billed or had a simulated failure.

        Refusals by a rate limit do not count: they depend on timing, and must not change later
        outcomes of the body.
        """
        return self.bills.of(digest) + self.failures.of(digest)

    def snapshot(self) -> UsageRecord:
        """Return the counts as they stand."""
        return UsageRecord(
            requests=self._requests,
            billed=self.bills.total,
            billed_more_than_once=self.bills.repeated,
            extra_bills=self.bills.total - self.bills.bodies,
            statuses=dict(self.statuses),
            max_in_flight=self._max_in_flight,
            batches=self.batches,
            billed_in_batches=self.in_batches.billed,
            batch_tokens=(self.in_batches.input_tokens, self.in_batches.output_tokens),
        )


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """The state of one limit, for the headers."""

    scope: str  # "requests" or "tokens"
    limit: int  # allowance per minute
    remaining: int  # what could be taken now
    reset_s: float  # until all of the allowance is there again


class _RateBucket:
    """Holds up to one minute's allowance; full at first, and refilled continuously."""

    def __init__(self, scope: str, per_minute: int, clock: Clock) -> None:
        self.scope = scope
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    def missing(self, amount: float) -> float:
        """Return the seconds until `amount` can be taken; 0 or less means now."""
        now = self._clock()
        earned = (now - self._filled_at) * self.per_minute / 60
        self._level = min(self._level + earned, float(self.per_minute))
        self._filled_at = now
        return (amount - self._level) * 60 / self.per_minute

    def take(self, amount: int) -> None:
        """Take `amount`, even if the balance becomes negative. A negative amount is a refund."""
        self._level -= amount

    def standing(self) -> LimitStanding:
        reset_s = max(0.0, self.missing(self.per_minute))
        return LimitStanding(self.scope, self.per_minute, max(0, int(self._level)), reset_s)


class RateLimits:
    """Requests and tokens per minute, as two token buckets; None means unlimited."""

    def __init__(
        self, requests_per_minute: int | None, tokens_per_minute: int | None, clock: Clock
    ) -> None:
        limits = (("requests", requests_per_minute), ("tokens", tokens_per_minute))
        self._buckets = [_RateBucket(scope, most, clock) for scope, most in limits if most]

    def admit(self, tokens: int) -> None:
        """Take one request and `tokens`, or take nothing and raise."""
        amounts = {"requests": 1, "tokens": tokens}
        for bucket in self._buckets:
            amount = amounts[bucket.scope]
            if (wait_s := bucket.missing(amount)) > 0.0:
                raise RefusedError(
                    Fault.RATE_LIMIT,
                    f"Rate limit reached: {bucket.per_minute} {bucket.scope} per minute; "
                    f"this request needs {amount}. Try again in {wait_s:.3f}s.",
                    scope=bucket.scope,
                    wait_s=wait_s,
                )
        for bucket in self._buckets:
            bucket.take(amounts[bucket.scope])

    def settle(self, reserved: int, used: int) -> None:
        """Replace the tokens that were taken at admission by those that were used."""
        for bucket in self._buckets:
            if bucket.scope == "tokens":
                bucket.take(used - reserved)

    def standings(self) -> list[LimitStanding]:
        """Return the limits that are set."""
        return [bucket.standing() for bucket in self._buckets]


class PrefixCache:
    """Remembers beginnings of prompts, the most recent 50,000 of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_at: OrderedDict[bytes, float] = OrderedDict()

    def use(self, prefixes: tuple[CachedPrefix, ...], input_tokens: int) -> InputUsage:
        """Read the longest known prefix, and write those beyond it.

        Args:
            prefixes: of one prompt, shortest first.
            input_tokens: of the whole prompt.
        """
        if not prefixes:
            return InputUsage(input_tokens)
        now = self._clock()
        found = input_usage(
            prefixes, input_tokens, lambda digest: self._ends_at.get(digest, now) > now
        )
        self.write(prefixes)
        return found

    def write(self, prefixes: Iterable[CachedPrefix]) -> None:
        """Write prefixes, or renew their lifetime."""
        now = self._clock()
        for prefix in prefixes:
            self._ends_at[prefix.digest] = now + _LIFETIMES_S[prefix.lifetime]
            self._ends_at.move_to_end(prefix.digest)
        while len(self._ends_at) > _MOST_PREFIXES:
            self._ends_at.popitem(last=False)

    def known(self) -> tuple[bytes, ...]:
        """Return the digests of the prefixes that can be read now."""
        now = self._clock()
        return tuple(digest for digest, end in self._ends_at.items() if end > now)


def input_usage(
    prefixes: tuple[CachedPrefix, ...], input_tokens: int, is_known: Callable[[bytes], bool]
) -> InputUsage:
    """Return the input usage of a prompt whose longest known prefix is read and whose others are written."""
    done = read = max((p.tokens for p in prefixes if is_known(p.digest)), default=0)
    written = dict.fromkeys(_LIFETIMES_S, 0)
    for prefix in prefixes:
        if prefix.tokens > done:
            written[prefix.lifetime] += prefix.tokens - done
            done = prefix.tokens
    # What a server caches without being asked (a lifetime of "") is not billed as written.
    paid = read + written["5m"] + written["1h"]
    return InputUsage(input_tokens - paid, read, written["5m"], written["1h"])
