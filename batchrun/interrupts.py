"""The signals that ask a run to end: Ctrl-C, `kill`, a terminal that closes."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts the signals that arrive while they are caught.

    Attributes:
        first: the signal that came first, None when none did.
        count: how many have come.
        asked: set by the first one: finish what is under way.
        insisted: set by the second one: do not finish it.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self.asked = anyio.Event()
        self.insisted = anyio.Event()

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals within an event loop; outside of the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        caught = [signum for signum in SIGNALS if not _is_under_nohup(signum)]
        for signum in caught:
            loop.add_signal_handler(signum, self._arrived, signum)
        try:
            yield
        finally:
            for signum in caught:
                loop.remove_signal_handler(signum)

    def _arrived(self, signum: signal.Signals) -> None:
        self.first = self.first or signum
        self.count += 1
        (self.asked if self.count == 1 else self.insisted).set()


def _is_under_nohup(signum: signal.Signals) -> bool:
    return signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN
