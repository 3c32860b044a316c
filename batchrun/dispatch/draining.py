"""The end of a run before its last request: nothing more is sent, and nobody waits any longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Draining:
    """Whether a run drains, and who is to stop waiting when it begins to."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self._notified: list[Callable[[], None]] = []
        self.has_begun = False

    def begin(self) -> None:
        """End all waits, and notify whoever asked for it."""
        self.has_begun = True
        for scope in list(self._waiting):
            scope.cancel()
        for notify in self._notified:
            notify()

    def on_begin(self, notify: Callable[[], None]) -> None:
        """Call `notify` when draining begins, so that the source of requests can stop too."""
        self._notified.append(notify)
        if self.has_begun:
            notify()

    async def interruptible(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait, unless the run drains; say whether to go on afterwards."""
        if self.has_begun:
            return False
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                await wait()
            finally:
                self._waiting.discard(scope)
        return not self.has_begun
