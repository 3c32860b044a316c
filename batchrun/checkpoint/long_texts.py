"""Long texts of answers and of turns with tools, in pieces that fill the pages of the file.

SQLite puts the start of a row in one page with other rows. A row of half a page or more leaves the rest of
its page empty, and rows that arrive in another order than their keys leave pages partly empty. Pieces are
small and are only ever added at the end of their table, so their pages are full.

A column with a long text contains an integer instead: the id of its first piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database


# Rows with more bytes than this have their longer texts in pieces.
MOST_IN_ROW = 1_000
SHORT_BYTES = 256
# Twelve pieces, each with about 16 bytes for its length and ids, fill a page of 16 KiB.
PIECE_BYTES = 1_348
# Longer texts fill several pages by themselves.
LONGEST_BYTES = 65_536
# Ids of the first pieces of texts are this far apart.
_MOST_PIECES = 64

TABLE = """CREATE TABLE pieces (
    id INTEGER PRIMARY KEY,
    request_id INTEGER NOT NULL,
    text ANY NOT NULL
) STRICT"""
_NEXT = f"SELECT coalesce(max(id), 0) / {_MOST_PIECES} + 1 FROM pieces"  # noqa: S608 - no values
_INSERT = "INSERT INTO pieces (id, request_id, text) VALUES (?, ?, ?)"
# A damaged id may be that of another row's piece.
_DELETE = f"DELETE FROM pieces WHERE id >= ?1 AND id < ?1 + {_MOST_PIECES} AND request_id = ?2"  # noqa: S608


def whole(value: str, table: str = "pieces") -> str:
    """Return SQL for the text of a column that may be in pieces.

    Args:
        value: SQL for the column.
        table: the table that has its pieces.
    """
    pieces = f"SELECT text FROM {table} WHERE {_is_of(value)} ORDER BY id"  # noqa: S608 - our own names
    return f"""CASE typeof({value}) WHEN 'integer'
        THEN (SELECT group_concat(text, '') FROM ({pieces})) ELSE {value} END"""  # noqa: S608


def length(value: str) -> str:
    """Return SQL for about the length of a text that may be in pieces, 0 if there is none."""
    pieces = f"(SELECT count(*) FROM pieces WHERE {_is_of(value)})"  # noqa: S608 - our own names
    # Most are null, and this finds that out first.
    return f"""CASE WHEN {value} IS NULL THEN 0
        WHEN typeof({value}) = 'integer' THEN {PIECE_BYTES} * {pieces} ELSE length({value}) END"""


def delete_pieces(
    db: Database, keys: Iterable[int], columns: Sequence[str], table: str = "results"
) -> None:
    """Delete the pieces of these columns of requests' rows in a table, whose texts are replaced."""
    ids = ", ".join(f"CASE typeof({name}) WHEN 'integer' THEN {name} END" for name in columns)
    for key in keys if columns else ():
        rows = db.execute(f"SELECT {ids} FROM {table} WHERE request_id = ?", (key,))  # noqa: S608 - our own names
        found = [(first, key) for row in rows for first in row if first is not None]
        db.conn.executemany(_DELETE, found)


def _is_of(value: str) -> str:
    return f"id >= {value} AND id < {value} + {_MOST_PIECES}"


class LongTexts:
    """Takes long texts out of rows before they are written, within one transaction.

    Args:
        db: the checkpoint.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._next = 0
        self._pieces: list[tuple[int, int, str | bytes]] = []

    def take_out(self, key: int, row: Sequence[Any], places: Iterable[int]) -> tuple[Any, ...]:
        """Return a row of a request with ids instead of the long texts at these places."""
        found = list(row)
        for place in places:
            value = found[place]
            if value is None:
                continue
            content = value if isinstance(value, bytes) else value.encode()
            if not SHORT_BYTES < len(content) <= LONGEST_BYTES:
                continue
            found[place] = first = self._new_id()
            for number, piece in enumerate(_pieces(content), first):
                self._pieces.append((number, key, piece if content is value else piece.decode()))
        return tuple(found)

    def _new_id(self) -> int:
        if not self._next:
            (self._next,) = self._db.execute(_NEXT).fetchone()
        self._next += 1
        return (self._next - 1) * _MOST_PIECES

    def write(self) -> None:
        """Write what was taken out."""
        self._db.conn.executemany(_INSERT, self._pieces)


def _pieces(content: bytes) -> Iterator[bytes]:
    """Yield content in pieces that do not begin within a character of UTF-8."""
    start = 0
    while start < len(content):
        end = start + PIECE_BYTES
        while end < len(content) and content[end] & 0xC0 == 0x80:
            end -= 1
        yield content[start:end]
        start = end
