"""Dialects of CSV: which characters separate, quote and escape, and how text is encoded.

Values that are not configured are detected from the start of the file if only one reading is possible;
otherwise the defaults hold. The run prints what was detected.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from re import Pattern

    from batchrun.job import InputConfig


# Read from the start of a file to detect its encoding and dialect.
SAMPLE_BYTES = 256 * 1024
UTF8 = "utf-8"
BACKSLASH = "\\"
_SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        separator: character between two cells.
        quote: character around a cell; doubled inside one. Empty: quotes are text.
        escape: character before a quote, a separator, a line break or itself that is part of a cell;
            None for no such character.
    """

    separator: str
    quote: str = '"'
    escape: str | None = None

    @cached_property
    def records(self) -> Pattern[bytes]:
        """A pattern that matches as many whole records as there are."""
        field, separator = self._field, _one(self.separator)
        return re.compile(rb"(?:%b(?:%b%b)*+\n)*+" % (field, separator, field), re.DOTALL)

    @cached_property
    def start_of_record(self) -> Pattern[bytes]:
        """A pattern that matches the longest correct start of a record."""
        parts = self._field, _one(self.separator), self._open, self._quote, self._plain
        cut = b"" if self.escape is None else _one(self.escape) + b"?"
        return re.compile(rb"(?:%b%b)*+(?:%b%b?|%b)%b" % (*parts, cut), re.DOTALL)

    @cached_property
    def cells(self) -> Pattern[bytes]:
        """A pattern that matches one cell with its end: the separator or a line break."""
        return re.compile(rb"(%b)(%b|\r?\n)" % (self._field, _one(self.separator)), re.DOTALL)

    @property
    def _quote(self) -> bytes:
        return _one(self.quote) if self.quote else b"(?!)"

    @property
    def _escaped(self) -> bytes:
        return b"" if self.escape is None else rb"|%b." % _one(self.escape)

    @property
    def _open(self) -> bytes:
        """A quoted cell without its last quote."""
        if not self.quote:
            return b"(?!)"
        other = b"[^%b%b]" % (_in_class(self.quote), _in_class(self.escape or ""))
        quote = _one(self.quote)
        return rb"%b(?:%b++|%b%b%b)*+" % (quote, other, quote, quote, self._escaped)

    @property
    def _plain(self) -> bytes:
        """A cell without quotes."""
        special = "".join((self.separator, self.quote, self.escape or "", "\n"))
        return rb"(?:[^%b]++%b)*+" % (_in_class(special), self._escaped)

    @property
    def _field(self) -> bytes:
        # A carriage return before a line feed ends a record, too.
        return rb"(?:%b%b\r?|%b)" % (self._open, self._quote, self._plain)


def _one(character: str) -> bytes:
    return re.escape(character).encode()


def _in_class(characters: str) -> bytes:
    return b"".join(b"\\x%02x" % ord(character) for character in characters)


def encoding_of(start: bytes, given: str | None) -> str:
    """Return the encoding of a text: the given one, the one of its byte order mark, or UTF-8."""
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), UTF8)
    if given is None:
        return marked
    is_utf8 = codecs.lookup(given).name == UTF8
    return marked if is_utf8 and marked == "utf-8-sig" else given


def dialect_of(config: InputConfig, separator: str, sample: bytes) -> tuple[Dialect, list[str]]:
    """Return the dialect of a text table, and a sentence for each part of it that was detected.

    Args:
        config: the configured values.
        separator: the usual separator of this kind of file.
        sample: the start of the file, as UTF-8, up to the end of a line.
    """
    notes = []
    dialect = Dialect(
        separator=config.separator or separator,
        quote='"' if config.quote is None else config.quote,
        escape=None if config.escape == config.quote else config.escape,
    )
    if config.separator is None and (found := _detected_separator(dialect, sample)) is not None:
        dialect = replace(dialect, separator=found)
        notes.append(
            f"cells are separated by a {_NAMES[found]} ([input] separator = {_toml(found)})"
        )
    if config.escape is None and _has_backslash_escapes(dialect, sample):
        dialect = replace(dialect, escape=BACKSLASH)
        notes.append('quotes are escaped by a backslash ([input] escape = "\\\\")')
    return dialect, notes


def _toml(character: str) -> str:
    return '"\\t"' if character == "\t" else f'"{character}"'


def _detected_separator(dialect: Dialect, sample: bytes) -> str | None:
    """Return another separator if it is the only one that gives every line as many cells as the header."""
    if _fits(dialect, sample):
        return None
    others = [each for each in _SEPARATORS if each != dialect.separator]
    fitting = [each for each in others if _fits(replace(dialect, separator=each), sample)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(dialect: Dialect, sample: bytes) -> bool:
    widths = {len(row) for row in _rows(dialect, sample) if row}
    return len(widths) == 1 and widths != {1}


def _rows(dialect: Dialect, sample: bytes) -> Iterator[list[str]]:
    try:
        yield from csv.reader(
            io.StringIO(sample.decode(errors="replace"), newline=""),
            delimiter=dialect.separator,
            quotechar=dialect.quote or None,
            escapechar=dialect.escape,
            quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        )
    except csv.Error:
        yield from ([], ["", ""], [""])  # fits nothing


def _has_backslash_escapes(dialect: Dialect, sample: bytes) -> bool:
    """Return whether a text is correct with backslash escapes, and wrong without them."""
    if not dialect.quote or (BACKSLASH + dialect.quote).encode() not in sample:
        return False
    escaping = replace(dialect, escape=BACKSLASH)
    return not is_correct(dialect, sample) and is_correct(escaping, sample)


def is_correct(dialect: Dialect, text: bytes) -> bool:
    """Return whether a text consists of records of a dialect; the last one may be truncated."""
    match = dialect.records.match(text)
    rest = text[match.end() if match else 0 :]
    return dialect.start_of_record.fullmatch(rest) is not None
