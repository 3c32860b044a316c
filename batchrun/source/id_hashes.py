"""Find the hashes that occur twice, in more rows than fit into memory."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from polars.exceptions import PolarsError

from batchrun.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Sorting takes about four times their 8 bytes.
MOST_HELD = 1_000_000
# Number of repeated hashes that are returned: enough to find two equal ids among their rows.
MOST_FOUND = 1_000
_HASH = "hash"
_RANGE = 2**64


class IdHashes:
    """Hashes of 8 bytes, up to a million of them in memory and the others sorted in files.

    Args:
        most_held: number of hashes to hold in memory.
    """

    def __init__(self, most_held: int = MOST_HELD) -> None:
        self._most_held = most_held
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._held: list[pl.Series] = []
        self._height = 0
        self._runs: list[Path] = []
        self._found: set[int] = set()

    def add(self, hashes: pl.Series) -> None:
        """Add the hashes of some rows.

        Raises:
            OutputError: when there is no room for the files.
        """
        self._held.append(hashes)
        self._height += len(hashes)
        if self._height >= self._most_held:
            self._put_away()

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def repeated(self) -> set[int]:
        """Return hashes that occur twice or more, up to a thousand.

        Raises:
            OutputError: when there is no room for the files.
        """
        if not self._runs:
            self._distinct()
            return self._found
        self._put_away()
        # Hashes are spread evenly, so one range of each of the n runs has about as many hashes as one run.
        width = -(-_RANGE // len(self._runs))
        for number in range(len(self._runs)):
            first, last = number * width, min((number + 1) * width, _RANGE) - 1
            within = pl.col(_HASH).is_between(pl.lit(first, pl.UInt64), pl.lit(last, pl.UInt64))
            with _room_for_files():
                self._held = [
                    pl.scan_parquet(run).filter(within).collect().to_series() for run in self._runs
                ]
            self._distinct()
        return self._found

    def _distinct(self) -> pl.Series:
        """Return the hashes in memory, sorted, each once; note those that occur twice."""
        every = pl.concat(self._held) if self._held else pl.Series([], dtype=pl.UInt64)
        self._held, self._height = [], 0
        every = every.sort()  # it takes less memory than a hash table
        is_again = every == every.shift(1)
        left = MOST_FOUND - len(self._found)
        self._found.update(every.filter(is_again).head(left).to_list())
        return every.filter(~is_again.fill_null(value=False))

    def _put_away(self) -> None:
        distinct = self._distinct()
        with _room_for_files():
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="batchrun-")
            path = Path(self._folder.name, f"{len(self._runs)}.parquet")
            distinct.to_frame(_HASH).write_parquet(
                path, compression="uncompressed", row_group_size=self._most_held // 32 + 1
            )
        self._runs.append(path)


@contextmanager
def _room_for_files() -> Iterator[None]:
    try:
        yield
    except (OSError, PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{_place()}: temporary files cannot be written there ({reason}); make room (8 bytes for each row "
            "of the input), or name another folder in the environment variable TMPDIR"
        ) from error


def _place() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "the folder of temporary files")
