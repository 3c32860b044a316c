"""A checksum with each record: what has changed on the disk since it was written.

It covers what the provider sent, which was paid for and cannot be had again for nothing (texts,
tokens, names), what says which row that belongs to, and whether a row is done. It leaves out costs,
which can be counted again.
"""

from __future__ import annotations

import zlib
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

FUNCTION = "row_checksum"
_SEPARATOR = b"\x1f"


class Checked:
    """A table whose rows have a checksum over others of their columns.

    The columns count by their names: where they stand in the declaration does not matter, and one
    that is added later changes nothing for rows that do not have it.

    Args:
        table: its name.
        columns: those that the checksum is over; text, whole numbers or bytes.
        checksum: the column that has it.
    """

    def __init__(self, table: str, columns: Iterable[str], checksum: str = "checksum") -> None:
        self.table = table
        self.checksum = checksum
        self.columns = tuple(sorted(columns))

    def pick(self, names: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        """Return what picks the covered values out of a row of these columns, for `checksum`."""
        return itemgetter(*(names.index(name) for name in self.columns))

    def of(self, row: Mapping[str, Any]) -> int:
        """Return the checksum of a row by name."""
        return checksum([row[name] for name in self.columns])

    def value(self, alias: str) -> str:
        """Return SQL for the checksum of a row as it is now."""
        # As bytes, because damaged text need not be UTF-8.
        values = ", ".join(f"CAST({alias}.{name} AS BLOB)" for name in self.columns)
        return f"{FUNCTION}({values})"

    def differs(self, alias: str) -> str:
        """Return SQL that says whether a row is no longer what was written; false where unknown."""
        return f"""CASE WHEN {alias}.{self.checksum} IS NULL THEN 0
            ELSE {alias}.{self.checksum} <> {self.value(alias)} END"""

    def seal(self, condition: str) -> str:
        """Return SQL that gives the rows `d` of a condition the checksum of what they are now."""
        return f"UPDATE {self.table} AS d SET {self.checksum} = {self.value('d')} WHERE {condition}"  # noqa: S608


def checksum(values: Iterable[Any]) -> int:
    """Return the checksum of a row's values, in the order of their columns' names.

    An empty text counts as none. Any change of a single bit, byte or short run of bytes shows.
    """
    # For every answer: written so that it costs a few microseconds.
    parts = [
        value.encode()
        if isinstance(value, str)
        else value
        if isinstance(value, bytes)
        else b"%d" % value
        for value in values
        if value is not None and value != ""
    ]
    return zlib.crc32(_SEPARATOR.join(parts))


def register(connection: sqlite3.Connection) -> None:
    """Let a connection's SQL work checksums out."""
    connection.create_function(FUNCTION, -1, _of_bytes, deterministic=True)


def _of_bytes(*values: bytes | None) -> int:
    return zlib.crc32(_SEPARATOR.join(filter(None, values)))
