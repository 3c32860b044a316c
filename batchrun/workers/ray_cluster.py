"""Workers that are actors on an existing Ray cluster. The only file that imports ray.

The driver, which is the owner, runs on a machine of the cluster: otherwise results would cross a slow network.
Ray must neither restart actors nor repeat their calls, because it does not know what was paid for: the owner
replaces actors. An actor ends with the driver that started it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import ray
from ray.exceptions import RayError

from batchrun.errors import JobError
from batchrun.workers.worker import serve

# An actor that has not started by then has found no free processor.
START_S = 60.0
CONNECT_S = 10.0
# A call to an actor that waits for a message takes at most this long; without one for longer, it is alone.
PULL_S, ORPHANED_S = 20.0, 70.0
_CLIENT = "ray://"


class ActorChannel:
    """The worker's end: the owner pushes and pulls messages by calls of the actor."""

    machine = ""
    why_ended = "the owner is gone"

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        # The worker waits until its last message was fetched, so messages do not pile up.
        self.outgoing: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def send(self, message: bytes) -> None:
        """See `Channel`."""
        await self.outgoing.put(message)

    async def receive(self) -> bytes:
        """See `Channel`."""
        return await self.incoming.get()

    async def aclose(self) -> None:
        """See `Channel`."""


class WorkerActor:
    """A worker as an actor; its methods are called by `RayChannel`."""

    def __init__(self) -> None:
        self._channel = ActorChannel()
        self._pulled_at = time.monotonic()
        self._tasks = [
            asyncio.ensure_future(serve(self._channel)),
            asyncio.ensure_future(self._end_without_owner()),
        ]

    async def node(self) -> str:
        """Return the address of the node."""
        return str(ray.util.get_node_ip_address())

    async def push(self, message: bytes) -> None:
        """Take a message of the owner."""
        self._channel.incoming.put_nowait(message)

    async def pull(self) -> bytes:
        """Return the next message of the worker; empty if there is none for a while."""
        try:
            async with asyncio.timeout(PULL_S):
                return await self._channel.outgoing.get()
        except TimeoutError:
            return b""
        finally:
            self._pulled_at = time.monotonic()

    async def _end_without_owner(self) -> None:
        """End the actor if nobody pulls messages: Ray does not end an actor whose node was disconnected."""
        left_s = ORPHANED_S
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self._pulled_at + ORPHANED_S - time.monotonic()
        os._exit(1)


class RayChannel:
    """The owner's end of the channel to one actor.

    Args:
        actor: the worker.
        machine: the node that it is on.
    """

    def __init__(self, actor: Any, machine: str) -> None:  # noqa: ANN401 - a handle of Ray
        self._actor = actor
        self.machine = machine
        self.why_ended = "it was closed"

    async def send(self, message: bytes) -> None:
        """See `Channel`."""
        await self._result(self._actor.push.remote(message))

    async def receive(self) -> bytes:
        """See `Channel`."""
        message = b""
        while not message:
            message = await self._result(self._actor.pull.remote())
        return message

    async def aclose(self) -> None:
        """See `Channel`."""
        await anyio.to_thread.run_sync(partial(ray.kill, self._actor, no_restart=True))

    async def _result(self, call: Any) -> Any:  # noqa: ANN401 - of a call
        try:
            return await call
        except RayError as error:
            self.why_ended = f"the actor on {self.machine} died: {str(error).splitlines()[0]}"
            raise anyio.EndOfStream from error


async def _machine_of(actor: Any) -> str:  # noqa: ANN401 - a handle of Ray
    machine: str = await actor.node.remote()
    return machine


class RayActors:
    """Starts workers on a Ray cluster.

    Args:
        address: address of the cluster; None for the one of this machine or job.
        count: number of workers; None for one on each node, including nodes that join later.
    """

    def __init__(self, address: str | None, count: int | None) -> None:
        self._address = address
        self._count = count
        self._nodes = 0
        self._is_connected = False

    async def wanted(self, started: int, busy_share: float) -> int:
        """Return how many workers to have now."""
        del started, busy_share
        await self._connect()
        if self._count is not None:
            return self._count
        return await anyio.to_thread.run_sync(_usable_nodes)

    async def start(self) -> RayChannel:
        """Start an actor on the node with the fewest actors.

        Raises:
            JobError: when there is no cluster, or no free processor in it.
        """
        await self._connect()
        remote: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(WorkerActor)
        actor: Any = remote.options(scheduling_strategy="SPREAD", max_concurrency=8).remote()
        with anyio.move_on_after(START_S):
            try:
                return RayChannel(actor, await _machine_of(actor))
            except RayError as error:
                raise JobError(f"--on ray: a worker could not start: {error}") from error
        raise JobError(
            f"--on ray: no node has had a free processor for {START_S:g} s; wait for other jobs, or "
            "set fewer --workers"
        )

    async def aclose(self) -> None:
        """Leave the cluster; its actors end."""
        if self._is_connected:
            await anyio.to_thread.run_sync(ray.shutdown)

    async def _connect(self) -> None:
        if not self._is_connected:
            await anyio.to_thread.run_sync(connect, self._address)
            self._is_connected = True


def connect(address: str | None) -> None:
    """Connect to an existing cluster.

    Raises:
        JobError: when there is none.
    """
    if address is not None and address.startswith(_CLIENT):
        raise JobError(
            f"--on ray:{address}: a run cannot be driven through Ray Client; run batchrun on a machine "
            "of the cluster, or submit it with: ray job submit -- batchrun run JOB --on ray"
        )
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        _refuse_unreachable(address)
        ray.init(
            address=address or "auto",
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        said = str(error).splitlines()[0]
        raise JobError(
            f"--on ray: no Ray cluster at {address or 'this machine'} ({said}); start one with: "
            "ray start --head, or name its address: --on ray:HOST:PORT"
        ) from error


def _refuse_unreachable(address: str | None) -> None:
    """Check that something listens at an address, because Ray would try for minutes.

    Raises:
        OSError: if nothing listens there.
        ValueError: if it is not HOST:PORT.
    """
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address has the form HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _usable_nodes() -> int:
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return max(1, len(nodes))
