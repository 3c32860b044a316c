"""Parts of text files are read from where they begin."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import polars as pl
import pytest

from batchrun.job import InputConfig, RunPart
from batchrun.source import Source
from batchrun.source.tables import open_tables
from batchrun.source.text_index import csv_frames, index_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 12_000
# Rows of about 1 kB, with line feeds, quotes and separators in cells: three blocks.
PAD = 'a "quoted" word,\nanother line; ' * 30


def write(path: Path) -> pl.DataFrame:
    table = pl.DataFrame(
        {
            "id": [f"r{n}" for n in range(ROWS)],
            "text": [f"{n} {PAD if n % 7 else ''}" for n in range(ROWS)],
            "empty": ["" if n % 3 else "x" for n in range(ROWS)],
        }
    )
    if path.suffix == ".jsonl":
        table.write_ndjson(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(table.write_csv().encode(), 1))
    else:
        table.write_csv(path, include_bom=path.stem == "marked")
    return table


@pytest.mark.parametrize("name", ["rows.csv", "marked.csv", "rows.csv.gz", "rows.jsonl"])
def test_the_parts_of_a_file_are_its_rows(tmp_path: Path, name: str) -> None:
    table = write(tmp_path / name)
    source = Source(InputConfig(str(tmp_path / name), id="id"))
    for number, (first, rows) in enumerate(((0, 5_000), (5_000, 5_000), (10_000, 5_000))):
        part = source.of_part(RunPart(number + 1, first, rows))
        expected = table[first : first + rows]
        assert pl.concat(part.frames()).equals(expected)
        items = [item for chunk in part.items(["text"], 1_000) for item in chunk]
        assert [item.custom_id for item in items] == expected["id"].to_list()
        assert [item.values["text"] for item in items] == expected["text"].to_list()


def test_rows_before_a_part_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    table = write(path)
    (file,) = open_tables([path], ".csv", InputConfig(str(path)), None)  # type: ignore[arg-type]
    index = index_of(file, table.schema)
    assert index.rows == ROWS
    assert len(index.blocks) > 2
    # What is not read may be anything.
    start = index.after(ROWS - 10)[0].offset
    content = path.read_bytes()
    path.write_bytes(b'"' * start + content[start:])
    found = pl.concat(csv_frames(file, table.schema, index, ROWS - 10, ["id"]))
    assert found["id"].to_list() == [f"r{n}" for n in range(ROWS - 10, ROWS)]


def test_a_part_of_several_files_is_read_from_its_file(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.csv")
    source = Source(InputConfig(str(tmp_path / "*.csv")))
    part = source.of_part(RunPart(2, ROWS + 5, ROWS))
    ids = pl.concat(part.frames(["id"]))["id"].to_list()
    assert ids == [f"r{n % ROWS}" for n in range(ROWS + 5, 2 * ROWS + 5)]


def test_empty_lines_between_rows_are_counted_as_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + f"{'x' * 1_000}\n\n" * 9_000)
    source = Source(InputConfig(str(path)))
    whole = pl.concat(source.frames())
    part = pl.concat(source.of_part(RunPart(2, 5_000, 100_000)).frames())
    assert part.equals(whole[5_000:])
