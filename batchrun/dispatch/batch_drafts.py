"""Batches before they are sent: requests are divided into batches, whose content is in temporary files."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast

from batchrun.errors import OutputError
from batchrun.formats.sent_batches import BatchStage, SentBatch
from batchrun.records import AttemptStart, changed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch.batch_ports import BatchEndpoint
    from batchrun.formats import WireFormat
    from batchrun.formats.unsupported import DroppedParameters
    from batchrun.job import BatchConfig
    from batchrun.records import PlannedRequest

_MEGABYTE = 1_000_000
_MICROSECOND = timedelta(microseconds=1)
# The content of a batch is in memory up to this size.
_SPOOLED_BYTES = 8 * _MEGABYTE
# Where the system prompt is cached, this many requests are worth a batch of one that fills the cache.
FEWEST_PRIMED = 10


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The values that all requests of a batch share: the headers of the call, and the model."""

    headers: tuple[tuple[str, str], ...]
    model: str


class BatchDraft:
    """A batch that is being filled.

    Args:
        group: the values that its requests share.
        wire_format: writes the requests.
        endpoint: where it will be sent.
        is_primer: whether its purpose is to fill the prompt cache for others.

    Attributes:
        tag: prefix of the `custom_id` of each request.
        starts: the attempts of its members.
        size: bytes of its lines.
        tokens: estimated input tokens.
        reserved: highest possible cost of its requests together, in pico-dollars.
    """

    def __init__(
        self,
        group: GroupKey,
        wire_format: WireFormat,
        endpoint: BatchEndpoint,
        *,
        is_primer: bool = False,
    ) -> None:
        if wire_format.batches is None:
            raise ValueError(f"the format {wire_format.name} has no batches")
        self.group = group
        self.tag = f"b{secrets.token_hex(8)}"
        self.starts: list[AttemptStart] = []
        self.size = self.tokens = 0
        self.is_primer = is_primer
        self._format = wire_format
        self._batches = wire_format.batches
        self._service = endpoint.service
        self._file = cast(
            "BinaryIO",
            SpooledTemporaryFile(max_size=_SPOOLED_BYTES),  # noqa: SIM115 - `close` closes it
        )
        self._write(self._batches.head)

    @property
    def reserved(self) -> int:
        """Highest possible cost of its requests together, in pico-dollars, as far as it is known."""
        return sum(start.reserved or 0 for start in self.starts)

    def line(self, request: DraftRequest) -> bytes:
        """Return the line of a request in this batch."""
        return self._format.batch_line(
            f"{self.tag}-{request.planned.key}", request.planned.wire, self._service
        )

    def size_with(self, line: bytes) -> int:
        """Return the size of the batch with one more line, in bytes."""
        return self._batches.size(len(self.starts) + 1, self.size + len(line))

    def add(self, request: DraftRequest, line: bytes) -> None:
        """Add a request.

        Raises:
            OutputError: if the temporary file cannot be written.
        """
        self._write((self._batches.separator if self.starts else b"") + line)
        planned, started_at = request.planned, datetime.now(UTC)
        if self.starts:  # each later than the one before: their order is that of the lines
            started_at = max(started_at, self.starts[-1].started_at + _MICROSECOND)
        self.starts.append(
            AttemptStart(planned.key, planned.attempts_made + 1, started_at, request.reserved)
        )
        self.size += len(line)
        self.tokens += request.tokens

    def content(self) -> BinaryIO:
        """Return the whole content, from its beginning."""
        self._write(self._batches.tail)
        return self._file

    def intended(self, account: str, base_url: str, queued_tokens: int) -> SentBatch:
        """Return the record of the batch before it is created."""
        return SentBatch(
            tag=self.tag,
            stage=BatchStage.INTENDED,
            account=account,
            base_url=base_url,
            model=self.group.model,
            rows=len(self.starts),
            tokens=self.tokens,
            queued_tokens=queued_tokens,
            is_primer=self.is_primer,
            intended_us=int(datetime.now(UTC).timestamp() * 1_000_000),
            out=len(self.starts),
            reserved=self.reserved,
        )

    def close(self) -> None:
        """Delete the content."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise OutputError(
                f"the requests of a batch could not be written to a temporary file ({error}); make "
                "room, or name another folder in the environment variable TMPDIR"
            ) from error


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """A request that is to be sent in a batch.

    Attributes:
        planned: the request.
        tokens: estimated input tokens.
        reserved: the highest cost, in pico-dollars; None if that is not known.
    """

    planned: PlannedRequest
    tokens: int
    reserved: int | None

    @property
    def group(self) -> GroupKey:
        """What it shares with the other requests of a batch."""
        return GroupKey(self.planned.wire.headers, self.planned.request.model)


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """How large a batch may be."""

    rows: int
    size: int


class _DraftGroup:
    """The unsent requests of one group. The first ones decide whether a primer is sent.

    Args:
        key: what they share.
        wire_format: writes the requests.
        endpoint: where they will be sent.
        limits: how large a batch may be.
        with_primer: whether one request fills the prompt cache for the others.
    """

    def __init__(
        self,
        key: GroupKey,
        wire_format: WireFormat,
        endpoint: BatchEndpoint,
        limits: DraftLimits,
        *,
        with_primer: bool,
    ) -> None:
        self._key = key
        self._format = wire_format
        self._endpoint = endpoint
        self._limits = limits
        self._most_tokens = float("inf")
        self._first: list[DraftRequest] = []
        self._is_decided = not with_primer
        self._draft: BatchDraft | None = None

    def add(self, request: DraftRequest, most_tokens: float) -> list[BatchDraft]:
        """Add a request; return the batches that are full because of it, in order."""
        self._most_tokens = most_tokens
        if self._is_decided:
            return self._put(request)
        self._first.append(request)
        if len(self._first) < FEWEST_PRIMED:
            return []
        self._is_decided = True
        first, self._first = self._first, []
        primer = self._new_draft(is_primer=True)
        primer.add(first[0], primer.line(first[0]))
        return [primer, *self._put_all(first[1:])]

    def rest(self) -> list[BatchDraft]:
        """Return the remaining batches, when no request follows."""
        self._is_decided = True
        first, self._first = self._first, []
        found = self._put_all(first)
        return found if self._draft is None else [*found, self._draft]

    def _put_all(self, requests: Sequence[DraftRequest]) -> list[BatchDraft]:
        return [draft for request in requests for draft in self._put(request)]

    def _put(self, request: DraftRequest) -> list[BatchDraft]:
        full: list[BatchDraft] = []
        draft = self._draft or self._new_draft()
        line = draft.line(request)
        if draft.starts and not self._has_room(draft, line, request.tokens):
            full.append(draft)
            draft = self._new_draft()
            line = draft.line(request)
        self._draft = draft
        draft.add(request, line)
        return full

    def _has_room(self, draft: BatchDraft, line: bytes, tokens: int) -> bool:
        return (
            len(draft.starts) < self._limits.rows
            and draft.size_with(line) <= self._limits.size
            and draft.tokens + tokens <= self._most_tokens
        )

    def _new_draft(self, *, is_primer: bool = False) -> BatchDraft:
        return BatchDraft(self._key, self._format, self._endpoint, is_primer=is_primer)


class BatchCutter:
    """Divides requests into batches: by headers and model, and by rows, bytes and tokens.

    Args:
        wire_format: writes the requests.
        endpoint: has the vendor's limits.
        config: the job's `[batch]`.
        with_primers: whether one request of each group fills the prompt cache for the others.
        dropped: the parameters that are left out.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        endpoint: BatchEndpoint,
        config: BatchConfig,
        *,
        with_primers: bool,
        dropped: DroppedParameters,
    ) -> None:
        limits = endpoint.service.limits
        self._format = wire_format
        self._endpoint = endpoint
        self._limits = DraftLimits(
            min(config.max_rows, limits.rows),
            min(int(config.max_mb * _MEGABYTE), limits.size),
        )
        self._with_primers = with_primers
        self._dropped = dropped
        self._groups: dict[GroupKey, _DraftGroup] = {}

    def add(self, request: DraftRequest, most_tokens: float) -> list[BatchDraft]:
        """Add a request; return the batches that are full because of it, in order.

        Args:
            request: the request.
            most_tokens: input tokens that a batch of its model may have now.
        """
        planned = request.planned
        request = replace(request, planned=changed(planned, wire=self._dropped.sent(planned)))
        key = request.group
        if key not in self._groups:
            self._groups[key] = _DraftGroup(
                key, self._format, self._endpoint, self._limits, with_primer=self._with_primers
            )
        return self._groups[key].add(request, most_tokens)

    def rest(self) -> list[BatchDraft]:
        """Return the remaining batches, when no request follows."""
        groups, self._groups = self._groups, {}
        return [draft for group in groups.values() for draft in group.rest()]
