"""Accepts and processes batches, in the same way for both vendors.

A batch is processed when its time is over and a client asks for batches. Until then its state follows from
the clock. Each answer is billed once, when the batch ends.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread
import orjson

from batchrun.simulator.accounting import BatchBill
from batchrun.simulator.batch_store import BatchStore, Stage, StoredBatch
from batchrun.simulator.calls import CachedPrefix, Fault, RefusedError, count_tokens
from batchrun.simulator.draws import RandomDraws
from batchrun.simulator.http_server import FileContent, HttpReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchrun.simulator.calls import Json, SimulatedAnswer, SimulatedFormat
    from batchrun.simulator.http_server import HttpCall, RouteHandler
    from batchrun.simulator.provider import SimulatedProvider

_SHUFFLED = 500  # neighbouring results come in any order
_HIT_AFTER = 0.5  # later requests of a batch read what its earlier ones have cached
_LEAST_DONE, _MOST_DONE = 0.2, 0.9  # share of an expiring batch that is answered


class BatchShape(ABC):
    """A vendor's batch endpoint: what answers at its paths, and how it writes results.

    Attributes:
        name: of the format, where batches are stored.
        wire: the format of the requests.
        tier: the service tier that answers name.
        routes: what answers, by path and method.
    """

    name: str
    wire: SimulatedFormat
    tier: str
    routes: Mapping[str, Mapping[str, RouteHandler]]

    @abstractmethod
    def answered(self, custom_id: str, answer: SimulatedAnswer) -> Json:
        """Return the line of an answer."""

    @abstractmethod
    def refused(self, custom_id: str, refused: RefusedError) -> Json:
        """Return the line of a request that failed."""

    @abstractmethod
    def unanswered(self, custom_id: str, outcome: str) -> Json | None:
        """Return the line of a request that was `canceled` or `expired`; None for no line."""

    @abstractmethod
    def write(self, batch: StoredBatch, results: Iterator[tuple[str, bytes]]) -> dict[str, str]:
        """Write lines, each with its outcome, into files; return their ids by kind."""


@dataclass(frozen=True, slots=True)
class Content:
    """Facts about the requests of a new batch."""

    rows: int
    tokens: int
    model: str
    digest: bytes


class BatchProcessor:
    """The batches of both vendors.

    Args:
        provider: answers requests.
    """

    def __init__(self, provider: SimulatedProvider) -> None:
        self.provider = provider
        self._temporary = ExitStack()
        self._store: BatchStore | None = None
        self._working = anyio.Lock()
        self._tries: Counter[bytes] = Counter()

    @property
    def store(self) -> BatchStore:
        """Where batches are kept: made on first use."""
        if self._store is None:
            kept = self.provider.config.batch_directory
            if kept is None:
                kept = Path(self._temporary.enter_context(TemporaryDirectory(prefix="batches-")))
            self._store = BatchStore(kept)
        return self._store

    def close(self) -> None:
        """Delete batches that are not kept for another process."""
        self._temporary.close()

    def now(self) -> float:
        """Unix time in seconds."""
        return self.provider.wall_clock()

    def draws(self, what: str, digest: bytes) -> RandomDraws:
        """Return the draws for one more try; the next try has other draws."""
        key = what.encode() + digest
        self._tries[key] += 1
        return RandomDraws(self.provider.config.seed, what, digest, self._tries[key])

    def check_rate(self, draws: RandomDraws) -> None:
        """Refuse some creations, as simulated."""
        if draws.share() < self.provider.config.rate_limit_rate:
            wait_s = 0.05 + 0.95 * draws.share()
            message = "Rate limit of batch creations reached, as simulated. Try again shortly."
            raise RefusedError(Fault.RATE_LIMIT, message, wait_s=wait_s)

    def exceeds(self, shape: BatchShape, content: Content) -> bool:
        """Whether a batch has more tokens than may be enqueued beside the open ones."""
        limit = self.provider.config.enqueued_tokens
        enqueued = self.store.enqueued_tokens(shape.name, content.model, self.now())
        return limit is not None and enqueued + content.tokens > limit

    def new_id(self, shape: BatchShape, digest: bytes) -> str:
        """Return the number of a new batch, and digits that make its id unique."""
        return f"{self.store.next_number:06d}{blake2b(digest, digest_size=6).hexdigest()}"

    def new_batch(self, shape: BatchShape, batch_id: str, content: Content) -> StoredBatch:
        """Return a new batch, which `keep` stores."""
        config = self.provider.config
        draws = RandomDraws(config.seed, "batch", content.digest)
        duration_s = config.batch_s * (0.5 + draws.share())
        is_expiring = draws.share() < config.batch_expiry_rate
        done = _LEAST_DONE + (_MOST_DONE - _LEAST_DONE) * draws.share()
        self.provider.counter.add_batch()
        return StoredBatch(
            id=batch_id,
            wire=shape.name,
            number=self.store.next_number,
            created=self.now(),
            duration_s=duration_s,
            rows=content.rows,
            tokens=content.tokens,
            model=content.model,
            expires_after=done if is_expiring else None,
            known=tuple(digest.hex() for digest in self.provider.cache.known()),
        )

    async def settle(self, shape: BatchShape) -> None:
        """Answer the batches whose time is over."""
        kept = self.provider.config.batch_directory
        if self._store is None and (kept is None or not kept.exists()):
            return
        async with self._working:
            for batch in self.store.newest(shape.name):
                if batch.stage(self.now()) is Stage.DUE:
                    await self._work_out(shape, batch)

    async def _work_out(self, shape: BatchShape, batch: StoredBatch) -> None:
        ended = batch.due
        work = BatchWork(self.provider, shape, batch, self.store)
        files = await anyio.to_thread.run_sync(work.run)
        self.provider.counter.charge(work.bill)
        self.provider.cache.write(work.written.values())
        self.store.keep(batch, counts=dict(work.counts), ended=ended, files=files)
        self.store.forget(batch.id)

    def download(self, name: str, content_type: str) -> HttpReply:
        """Return a file of results; some downloads break off, as simulated."""
        draws = self.draws("download", name.encode())
        torn = draws.share() < self.provider.config.torn_download_rate
        return HttpReply(200, FileContent(self.store.path(name), content_type), torn=torn)

    def write_requests(self, batch_id: str, requests: Iterator[tuple[str, Json]]) -> Content:
        """Write the requests of a batch, and return what they are like."""
        rows = tokens = 0
        model, digest = "", blake2b(digest_size=12)
        with self.store.content(f"{batch_id}.requests", "wb") as file:
            for custom_id, body in requests:
                line = orjson.dumps([custom_id, body])
                file.write(line + b"\n")
                digest.update(line)
                rows += 1
                tokens += count_tokens(line.decode())
                model = model or str(body.get("model"))
        return Content(rows, tokens, model, digest.digest())


class BatchWork:
    """Processes one batch in a separate thread; others read its counts when it is done.

    Attributes:
        bill: what the batch is charged for.
        counts: outcomes of its requests.
        written: prompt prefixes that were cached, by digest.
    """

    def __init__(
        self,
        provider: SimulatedProvider,
        shape: BatchShape,
        batch: StoredBatch,
        store: BatchStore,
    ) -> None:
        self._provider, self._shape, self._batch, self._store = provider, shape, batch, store
        self.bill = BatchBill()
        self.counts: Counter[str] = Counter()
        self.written: dict[bytes, CachedPrefix] = {}
        self._known = frozenset(map(bytes.fromhex, batch.known))
        self._headers = {
            name.encode(): value.encode("latin-1") for name, value in batch.headers.items()
        }

    def run(self) -> dict[str, str]:
        """Answer the requests; return the ids of the files with the results."""
        with self._store.content(f"{self._batch.id}.requests") as file:
            return self._shape.write(self._batch, self._results(file))

    def _results(self, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
        while lines := list(itertools.islice(file, _SHUFFLED)):
            found = [self._result(*orjson.loads(line)) for line in lines]
            order = RandomDraws(self._provider.config.seed, self._batch.id, lines[0])
            while found:
                outcome, line = found.pop(order.below(len(found)))
                self.counts[outcome] += 1
                if line is not None:
                    yield outcome, orjson.dumps(line) + b"\n"

    def _result(self, custom_id: str, body: Json) -> tuple[str, Json | None]:
        seed, batch = self._provider.config.seed, self._batch
        share = RandomDraws(seed, batch.id, custom_id).share()
        if share > batch.answered_share:
            is_canceled = batch.canceled is not None
            outcome = "canceled" if is_canceled else "expired"
            return outcome, self._shape.unanswered(custom_id, outcome)
        try:
            answer = self._provider.answer_in_batch(
                self._shape.wire,
                body,
                self._headers,
                bill=self.bill,
                is_known=partial(self._is_known, share),
                tier=self._shape.tier,
            )
        except RefusedError as refused:
            return "errored", self._shape.refused(custom_id, refused)
        answer = replace(answer, created=batch.created + share * batch.duration_s)
        self.written |= {prefix.digest: prefix for prefix in answer.call.prompt.prefixes}
        return "succeeded", self._shape.answered(custom_id, answer)

    def _is_known(self, share: float, digest: bytes) -> bool:
        return digest in self._known or (share > _HIT_AFTER and digest in self.written)


def uploaded(call: HttpCall) -> BinaryIO:
    """Return the body of a request at a path for uploads."""
    if call.upload is None:
        raise RefusedError(Fault.TOO_LARGE, "The request body is too large.")
    return call.upload


def paged(
    found: list[StoredBatch], start: Callable[[StoredBatch], bool] | None, most: int
) -> tuple[list[StoredBatch], bool]:
    """Return a page of a list: what follows the first batch that `start` accepts."""
    rest = found
    if start is not None:
        rest = list(itertools.dropwhile(lambda batch: not start(batch), found))[1:]
    return rest[:most], len(rest) > most


def page_size(query: Mapping[str, str], default: int, most: int) -> int:
    """Return the `limit` of a list."""
    asked = query.get("limit", str(default))
    if not asked.isdecimal() or not 1 <= int(asked) <= most:
        raise RefusedError(Fault.INVALID, f"must be from 1 to {most}.", "limit")
    return int(asked)
