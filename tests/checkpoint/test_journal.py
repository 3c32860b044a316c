"""The journal: what was reported is on disk, many reports share a commit, no failure is lost."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from batchrun.checkpoint import Checkpoint, CheckpointJournal, FullDiskRetry, NewExecution, totals
from batchrun.errors import CheckpointError, CheckpointFull
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    RenderedItem,
    Request,
    Result,
    Status,
    Usage,
    WireRequest,
)
from tests.conftest import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ROWS = 200
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Checkpoint]:
    """A checkpoint with planned requests, whose keys are 1, 2, 3 …."""
    request, wire = Request("chat", "http://x", "m", ()), WireRequest("http://x", (), b"{}")
    with closing(Checkpoint(tmp_path, writable=True)) as opened:
        opened.start_execution(
            NewExecution(name="job", job={}, base=tmp_path, signature="s", total=ROWS, version="1")
        )
        rendered = [
            RenderedItem(n, str(n), request, wire, n.to_bytes(16, "big")) for n in range(ROWS)
        ]
        opened.plan(rendered, retry_errored=False)
        yield opened


@pytest.fixture
def journal(store: Checkpoint) -> CheckpointJournal:
    return CheckpointJournal(store)


@asynccontextmanager
async def running(journal: CheckpointJournal) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        yield
        journal.close()


def begun(key: int, number: int = 1) -> AttemptStart:
    return AttemptStart(key, number, NOON)


def failed(key: int, number: int = 1) -> Attempt:
    return Attempt(key, number, 0.1, 500, "api_error", "sorry", "transient")


def answered(key: int, number: int = 1, text: str = "yes") -> Result:
    completion = Completion((text,), "stop", "m", "id", Usage())
    return Result(key, Status.SUCCEEDED, Attempt(key, number, 0.1, 200), NOON, completion)


def commits(store: Checkpoint) -> list[str]:
    """Collect the commits that SQLite executes from now on."""
    found: list[str] = []
    store.db.conn.set_trace_callback(
        lambda statement: found.append(statement) if statement == "COMMIT" else None
    )
    return found


async def test_concurrent_reports_share_commits(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    seen = commits(store)
    async with running(journal), anyio.create_task_group() as workers:
        for key in range(1, ROWS + 1):
            workers.start_soon(journal.begin, begun(key))
    assert totals(store).in_flight == ROWS
    assert len(seen) <= 3


async def test_a_worker_alone_gets_a_commit_for_every_report(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    seen = commits(store)
    async with running(journal):
        await journal.begin(begun(1))
        await journal.fail(failed(1))
        await journal.begin(begun(1, 2))
        await journal.finish(answered(1, 2))
    assert len(seen) == 4


async def test_what_was_awaited_is_on_disk(
    store: Checkpoint, journal: CheckpointJournal, tmp_path: Path
) -> None:
    with closing(Checkpoint(tmp_path, writable=False)) as other:
        async with running(journal):
            await journal.begin(begun(1))
            assert totals(other).in_flight == 1
            await journal.fail(failed(1))
            assert (totals(other).in_flight, totals(other).attempts) == (0, 1)
            await journal.begin(begun(1, 2))
            await journal.finish(answered(1, 2))
            assert totals(other).succeeded == 1
    assert totals(store).attempts == 2


async def test_an_attempt_is_begun_before_it_ends_however_they_are_grouped(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    async def work(key: int) -> None:
        await journal.begin(begun(key))
        await journal.fail(failed(key))
        await journal.begin(begun(key, 2))
        await journal.finish(answered(key, 2, text=f"answer {key}"))

    async with running(journal), anyio.create_task_group() as workers:
        for key in range(1, ROWS + 1):
            workers.start_soon(work, key)
    found = totals(store)
    assert (found.succeeded, found.attempts, found.in_flight) == (ROWS, 2 * ROWS, 0)
    assert found.retries_by_cause == {"transient": ROWS}
    assert store.columns(0, ROWS, ["response"])["response"] == [
        f"answer {n + 1}" for n in range(ROWS)
    ]


class Busy:
    """Keeps the journal's thread busy until it is released."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self.started = anyio.Event()

    async def hold(self, journal: CheckpointJournal) -> None:
        def work() -> None:
            anyio.from_thread.run_sync(self.started.set)
            self._released.wait(DEADLINE_S)

        await journal.call(work)

    def release(self) -> None:
        self._released.set()


async def test_what_arrives_during_a_commit_is_committed_next_and_together(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    busy = Busy()
    seen = commits(store)
    async with running(journal), anyio.create_task_group() as workers:
        workers.start_soon(busy.hold, journal)
        await busy.started.wait()
        workers.start_soon(journal.begin, begun(1))
        await anyio.wait_all_tasks_blocked()
        for key in (2, 3, 4):
            workers.start_soon(journal.begin, begun(key))
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        busy.release()
    assert len(seen) == 2
    assert totals(store).in_flight == 4


async def test_closing_commits_what_is_left_and_lets_run_end(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        for key in (1, 2, 3):
            group.start_soon(journal.begin, begun(key))
        group.start_soon(anyio.sleep, 0)
        journal.close()
    assert totals(store).in_flight == 3


async def test_a_report_without_a_writer_is_committed_all_the_same(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    await journal.begin(begun(1))
    async with running(journal):
        pass
    with anyio.fail_after(DEADLINE_S):
        await journal.finish(answered(1))
    assert totals(store).succeeded == 1


async def test_functions_are_called_in_the_order_in_which_they_were_asked_for(
    journal: CheckpointJournal,
) -> None:
    order: list[int] = []
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(journal.call, order.append, number)
    assert order == list(range(20))


def disk_is_full(store: Checkpoint) -> None:
    """Let SQLite itself refuse to grow, as on a full disk."""
    (pages,) = store.db.conn.execute("PRAGMA page_count").fetchone()
    store.db.conn.execute(f"PRAGMA max_page_count = {pages}")


async def report(journal: CheckpointJournal, told: list[str], key: int) -> None:
    """Save an answer, as a worker does whatever happens around it; note what it is told."""
    try:
        with anyio.CancelScope(shield=True), anyio.fail_after(DEADLINE_S):
            await journal.finish(answered(key, text="long " * 4_000))
    except CheckpointError as error:
        told.append(str(error))


async def report_all(journal: CheckpointJournal, told: list[str], *keys: int) -> None:
    """Run the journal and report at the same time."""
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        for key in keys:
            group.start_soon(report, journal, told, key)


async def test_a_commit_that_fails_is_told_to_everyone_who_waits_for_it(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    disk_is_full(store)
    told: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        await report_all(journal, told, 1, 2, 3)
    assert len(told) == 3
    assert all("database or disk is full; check the disk" in message for message in told)
    assert caught.group_contains(CheckpointError, match="disk is full", depth=1)


async def test_what_is_reported_during_or_after_a_failure_is_refused_not_kept_waiting(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    disk_is_full(store)
    told: list[str] = []
    busy = Busy()

    async def report_while_busy() -> None:
        async with anyio.create_task_group() as group:
            await group.start(journal.run)
            group.start_soon(busy.hold, journal)
            await busy.started.wait()
            group.start_soon(report, journal, told, 1)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(report, journal, told, 2)
            await anyio.wait_all_tasks_blocked()
            busy.release()

    with pytest.raises(ExceptionGroup):
        await report_while_busy()
    # Its attempt may be among what could not be written, so nothing goes on from here.
    store.db.conn.execute("PRAGMA max_page_count = 1000000")
    await report(journal, told, 3)
    assert len(told) == 3
    assert totals(store).attempts == totals(store).succeeded == 0


async def note_of(retry: FullDiskRetry) -> str:
    while True:
        await anyio.sleep(0.01)
        if (note := retry.take_note()) is not None:
            return note


async def test_what_the_disk_has_no_room_for_waits_until_it_has(store: Checkpoint) -> None:
    told: list[str] = []
    retry = FullDiskRetry(30)
    disk_is_full(store)
    journal = CheckpointJournal(store, retry)
    async with running(journal), anyio.create_task_group() as workers:
        for key in (1, 2, 3):
            workers.start_soon(report, journal, told, key)
        note = await note_of(retry)
        store.db.conn.execute("PRAGMA max_page_count = 1000000")
    assert told == []
    assert note.startswith("the checkpoint cannot be written: ")
    assert retry.take_note() is None
    assert totals(store).succeeded == 3


async def test_patience_ends_by_itself_and_does_not_begin_again(store: Checkpoint) -> None:
    told: list[str] = []
    retry = FullDiskRetry(0.01)
    disk_is_full(store)
    with pytest.raises(ExceptionGroup) as caught:
        await report_all(CheckpointJournal(store, retry), told, 1)
    assert caught.group_contains(CheckpointFull)
    assert retry.take_note() is not None
    with pytest.raises(ExceptionGroup):
        await report_all(CheckpointJournal(store, retry), told, 2)
    assert len(told) == 2
    assert retry.take_note() is None


async def test_a_chunk_that_did_not_fit_is_planned_whole_when_there_is_room(
    store: Checkpoint,
) -> None:
    request, wire = Request("chat", "http://x", "m", ()), WireRequest("http://x", (), b"{}")
    rows = [RenderedItem(n, f"{n} " * 99, request, wire, b"same" * 4) for n in range(5_000)]
    disk_is_full(store)
    with pytest.raises(CheckpointFull):
        store.plan(rows, retry_errored=False)
    store.db.conn.execute("PRAGMA max_page_count = 1000000")
    assert len({p.key for p in store.plan(rows, retry_errored=False)}) == 5_000


class Careless:
    """Stands in for a checkpoint whose `record` has a bug."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, *_events: object) -> None:
        raise OverflowError("too large for SQLite")


async def test_a_bug_in_writing_does_not_pass_for_a_commit(tmp_path: Path) -> None:
    careless: Any = Careless(tmp_path / "checkpoint.db")
    told: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        await report_all(CheckpointJournal(careless), told, 1, 2)
    assert len(told) == 2
    assert all("checkpoint.db: could not be written" in message for message in told)
    assert caught.group_contains(OverflowError)


async def test_a_cancelled_run_still_saves_what_is_reported_under_a_shield(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    await journal.begin(begun(1))
    await journal.begin(begun(2))
    released = anyio.Event()

    async def save(key: int) -> None:
        with anyio.CancelScope(shield=True), anyio.fail_after(DEADLINE_S):
            await released.wait()
            await journal.finish(answered(key))

    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        group.start_soon(save, 1)
        group.start_soon(save, 2)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        released.set()
    assert totals(store).succeeded == 2


async def test_cancelling_at_the_moment_of_a_report_loses_nothing(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    await journal.begin(begun(1))

    async def save() -> None:
        with anyio.CancelScope(shield=True), anyio.fail_after(DEADLINE_S):
            await journal.finish(answered(1))

    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        group.start_soon(save)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert totals(store).succeeded == 1


async def test_errors_of_sqlite_become_checkpoint_errors(
    store: Checkpoint, journal: CheckpointJournal
) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint\.db"):
        await journal.call(store.db.execute, "SELECT * FROM nowhere")
