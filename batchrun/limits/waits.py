"""What is being waited for, and for how long it has been."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Waits:
    """Seconds spent waiting, by cause, and the cause that somebody is waiting for now.

    Args:
        clock: returns seconds that never go back.
        parent: the account of several; it knows what is being waited for here, too.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, parent: Waits | None = None
    ) -> None:
        self._clock = clock
        self._parent = parent
        self.seconds: dict[str, float] = defaultdict(float)
        self._waiting: dict[str, int] = defaultdict(int)

    @property
    def current(self) -> str | None:
        """The cause that most are waiting for at this moment, None when nobody waits."""
        waiting = {cause: count for cause, count in self._waiting.items() if count}
        return max(waiting, key=waiting.__getitem__) if waiting else None

    def waiting_for(self, cause: str) -> _Wait:
        """Return a context that accounts the time spent in it to a cause."""
        return _Wait(self, cause)

    def _enter(self, cause: str) -> float:
        self._count(cause, 1)
        return self._clock()

    def _leave(self, cause: str, since: float) -> None:
        self._count(cause, -1)
        self.seconds[cause] += self._clock() - since

    def _count(self, cause: str, change: int) -> None:
        self._waiting[cause] += change
        if self._parent is not None:
            self._parent._count(cause, change)


class _Wait:
    def __init__(self, waits: Waits, cause: str) -> None:
        self._waits = waits
        self._cause = cause
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = self._waits._enter(self._cause)

    def __exit__(self, *_error: object) -> None:
        self._waits._leave(self._cause, self._start)
