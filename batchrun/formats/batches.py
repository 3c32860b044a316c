"""`BatchFormat`: how an API writes batches and reads their results.

A batch is a set of requests that the vendor works on within a day, at a lower price. Requests are sent as
lines of JSON, and answers are received as lines of JSON, in any order. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from batchrun.formats.parsing import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.errors import ProviderFault
    from batchrun.formats.remote_batches import RemoteBatch
    from batchrun.records import Completion


_SECOND_US = 1_000_000
_END_OF_TIME_S = 253_402_300_800  # the year 10000


class BatchOutcome(StrEnum):
    """The outcome of one request of a batch. Only `ANSWERED` is billed."""

    ANSWERED = "answered"
    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of results, not interpreted.

    Attributes:
        custom_id: id of the request within its batch.
        outcome: the outcome of the request.
        body: the answer, or the body of the error; empty without one.
        http_status: the status that a single request would have had.
        request_id: the vendor's id of the exchange.
    """

    custom_id: str
    outcome: BatchOutcome
    body: Mapping[str, Any]
    http_status: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The outcome of one request of a batch, in the form of a live attempt.

    Attributes:
        custom_id: id of the request within its batch.
        outcome: the outcome of the request.
        completion: the answer, if it was answered and can be read.
        fault: how it failed otherwise; judge it like the fault of a live attempt.
        http_status: the status that a single request would have had.
        request_id: the vendor's id of the exchange.
    """

    custom_id: str
    outcome: BatchOutcome
    completion: Completion | None = None
    fault: ProviderFault | None = None
    http_status: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of a vendor for one batch.

    Attributes:
        rows: maximum number of requests.
        size: maximum number of bytes of all requests together.
        custom_id: maximum length of a `custom_id`: letters, digits, `_` and `-`.
    """

    rows: int
    size: int
    custom_id: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchService:
    """The batch endpoint of one server.

    Attributes:
        batches: the URL of its batches, without query.
        files: the URL of uploaded files, without query.
        uploads: the URL that a file is uploaded to; None if batches are created with their requests.
        query: the query of every URL, with its question mark; empty for none.
        limits: its limits for one batch.
        request_url: the address in each uploaded request.
        purpose: the purpose of uploads.
        names_file: whether uploads also have the name of the file as a field.
    """

    batches: str
    files: str = ""
    uploads: str | None = None
    query: str = ""
    limits: BatchLimits
    request_url: str = ""
    purpose: str = "batch"
    names_file: bool = False

    def batch(self, batch_id: str, action: str = "") -> str:
        """Return the URL of one batch, or of an action on it."""
        return f"{self.batches}/{quote(batch_id, safe='')}{action}{self.query}"

    def file(self, file_id: str, action: str = "") -> str:
        """Return the URL of one file, or of its content."""
        return f"{self.files}/{quote(file_id, safe='')}{action}{self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFormat:
    """How an API writes and reads batches.

    The content of a batch is `head`, its lines with `separator` between them, and `tail`.

    Attributes:
        head: the bytes before the lines.
        separator: the bytes between two lines.
        tail: the bytes after the lines.
        content_type: content type of the content.
        page_size: maximum number of batches in one page of a list.
        after: the parameter that continues a list after a batch.
        service: returns the batch endpoint for a URL of single requests.
        line: writes one request: `custom_id`, body, service.
        read_batch: reads a batch; raises `InvalidResponse` if it is not one.
        read_line: reads one line of results; raises `InvalidResponse` if it is not one.
        results: returns the URLs of a batch's answers.
        creation: writes the body that creates a batch from an uploaded file: file id, tag, service;
            None if a batch is created with its requests.
    """

    head: bytes
    separator: bytes
    tail: bytes
    content_type: str
    page_size: int
    after: str
    service: Callable[[str], BatchService]
    line: Callable[[str, bytes, BatchService], bytes]
    read_batch: Callable[[Mapping[str, Any]], RemoteBatch]
    read_line: Callable[[Mapping[str, Any]], BatchLine]
    results: Callable[[RemoteBatch, BatchService], tuple[str, ...]]
    creation: Callable[[str, str, BatchService], bytes] | None = None

    def size(self, lines: int, content: int) -> int:
        """Return the size in bytes of a batch with this number of lines of `content` bytes in total."""
        return len(self.head) + content + max(0, lines - 1) * len(self.separator) + len(self.tail)


def split_url(url: str, end: str) -> tuple[str, str]:
    """Return a URL without its query and without `end`, and the query with its question mark."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return parts._replace(query="", fragment="").geturl().removesuffix(end), query


def time_us(value: object) -> int | None:
    """Return a time in microseconds, from RFC 3339 text or a number of seconds since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * _SECOND_US) if 0 < value < _END_OF_TIME_S else None
    try:
        read = datetime.fromisoformat(as_text(value))
    except ValueError:
        return None
    aware = read if read.tzinfo else read.replace(tzinfo=UTC)
    return int(aware.timestamp() * _SECOND_US)
