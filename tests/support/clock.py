"""An event loop whose clock a test owns."""

from __future__ import annotations

import asyncio
import selectors

# The time of one turn of the event loop, so that time always passes.
A_MOMENT_S = 1e-6


class OwnedClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by waiting for it: no test ever sleeps.

    `late_s` is by how much every timer fires late, as on a busy machine.
    """

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 0.0
        super().__init__(_JumpingSelector(self, late_s))

    def time(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: OwnedClockLoop, late_s: float) -> None:
        super().__init__()
        self._loop = loop
        self._late_s = late_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        self._loop.now_s += A_MOMENT_S
        if not ready and timeout > 0:
            self._loop.now_s += timeout + self._late_s
        return ready
