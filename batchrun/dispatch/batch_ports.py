"""The port of batch dispatch: what a vendor's batch endpoint can do. `client` has the one over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from batchrun.formats import BatchAnswer, BatchService, RemoteBatch


class BatchEndpoint(Protocol):
    """The batches of one account at one vendor.

    Each call is one exchange, or one for each page or file. Nothing is retried; all calls but `create`
    may be made again. Every call raises a `ProviderError` that can be judged like that of a live
    attempt.
    """

    @property
    def service(self) -> BatchService:
        """The vendor's limits, and what lines are written for."""

    @property
    def account(self) -> str:
        """A digest of address and key. Batches of another account are not found."""

    async def check(self) -> None:
        """Ask whether there are batches at all. Raises `NoBatchEndpoint`."""

    async def upload(self, requests: BinaryIO, tag: str) -> str | None:
        """Upload the content of a batch; return the id of the file, or None where that is no step."""

    async def create(
        self,
        requests: BinaryIO,
        input_file: str | None,
        tag: str,
        headers: tuple[tuple[str, str], ...] | None = None,
    ) -> RemoteBatch:
        """Create a batch. Raises `BatchNotCreated` (surely) or `BatchInDoubt`."""

    def recent(self, since_us: int | None = None) -> AsyncGenerator[RemoteBatch]:
        """Yield the account's batches, newest first, back to a time."""

    async def get(self, batch_id: str) -> RemoteBatch:
        """Return a batch as it is now."""

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Ask the vendor to cancel a batch; what has begun may still be answered and billed."""

    def results(self, batch: RemoteBatch) -> AsyncGenerator[BatchAnswer]:
        """Yield what became of its requests, in any order; from the first one when called again."""

    async def delete_input(self, file_id: str) -> None:
        """Delete an uploaded file, if that works."""


__all__ = ["BatchEndpoint"]
