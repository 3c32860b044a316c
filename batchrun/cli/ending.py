"""SIGTERM and SIGHUP end a command in an orderly way, as Ctrl-C does: temporary files are removed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """A signal asked the command to end. Nothing that handles errors of commands may catch it.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum)
        self.signum = signum


class _Handler:
    """Raises `EndedBySignal` for the first signal; further ones do not disturb the removal of files."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        if self.first is not None:
            return
        self.first = signal.Signals(signum)
        if _is_in_event_loop():
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        raise EndedBySignal(self.first)


def _is_in_event_loop() -> bool:
    """Return whether an event loop is running, which would print an exception and continue.

    A run handles the signals itself before it sends anything.
    """
    loops = sys.modules.get("asyncio")
    try:
        return loops is not None and loops.get_running_loop() is not None
    except RuntimeError:
        return False


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals end a block with `EndedBySignal`.

    SQLite, which calls our functions, turns any exception from them into an error of its own. So every
    error after a signal is replaced by `EndedBySignal`.

    Raises:
        EndedBySignal: if a signal arrived.
    """
    handler = _Handler()
    # Under nohup, SIGHUP stays ignored.
    before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)
        if handler.first is not None:
            raise EndedBySignal(handler.first)
