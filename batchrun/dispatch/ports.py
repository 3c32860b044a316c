"""What the dispatcher needs from others, and no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from batchrun.findings import Rejection
from batchrun.records import Completion, PlannedRequest

if TYPE_CHECKING:
    from batchrun.client import Exchange
    from batchrun.records import Attempt, AttemptStart, Result, Turn, WireRequest

# Reads an answer further, and says why it is not accepted, if it is not.
Review = Callable[[Completion], tuple[Completion, Rejection | None]]
# Finds a few requests that stand all over the input, of several models where it has them.
Spread = Callable[[], Awaitable[Sequence[PlannedRequest]]]


def as_it_is(completion: Completion) -> tuple[Completion, Rejection | None]:
    """The review that finds nothing wrong."""
    return completion, None


class Sender(Protocol):
    """Makes one attempt: returns an exchange or raises `ProviderError`."""

    async def send(self, wire: WireRequest) -> Exchange:
        """Make one attempt."""


class Journal(Protocol):
    """Keeps what happens; each call returns when it is safe.

    What was handed over is kept even when the caller is cancelled and does not wait for it.
    """

    async def begin(self, start: AttemptStart) -> None:
        """An attempt is about to be sent."""

    async def fail(self, attempt: Attempt) -> None:
        """An attempt failed, and the request goes on or stays pending."""

    async def finish(self, result: Result) -> None:
        """A request has its result."""

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """A conversation has a turn of the model, with its attempt; later, with its results."""


class Tools(Protocol):
    """Carries out what the model calls."""

    def wants(self, completion: Completion) -> bool:
        """Say whether the answer is to be followed by the results of its calls."""

    async def run(self, calls: str) -> str:
        """Carry out calls, as `Completion.tool_calls` has them; return `Turn.results`."""
