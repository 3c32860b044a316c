"""The ports of batch dispatch: a vendor's batch endpoint, and the storage of batches.

`client` implements the endpoint over HTTP, and `checkpoint` stores the batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from batchrun.formats import BatchAnswer, BatchService, RemoteBatch
    from batchrun.formats.sent_batches import BatchMember, SentBatch
    from batchrun.limits import CostBudget
    from batchrun.records import Attempt, AttemptStart, Request, Result


class BatchMode(Enum):
    """What an execution does with batches."""

    WAIT = "wait"  # submit, and wait until all are collected
    ONE_PASS = "one_pass"  # noqa: S105 - collect what has ended, submit what the vendor takes now
    CANCEL = "cancel"  # submit nothing, cancel all, collect what was answered


class BatchEndpoint(Protocol):
    """The batches of one account at one vendor.

    Each call is one exchange, or one for each page or file. Nothing is retried; all calls but `create`
    may be repeated. Every call raises a `ProviderError`, which is judged like that of a live attempt.
    """

    @property
    def service(self) -> BatchService:
        """The kind of endpoint: it determines the vendor's limits and the form of the lines."""

    @property
    def account(self) -> str:
        """A digest of address and key. Batches of another account are not found."""

    async def check(self) -> None:
        """Ask whether there are batches at all. Raises `NoBatchEndpoint`."""

    async def upload(self, requests: BinaryIO, tag: str) -> str | None:
        """Upload the content of a batch; return the id of the file, or None where the format has no such step."""

    async def create(
        self,
        requests: BinaryIO,
        input_file: str | None,
        tag: str,
        headers: tuple[tuple[str, str], ...] | None = None,
    ) -> RemoteBatch:
        """Create a batch. Raises `BatchNotCreated` (it certainly does not exist) or `BatchInDoubt`."""

    def recent(self, since_us: int | None = None) -> AsyncGenerator[RemoteBatch]:
        """Yield the account's batches, newest first, back to a time."""

    async def get(self, batch_id: str) -> RemoteBatch:
        """Return a batch as it is now."""

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Ask the vendor to cancel a batch; requests that have begun may still be answered and billed."""

    def results(self, batch: RemoteBatch) -> AsyncGenerator[BatchAnswer]:
        """Yield the outcomes of its requests, in any order; from the first one when called again."""

    async def delete_input(self, file_id: str) -> None:
        """Delete an uploaded file, if that works."""


class BatchJournal(Protocol):
    """Stores the batches of a run; each call returns when the change is on disk."""

    async def intend(self, batch: SentBatch, starts: Sequence[AttemptStart]) -> None:
        """Record that a batch is about to be created from these attempts."""

    async def uploaded(self, tag: str, file_id: str) -> None:
        """Record that the requests of a batch were uploaded."""

    async def sent(self, tag: str, remote: RemoteBatch, *, is_proven: bool = True) -> None:
        """Record that the vendor has the batch; `is_proven`: this is certainly the right one."""

    async def seen(self, tag: str, remote: RemoteBatch) -> None:
        """Record the state of a batch as the vendor reports it."""

    async def disown(self, tag: str, remote_id: str) -> None:
        """Record that the vendor's batch with this id is another one."""

    async def collect(
        self, tag: str, attempts: Sequence[Attempt], results: Sequence[Result]
    ) -> None:
        """Record some outcomes of a batch; `attempts` are those without a result."""

    async def close(
        self, tag: str, error_type: str, message: str, *, maybe_billed: bool, latency_s: float
    ) -> int:
        """Close a batch whose outcomes are all stored; return the number of members without one.

        These get this error.
        """

    async def void(self, tag: str, reason: str) -> None:
        """Record that the vendor does not have a batch, or refused it as a whole."""

    async def batches(self, *, open_only: bool) -> Sequence[SentBatch]:
        """Return the batches of the run, in the order in which they were intended."""

    async def members(self, tag: str) -> Mapping[int, BatchMember]:
        """Return the requests of a batch without an outcome, by key."""

    async def row_at(self, tag: str, line: int) -> str | None:
        """Return the id of the row at a line of a batch, from 1; None if there is no such line."""


@dataclass(frozen=True, slots=True)
class BatchVendor:
    """The vendor of the batches of one run.

    Attributes:
        endpoint: its batch endpoint.
        request: any request of the run, for messages.
        variable: the environment variable with the key; empty if there is none.
    """

    endpoint: BatchEndpoint
    request: Request
    variable: str


@dataclass(frozen=True, slots=True)
class BatchContext:
    """What an execution needs to work with batches.

    Attributes:
        journal: stores the batches.
        money: the cost limit; the highest possible cost of open batches is reserved in it.
        mode: what to do with batches.
    """

    journal: BatchJournal
    money: CostBudget
    mode: BatchMode = BatchMode.WAIT


__all__ = ["BatchContext", "BatchEndpoint", "BatchJournal", "BatchMode", "BatchVendor"]
