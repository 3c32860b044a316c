"""The bytes that are sent to and received from a batch endpoint: forms and lines."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, BinaryIO

from batchrun.client import MAX_BODY_BYTES
from batchrun.client.transport import FileBody
from batchrun.errors import ProviderFault
from batchrun.formats import BatchAnswer, BatchOutcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_LINE_BYTES = MAX_BODY_BYTES
# Kept of a line that is too long: enough to find the request that it belongs to.
SHOWN_BYTES = 4096
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"')


def multipart(
    form: Mapping[str, str], file: BinaryIO, name: str, content_type: str
) -> tuple[FileBody, str]:
    """Return a form that uploads a file, and its content type.

    Args:
        form: further fields.
        file: open for reading.
        name: name of the file.
        content_type: content type of the file.
    """
    boundary = secrets.token_hex(16)
    parts = [f"{_field(boundary, each)}\r\n\r\n{value}\r\n" for each, value in form.items()]
    parts.append(f'{_field(boundary, "file")}; filename="{name}"\r\n')
    parts.append(f"Content-Type: {content_type}\r\n\r\n")
    body = FileBody(file, "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode())
    return body, f"multipart/form-data; boundary={boundary}"


def _field(boundary: str, name: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'


class LineSplitter:
    """Splits pieces of bytes into lines, and keeps at most one unfinished line."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_cut = False

    def feed(self, piece: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield the lines that a piece completes, without empty ones, and whether each was truncated."""
        *whole, rest = piece.split(b"\n")
        for end in whole:
            self._extend(end)
            if line := bytes(self._begun).strip():
                yield line, self._is_cut
            self._begun.clear()
            self._is_cut = False
        self._extend(rest)

    def _extend(self, part: bytes) -> None:
        if not self._is_cut:
            self._begun += part
            self._is_cut = len(self._begun) > MAX_LINE_BYTES
            if self._is_cut:
                del self._begun[SHOWN_BYTES:]


def cut_answer(line: bytes) -> BatchAnswer | None:
    """Return the fault of an answer that is too large to be read, if its request is known."""
    found = _CUSTOM_ID.search(line)
    if found is None:
        return None
    message = f"the answer is larger than {MAX_LINE_BYTES // 2**20} MiB"
    fault = ProviderFault("response_too_large", message, should_retry=False, maybe_billed=True)
    return BatchAnswer(found[1].decode(), BatchOutcome.ANSWERED, fault=fault)
