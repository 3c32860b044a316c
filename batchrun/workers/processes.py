"""Workers that are processes on this machine, each at a socket pair."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun.limits.memory import COLLECTED_EVERY
from batchrun.workers.channel import SocketChannel
from batchrun.workers.worker import serve

if TYPE_CHECKING:
    from batchrun.workers.channel import Channel

# A worker that does not end by itself when its channel is closed is killed after this time.
END_S = 5.0
# Workers that use this share of a processor each are busy: another one is of use.
BUSY = 0.7


class ProcessChannel(SocketChannel):
    """The channel to a process of this machine.

    Args:
        connected: this process's end.
        process: the process at the other end.
        errors: the stderr of that process.
    """

    def __init__(
        self, connected: socket.socket, process: subprocess.Popen[bytes], errors: IO[bytes]
    ) -> None:
        super().__init__(connected)
        self.process = process
        self._errors = errors
        self._last_line = ""

    @property
    def why_ended(self) -> str:
        """How the process ended, and the last line that it wrote to stderr."""
        code = self.process.poll()
        if code is not None and code < 0:
            return f"the worker process was killed by {signal.Signals(-code).name}"
        return f"the worker process ended with status {code}: {self._last_line or 'no message'}"

    async def aclose(self) -> None:
        """Close the socket and wait for the end of the process."""
        await super().aclose()
        with anyio.move_on_after(END_S):
            await anyio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        self.process.kill()
        self.process.wait()
        with self._errors as written:
            written.seek(0)
            lines = written.read().decode(errors="replace").split("\n")
        self._last_line = next((line for line in reversed(lines) if line.strip()), "")


class LocalProcesses:
    """Starts workers on this machine.

    Args:
        count: number of workers; None: more as long as they are busy, up to the number of processors.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count

    async def wanted(self, started: int, busy_share: float) -> int:
        """Return how many workers to have now."""
        if self._count is not None:
            return self._count
        most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return min(started + 1, most or 1) if not started or busy_share > BUSY else started

    async def start(self) -> Channel:
        """Start a process. Signals from the terminal do not reach it: the owner ends it."""
        ours, theirs = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes to it
        command = [sys.executable, "-P", "-m", "batchrun.workers", str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own program; it takes no time
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        channel = ProcessChannel(ours, process, errors)
        await channel.open()
        return channel

    async def aclose(self) -> None:
        """Each channel ends its process."""


def main(descriptor: int) -> None:
    """Serve as a worker at an inherited socket."""
    # The owner drains its workers, whoever sent the signal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(COLLECTED_EVERY)
    backend = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    anyio.run(_serve, socket.socket(fileno=descriptor), backend_options=backend)
    # Threads of tools that are still running do not hold up the end.
    os._exit(0)


class OwnerChannel(SocketChannel):
    """The worker's end. Without an owner the process ends at once: nothing could be recorded."""

    async def receive(self) -> bytes:
        """See `Channel`."""
        try:
            return await super().receive()
        except anyio.EndOfStream:
            os._exit(0)


async def _serve(connected: socket.socket) -> None:
    channel = OwnerChannel(connected)
    await channel.open()
    await serve(channel)
