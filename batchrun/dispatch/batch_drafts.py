"""Batches before they are sent: requests are divided into batches, whose content is in temporary files."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast

from batchrun.errors import OutputError
from batchrun.formats.sent_batches import BatchStage, SentBatch
from batchrun.records import AttemptStart, changed

if TYPE_CHECKING:
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

    Attributes:
        tag: prefix of the `custom_id` of each request.
        starts: the attempts of its members.
        size: bytes of its lines.
        tokens: estimated input tokens.
        reserved: highest possible cost of its requests together, in pico-dollars.
        is_primer: whether its purpose is to fill the prompt cache for others.
    """

    def __init__(self, group: GroupKey, wire_format: WireFormat, endpoint: BatchEndpoint) -> None:
        if wire_format.batches is None:
            raise ValueError(f"the format {wire_format.name} has no batches")
        self.group = group
        self.tag = f"b{secrets.token_hex(8)}"
        self.starts: list[AttemptStart] = []
        self.size = self.tokens = 0
        self.is_primer = False
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

    def line(self, request: PlannedRequest) -> bytes:
        """Return the line of a request in this batch."""
        return self._format.batch_line(f"{self.tag}-{request.key}", request.wire, self._service)

    def size_with(self, line: bytes) -> int:
        """Return the size of the batch with one more line, in bytes."""
        return self._batches.size(len(self.starts) + 1, self.size + len(line))

    def add(self, request: PlannedRequest, line: bytes, tokens: int, reserved: int | None) -> None:
        """Add a request.

        Raises:
            OutputError: if the temporary file cannot be written.
        """
        self._write((self._batches.separator if self.starts else b"") + line)
        number, started_at = request.attempts_made + 1, datetime.now(UTC)
        if self.starts:  # each later than the one before: their order is that of the lines
            started_at = max(started_at, self.starts[-1].started_at + _MICROSECOND)
        self.starts.append(AttemptStart(request.key, number, started_at, reserved))
        self.size += len(line)
        self.tokens += tokens

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


@dataclass(slots=True)
class _DraftGroup:
    """The unsent requests of one group. The first ones decide whether a primer is sent."""

    first: list[tuple[PlannedRequest, int, int | None]] = field(default_factory=list)
    is_decided: bool = False
    draft: BatchDraft | None = None


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
        self._most_rows = min(config.max_rows, limits.rows)
        self._most_bytes = min(int(config.max_mb * _MEGABYTE), limits.size)
        self.most_tokens: float = float("inf")
        self._with_primers = with_primers
        self._dropped = dropped
        self._groups: dict[GroupKey, _DraftGroup] = {}

    def add(self, request: PlannedRequest, tokens: int, reserved: int | None) -> list[BatchDraft]:
        """Add a request; return the batches that are full because of it, in order."""
        request = changed(request, wire=self._dropped.sent(request))
        group = GroupKey(request.wire.headers, request.request.model)
        kept = self._groups.setdefault(group, _DraftGroup(is_decided=not self._with_primers))
        if kept.is_decided:
            return self._put(group, kept, request, tokens, reserved)
        kept.first.append((request, tokens, reserved))
        if len(kept.first) < FEWEST_PRIMED:
            return []
        return self._begin(group, kept, is_primed=True)

    def rest(self) -> list[BatchDraft]:
        """Return the remaining batches, when no request follows."""
        found: list[BatchDraft] = []
        for group, kept in self._groups.items():
            if not kept.is_decided:
                found += self._begin(group, kept, is_primed=False)
            if kept.draft is not None:
                found.append(kept.draft)
        self._groups.clear()
        return found

    def _begin(self, group: GroupKey, kept: _DraftGroup, *, is_primed: bool) -> list[BatchDraft]:
        """Put the first requests of a group into drafts; with priming, one into a separate draft."""
        kept.is_decided = True
        full: list[BatchDraft] = []
        first, kept.first = kept.first, []
        if is_primed:
            primer = self._new(group)
            request, tokens, reserved = first.pop(0)
            primer.add(request, primer.line(request), tokens, reserved)
            primer.is_primer = True
            full.append(primer)
        for each in first:
            full += self._put(group, kept, *each)
        return full

    def _put(
        self,
        group: GroupKey,
        kept: _DraftGroup,
        request: PlannedRequest,
        tokens: int,
        reserved: int | None,
    ) -> list[BatchDraft]:
        full: list[BatchDraft] = []
        draft = kept.draft or self._new(group)
        line = draft.line(request)
        if draft.starts and not self._has_room(draft, line, tokens):
            full.append(draft)
            draft = self._new(group)
            line = draft.line(request)
        kept.draft = draft
        draft.add(request, line, tokens, reserved)
        return full

    def _has_room(self, draft: BatchDraft, line: bytes, tokens: int) -> bool:
        return (
            len(draft.starts) < self._most_rows
            and draft.size_with(line) <= self._most_bytes
            and draft.tokens + tokens <= self.most_tokens
        )

    def _new(self, group: GroupKey) -> BatchDraft:
        return BatchDraft(group, self._format, self._endpoint)
