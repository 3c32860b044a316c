"""Reads what a client uploads for a batch, piece by piece: a form with a file, or an array of requests."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, BinaryIO

import orjson

from batchrun.simulator.calls import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.simulator.calls import Json

_STEP = 1 << 20
_OPENING = re.compile(r'\s*{\s*"requests"\s*:\s*\[')
_NAME = re.compile(rb'name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')
_GAP = re.compile(r"[\s,]*")


def read_form(body: BinaryIO, content_type: str, file: BinaryIO) -> dict[str, str]:
    """Write the file of a multipart form to `file`; return the other fields and its name.

    Returns:
        The fields by name; `filename` is the name of the file, and missing without one.
    """
    boundary = content_type.partition("boundary=")[2].strip('"; ').encode()
    if not content_type.startswith("multipart/form-data") or not boundary:
        raise RefusedError(Fault.INVALID, "Expected a multipart/form-data body.")
    fields: dict[str, str] = {}
    for head, lines in _parts(body, b"--" + boundary):
        name, filename = _NAME.search(head), _FILENAME.search(head)
        if filename is not None:
            fields["filename"] = filename[1].decode(errors="replace")
            _write_part(lines, file)
        elif name is not None:
            fields[name[1].decode(errors="replace")] = (
                b"".join(lines).strip().decode(errors="replace")
            )
    return fields


def _parts(body: BinaryIO, delimiter: bytes) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield the head of each part, and its lines, which must be read before the next part."""

    def content() -> Iterator[bytes]:
        for line in body:
            if line.startswith(delimiter):
                ends.append(line)
                return
            yield line

    ends: list[bytes] = []
    for line in body:
        if line.startswith(delimiter):
            ends.append(line)
            break
    while ends and not ends[-1].startswith(delimiter + b"--"):
        ends.clear()
        head = b"".join(iter(lambda: body.readline().strip(b"\r\n") + b"\n", b"\n"))
        lines = content()
        yield head, lines
        for _ in lines:
            pass


def _write_part(lines: Iterator[bytes], file: BinaryIO) -> None:
    """Write the lines of a part; the line break before the delimiter is not a part of it."""
    last = b""
    for line in lines:
        file.write(last)
        last = line
    file.write(last.removesuffix(b"\n").removesuffix(b"\r"))


def read_requests(body: BinaryIO) -> Iterator[Json]:
    """Yield the requests of `{"requests": […]}` without holding them all."""
    read = _JsonText(body)
    opening = _OPENING.match(read.text)
    if opening is None:
        raise RefusedError(Fault.INVALID, 'Expected a JSON object with "requests".', "requests")
    position = opening.end()
    while (position := read.skip_gap(position)) < len(read.text):
        if read.text[position] == "]":
            return
        value, position = read.value(position)
        if not isinstance(value, dict):
            raise RefusedError(Fault.INVALID, "expected an object.", "requests")
        yield value
    raise RefusedError(Fault.INVALID, "The request body is not valid JSON: it ends too soon.")


class _JsonText:
    """Text that is read as far as it is needed."""

    def __init__(self, body: BinaryIO) -> None:
        self._body = body
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._scan = json.JSONDecoder().raw_decode
        self.text = self._decode(body.read(_STEP))

    def skip_gap(self, position: int) -> int:
        """Return where the next value begins, or the array ends."""
        gap = _GAP.match(self.text, position)
        position = gap.end() if gap else position
        if position == len(self.text) and self._more(position):
            return self.skip_gap(0)
        return position

    def value(self, position: int) -> tuple[object, int]:
        """Return the value that begins at a position, and where it ends."""
        while True:
            try:
                return self._scan(self.text, position)
            except (ValueError, RecursionError) as error:
                if not self._more(position):
                    message = f"The request body is not valid JSON: {error}"
                    raise RefusedError(Fault.INVALID, message) from None
                position = 0

    def _more(self, position: int) -> bool:
        """Read more, at least as much as is kept; drop what stands before a position."""
        piece = self._body.read(max(_STEP, len(self.text) - position))
        self.text = self.text[position:] + self._decode(piece)
        return bool(piece)


def read_lines(file: BinaryIO) -> Iterator[Json | None]:
    """Yield the JSON objects of an uploaded file; None for a line that is none."""
    for line in file:
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None
        yield value if isinstance(value, dict) else None
