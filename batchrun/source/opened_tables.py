"""The tables of an input, opened once: for the whole input and for its parts."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from batchrun.errors import JobError
from batchrun.job import is_remote
from batchrun.source import json_lines, readers
from batchrun.source.copies import TemporaryFolder
from batchrun.source.inputs import FileStamp, common_kind, resolve
from batchrun.source.remote import RemoteCopy
from batchrun.source.tables import open_tables
from batchrun.source.text_index import TextIndex, index_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from batchrun.job import InputConfig
    from batchrun.source.tables import TableFile


class OpenedTables:
    """Opens the files of an input; deletes the copies of files when nothing uses them any more.

    Args:
        config: the `[input]` of a job.

    Attributes:
        name: the path as it is configured.
        config: the input to read: of a remote one, the copy.
        paths: the files, in order.
        stamps: the states of the files when they were opened.
        files: what is read of each.
        schema: the columns with their types.

    Raises:
        JobError: when files are missing, of different kinds, or cannot be parsed.
    """

    def __init__(self, config: InputConfig) -> None:
        self.name = config.path
        self._remote = RemoteCopy(config) if is_remote(config.path) else None
        self.config = config = config if self._remote is None else self._remote.config
        # The paths of copies, and what they are copies of.
        self._copies = {} if self._remote is None else {config.path: self.name}
        self.paths = resolve(config.path, config.pattern)
        kind = common_kind(self.paths)
        self.stamps = self._stamps()
        folder = TemporaryFolder(config.path)
        weakref.finalize(self, folder.remove)
        with self.named_as_given():
            self.files = open_tables(self.paths, kind, config, folder)
        self._copies |= {str(t.place): str(t.path) for t in self.files if t.place != t.path}
        self.schema = self._read_schema()
        self._indexes: dict[Path, TextIndex | None] = {}
        self._index_lock = Lock()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about what was detected in the files."""
        return tuple(self._as_given(note) for table in self.files for note in table.notes)

    @property
    def has_lines(self) -> bool:
        """Whether the files are JSON Lines, or are read like these."""
        return self.files[0].kind == ".jsonl"

    def is_unchanged(self) -> bool:
        """Return whether the files have not changed since they were opened."""
        try:
            return self.stamps == self._stamps()
        except JobError:
            return False

    def index(self, table: TableFile) -> TextIndex | None:
        """Return the index of rows of a text file; None for a small file and for other kinds."""
        if table.dialect is None and table.kind != ".jsonl":
            return None
        with self._index_lock:
            if table.place not in self._indexes:
                self._indexes[table.place] = self._new_index(table)
            return self._indexes[table.place]

    @contextmanager
    def named_as_given(self) -> Iterator[None]:
        """Name the user's files in errors of their copies."""
        try:
            yield
        except JobError as error:
            if (text := self._as_given(str(error))) == str(error):
                raise
            raise JobError(text) from error.__cause__

    def _as_given(self, text: str) -> str:
        for place, original in reversed(self._copies.items()):
            text = text.replace(place, original)
        return text

    def _stamps(self) -> tuple[FileStamp, ...]:
        if self._remote is not None:
            return (self._remote.stamp,)
        return tuple(FileStamp.of(path) for path in self.paths)

    def _read_schema(self) -> pl.Schema:
        with self.named_as_given():
            if self.has_lines:
                return json_lines.schema([table.place for table in self.files])
            return readers.schema(self.files)

    def _new_index(self, table: TableFile) -> TextIndex | None:
        with self.named_as_given():
            found = index_of(table, self.schema)
            # An empty line between two blocks may be a row; at the end of a text it is not. If the index
            # counts otherwise than polars, it is not used.
            is_right = table.dialect is None or found.rows == self._rows(table)
        return found if is_right and len(found.blocks) > 1 else None

    def _rows(self, table: TableFile) -> int:
        return sum(frame.height for frame in readers.frames(table, list(self.schema), None, 0))
