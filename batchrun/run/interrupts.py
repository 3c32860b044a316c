"""The signals that ask a run to end: Ctrl-C, `kill`, a closed terminal.

A run in the main thread catches them in its event loop. If that thread has an event loop already, as in
a notebook, the run works in another thread, and the main thread waits for it and forwards Ctrl-C.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts the signals that arrive while they are caught.

    Attributes:
        first: the first signal; None if there was none.
        count: number of signals so far.
        stop_requested: set by the first one: finish what is in flight.
        cancel_requested: set by the second one: cancel what is in flight.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self.stop_requested = anyio.Event()
        self.cancel_requested = anyio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_ended = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals within an event loop.

        Other threads than the main thread receive no signals; there, only `forward` counts.
        """
        self._loop = asyncio.get_running_loop()
        try:
            with self._handled(self._loop):
                yield
        finally:
            self._has_ended = True

    @contextmanager
    def _handled(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        if not is_main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in SIGNALS if not _is_under_nohup(s)}
        for signum in before:
            loop.add_signal_handler(signum, self._arrived, signum)
        try:
            yield
        finally:
            for signum, handler in before.items():
                loop.remove_signal_handler(signum)
                if handler is not None:
                    signal.signal(signum, handler)

    def forward(self, signum: signal.Signals) -> bool:
        """Count a signal that another thread received.

        Returns:
            False if signals are not caught yet: there is nothing to finish.
        """
        if self._loop is None:
            return False
        # The loop may be closed after that, and would raise an error.
        if not self._has_ended:
            self._loop.call_soon_threadsafe(self._arrived, signum)
        return True

    def _arrived(self, signum: signal.Signals) -> None:
        self.first = self.first or signum
        self.count += 1
        (self.stop_requested if self.count == 1 else self.cancel_requested).set()


@dataclass(slots=True)
class SigintCount:
    """Counts how often Ctrl-C was pressed."""

    value: int = 0

    def add(self, *_: object) -> None:
        """Count one; a handler of signals."""
        self.value += 1


@contextmanager
def counted_sigint() -> Iterator[SigintCount]:
    """Count SIGINT instead of raising KeyboardInterrupt.

    Nothing is counted outside of the main thread, or if the program ignores the signal.
    """
    count = SigintCount()
    before = signal.getsignal(signal.SIGINT)
    if before in {None, signal.SIG_IGN} or not is_main_thread():
        yield count
        return

    signal.signal(signal.SIGINT, count.add)
    try:
        yield count
    finally:
        signal.signal(signal.SIGINT, before)


def is_main_thread() -> bool:
    """Return whether this is the thread that receives signals."""
    return threading.current_thread() is threading.main_thread()


def _is_under_nohup(signum: signal.Signals) -> bool:
    return signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN
