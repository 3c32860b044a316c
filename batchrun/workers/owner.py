"""The owner: a dispatcher that lets other processes send the requests.

It has the checkpoint, the plan, the limits and the money. It hands out requests, grants a lease for each
attempt, and records what happens. A worker that dies is replaced, and its requests are sent again.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

import anyio

from batchrun import __version__
from batchrun.dispatch import Tally
from batchrun.errors import BatchrunError
from batchrun.limits import CapReached
from batchrun.workers.protocol import DropParameter, ProviderAnswered, Setup
from batchrun.workers.session import WorkerSession
from batchrun.workers.worker import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ObjectReceiveStream, TaskGroup

    from batchrun.client import KeyRenewal
    from batchrun.dispatch import Admission, Assignment
    from batchrun.errors import Stop
    from batchrun.limits import Waits
    from batchrun.limits.demand import LimitKey
    from batchrun.records import Attempt, PlannedRequest
    from batchrun.workers.channel import Channel
    from batchrun.workers.protocol import AskLease, WorkerReport

# Requests of one chunk for a worker: as many as it works on at a time, within these bounds.
FEWEST_ROWS, MOST_ROWS = 8, 512
# Requests beyond its share that a worker may work on, so that the next ones wait at the owner when others
# end.
SPARE_SHARE, SPARE_REQUESTS = 0.25, 8
# Until the provider has answered, only one worker is used, as one process sends only a few requests. A
# slow first answer does not hold up the others for longer.
MOST_ALONE_S = 3.0
# How often to see whether more workers are of use.
GROW_S = 2.0
# A request whose attempts were in flight when this many workers died may be the reason.
MOST_DEATHS = 3
# Workers that end this often in a row before any of them has finished a request will not work.
MOST_FALSE_STARTS = 3
# How long workers may take to report what they cancelled.
CANCEL_S = 10.0


class WorkerLauncher(Protocol):
    """Starts workers."""

    async def wanted(self, started: int, busy_share: float) -> int:
        """Return how many workers to have now.

        Args:
            started: number of workers so far.
            busy_share: the share of a processor that each of them used recently.
        """

    async def start(self) -> Channel:
        """Start a worker and return the channel to it.

        Raises:
            BatchrunError: if none can be started.
        """

    async def aclose(self) -> None:
        """End all workers that are still running."""


class Admitter:
    """Asks the limits for one request at a time: of each endpoint, in the order of their ranks.

    Args:
        admission: the limits.
        waits: counts the waits.
        group: the task group in which requests wait.
    """

    def __init__(self, admission: Admission, waits: Waits, group: TaskGroup) -> None:
        self._group = group
        self._admission = admission
        self._waits = waits
        self._order = itertools.count()
        self._queues: dict[LimitKey, list[tuple[int, int, WorkerSession, AskLease]]] = {}
        self._news: dict[LimitKey, anyio.Event] = {}

    def ask(self, session: WorkerSession, ask: AskLease) -> None:
        """Grant what a worker asks for when it is admitted."""
        key = ask.asked.key
        if key not in self._queues:
            self._queues[key], self._news[key] = [], anyio.Event()
            self._group.start_soon(self._serve, key)
        heapq.heappush(self._queues[key], (ask.rank, next(self._order), session, ask))
        self._news[key].set()

    async def _serve(self, key: LimitKey) -> None:
        queue = self._queues[key]
        while True:
            while not queue:
                self._news[key] = anyio.Event()
                await self._news[key].wait()
            rank, _, session, ask = heapq.heappop(queue)
            if session.wants(ask):
                await self._admit(rank, session, ask)

    async def _admit(self, rank: int, session: WorkerSession, ask: AskLease) -> None:
        permit = self._admission.admit_now(ask.asked)
        if permit is None:
            try:
                permit = await self._admission.admit(ask.asked, rank, self._waits)
            except CapReached as reached:
                session.refuse(ask, reached)
                return
        if session.wants(ask):
            session.granted(ask, permit)
        else:
            permit.withdraw()


class WorkersDispatcher:
    """Has workers send the requests of one run.

    Args:
        assignment: what every dispatcher is given.
        launcher: starts workers.
    """

    def __init__(self, assignment: Assignment, launcher: WorkerLauncher) -> None:
        self._assignment = assignment
        self._launcher = launcher
        self._sessions: list[WorkerSession] = []
        self._returned: deque[PlannedRequest] = deque()
        self._sizes: dict[int, int] = {}
        self._deaths: Counter[int] = Counter()
        self._feeding = anyio.CancelScope()
        self._cancelled = anyio.CancelScope()
        self._changed = anyio.Event()
        self._is_draining = self._is_fed = False
        self._is_answered = assignment.first.is_answered
        self._chunk_rows = FEWEST_ROWS
        self._false_starts = 0
        self._kept = self._wanted = 0
        self._busy_s = 0.0
        self._alone_until = math.inf
        self.journal = assignment.journal
        self.admission = assignment.admission
        self._admitter: Admitter | None = None
        self.tally = Tally()

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Send every request of the stream; returns when all have a result or the run drains."""
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._cancel_with_this)
            # What workers report must be recorded even when this is cancelled.
            with anyio.CancelScope(shield=True):
                try:
                    await self._run(requests)
                finally:
                    self.admission.request_memory.give_back(sum(self._sizes.values()))
                    await self._launcher.aclose()
            outer.cancel_scope.cancel()

    def drain(self) -> None:
        """Send nothing more, finish what is in flight, and leave the rest pending."""
        if not self._is_draining:
            self._is_draining = True
            self._feeding.cancel()
            for session in self._sessions:
                session.drain()

    def stop(self, stop: Stop) -> None:
        """Drain, and keep the reason. The first reason counts."""
        self.tally.end_with(stop)
        self.drain()

    # What sessions call.

    def ask(self, session: WorkerSession, ask: AskLease) -> None:
        """Grant what a worker asks for when it is admitted."""
        if self._admitter is not None:
            self._admitter.ask(session, ask)

    def count(self, error: str | None, *, timed_out: bool) -> None:
        """Count a row, and stop when too many have failed."""
        stop = self._assignment.accounts.errors.count(error, timed_out=timed_out)
        if stop is not None:
            self.stop(stop)

    def note(self, last: WorkerReport | None, report: WorkerReport) -> None:
        """Add what a worker has done since its last report."""
        tally, waits = self.tally, self._assignment.accounts.waits
        self._busy_s += report.cpu_s - (last.cpu_s if last else report.cpu_s)
        tally.succeed(report.succeeded - (last.succeeded if last else 0))
        tally.fail(report.last_error)
        before, waiting = (last.waits, last.waiting) if last else ({}, {})
        for cause in report.waits.keys() | report.waiting.keys() | waiting.keys():
            seconds = report.waits.get(cause, 0.0) - before.get(cause, 0.0)
            change = report.waiting.get(cause, 0) - waiting.get(cause, 0)
            waits.add(cause, seconds, change)
        if report.succeeded:
            self._false_starts = 0
        if report.is_answered and not self._is_answered:
            self._note_answered()
        if report.stop is not None:
            self.stop(report.stop)
        self._share_concurrency()

    def share_dropped(self, attempt: Attempt) -> None:
        """Let all workers leave out a parameter that one has learned to leave out."""
        model, name = attempt.asked_model, attempt.dropped
        if model is None or name is None or not self._assignment.rules.dropped.add(model, name):
            return
        for session in self._sessions:
            session.order(DropParameter(model, name))

    def note_renewal(self, renewal: KeyRenewal) -> None:
        """Keep for the log that a worker ran the program for another key."""
        command = self._assignment.provider.credentials.command
        if command is not None:
            command.note_renewal(renewal)

    def forget(self, last: WorkerReport | None) -> None:
        """Withdraw all requests of a worker that is gone."""
        for cause, count in (last.waiting if last else {}).items():
            self._assignment.accounts.waits.add(cause, 0.0, -count)

    def has_changed(self) -> None:
        """Note that a worker has room."""
        self._changed.set()

    def release(self, key: int) -> None:
        """Release the memory of a request that has its result."""
        self.admission.request_memory.give_back(self._sizes.pop(key, 0))

    def has_died_too_often(self, key: int) -> bool:
        """Count the death of a worker while a request was in flight; return whether the request is given up."""
        self._deaths[key] += 1
        return self._deaths[key] >= MOST_DEATHS

    async def sample(self) -> Sequence[PlannedRequest]:
        """Return requests from all over the input."""
        sampler = self._assignment.first.sampler
        return [] if sampler is None else await sampler.sample()

    # The work.

    async def _run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        async with anyio.create_task_group() as admitting:
            waits = self._assignment.accounts.waits
            self._admitter = Admitter(self.admission, waits, admitting)
            with self._cancelled:
                await self._work(requests)
            admitting.cancel_scope.cancel()

    async def _work(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        async with anyio.create_task_group() as working:
            await self._grow(working)
            async with anyio.create_task_group() as growing:
                growing.start_soon(self._keep_growing, working)
                async with requests:
                    with self._feeding:
                        await self._until_ready()
                        await self._hand_out(requests)
                growing.cancel_scope.cancel()
            self._is_fed = True
            for session in self._sessions:
                session.end()

    async def _cancel_with_this(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._cancel()

    def _cancel(self) -> None:
        """Cancel what is in flight, and make sure that the workers end."""
        self.drain()
        self._cancelled.deadline = anyio.current_time() + CANCEL_S
        for session in self._sessions:
            session.cancel()

    async def _keep_growing(self, working: TaskGroup) -> None:
        """Start more workers when they are useful, or when machines were added."""
        while True:
            await anyio.sleep(GROW_S)
            await self._grow(working)

    async def _grow(self, working: TaskGroup) -> None:
        busy_s, self._busy_s = self._busy_s, 0.0
        self._wanted = await self._launcher.wanted(self._kept, busy_s / GROW_S / max(1, self._kept))
        while self._kept < self._wanted:
            self._kept += 1
            working.start_soon(self._keep_worker)

    async def _until_ready(self) -> None:
        """Wait until the initial workers have everything that the job needs."""
        while self._are_starting:
            self._changed = anyio.Event()
            await self._changed.wait()

    @property
    def _are_starting(self) -> bool:
        are_ready = all(session.is_ready for session in self._sessions)
        return len(self._sessions) < self._kept or not are_ready

    async def _keep_worker(self) -> None:
        """Keep one worker alive until there is nothing left to do."""
        try:
            await self._replace_worker()
        finally:
            self._kept -= 1
            self._changed.set()

    async def _replace_worker(self) -> None:
        while not self._is_draining and self._kept <= self._wanted:
            channel = await self._launcher.start()
            session = WorkerSession(self, channel, self._setup())
            self._sessions.append(session)
            self._begin(session)
            try:
                await session.run()
            finally:
                self._sessions.remove(session)
            if session.has_ended:
                return
            self._returned += session.take_unfinished()
            self._note_death(session)
            if self._is_fed and not self._returned:
                return

    def _begin(self, session: WorkerSession) -> None:
        """Add a new worker."""
        if self._is_draining:
            session.drain()
        elif self._is_fed:
            while self._returned:
                session.give(self._take_returned())
            session.end()
        self._changed.set()

    def _note_death(self, session: WorkerSession) -> None:
        self._false_starts += 1
        if self._false_starts > MOST_FALSE_STARTS * self._wanted:
            raise BatchrunError(f"workers stopped before doing any work: {session.why_ended}")

    async def _hand_out(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Give chunks to the workers that have room."""
        async for chunk in requests:
            first = 0
            while first < len(chunk):
                end = first + self._chunk_rows
                await self._give(chunk[first:end])
                first = end
        while self._returned:
            await self._give_returned()

    async def _give(self, rows: Sequence[PlannedRequest]) -> None:
        while self._returned:
            await self._give_returned()
        size = sum(len(row.wire.body) for row in rows)
        await self.admission.request_memory.take(size)
        self._sizes.update((row.key, len(row.wire.body)) for row in rows)
        (await self._with_room()).give(rows)

    async def _give_returned(self) -> None:
        session = await self._with_room()
        session.give(self._take_returned())

    def _take_returned(self) -> list[PlannedRequest]:
        count = min(self._chunk_rows, len(self._returned))
        return [self._returned.popleft() for _ in range(count)]

    async def _with_room(self) -> WorkerSession:
        """Return the least loaded worker that has room."""
        if self._alone_until == math.inf:
            self._alone_until = anyio.current_time() + MOST_ALONE_S
        while True:
            alone_s = 0.0 if self._is_answered else self._alone_until - anyio.current_time()
            usable = self._sessions[:1] if alone_s > 0 else self._sessions
            ready = [session for session in usable if session.has_room]
            if ready:
                return min(ready, key=lambda session: session.load)
            self._changed = anyio.Event()
            with anyio.move_on_after(alone_s if alone_s > 0 else None):
                await self._changed.wait()

    def _note_answered(self) -> None:
        """Let all workers send: the provider has answered."""
        self._is_answered = True
        self._changed.set()
        for session in self._sessions:
            session.order(ProviderAnswered())

    def _share_concurrency(self) -> None:
        """Share the requests that could be worked on among the workers that have some."""
        busy = [session for session in self._sessions if session.load]
        share = math.ceil(self.admission.workers_wanted() / max(1, len(busy)))
        most = share + math.ceil(SPARE_SHARE * share) + SPARE_REQUESTS
        self._chunk_rows = min(max(FEWEST_ROWS, most), MOST_ROWS)
        for session in self._sessions:
            session.set_concurrency(most)

    def _setup(self) -> Setup:
        assignment = self._assignment
        credentials = assignment.provider.credentials
        return Setup(
            __version__,
            digest_of(assignment.job.tools.module),
            dict(assignment.job.document),
            str(assignment.job.base),
            credentials.current_key,
            credentials.headers,
            assignment.first.variable,
            assignment.provider.simulator,
            assignment.accounts.prices.provider,
            self.admission.caps_cost,
            self._wanted,
            self._is_answered,
            self._assignment.rules.dropped.known,
        )
