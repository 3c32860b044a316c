"""What the simulator was asked, what it billed, and what it billed twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

# 12 bytes occupy as much memory as 8 and make a false double bill unthinkable (1e-17 at a million).
_DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class Ledger:
    """A snapshot of the books.

    Attributes:
        requests: API requests that were read, whatever became of them.
        billed: answers worked out and charged, whether or not the client was still there for them.
        billed_more_than_once: distinct bodies that were billed at least twice.
        extra_bills: bills beyond the first of each body.
        statuses: HTTP status to number of answers.
        max_in_flight: most requests ever in hand at once.
    """

    requests: int
    billed: int
    billed_more_than_once: int
    extra_bills: int
    statuses: dict[int, int]
    max_in_flight: int


class LedgerBook:
    """The running books. About 120 bytes for each distinct body."""

    def __init__(self) -> None:
        self._bills: dict[bytes, int] = {}
        self._failures: dict[bytes, int] = {}
        self._statuses: Counter[int] = Counter()
        self._requests = self._billed = self._billed_more_than_once = 0
        self._in_flight = self._max_in_flight = 0

    @staticmethod
    def digest(body: bytes) -> bytes:
        """Return the name under which `body` is booked."""
        return blake2b(body, digest_size=_DIGEST_BYTES).digest()

    def begin(self) -> int:
        """Count a request as in hand, and return its number, from 1."""
        self._requests += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        return self._requests

    def end(self) -> None:
        """Count a request as no longer in hand."""
        self._in_flight -= 1

    def tries(self, digest: bytes) -> int:
        """Return how often this body was already billed or failed on purpose.

        Rejections by the quota do not count: they depend on timing, and must not change what
        happens to the body afterwards.
        """
        return self._bills.get(digest, 0) + self._failures.get(digest, 0)

    def bill(self, digest: bytes) -> int:
        """Charge for an answer. Return how often this body has now been billed."""
        bills = self._bills.get(digest, 0) + 1
        self._bills[digest] = bills
        self._billed += 1
        self._billed_more_than_once += bills == 2
        return bills

    def fail(self, digest: bytes) -> None:
        """Note a failure that was injected, so that the next try draws anew."""
        self._failures[digest] = self._failures.get(digest, 0) + 1

    def answered(self, status: int) -> None:
        """Note the HTTP status of an answer."""
        self._statuses[status] += 1

    def snapshot(self) -> Ledger:
        """Return the books as they stand."""
        return Ledger(
            requests=self._requests,
            billed=self._billed,
            billed_more_than_once=self._billed_more_than_once,
            extra_bills=self._billed - len(self._bills),
            statuses=dict(self._statuses),
            max_in_flight=self._max_in_flight,
        )
