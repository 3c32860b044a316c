"""Hashes that occur twice, found among more than are held in memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError, OutputError
from batchrun.job import InputConfig
from batchrun.source import Source
from batchrun.source.id_hashes import MOST_HELD, IdHashes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOP = 2**64 - 1
_MEASURED = """
import sys
import polars as pl
from batchrun.source.id_hashes import IdHashes
hashes = IdHashes(100_000)
for start in range(0, int(sys.argv[1]), 50_000):
    hashes.add(pl.select(pl.int_range(start, start + 50_000)).to_series().hash())
assert hashes.repeated() == set()
hashes.close()
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def repeated(frames: Iterable[list[int]], most_held: int) -> set[int]:
    with closing(IdHashes(most_held)) as hashes:
        for frame in frames:
            hashes.add(pl.Series(frame, dtype=pl.UInt64))
        return hashes.repeated()


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.lists(st.integers(0, 30) | st.integers(TOP - 9, TOP), max_size=12)),
    most_held=st.integers(1, 40),
)
def test_every_hash_that_occurs_twice_is_found(frames: list[list[int]], most_held: int) -> None:
    counts = Counter(value for frame in frames for value in frame)
    assert repeated(frames, most_held) == {value for value, count in counts.items() if count > 1}


def test_no_more_than_a_thousand_are_returned() -> None:
    frames = [list(range(first, first + 500)) for first in range(0, 5_000, 500)]
    assert len(repeated(frames * 2, most_held=1_200)) == 1_000


def test_memory_does_not_grow_with_the_rows() -> None:
    peaks = []
    for rows in (200_000, 2_000_000):
        command = [sys.executable, "-c", _MEASURED, str(rows)]
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
        peaks.append(int(found.stdout))
    # Held in memory, they would be 14 MB more, and several times that while they are sorted.
    assert peaks[1] < peaks[0] + 10_000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of which the first and the last id are equal, and not in memory together."""
    path = tmp_path / "rows.parquet"
    number = pl.int_range(MOST_HELD + 200_000, eager=True)
    ids = pl.select(pl.format("r{}", number % (len(number) - 1)).alias("id"))
    ids.write_parquet(path, row_group_size=100_000)
    return path


def test_equal_ids_far_from_each_other_are_named(table: Path) -> None:
    with pytest.raises(JobError, match="id 'r0' .* is in row 1 and in row 1200000; ids must be"):
        Source(InputConfig(str(table), id="id")).check_ids()


def test_a_full_folder_for_the_hashes_is_named(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    source = Source(InputConfig(str(table), id="id"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"{folder}: temporary files cannot be written"):
            source.check_ids()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [*folder.iterdir()] == []
