"""Claude's Message Batches, `/v1/messages/batches`: what they look like, and what answers there."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio.to_thread
import orjson

from batchrun.errors import quoted
from batchrun.simulator.batch_processing import (
    BatchProcessor,
    BatchShape,
    Content,
    page_size,
    paged,
    uploaded,
)
from batchrun.simulator.batch_store import Stage, StoredBatch
from batchrun.simulator.calls import Fault, RefusedError
from batchrun.simulator.http_server import HttpReply
from batchrun.simulator.uploads import read_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from typing import BinaryIO

    from batchrun.simulator.calls import Json, SimulatedAnswer, SimulatedFormat
    from batchrun.simulator.draws import RandomDraws
    from batchrun.simulator.http_server import HttpCall

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MOST_ROWS = 100_000
_LIFE = timedelta(hours=24)
_OUTCOMES = ("succeeded", "errored", "canceled", "expired")
_STATUS = {Stage.CANCELING: "canceling", Stage.ENDED: "ended"}


class SimulatedMessageBatches(BatchShape):
    """`/v1/messages/batches`.

    Args:
        processor: keeps the batches.
        wire: the format of their requests.
    """

    name = "messages"
    tier = "batch"

    def __init__(self, processor: BatchProcessor, wire: SimulatedFormat) -> None:
        self._processor = processor
        self.wire: SimulatedFormat = wire
        self.routes = {
            "/messages/batches": {"POST": self._create, "GET": self._list},
            "/messages/batches/{id}": {"GET": self._get, "DELETE": self._delete},
            "/messages/batches/{id}/cancel": {"POST": self._cancel},
            "/messages/batches/{id}/results": {"GET": self._results},
        }

    async def _create(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        processor, upload = self._processor, uploaded(call)
        batch_id = f"msgbatch_sim_{processor.new_id(self, repr(processor.now()).encode())}"
        try:
            content = await anyio.to_thread.run_sync(self._take, batch_id, upload)
            draws = processor.draws("create", content.digest)
            self._check_queue(draws, content)
        except RefusedError:
            processor.store.forget(batch_id)
            raise
        version = call.headers.get(b"anthropic-version", b"").decode("latin-1")
        batch = processor.new_batch(self, batch_id, content)
        batch = processor.store.keep(batch, headers={"anthropic-version": version})
        lost = draws.share() < processor.provider.config.lost_create_rate
        return replace(self._reply(call, batch), lost=lost)

    def _check_queue(self, draws: RandomDraws, content: Content) -> None:
        self._processor.check_rate(draws)
        if self._processor.exceeds(self, content):
            message = "Too many tokens are enqueued in batches of this model, as simulated."
            raise RefusedError(Fault.RATE_LIMIT, message, scope="tokens", wait_s=1.0)

    def _take(self, batch_id: str, upload: BinaryIO) -> Content:
        """Check and store the requests of a batch; it runs in a thread of its own."""
        return self._processor.write_requests(batch_id, _checked(read_requests(upload)))

    async def _list(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        await self._processor.settle(self)
        found = self._processor.store.newest(self.name)
        most = page_size(call.query, 20, 1000)
        after, before = call.query.get("after_id"), call.query.get("before_id")
        if before is not None:
            newer, has_more = paged(found[::-1], lambda batch: batch.id == before, most)
            page = newer[::-1]
        else:
            start = None if after is None else (lambda batch: batch.id == after)
            page, has_more = paged(found, start, most)
        payload = {
            "data": [self._json(call, batch) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
        return HttpReply(200, orjson.dumps(payload))

    async def _get(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        return self._reply(call, await self._settled(call))

    async def _cancel(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        batch = await self._settled(call)
        if batch.ended is not None:
            raise RefusedError(Fault.INVALID, f"Batch {batch.id} has ended and cannot be canceled.")
        if batch.canceled is None:
            batch = self._processor.store.keep(batch, canceled=self._processor.now())
        return self._reply(call, batch)

    async def _delete(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        batch = await self._settled(call)
        if batch.ended is None:
            raise RefusedError(Fault.INVALID, f"Batch {batch.id} has not ended; cancel it first.")
        self._processor.store.drop(batch)
        return HttpReply(200, orjson.dumps({"id": batch.id, "type": "message_batch_deleted"}))

    async def _results(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        batch = await self._settled(call)
        if batch.ended is None:
            raise RefusedError(Fault.NOT_FOUND, f"Batch {batch.id} has no results yet.")
        return self._processor.download(f"{batch.id}.results", "application/x-jsonl")

    async def _settled(self, call: HttpCall) -> StoredBatch:
        await self._processor.settle(self)
        return self._processor.store.batch(
            self.name, call.path.partition("batches/")[2].split("/")[0]
        )

    def _reply(self, call: HttpCall, batch: StoredBatch) -> HttpReply:
        return HttpReply(200, orjson.dumps(self._json(call, batch)))

    def _json(self, call: HttpCall, batch: StoredBatch) -> Json:
        host = call.headers.get(b"host", b"127.0.0.1").decode("latin-1")
        counts = dict.fromkeys(_OUTCOMES, 0) | batch.counts
        address = f"http://{host}/v1/messages/batches/{batch.id}/results"
        expires = batch.created + _LIFE.total_seconds()
        if batch.expires_after is not None:
            expires = batch.created + batch.duration_s
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": _STATUS.get(batch.stage(self._processor.now()), "in_progress"),
            "request_counts": {"processing": 0 if batch.counts else batch.rows, **counts},
            "ended_at": _moment(batch.ended),
            "created_at": _moment(batch.created),
            "expires_at": _moment(expires),
            "archived_at": None,
            "cancel_initiated_at": _moment(batch.canceled),
            "results_url": None if batch.ended is None else address,
        }

    def answered(self, custom_id: str, answer: SimulatedAnswer) -> Json:
        """Return the line of an answer."""
        message = self.wire.completion(answer)
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}

    def refused(self, custom_id: str, refused: RefusedError) -> Json:
        """Return the line of a request that failed."""
        _, error = self.wire.error(refused, f"req_sim_{custom_id}")
        return {"custom_id": custom_id, "result": {"type": "errored", "error": error}}

    def unanswered(self, custom_id: str, outcome: str) -> Json:
        """Return the line of a request that was `canceled` or `expired`."""
        return {"custom_id": custom_id, "result": {"type": outcome}}

    def write(self, batch: StoredBatch, results: Iterator[tuple[str, bytes]]) -> dict[str, str]:
        """Write all lines into one file."""
        with self._processor.store.content(f"{batch.id}.results", "wb") as file:
            file.writelines(line for _, line in results)
        return {}


def _checked(requests: Iterator[Json]) -> Iterator[tuple[str, Json]]:
    """Yield `custom_id` and body of each request. One wrong id refuses the whole batch."""
    seen: set[str] = set()
    for number, request in enumerate(requests):
        custom_id, body = request.get("custom_id"), request.get("params")
        where = f"requests.{number}"
        if not isinstance(custom_id, str) or not _ID.match(custom_id):
            message = (
                f"must match {_ID.pattern.removesuffix(chr(92) + 'Z')}, got {quoted(custom_id)}."
            )
            raise RefusedError(Fault.INVALID, message, f"{where}.custom_id")
        if custom_id in seen:
            message = f"must be unique in the batch, got {custom_id!r} again."
            raise RefusedError(Fault.INVALID, message, f"{where}.custom_id")
        if not isinstance(body, dict):
            raise RefusedError(Fault.MISSING, "Field required", f"{where}.params")
        if number >= _MOST_ROWS:
            raise RefusedError(Fault.TOO_LARGE, f"A batch has at most {_MOST_ROWS} requests.")
        seen.add(custom_id)
        yield custom_id, body
    if not seen:
        raise RefusedError(Fault.INVALID, "must not be empty.", "requests")


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
