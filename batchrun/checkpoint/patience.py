"""Waiting for room on a full disk, so that answers which are paid for can still be saved."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from batchrun.errors import CheckpointFull

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PAUSE_S = 0.5


class Patience:
    """Tries again what failed for want of room, for so many seconds in all.

    Meanwhile whoever reports to the checkpoint waits, so nothing more is sent, and the answers that
    arrive are kept in memory.

    Args:
        seconds: how long to wait; 0 gives up at once.
        tell: is told what is being waited for, once each time, in the thread that waits.
    """

    def __init__(self, seconds: float, tell: Callable[[str], None] | None = None) -> None:
        self._seconds = seconds
        self._tell = tell
        self._over = threading.Event()

    def end(self) -> None:
        """Wait no longer, now and later."""
        self._over.set()

    def insist(self, function: Callable[[], T]) -> T:
        """Call a function until it does not fail for want of room; return what it returns.

        Raises:
            CheckpointFull: when the patience is over.
        """
        deadline: float | None = None
        while True:
            try:
                return function()
            except CheckpointFull:
                if deadline is None:
                    deadline = time.monotonic() + self._seconds
                    self._announce()
                if time.monotonic() >= deadline:
                    self._over.set()
                if self._over.wait(PAUSE_S):
                    raise

    def _announce(self) -> None:
        if self._tell is not None and not self._over.is_set():
            self._tell(
                "the checkpoint cannot be written: the disk is full, over its quota or failing; "
                f"nothing is sent, and this waits up to {self._seconds:g} s for room"
            )
