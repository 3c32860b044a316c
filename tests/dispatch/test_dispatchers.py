"""Another way to dispatch: a toy that answers every request from a dict, run through `run_job`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest

from batchrun import Job, RunOptions, run_job
from batchrun.checkpoint import Checkpoint, NewExecution
from batchrun.dispatch import LIVE, Tally
from batchrun.errors import CheckpointError, RunEnd, Stop
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    Ending,
    Result,
    Status,
    UnfinishedAttempt,
    Usage,
    changed,
)
from batchrun.run.execution_start import lost_attempts
from tests.support.checkpoints import items

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import polars as pl
    from anyio.abc import ObjectReceiveStream

    from batchrun.dispatch import Assignment, Dispatcher, DispatcherFactory
    from batchrun.records import PlannedRequest

NOWHERE = "http://127.0.0.1:9"
ANSWERS = {f"Say text {n}": f"answer {n}" for n in range(1_000)}


class TableDispatcher:
    """Answers from a dict; a prompt that is not there is an errored row."""

    def __init__(self, assignment: Assignment, answers: Mapping[str, str]) -> None:
        self.tally = Tally()
        self._journal = assignment.journal
        self._answers = answers
        self._scope = anyio.CancelScope()

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        with self._scope:
            async with requests:
                async for chunk in requests:
                    for request in chunk:
                        await self._send(request)

    def drain(self) -> None:
        self._scope.cancel()

    def stop(self, stop: Stop) -> None:
        self.tally.end_with(stop)
        self.drain()

    async def _send(self, request: PlannedRequest) -> None:
        number = request.attempts_made + 1
        with anyio.CancelScope(shield=True):
            await self._journal.begin(AttemptStart(request.key, number, datetime.now(UTC)))
            self.tally.begin()
            prompt = orjson.loads(request.wire.body)["messages"][-1]["content"]
            await self._journal.finish(self._result(request, number, self._answers.get(prompt)))
            self.tally.end()

    def _result(self, request: PlannedRequest, number: int, text: str | None) -> Result:
        now, model = datetime.now(UTC), request.request.model
        attempt = Attempt(request.key, number, 0.0, model=model, usage=Usage(1, 1))
        if text is None:
            self.tally.fail("not_found: not in the table")
            attempt = changed(attempt, error_type="not_found", error_message="not in the table")
            return Result(request.key, Status.ERRORED, attempt, now)
        self.tally.succeed()
        completion = Completion((text,), "end", model, None, attempt.usage, ending=Ending.STOP)
        return Result(request.key, Status.SUCCEEDED, attempt, now, completion)


@dataclass
class TableFactory:
    """Makes toy dispatchers. Attempts in `out` may still be answered after a process died."""

    answers: Mapping[str, str] = field(default_factory=lambda: ANSWERS)
    out: frozenset[int] = frozenset()
    name: str = "table"
    asked: list[UnfinishedAttempt] = field(default_factory=list)
    made: list[TableDispatcher] = field(default_factory=list)

    def create(self, assignment: Assignment) -> Dispatcher:
        self.made.append(TableDispatcher(assignment, self.answers))
        return self.made[-1]

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        self.asked += unfinished
        return [attempt for attempt in unfinished if attempt.key not in self.out]


def run(job: Path, dispatcher: DispatcherFactory, **options: Any) -> Any:
    return run_job(Job.load(job), RunOptions(quiet=True, dispatcher=dispatcher, **options))


def test_a_dispatcher_answers_every_row(write_job: Callable[..., Path]) -> None:
    job = write_job(NOWHERE, rows=300)
    factory = TableFactory()
    report = run(job, factory)
    assert (report.exit_code, report.error) == (0, None)
    table: pl.DataFrame = report.results.collect()
    assert table["response"].to_list() == [f"answer {n}" for n in range(300)]
    assert set(table["attempts"]) == {1}
    assert report.totals.executions[-1]["outcome"] == RunEnd.FINISHED
    (made,) = factory.made
    assert (made.tally.sent, made.tally.succeeded) == (300, 300)


def test_rows_that_one_dispatcher_answered_are_not_sent_by_another(
    write_job: Callable[..., Path],
) -> None:
    job = write_job(NOWHERE, rows=20)
    assert run(job, TableFactory()).exit_code == 0
    assert run(job, other := TableFactory({}, name="another")).exit_code == 0
    assert [made.tally.sent for made in other.made] == [0]
    # Nor by live dispatch: nothing listens at this address.
    assert run(job, LIVE).exit_code == 0


def test_errored_rows_and_an_execution_in_which_nothing_succeeded(
    write_job: Callable[..., Path],
) -> None:
    job = write_job(NOWHERE, rows=3)
    report = run(job, TableFactory({"Say text 1": "yes"}))
    assert report.exit_code == 3
    assert report.results.collect()["error_type"].to_list() == ["not_found", None, "not_found"]
    report = run(job, TableFactory({}), retry_errored=True)
    assert report.exit_code == 4
    assert report.totals.executions[-1]["outcome"] == RunEnd.NOTHING_SUCCEEDED
    assert "not in the table" in str(report.error)


def test_why_a_dispatcher_stopped_ends_the_run(write_job: Callable[..., Path]) -> None:
    class Stopping(TableFactory):
        def create(self, assignment: Assignment) -> Dispatcher:
            dispatcher = super().create(assignment)
            dispatcher.stop(Stop(RunEnd.EXHAUSTED, "the table is used up"))
            return dispatcher

    report = run(write_job(NOWHERE, rows=3), Stopping())
    assert report.exit_code == 4
    assert report.totals.pending == 3
    assert report.totals.executions[-1]["outcome"] == RunEnd.EXHAUSTED
    assert report.totals.executions[-1]["reason"] == "the table is used up"


def leave_unfinished(directory: Path, dispatcher: str) -> list[int]:
    """Do what a process does that dies while it waits for three answers."""
    directory.mkdir(parents=True)
    store = Checkpoint(directory, writable=True)
    store.start_execution(
        NewExecution(
            name="job",
            job={},
            base=directory,
            signature="s",
            total=3,
            version="1",
            dispatcher=dispatcher,
        )
    )
    pending = store.plan(items("abc"), retry_errored=False)
    now = datetime.now(UTC)
    store.record([AttemptStart(request.key, 1, now) for request in pending], [], [])
    store.close()
    return [request.key for request in pending]


def test_only_what_its_dispatcher_calls_lost_is_settled(tmp_path: Path) -> None:
    first, *others = leave_unfinished(tmp_path / "run", "table")
    factory = TableFactory(out=frozenset({first}))
    store = Checkpoint(tmp_path / "run", writable=True)
    lost = lost_attempts(store.unfinished_attempts(), factory)
    assert [attempt.key for attempt in lost] == others
    assert {attempt.dispatcher for attempt in factory.asked} == {"table"}
    store.start_execution(
        NewExecution(name="job", job={}, base=tmp_path, signature="s", total=3, version="1"), lost
    )
    assert [(each.key, each.dispatcher) for each in store.unfinished_attempts()] == [
        (first, "table")
    ]
    found = store.db.execute("SELECT count(*) FROM attempts WHERE error_type = 'interrupted'")
    assert found.fetchone() == (2,)
    store.close()


def test_what_live_dispatch_left_unfinished_is_lost_whoever_continues(tmp_path: Path) -> None:
    keys = leave_unfinished(tmp_path / "run", "live")
    store = Checkpoint(tmp_path / "run", writable=True)
    factory = TableFactory(out=frozenset(keys))
    assert [each.key for each in lost_attempts(store.unfinished_attempts(), factory)] == keys
    assert factory.asked == []
    store.close()


def test_attempts_of_an_unknown_dispatcher_are_an_error_that_names_it(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    keys = leave_unfinished(tmp_path / "out", "carrier-pigeon")
    with pytest.raises(CheckpointError, match="carrier-pigeon"):
        run(write_job(NOWHERE, rows=3), LIVE, yes=True)
    store = Checkpoint(tmp_path / "out", writable=False)
    assert [attempt.key for attempt in store.unfinished_attempts()] == keys
    store.close()
