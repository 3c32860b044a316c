"""SIGTERM, SIGHUP and Ctrl-C end a command in an orderly way: temporary files are removed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class EndedBySignal(BaseException):
    """A signal asked the command to end. Nothing that handles errors of commands may catch it.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum)
        self.signum = signum


class _Handler:
    """Ends the command at the first signal; further ones do not disturb the removal of files.

    Ctrl-C raises KeyboardInterrupt each time, as in other Python programs.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        is_first, self.first = self.first is None, self.first or signal.Signals(signum)
        if signum == signal.SIGINT:
            raise KeyboardInterrupt  # event loops end by it
        if not is_first:
            return
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
    """Let the signals end a block with `EndedBySignal`, and Ctrl-C with KeyboardInterrupt.

    SQLite, which calls our functions, turns any exception from them into an error of its own. So every
    error after a signal is replaced by the exception of the first one.

    Raises:
        EndedBySignal: if a signal arrived.
        KeyboardInterrupt: if it was Ctrl-C.
    """
    handler = _Handler()
    # Under nohup, SIGHUP stays ignored, and SIGINT in the background of a shell script.
    before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)
        if handler.first is signal.SIGINT:
            raise KeyboardInterrupt
        if handler.first is not None:
            raise EndedBySignal(handler.first)
