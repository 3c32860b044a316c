"""A provider that answers by the prompt alone, and its books: what it billed, and what twice."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING

from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DELAY_S = 0.003
ONE_IN = 150  # requests fail once


class Books:
    """What the provider knows. Its thread writes, others read."""

    def __init__(self) -> None:
        self.requests = 0
        self.answers = 0
        self.billed: Counter[str] = Counter()
        self.url = ""
        self.notice: Callable[[], None] | None = None  # is called after each change
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def decide(self, call: Call) -> Reply:
        """Answer a request; what is in hand is billed even when nobody is there for the answer."""
        prompt = call.prompt
        with self._lock:
            self.requests += 1
            is_to_fail = fate(prompt) % ONE_IN == 0 and prompt not in self._failed
            if is_to_fail:
                self._failed.add(prompt)
            else:
                self.billed[prompt] += 1
        self._tell()
        if is_to_fail:
            return refusal(500, "api_error", "try again")
        return answer(call, said(prompt), delay_s=DELAY_S, then=self._answered)

    def extra_bills(self, asked: Counter[str]) -> int:
        """Return how many answers were billed beyond what was asked."""
        with self._lock:
            return sum(max(0, count - asked[prompt]) for prompt, count in self.billed.items())

    def _answered(self) -> None:
        self.answers += 1
        self._tell()

    def _tell(self) -> None:
        if self.notice is not None:
            self.notice()


def said(prompt: str) -> str:
    """Return the answer to a prompt: some lines or many, and text that CSV has to quote."""
    return f'"{prompt}"; {fate(prompt)},\n' * (1, 2, 3, 30, 150)[fate(prompt) % 5]


def fate(prompt: str) -> int:
    """Return a number that is the same for the same prompt."""
    return int.from_bytes(blake2b(prompt.encode(), digest_size=4).digest(), "big")


@contextmanager
def provider() -> Iterator[Books]:
    """Serve for as long as the block lasts."""
    books = Books()
    with serving(books.decide) as server:
        books.url = server.url
        yield books
