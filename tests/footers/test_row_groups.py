"""Parquet files that are appended to each other, as they are."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from batchrun.errors import OutputError
from batchrun.output import FileContents, concatenate, write_contents

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 60


def part_files(folder: Path, count: int) -> list[Path]:
    """Write files of 60 rows in row groups of 25; their columns have most types of the outputs."""
    paths = []
    for number in range(count):
        ids = [f"r{number}-{row}" for row in range(ROWS)]
        frame = pl.DataFrame(
            {
                "id": ids,
                "empty": pl.Series([None] * ROWS, dtype=pl.String),
                "texts": [[name, None] if row % 3 else None for row, name in enumerate(ids)],
                "tokens": range(number * ROWS, number * ROWS + ROWS),
                "cost": [row / 7 if row % 2 else None for row in range(ROWS)],
                "at": [datetime(2026, 1, 1 + number % 28, tzinfo=UTC)] * ROWS,
                "flag": [row % 2 == 0 for row in range(ROWS)],
            }
        )
        paths.append(folder / f"part-{number:04}.parquet")
        frame.write_parquet(paths[-1], row_group_size=25)
    return paths


def pages(path: Path) -> bytes:
    """Return what is before the footer of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    return content[4 : len(content) - 8 - length]


def test_row_groups_are_copied_as_they_are(tmp_path: Path) -> None:
    parts, whole = part_files(tmp_path, 40), tmp_path / "results.parquet"
    concatenate(parts, whole)
    assert pages(whole) == b"".join(map(pages, parts))
    expected = pl.concat([pl.read_parquet(part) for part in parts])
    assert_frame_equal(pl.read_parquet(whole), expected)
    # By its statistics, polars reads only the row group that has it.
    found = pl.scan_parquet(whole).filter(pl.col("tokens") == 31 * ROWS + 7).collect()
    assert found["id"].to_list() == ["r31-7"]


def test_other_readers_find_the_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    parts, whole = part_files(tmp_path, 3), tmp_path / "results.parquet"
    concatenate(parts, whole)
    found = pyarrow.ParquetFile(whole)
    assert (found.metadata.num_rows, found.metadata.num_row_groups) == (3 * ROWS, 9)
    assert found.read()["id"].to_pylist() == pl.read_parquet(whole)["id"].to_list()


def test_memory_does_not_grow_with_the_parts(tmp_path: Path) -> None:
    parts, whole = part_files(tmp_path, 2), tmp_path / "results.parquet"
    peaks = []
    for count in (40, 100):
        tracemalloc.start()
        concatenate(parts * (count // 2), whole)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # What the footers of 60 files say of their row groups is 100 KB.
    assert peaks[1] < peaks[0] + 50_000


_WRITTEN = """
import sys
from pathlib import Path
import polars as pl
from batchrun import output
n = pl.int_range(10_000, eager=True) % 7
frame = pl.DataFrame({f"c{column}": n for column in range(40)})
frames = lambda columns: iter([frame] * int(sys.argv[2]))
output.write_contents(Path(sys.argv[1]), output.FileContents(frame.schema, frames, ()))
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path, peaks = tmp_path / "usage.parquet", []
    for groups in (20, 200):
        command = [sys.executable, "-c", _WRITTEN, str(path), str(groups)]
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
        peaks.append(int(found.stdout))
    assert pl.scan_parquet(path).select(pl.len()).collect().item() == 2_000_000
    # A writer of all 200 row groups takes 25 MB more.
    assert peaks[1] < peaks[0] + 8_000


def test_large_rows_are_in_smaller_row_groups(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "results.parquet"
    frame = pl.DataFrame({"text": ["x" * 1_000_000] * 3})
    large = pl.concat([frame] * 4)
    frames = [frame, frame, frame, large, frame]
    contents = FileContents(frame.schema, lambda _columns: iter(frames), ())
    write_contents(path, contents)
    found = pyarrow.ParquetFile(path).metadata
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [6, 3, 6, 6, 3]


def test_rows_are_written_between_files(tmp_path: Path) -> None:
    first, last = part_files(tmp_path, 2)
    between = pl.read_parquet(last)[:7]
    contents = FileContents(between.schema, lambda _columns: iter([between]), ())
    nothing = FileContents(between.schema, lambda _columns: iter(()), ())
    concatenate([nothing, first, contents, last], tmp_path / "whole.parquet")
    expected = pl.concat([pl.read_parquet(first), between, pl.read_parquet(last)])
    assert_frame_equal(pl.read_parquet(tmp_path / "whole.parquet"), expected)


def test_files_with_other_metadata_are_read_and_written_again(tmp_path: Path) -> None:
    parts, whole = part_files(tmp_path, 3), tmp_path / "results.parquet"
    expected = pl.concat([pl.read_parquet(part) for part in parts])
    pl.read_parquet(parts[1]).write_parquet(parts[1], metadata={"writer": "another"})
    concatenate(parts, whole)
    assert_frame_equal(pl.read_parquet(whole), expected)


@pytest.mark.parametrize("kept", [0, 11, 500, -1])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    parts, whole = part_files(tmp_path, 3), tmp_path / "results.parquet"
    whole.write_bytes(b"before")
    parts[1].write_bytes(parts[1].read_bytes()[:kept])
    with pytest.raises(OutputError, match=r"part-0001\.parquet: is damaged.*batchrun export"):
        concatenate(parts, whole)
    assert whole.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [p.name for p in [*parts, whole]]


def test_a_damaged_footer_is_named(tmp_path: Path) -> None:
    parts, whole = part_files(tmp_path, 2), tmp_path / "results.parquet"
    content = bytearray(parts[1].read_bytes())
    start = 4 + len(pages(parts[1]))
    content[start:-8] = b"\xff" * (len(content) - 8 - start)
    parts[1].write_bytes(content)
    with pytest.raises(OutputError, match=r"part-0001\.parquet: is damaged"):
        concatenate(parts, whole)
