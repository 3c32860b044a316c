"""A worker: dispatches live what its owner sends, under the limits of the owner."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from batchrun import __version__
from batchrun.client import Credentials, KeyCommand, PyreqwestTransport
from batchrun.dispatch import (
    LIVE,
    Accounts,
    Assignment,
    FirstRequests,
    Provider,
    Rules,
    Tally,
    review_of,
    toolbox_of,
)
from batchrun.errors import BatchrunError, JobError
from batchrun.formats.unsupported import DroppedParameters
from batchrun.job import Job
from batchrun.limits import MOST, Backoff, Waits
from batchrun.pricing import price_book
from batchrun.workers.leases import (
    Leases,
    OwnerConnection,
    RemoteErrors,
    RemoteJournal,
    RemoteSampler,
)
from batchrun.workers.protocol import (
    Answer,
    BackoffAnswer,
    Cancel,
    ChunkTaken,
    Drain,
    DropParameter,
    Ended,
    Failed,
    Grant,
    NoMoreRequests,
    ProviderAnswered,
    Ready,
    Recorded,
    Refuse,
    Renewed,
    Requests,
    RowDecoder,
    SetConcurrency,
    Setup,
    WorkerReport,
    decode_orders,
    encode,
)

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream

    from batchrun.client import TransportPort
    from batchrun.dispatch import LiveDispatcher
    from batchrun.records import PlannedRequest
    from batchrun.workers.channel import Channel
    from batchrun.workers.protocol import Ordered

# The shortest time between two reports: each costs as much as several events in it.
STEP_S = 0.005
# More chunks than the owner ever sends ahead.
MOST_CHUNKS = 1_000


async def serve(channel: Channel) -> None:
    """Work for the owner at the other end until it closes the channel."""
    try:
        setup, *orders = decode_orders(await channel.receive())
        if isinstance(setup, Setup):
            await Worker(channel, setup).run(orders)
    except* anyio.EndOfStream:
        pass  # The owner has everything, or has died: nothing more could be recorded.


def digest_of(module: Path | None) -> bytes | None:
    """Return a digest of a file; None without one."""
    try:
        return None if module is None else hashlib.sha256(module.read_bytes()).digest()
    except OSError:
        return None


def assignment_of(setup: Setup, owner: OwnerConnection, waits: Waits) -> Assignment:
    """Return the assignment for the live dispatcher of a worker.

    Raises:
        JobError: when this worker lacks something that the job needs, such as a module.
    """
    if setup.version != __version__:
        raise JobError(
            f"has batchrun {__version__}, and the run was started with {setup.version}; install the "
            "same version everywhere"
        )
    job = Job.from_document(setup.job, Path(setup.base))
    if digest_of(job.tools.module) != setup.module:
        raise JobError(
            f"[tools] module: {job.tools.module} is missing or differs on this machine; put the same file "
            "at the same path on every machine"
        )
    leases = Leases(owner, job.limits, caps_cost=setup.caps_cost, workers=setup.workers)
    prices = price_book(job, setup.provider)
    return Assignment(
        job=job,
        journal=RemoteJournal(owner, leases),
        admission=leases,
        accounts=Accounts(waits, RemoteErrors(owner), prices),
        rules=Rules(
            job.retry,
            review_of(job),
            toolbox_of(job),
            job.tools.max_turns,
            DroppedParameters(setup.dropped, is_on=job.request.drops_unsupported),
        ),
        first=FirstRequests(setup.variable, RemoteSampler(owner), setup.is_answered),
        provider=Provider(
            _credentials(setup, job),
            PyreqwestTransport(connections=job.limits.concurrency or MOST),
            setup.simulator,
        ),
    )


class Worker:
    """Dispatches the requests that the owner sends.

    Args:
        channel: the channel to the owner.
        setup: the owner's first order.
    """

    def __init__(self, channel: Channel, setup: Setup) -> None:
        self._channel = channel
        self._setup = setup
        self._owner = OwnerConnection()
        self._waits = Waits()
        self._rows = RowDecoder()
        self._scope = anyio.CancelScope()
        self._dispatcher: LiveDispatcher | None = None
        self._command: KeyCommand | None = None
        # The owner sends a chunk for each that was taken, so there are never many here.
        self._inbox, self._received = anyio.create_memory_object_stream["list[PlannedRequest]"](
            MOST_CHUNKS
        )

    async def run(self, orders: list[Ordered]) -> None:
        """Carry out the owner's orders.

        Raises:
            EndOfStream: when the owner closes the channel.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._report)
            # Before the first order: it may be to drain.
            try:
                assignment = assignment_of(self._setup, self._owner, self._waits)
            except BatchrunError as error:
                self._owner.report(Failed(str(error), is_job=isinstance(error, JobError)))
            else:
                self._command = assignment.provider.credentials.command
                self._dispatcher = LIVE.create(assignment)
                self._owner.report(Ready())
                group.start_soon(self._work, self._dispatcher, assignment.provider.transport)
            while True:
                for order in orders:
                    self._obey(order)
                orders = decode_orders(await self._channel.receive())

    async def _work(self, dispatcher: LiveDispatcher, transport: TransportPort) -> None:
        """Dispatch until there are no more requests, or the owner lets this worker drain."""
        try:
            with self._scope:
                await self._dispatch(dispatcher)
            self._owner.report(Ended())
        except Exception as error:  # noqa: BLE001 - the owner reports it
            self._owner.report(Failed(repr(error), is_job=False))
        finally:
            with anyio.CancelScope(shield=True):
                await transport.aclose()

    async def _dispatch(self, dispatcher: LiveDispatcher) -> None:
        send, receive = anyio.create_memory_object_stream["list[PlannedRequest]"](1)
        async with receive, anyio.create_task_group() as group:
            group.start_soon(self._pass_on, send)
            await dispatcher.run(receive)
            group.cancel_scope.cancel()

    async def _pass_on(self, send: MemoryObjectSendStream[list[PlannedRequest]]) -> None:
        """Pass chunks to the dispatcher as it takes them, and report that."""
        async with send:
            with suppress(anyio.BrokenResourceError):  # it drains
                async for chunk in self._received:
                    await send.send(chunk)
                    self._owner.report(ChunkTaken())

    def _obey(self, order: Ordered) -> None:
        match order:
            case Requests(question=None):
                self._inbox.send_nowait(self._rows.decode(order))
            case Requests(question=int(question)):
                self._owner.deliver(question, self._rows.decode(order))
            case Grant() | Refuse():
                self._owner.deliver(order.lease, order)
            case Answer():
                self._owner.deliver(order.question, order.answer)
            case BackoffAnswer():
                self._owner.deliver(order.question, Backoff(order.is_shared, order.pause_s))
            case Recorded():
                self._owner.confirm(order.count)
            case SetConcurrency():
                self._owner.set_concurrency(order.count)
            case _:
                self._change_run(order)

    def _change_run(self, order: Ordered) -> None:
        if isinstance(order, NoMoreRequests):
            self._inbox.close()
        elif isinstance(order, Drain) and self._dispatcher is not None:
            self._dispatcher.drain()
        elif isinstance(order, ProviderAnswered) and self._dispatcher is not None:
            self._dispatcher.refusals.answered()
        elif isinstance(order, DropParameter) and self._dispatcher is not None:
            self._dispatcher.rules.dropped.add(order.model, order.parameter)
        elif isinstance(order, Cancel):
            self._scope.cancel()

    async def _report(self) -> None:
        """Report what has happened, in steps."""
        while True:
            await self._owner.wait_for_events()
            await self._channel.send(encode(self._next_report()))
            await anyio.sleep(STEP_S)

    def _next_report(self) -> WorkerReport:
        renewals = () if self._command is None else self._command.taken_renewals()
        events = [*self._owner.take_events(), *map(Renewed, renewals)]
        tally = Tally() if self._dispatcher is None else self._dispatcher.tally
        waiting = {cause: count for cause, count in self._waits.waiting.items() if count}
        return WorkerReport(
            events,
            tally.succeeded,
            tally.last_error,
            tally.stop,
            self._dispatcher is not None and self._dispatcher.refusals.is_answered,
            dict(self._waits.seconds),
            waiting,
            time.process_time(),
        )


def _credentials(setup: Setup, job: Job) -> Credentials:
    arguments = job.request.api_key_command
    if not arguments or setup.key is None:
        return Credentials(setup.key, setup.headers)
    return Credentials(None, setup.headers, KeyCommand(arguments, job.base, setup.key))
