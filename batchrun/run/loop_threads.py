"""Runs asynchronous functions in a new event loop, or in that of another thread if none can be started here.

The threads are kept and reused. Replacing a thread by another one can crash the process in the allocator of the
HTTP library (mimalloc 3.3, microsoft/mimalloc#1287).
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib.util
import signal
import threading
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from batchrun.errors import BatchrunError, keyboard_interrupt
from batchrun.limits.memory import COLLECTED_EVERY
from batchrun.run.interrupts import Interrupts, SigintCount, counted_sigint, is_main_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

# At exit, a thread whose loop does not end is left behind after this time.
STOP_S = 5.0
# In a notebook Ctrl-C is noticed within this time.
POLL_S = 0.1


class _RareCollection:
    """A context in which Python looks for cyclic garbage less often.

    A run creates many objects and few cycles: looking for them took a fifteenth of its CPU time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._before = gc.get_threshold()
                first, *others = self._before
                gc.set_threshold(first and max(first, COLLECTED_EVERY), *others)
            self._entered += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                gc.set_threshold(*self._before)


RARE_COLLECTION = _RareCollection()


class Report(Protocol):
    """How runs ended; `error` is the error that ended them early."""

    @property
    def error(self) -> BatchrunError | None:
        """The error that ended it early."""


R = TypeVar("R", bound=Report)


def run_loop(function: Callable[[Interrupts], Awaitable[R]]) -> R:
    """Run an asynchronous function in another event loop: uvloop's if it is installed.

    In the main thread it is a new one. In other threads, and if one is already running, it is in a thread
    that is kept for the next call.

    Raises:
        KeyboardInterrupt: after Ctrl-C if another event loop is already running.
    """
    with RARE_COLLECTION:
        if is_main_thread() and not _is_loop_running():
            return anyio.run(_with_interrupts, function, backend_options=_backend_options())
        with _loop_thread() as portal, counted_sigint() as sigint:
            future = _waited_for(portal, function, sigint)
    if sigint.value:
        raise _interrupted(future)
    return future.result()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _waited_for(
    portal: BlockingPortal, function: Callable[[Interrupts], Awaitable[R]], sigint: SigintCount
) -> futures.Future[R]:
    """Run a function in the event loop of another thread, and forward Ctrl-C to it."""
    interrupts = portal.call(Interrupts)
    future = portal.start_task_soon(function, interrupts)
    forwarded = 0
    # polars makes the system resume waits for locks after a signal: Python sees the signal only
    # when a wait times out.
    while not futures.wait([future], timeout=POLL_S).done:
        if sigint.value > forwarded:
            forwarded += 1
            if not interrupts.forward(signal.SIGINT):
                future.cancel()
    return future


async def _with_interrupts(function: Callable[[Interrupts], Awaitable[R]]) -> R:
    return await function(Interrupts())


def _interrupted(future: futures.Future[R]) -> BaseException:
    """Return the exception that ends the call after Ctrl-C, when the run has ended."""
    if future.cancelled():
        return keyboard_interrupt("interrupted; nothing was sent")
    error = future.exception() or future.result().error
    if error is None or isinstance(error, BatchrunError):
        return keyboard_interrupt(f"{error or 'interrupted; all answers are saved'}")
    return error


def _backend_options() -> dict[str, bool]:
    """Return the options with which anyio uses the event loop of uvloop if it is installed."""
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


class _LoopThread(threading.Thread):
    """A thread with an event loop that runs until `stop`."""

    def __init__(self) -> None:
        # Another kind of thread would be waited for before `stop` is called at exit.
        super().__init__(name="batchrun", daemon=True)
        self._portal: futures.Future[BlockingPortal] = futures.Future()
        self.start()
        self.portal = self._portal.result()

    def run(self) -> None:
        anyio.run(self._serve, backend_options=_backend_options())

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._portal.set_result(portal)
            await portal.sleep_until_stopped()

    def stop(self) -> None:
        if self.is_alive():
            self.portal.start_task_soon(self.portal.stop)
            self.join(STOP_S)


_idle: list[_LoopThread] = []


@contextmanager
def _loop_thread() -> Iterator[BlockingPortal]:
    """Provide the event loop of a thread for exclusive use."""
    thread = _idle_thread() or _LoopThread()
    yield thread.portal
    # After an error its tasks may still run.
    _idle.append(thread)


def _idle_thread() -> _LoopThread | None:
    while _idle:
        thread = _idle.pop()
        if thread.is_alive():  # in a forked process, threads are gone
            return thread
    return None


@atexit.register
def _stop() -> None:
    for thread in _idle:
        thread.stop()
