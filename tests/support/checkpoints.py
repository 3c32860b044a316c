"""A checkpoint filled by hand."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint import NewExecution, encoding
from batchrun.checkpoint.columns import result_kinds
from batchrun.checkpoint.schema import MIGRATIONS, add_missing_columns
from batchrun.formats.sent_batches import BatchStage, SentBatch
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    PlannedRequest,
    RenderedItem,
    Request,
    Result,
    Status,
    WireRequest,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.checkpoint import (
        Checkpoint,
    )


REQUEST = Request("chat", "http://x", "m", ())


WIRE = WireRequest("http://x/v1/chat/completions", (), b"{}")


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


DOCUMENT = {"name": "job"}


BATCH = SentBatch(
    tag="t0",
    stage=BatchStage.INTENDED,
    account="digest",
    base_url="http://x",
    model="m",
    rows=2,
    tokens=20,
    queued_tokens=20,
    is_primer=False,
    intended_us=1,
)


def item(
    ordinal: int, asks: str, *, custom_id: str | None = None, fails: str | None = None
) -> RenderedItem:
    """A row that asks something, or that cannot be rendered."""
    custom_id = custom_id or str(ordinal + 1)
    if fails is not None:
        return RenderedItem(ordinal, custom_id, error_type="template_error", error_message=fails)
    return RenderedItem(ordinal, custom_id, REQUEST, WIRE, asks.encode().ljust(16, b"."))


def items(asks: Sequence[str], ids: Sequence[str] | None = None) -> list[RenderedItem]:
    return [
        item(ordinal, ask, custom_id=ids[ordinal] if ids else None)
        for ordinal, ask in enumerate(asks)
    ]


def seal_all(db: sqlite3.Connection) -> None:
    """Give all records the checksums of their present values."""
    encoding.register(db)
    tables = (value for value in vars(encoding).values() if isinstance(value, encoding.Checked))
    for table in tables:
        db.execute(table.seal("1"))


def start(store: Checkpoint, total: int, signature: str = "s") -> int:
    """Begin an execution; return how many unfinished attempts were lost: all of them."""
    lost = store.unfinished_attempts()
    store.start_execution(
        NewExecution(
            name="job",
            job=DOCUMENT,
            base=Path("/base"),
            signature=signature,
            total=total,
            version="1",
        ),
        lost,
    )
    return len(lost)


def plan(
    store: Checkpoint,
    rows: Sequence[RenderedItem],
    *,
    signature: str = "s",
    retry_errored: bool = False,
    chunk: int = 3,
) -> list[PlannedRequest]:
    """Do what an execution does before it sends, in chunks."""
    start(store, len(rows), signature)
    pending: list[PlannedRequest] = []
    for first in range(0, len(rows), chunk):
        pending += store.plan(rows[first : first + chunk], retry_errored=retry_errored)
    store.finish_plan(len(rows))
    return pending


def begin(store: Checkpoint, *requests: PlannedRequest, at: datetime = NOON) -> None:
    store.record([AttemptStart(r.key, r.attempts_made + 1, at) for r in requests], [], [])


def succeeded(request: PlannedRequest, text: str = "yes", **last: Any) -> Result:
    facts: dict[str, Any] = {"latency_s": 1.5, "http_status": 200, "model": "m-1"}
    attempt = Attempt(request.key, request.attempts_made + 1, **facts | last)
    completion = Completion((text,), "end_turn", "m-1", "resp_1", attempt.usage)
    return Result(request.key, Status.SUCCEEDED, attempt, NOON, completion)


def finish(store: Checkpoint, *results: Result) -> None:
    starts = [AttemptStart(r.key, r.last.number, NOON) for r in results]
    store.record(starts, [r.last for r in results], list(results))


def answer_all(store: Checkpoint, pending: Sequence[PlannedRequest]) -> None:
    """Answer every request with the id of the row that asked first."""
    finish(store, *(succeeded(request, f"to {request.custom_id}") for request in pending))


def asked(pending: Sequence[PlannedRequest]) -> list[str]:
    return [request.custom_id for request in pending]


@contextmanager
def later_version() -> Iterator[None]:
    """Act as a later version of batchrun, whose checkpoints have one table more: `next`."""

    def m002_next(db: Any) -> None:
        db.execute("CREATE TABLE next (id)")
        add_missing_columns(db)

    MIGRATIONS.append(m002_next)
    try:
        yield
    finally:
        MIGRATIONS.remove(m002_next)


def by_row(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def rows(store: Checkpoint, first: int = 0, end: int = 1_000_000) -> list[dict[str, Any]]:
    return by_row(store.columns(first, end, list(result_kinds())))


def column(store: Checkpoint, name: str) -> list[Any]:
    return [row[name] for row in rows(store)]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root, so for a moment these tests are somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
