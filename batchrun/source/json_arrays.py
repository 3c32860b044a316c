"""Read JSON files object by object, without loading the file into memory, and write them as JSON Lines."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, TextIO

from batchrun.errors import quoted
from batchrun.source.table_faults import TableFault, file_errors, open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


BLOCK_CHARACTERS = 1024 * 1024
LONGEST_ROW = 256 * 1024 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
# Errors of the decoder at most this far from the end of what was read may be due to that end.
_LONGEST_TOKEN = 16


def copy_as_lines(path: Path, copy: Path) -> None:
    """Write the objects of a JSON array, or of a sequence of objects, as JSON Lines.

    Raises:
        JobError: if the file contains anything else; names the line.
    """
    with file_errors(path), open_text(path) as file, copy.open("w", encoding="utf-8") as lines:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        for row in _rows(JsonText(text)):
            # A line break in JSON is only ever space between values.
            lines.write(row.replace("\r", " ").replace("\n", " ") + "\n")


class JsonText:
    """A JSON text of which only a part is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1
        self._decoder = json.JSONDecoder(parse_constant=self._no_constant)

    def next(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            self._at = _end_of_space(self._text, self._at)
            if self._at < len(self._text) or not self._read(BLOCK_CHARACTERS):
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Skip one character."""
        self._at += 1

    def object(self) -> tuple[str, dict[str, Any]]:
        """Return the object that begins here: its text and its value.

        Raises:
            TableFault: when it is not correct JSON, or something else is here.
        """
        if self.next() != "{":
            raise TableFault(
                f"line {self.line} is not a JSON object; a table is an array of objects"
            )
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._may_be_cut_off(error) and self._read(max(BLOCK_CHARACTERS, self._held)):
                    continue
                raise TableFault(
                    f"line {self._line_of(error.pos)} is not JSON: {error.msg} at column {error.colno}"
                ) from None
            text, self._at = self._text[self._at : end], end
            return text, value

    @property
    def line(self) -> int:
        """The number of the current line."""
        return self._line_of(self._at)

    @property
    def _held(self) -> int:
        return len(self._text) - self._at

    def _line_of(self, position: int) -> int:
        return self._line + self._text.count("\n", 0, position)

    def _may_be_cut_off(self, error: json.JSONDecodeError) -> bool:
        is_at_end = error.pos + _LONGEST_TOKEN >= len(self._text)
        return self._held < LONGEST_ROW and (is_at_end or error.msg.startswith("Unterminated"))

    def _read(self, characters: int) -> bool:
        more = self._file.read(characters)
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _no_constant(self, name: str) -> None:
        raise TableFault(f"a row from line {self.line} contains {name}, which is not JSON")


def _end_of_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _rows(text: JsonText) -> Iterator[str]:
    """Yield the objects as text.

    Raises:
        TableFault: when the text is neither an array of objects nor objects one after the other.
    """
    if text.next() == "[":
        yield from _array(text)
        return
    row, value = text.object()
    if not text.next():
        _refuse_wrapped(value)
    yield row
    while text.next():
        yield text.object()[0]


def _array(text: JsonText) -> Iterator[str]:
    text.skip()
    if text.next() == "]":
        text.skip()
    else:
        yield from _elements(text)
    if text.next():
        raise TableFault(f"line {text.line} has text after the end of the array")


def _elements(text: JsonText) -> Iterator[str]:
    while True:
        yield text.object()[0]
        end = text.next()
        if end not in {",", "]"}:
            what = f"line {text.line} has" if end else "the file ends with"
            raise TableFault(f"{what} neither a comma nor the end of the array after an object")
        text.skip()
        if end == "]":
            return


def _refuse_wrapped(value: dict[str, Any]) -> None:
    """Refuse one object that contains the rows, as `{"data": [{…}, …]}`."""
    for key, part in value.items():
        if isinstance(part, list) and part and all(isinstance(each, dict) for each in part):
            raise TableFault(
                f"is one object, and its rows seem to be in {quoted(key)}; save that array as a file"
            )
