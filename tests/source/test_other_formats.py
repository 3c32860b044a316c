"""JSON arrays, Arrow files and Excel sheets as input."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import InputConfig
from batchrun.source import Source, json_arrays

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)
OBJECTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", '"[{']), VALUES, min_size=1), min_size=1, max_size=4
)


def values(source: Source) -> list[dict[str, Any]]:
    found = [dict(item.values) for chunk in source.items(source.columns, 2) for item in chunk]
    assert source.count() == len(found) == sum(frame.height for frame in source.frames())
    return found


def opened(path: Path, **config: Any) -> Source:
    return Source(InputConfig(str(path), **config))


def refused(path: Path, **config: Any) -> str:
    with pytest.raises(JobError) as caught:
        opened(path, **config).count()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=OBJECTS, indent=st.sampled_from([None, 1]), block=st.integers(1, 30))
def test_an_array_of_objects_is_read_whatever_is_read_at_a_time(
    tmp_path: Path, table: list[dict[str, Any]], indent: int | None, block: int
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(table, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "BLOCK_CHARACTERS", block)
        source = opened(path)
    keys = {key for row in table for key in row}
    assert set(source.columns) == keys
    assert values(source) == [{key: row.get(key) for key in source.columns} for row in table]


def test_json_lines_with_the_suffix_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert values(opened(tmp_path / "x.json")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "line 1 is not a JSON object"),
        ("[]", "contains no rows"),
        ("[1]", "line 1 is not a JSON object; a table is an array of objects"),
        ('[{"a": 1}\n{"a": 2}]', "line 2 has neither a comma nor the end of the array"),
        ('[{"a": 1},\n {"a": }]', "line 2 is not JSON: Expecting value"),
        ('[{"a": 1}', "the file ends with neither a comma nor the end"),
        ('[{"a": 1}, {"a"', "is not JSON"),
        ('[{"a": NaN}]', "contains NaN, which is not JSON"),
        ('[{"a": 1}] 2', "line 1 has text after the end of the array"),
        ('{"version": 1, "data": [{"a": 1}]}', "its rows seem to be in 'data'"),
        ('[{"a": 1e400}]', "cannot be read as a table"),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert reason in refused(tmp_path / "x.json")


TYPED = pl.DataFrame(
    {
        "id": [1, 2],
        "text": ["007", None],
        "day": [dt.date(2026, 1, 2), None],
        "tags": [["a"], []],
        "size": [{"w": 1.5}, None],
        "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
    }
)


def test_arrow_files_and_streams_keep_types(tmp_path: Path) -> None:
    TYPED.write_ipc(tmp_path / "x.arrow", compression="zstd")
    TYPED.write_ipc(tmp_path / "x.feather")
    TYPED.write_ipc_stream(tmp_path / "stream.arrow")
    for name in ("x.arrow", "x.feather", "stream.arrow"):
        source = opened(tmp_path / name)
        assert source.schema == TYPED.schema
        assert values(source) == TYPED.to_dicts()
        where = opened(tmp_path / name, where="id = 2")
        assert [row["id"] for row in values(where)] == [2]


@pytest.mark.parametrize("content", [b"", b"junk" * 9, b"FEA1" + bytes(9), b"ARROW1" + bytes(90)])
def test_arrow_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.arrow").write_bytes(content)
    assert refused(tmp_path / "x.arrow")


def test_a_large_arrow_file_is_read_in_bounded_frames(tmp_path: Path) -> None:
    pl.DataFrame({"n": range(400_000)}).with_columns(t=pl.lit("x" * 200)).write_ipc(
        tmp_path / "x.arrow"
    )
    sizes = [frame.estimated_size() for frame in opened(tmp_path / "x.arrow").frames()]
    assert len(sizes) > 2
    assert max(sizes) < 64 * 1024 * 1024


def workbook(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    import xlsxwriter

    with xlsxwriter.Workbook(path, {"strings_to_formulas": False}) as book:
        for name, cells in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(cells):
                sheet.write_row(number, 0, row)
    return path


def test_a_sheet_is_a_table(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "x.xlsx",
        {"one": [["id", "q", "n"], ["007", "=x", 1], ["b", "", 2.5]], "two": [["q"], ["z"]]},
    )
    source = opened(path, id="id")
    source.check_ids()
    assert values(source) == [
        {"id": "007", "q": "=x", "n": 1.0},
        {"id": "b", "q": None, "n": 2.5},
    ]
    assert source.notes == (f'{path}: reading the first of its 2 sheets ([input] sheet = "one")',)
    second = opened(path, sheet="two")
    assert (values(second), second.notes) == ([{"q": "z"}], ())
    assert "they are one, two" in refused(path, sheet="tow")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04" + bytes(60)])
def test_workbooks_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.xlsx").write_bytes(content)
    assert "cannot be read as a table" in refused(tmp_path / "x.xlsx")


def test_an_empty_sheet_has_no_columns(tmp_path: Path) -> None:
    assert opened(workbook(tmp_path / "x.xlsx", {"one": []})).columns == ()


def test_copies_are_readable_by_their_owner_alone_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    source = opened(tmp_path / "x.json")
    [copy] = folder.iterdir()
    assert copy.stat().st_mode & 0o077 == 0
    assert source.columns == ("a",)
    del source
    gc.collect()
    assert not copy.exists()
