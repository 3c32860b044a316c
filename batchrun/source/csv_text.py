"""Read CSV as text: check that quotes are in valid places, and rewrite dialects that polars cannot read.

polars merges rows if a quote is misplaced, so every file is checked first.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from batchrun.errors import truncated
from batchrun.source.dialects import BACKSLASH, SAMPLE_BYTES, UTF8, Dialect, dialect_of, encoding_of
from batchrun.source.inputs import SEPARATORS
from batchrun.source.table_faults import TableFault, file_errors, open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from re import Match

    from batchrun.job import InputConfig


BLOCK_BYTES = 4 * 1024 * 1024
# A longer cell is taken for a quote that is not closed.
LONGEST_CELL = 64 * 1024 * 1024
SHOWN = 60
_WINDOWS = "cp1252"


@dataclass(frozen=True, slots=True)
class CsvText:
    """A CSV or TSV file.

    Attributes:
        path: the file.
        encoding: encoding of its text.
        dialect: dialect of its cells.
        notes: sentences about what was detected.
    """

    path: Path
    encoding: str
    dialect: Dialect
    notes: tuple[str, ...]

    @classmethod
    def opened(cls, path: Path, kind: str, config: InputConfig) -> CsvText:
        """Return a file with its encoding and dialect: as configured, detected or by default.

        Raises:
            JobError: when its start cannot be read.
        """
        with file_errors(path):
            with open_text(path) as file:
                start = file.read(SAMPLE_BYTES)
            encoding = encoding_of(start, config.encoding)
            sample = _sample(start, encoding)
        dialect, notes = dialect_of(config, SEPARATORS[kind], sample)
        if config.encoding is None and encoding not in (UTF8, "utf-8-sig"):
            notes.append(f'the text is encoded in {encoding} ([input] encoding = "{encoding}")')
        return cls(path, encoding, dialect, tuple(f"{path}: {note}" for note in notes))

    @property
    def is_readable(self) -> bool:
        """Whether polars can read the file as it is."""
        is_utf8 = codecs.lookup(self.encoding).name.startswith(UTF8)
        return is_utf8 and self.dialect.escape is None

    def check(self) -> None:
        """Check the whole file.

        Raises:
            JobError: names the first wrong line.
        """
        with file_errors(self.path):
            for _ in self._blocks():
                pass

    def rewrite(self, copy: Path) -> Dialect:
        """Write the table in UTF-8 and without escapes; return the dialect of the copy.

        Raises:
            JobError: names the first wrong line.
        """
        quoted = Dialect(self.dialect.separator, self.dialect.quote or '"')
        with file_errors(self.path), copy.open("wb") as file:
            for block in self._blocks():
                file.write(_without_escapes(block, self.dialect, quoted))
        return quoted if self.dialect.escape is not None else self.dialect

    def _blocks(self) -> Iterator[bytes]:
        with open_text(self.path) as file:
            if self.is_readable:
                yield from _records(file, self.dialect, is_utf8=False)
            else:
                recoded = io.BufferedReader(_Recoded(file, self.encoding), BLOCK_BYTES)
                yield from _records(recoded, self.dialect, is_utf8=True)


def checked_blocks(path: Path, dialect: Dialect) -> Iterator[bytes]:
    """Yield a text that polars can read, with its byte order mark, in blocks that end with a record.

    Raises:
        JobError: names the first wrong line.
    """
    with file_errors(path), open_text(path) as file:
        mark = file.read(len(codecs.BOM_UTF8))
        lead = mark if mark == codecs.BOM_UTF8 else b""
        file.seek(len(lead))
        for block in _records(file, dialect, is_utf8=False):
            yield lead + block
            lead = b""


def _sample(start: bytes, encoding: str) -> bytes:
    """Return the start of a file as UTF-8, up to the last line break."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    text = decoder.decode(start)
    whole, line_break, _ = text.rpartition("\n")
    is_all = len(start) < SAMPLE_BYTES
    return (text if is_all else whole + line_break).encode()


class _Recoded(io.RawIOBase):
    """A text in any encoding, as bytes in UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._line = 1
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        is_open = True
        while not self._held and is_open:
            more = self._file.read(BLOCK_BYTES)
            is_open = bool(more)
            self._held = self._decoded(more, is_last=not more)
        taken = self._held[: len(buffer)]
        self._held = self._held[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _decoded(self, more: bytes, *, is_last: bool) -> bytes:
        try:
            text = self._decoder.decode(more, is_last)
        except UnicodeDecodeError as error:
            line = self._line + more[: error.start].count(b"\n")
            raise TableFault(
                f"line {line} is not {self._encoding} text; correct [input] encoding"
            ) from None
        self._line += text.count("\n")
        return text.encode()


def _records(file: BinaryIO, dialect: Dialect, *, is_utf8: bool) -> Iterator[bytes]:
    """Yield a text in blocks that end with a record.

    Raises:
        TableFault: with the first line that is wrong.
    """
    rest, line = b"", 1
    is_last = False
    while not is_last:
        more = file.read(BLOCK_BYTES)
        is_last = not more
        text = rest + (b"\n" if is_last and rest and not rest.endswith(b"\n") else more)
        text = text.removeprefix(codecs.BOM_UTF8) if line == 1 and not rest else text
        # A block ends with a record, so that polars can read it alone. The rest waits for more text.
        match = dialect.records.match(text)
        end = match.end() if match else 0
        block, rest = text[:end], text[end:]
        if not is_utf8:
            _check_utf8(block, line)
        if block:
            yield block
        line += block.count(b"\n")
        if (is_last and rest) or not dialect.start_of_record.fullmatch(rest):
            raise TableFault(_fault_in(rest, line, dialect))
        # Without this bound, a quote that is never closed would read the whole file into memory.
        if len(rest) > LONGEST_CELL:
            raise TableFault(f"the quote that opens in line {line} is not closed")


def _check_utf8(block: bytes, line: int) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        start, end = block.rfind(b"\n", 0, error.start) + 1, block.find(b"\n", error.start)
        number = line + block.count(b"\n", 0, start)
        shown = block[start:end].decode(_WINDOWS, errors="replace").strip()
        raise TableFault(
            f"line {number} is not UTF-8 text; set [input] encoding, such as "
            f'encoding = "{_WINDOWS}" if this is right: {truncated(shown, SHOWN)}'
        ) from None


def _fault_in(rest: bytes, line: int, dialect: Dialect) -> str:
    """Return the message about a text that does not start with a record."""
    match = dialect.start_of_record.match(rest)
    end = match.end() if match else 0
    before = rest[:end].decode(errors="replace")
    number = line + before.rstrip("\r\n").count("\n")
    if end >= len(rest.rstrip(b"\r\n")):
        opened = line + _opening_line(before, dialect)
        return f"the quote that opens in line {opened} is not closed; close it, or double a quote inside a cell"
    shown = truncated(_line_at(rest, end), SHOWN)
    if dialect.escape is None and before.endswith(BACKSLASH + dialect.quote):
        return (
            f"line {number} has a quote after a backslash: {shown}; if backslashes escape quotes "
            'in this file, set [input] escape = "\\\\"'
        )
    if not before.endswith(dialect.quote):
        return (
            f"line {number} has a quote inside a cell that is not quoted: {shown}; write the cell "
            'in quotes with this quote doubled, or set [input] quote = "" to read quotes as text'
        )
    cell = line + _opening_line(before, dialect)
    where = f" of a cell that begins in line {cell}" if cell != number else ""
    return (
        f"line {number} has text after the closing quote{where}: {shown}; a quote inside a quoted "
        "cell must be doubled"
    )


def _opening_line(before: str, dialect: Dialect) -> int:
    """Return the line of a text, from 0, in which its last cell begins."""
    text, start = before.encode(), 0
    while (cell := dialect.cells.match(text, start)) is not None:
        start = cell.end()
    return text.count(b"\n", 0, start)


def _line_at(text: bytes, position: int) -> str:
    start = text.rfind(b"\n", 0, position) + 1
    end = text.find(b"\n", position)
    return text[start : end if end >= 0 else len(text)].decode(errors="replace").strip()


def _without_escapes(block: bytes, dialect: Dialect, quoted: Dialect) -> bytes:
    if dialect.escape is None or dialect.escape.encode() not in block:
        return block
    return dialect.cells.sub(lambda match: _rewritten(match, dialect, quoted), block)


def _rewritten(match: Match[bytes], dialect: Dialect, quoted: Dialect) -> bytes:
    cell, end = match.group(1), match.group(2)
    quote = quoted.quote.encode()
    if dialect.quote and cell.startswith(quote):
        inner = cell.rstrip(b"\r")[1:-1].replace(quote * 2, quote)
        return quote + _unescaped(inner, dialect).replace(quote, quote * 2) + quote + end
    if dialect.escape is None or dialect.escape.encode() not in cell:
        return cell + end
    plain = _unescaped(cell, dialect)
    return quote + plain.replace(quote, quote * 2) + quote + end


def _unescaped(cell: bytes, dialect: Dialect) -> bytes:
    """Remove the escapes of quotes, separators, line breaks and the escape character itself."""
    escape = re.escape((dialect.escape or "").encode())
    special = re.escape("".join((dialect.quote, dialect.separator, dialect.escape or "")).encode())
    return re.sub(rb"%b([%b\r\n])" % (escape, special), rb"\1", cell)
