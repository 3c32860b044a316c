"""The input: every row of every kind of file, and a reason for each file that is none."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import os
import random
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import InputConfig
from batchrun.source import Source, is_table

TARGET_FRAME_BYTES = 16 * 1024 * 1024


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Write a file; a name that ends in .gz is compressed."""

    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


Put = Callable[[str, bytes | str], Path]


def opened(path: Path | str, **config: Any) -> Source:
    return Source(InputConfig(str(path), **config))


def rows_of(path: Path | str, **config: Any) -> list[dict[str, Any]]:
    """All rows as the templates see them, after everything that a run checks before it sends."""
    source = opened(path, **config)
    source.check_ids()
    items = [item for chunk in source.items(source.columns, 3) for item in chunk]
    assert [item.ordinal for item in items] == list(range(len(items)))
    assert source.count() == len(items) == sum(frame.height for frame in source.frames())
    return [dict(item.values) for item in items]


def refusal(path: Path | str, **config: Any) -> str:
    """What a run says, before it sends anything, about an input that it cannot use."""
    with pytest.raises(JobError) as caught:
        rows_of(path, **config)
    message = str(caught.value)
    assert "\n" not in message
    return message


# text tables


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "a,b\n007,x\n,\n"),
        ("x.CSV", "a,b\n007,x\n,\n"),
        ("x.tsv", "a\tb\n007\tx\n\t\n"),
        ("x.csv.gz", "a,b\n007,x\n,\n"),
        ("x.tsv.gz", "a\tb\n007\tx\n\t\n"),
        ("x.csv", "a,b\r\n007,x\r\n,\r\n"),
        ("x.csv", "\ufeffa,b\n007,x\n,\n"),
        ("x.csv", '\ufeff"a","b"\n"007","x"\n"",""\n'),
        ("x.csv", "a,b\n007,x\n,"),
    ],
    ids=["csv", "upper", "tsv", "csv-gz", "tsv-gz", "crlf", "bom", "quoted-bom", "no-end"],
)
def test_text_stays_text_and_empty_cells_are_empty_text(put: Put, name: str, content: str) -> None:
    path = put(name, content)
    assert rows_of(path) == [{"a": "007", "b": "x"}, {"a": "", "b": ""}]


def test_what_looks_typed_in_csv_is_text(put: Put) -> None:
    path = put("x.csv", "a,b,c,d\n1.50,true,2025-01-31,null\n#x, y ,NaN,\u2028\n")
    assert rows_of(path) == [
        {"a": "1.50", "b": "true", "c": "2025-01-31", "d": "null"},
        {"a": "#x", "b": " y ", "c": "NaN", "d": "\u2028"},
    ]


def test_quotes_separators_and_line_ends_inside_cells(put: Put) -> None:
    path = put("x.csv", 'a,b\r\n"x, ""y""","1\n2"\r\n"\r\n","{{ a }}"\r\n')
    assert rows_of(path) == [{"a": 'x, "y"', "b": "1\n2"}, {"a": "\r\n", "b": "{{ a }}"}]


def test_names_of_columns_may_be_anything(put: Put) -> None:
    path = put("x.csv", '"say ""hi""","a,b","two\nlines",\n1,2,3,4\n')
    assert rows_of(path) == [{'say "hi"': "1", "a,b": "2", "two\nlines": "3", "": "4"}]


def test_a_short_line_has_empty_cells_at_its_end(put: Put) -> None:
    assert rows_of(put("x.csv", "a,b\n1\n2,3\n")) == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]


def test_an_empty_line_of_a_single_column_is_a_row(put: Put) -> None:
    assert rows_of(put("x.csv", "a\n1\n\n2\n")) == [{"a": "1"}, {"a": ""}, {"a": "2"}]


@pytest.mark.parametrize("content", ["a,b\n", "a,b", "a,b\r\n"])
def test_a_header_alone_is_a_table_without_rows(put: Put, content: str) -> None:
    path = put("x.csv", content)
    assert opened(path).columns == ("a", "b")
    assert rows_of(path) == []


def test_compressed_files_may_have_several_members(put: Put, tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))
    assert rows_of(path) == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty CSV"),
        (b"\n\n", "empty CSV"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        (b'a,b\n"1\n1",2\n1,2,3\n', "line 4 has 3 fields, the header has 2"),
        (b"a,b\n1,2\n\xe9,2\n", "line 3 is not UTF-8 text"),
        (b"a,\xe9\n1,2\n", "line 1 is not UTF-8 text; set [input] encoding"),
        (b"a,b\r1,2\r", "bare carriage return"),
        (b'a,b\n1,"x\n2,y\n', "the quote that opens in line 2 is not closed"),
        (b'a,b\n1,"x"y\n', 'line 2 has text after the closing quote: 1,"x"y'),
        (b"a,b,a\n1,2,3\n", 'the column "a" appears twice'),
        (b'"a""b","a""b"\n1,2\n', "twice"),
    ],
    ids=[
        "empty",
        "blank",
        "long-line",
        "long-record",
        "latin-1",
        "latin-1-header",
        "old-mac",
        "open-quote",
        "stray-quote",
        "twice",
        "twice-quoted",
    ],
)
def test_text_tables_that_are_none(put: Put, content: bytes, reason: str) -> None:
    path = put("x.csv", content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("cell", "reason"), [(b"\xe9", "line 3 is not UTF-8 text"), (b'"x"y', "line 3 has text after")]
)
def test_a_bad_cell_is_found_before_anything_is_sent_in_whatever_column(
    put: Put, cell: bytes, reason: str
) -> None:
    # Templates may use the first column only, but the outputs hold them all.
    path = put("x.csv", b"a,b\n1,2\n3," + cell + b"\n")
    with pytest.raises(JobError, match=reason):
        opened(path).count()


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: data[:20] + bytes(40) + data[60:],
        lambda data: data[:10] + b"\xff" * 50,
        lambda data: data[:2],
        lambda _data: b"\x1f\x8bnothing",
    ],
    ids=["cut-off", "zeros", "noise", "magic-only", "no-gzip"],
)
def test_damaged_compressed_files(put: Put, name: str, damage: Callable[[bytes], bytes]) -> None:
    content = "a\n" if "csv" in name else ""
    content += "".join(f'{{"a": {random.Random(n).random()}}}\n' for n in range(200))
    path = put(name, content)
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refusal(path)


# JSON Lines


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.jsonl.gz", "x.ndjson.GZ"])
def test_json_lines(put: Put, name: str) -> None:
    content = '\ufeff{"a": 1, "b": "007"}\r\n\n  \n{"b": null, "a": 2}'
    path = put(name, gzip.compress(content.encode()) if name.endswith("GZ") else content)
    assert rows_of(path) == [{"a": 1, "b": "007"}, {"a": 2, "b": None}]


def test_later_lines_may_add_keys(put: Put) -> None:
    path = put("x.jsonl", '{"a": 1}\n{"a": 2, "b": {"c": [1]}}\n{"c": true}\n')
    assert rows_of(path) == [
        {"a": 1, "b": None, "c": None},
        {"a": 2, "b": {"c": [1]}, "c": None},
        {"a": None, "b": None, "c": True},
    ]


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, 2], pl.Int64(), [1, 2]),
        ([1, 1.5], pl.Float64(), [1.0, 1.5]),
        ([1, "x"], pl.String(), ["1", "x"]),
        ([True, 1], pl.String(), ["true", "1"]),
        ([1.5, False], pl.String(), ["1.5", "false"]),
        ([1, [2]], pl.String(), ["1", "[2]"]),
        ([{"k": 1}, 2], pl.String(), ['{"k": 1}', "2"]),
        ([{"k": 1}, [2], "x", None], pl.String(), ['{"k": 1}', "[2]", "x", None]),
        ([[1], ["x"]], pl.List(pl.String()), [["1"], ["x"]]),
        ([[], [1]], pl.List(pl.Int64()), [[], [1]]),
        ([{"k": 1}, {"j": 2}], pl.Struct({"k": pl.Int64(), "j": pl.Int64()}), None),
        ([{"k": True}, {"k": 2}], pl.Struct({"k": pl.String()}), [{"k": "true"}, {"k": "2"}]),
        ([{"k": [1]}, {"k": 2}], pl.Struct({"k": pl.String()}), [{"k": "[1]"}, {"k": "2"}]),
        ([{}, {}], pl.String(), ["{}", "{}"]),
        ([[{}]], pl.List(pl.String()), [["{}"]]),
        ([2**80, 1], pl.Int128(), [2**80, 1]),
        ([None, None], pl.String(), [None, None]),
        (["2025-01-31", "x"], pl.String(), ["2025-01-31", "x"]),
    ],
    ids=str,
)
def test_values_are_those_of_their_line_and_columns_have_a_common_type(
    put: Put, values: list[Any], kind: pl.DataType, cells: list[Any] | None, tmp_path: Path
) -> None:
    path = put("x.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    assert rows_of(path) == [{"v": value} for value in values]
    source = opened(path)
    assert source.schema == {"v": kind}
    frame = pl.concat(source.frames())
    if cells is not None:
        assert frame["v"].to_list() == cells
    frame.write_parquet(tmp_path / "out.parquet")


def test_half_of_a_character_becomes_the_mark_for_that(put: Put) -> None:
    texts = ["a\\ud83d", "\\uDE00b", "\\ud83d\\ude00", "c:\\\\ud83d", "\\ud83d\\ud83d\\ude00"]
    path = put("x.jsonl", "".join(f'{{"a": "{text}"}}\n' for text in texts))
    expected = ["a\ufffd", "\ufffdb", "\U0001f600", "c:\\ud83d", "\ufffd\U0001f600"]
    assert [row["a"] for row in rows_of(path)] == expected
    assert pl.concat(opened(path).frames())["a"].to_list() == expected


def test_values_do_not_depend_on_other_rows(put: Put) -> None:
    # Or a row added tonight would have every earlier one sent, and paid, again.
    before = rows_of(put("x.jsonl", '{"a": 1, "s": {"k": 1}}\n'))
    after = rows_of(put("x.jsonl", '{"a": 1, "s": {"k": 1}}\n{"a": 0.5, "s": {"j": []}, "z": 1}\n'))
    assert {key: after[0][key] for key in before[0]} == before[0]


def test_conflicts_may_be_blocks_apart(put: Put) -> None:
    filler = '{"a": 1, "t": "' + "x" * 1_000 + '"}\n'
    path = put("x.jsonl", filler * 5_000 + '{"a": [1]}\n{"a": true}\n')
    source = opened(path, id=None)
    assert source.schema["a"] == pl.String
    assert source.count() == 5_002
    items = [item for chunk in source.items(["a"], 1_000) for item in chunk]
    assert [item.values["a"] for item in items[4_999:]] == [1, [1], True]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "contains no rows"),
        (b"\n \n", "contains no rows"),
        (b"\xef\xbb\xbf\n", "contains no rows"),
        (b"{}\n{}\n", "contains no rows"),
        (b'{"a": 1}\n\n{"a":\n', "line 3 is not JSON: Expecting value at column"),
        (b'{"a": 1}\n{"a": 2} {"a": 3}\n', "line 2 is not JSON: Extra data at column 10"),
        (b'{"a": 1},\n{"a": 2}\n', "line 1 is not JSON: Extra data at column 9"),
        (b'[\n  {"a": 1}\n]\n', "line 1 is not JSON"),
        (b"1\n", "line 1 is not a JSON object"),
        (b'{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        (b'{"a": 1}\nnull\n', "line 2 is not a JSON object"),
        (b'{"a": 1}\n"x"\n', "line 2 is not a JSON object"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "line 2 is not UTF-8 text"),
        (b'{"a": NaN}\n', "line 1 contains NaN, which is not JSON"),
        (b'{"a": 1}\n{"a": -Infinity}\n', "line 2 contains -Infinity, which is not JSON"),
        (b'{"a": 1e400}\n', "cannot be read as a table"),
        (b'{"a": ' + b"9" * 5_000 + b"}\n", "cannot be read as a table"),
        (b'{"a": ' + b"[" * 3_000 + b"]" * 3_000 + b"}\n", "cannot be read as a table"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1"),
    ],
    ids=[
        "empty",
        "blank",
        "bom",
        "no-keys",
        "cut-off",
        "two",
        "comma",
        "pretty",
        "number",
        "list",
        "null",
        "text",
        "latin-1",
        "nan",
        "infinity",
        "huge-float",
        "digits",
        "deep",
        "utf-16",
    ],
)
def test_json_lines_that_are_none(put: Put, content: bytes, reason: str) -> None:
    path = put("x.jsonl", content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert reason in message


# Parquet


def test_typed_columns_reach_the_templates_as_python_values(tmp_path: Path) -> None:
    row = {
        "text": "007",
        "whole": 2**63 - 1,
        "float": 0.1,
        "flag": True,
        "price": Decimal("1.50"),
        "day": dt.date(2025, 1, 31),
        "moment": dt.datetime(2025, 1, 31, 12, tzinfo=dt.UTC),
        "clock": dt.time(12, 30),
        "span": dt.timedelta(days=1),
        "tags": ["a", None],
        "size": {"w": 1, "unit": None},
        "turns": [{"role": "user", "content": "Hi"}],
        "bytes": b"\xff",
    }
    frame = pl.DataFrame([row, dict.fromkeys(row)], schema_overrides={"price": pl.Decimal(9, 2)})
    frame.with_columns(kind=pl.Series(["x", None], dtype=pl.Categorical)).write_parquet(
        tmp_path / "x.parquet"
    )
    first, second = rows_of(tmp_path / "x.parquet")
    assert first == {**row, "kind": "x"}
    assert {type(first[name]) for name in row} == {type(value) for value in row.values()}
    assert second == dict.fromkeys([*row, "kind"])


def test_parquet_files_without_rows_or_columns(tmp_path: Path) -> None:
    pl.DataFrame(schema={"a": pl.Int64}).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame().write_parquet(tmp_path / "columns.parquet")
    assert rows_of(tmp_path / "rows.parquet") == []
    assert rows_of(tmp_path / "columns.parquet") == []


def test_a_column_named_like_a_renamed_duplicate_is_one_of_its_own(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1], "a_duplicated_0": [2]})
    frame.write_parquet(tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet") == frame.to_dicts()


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"junk" * 50, b"PAR1" + bytes(90) + b"PAR1", b"a,b\n1,2\n"],
    ids=["empty", "magic", "junk", "hollow", "csv"],
)
def test_parquet_files_that_are_none(put: Put, content: bytes) -> None:
    path = put("x.parquet", content)
    assert refusal(path).startswith(f"{path}: cannot be read as a table: ")


def test_a_date_beyond_the_years_of_python(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": pl.Series([9_000_000], dtype=pl.Int32).cast(pl.Date)}).write_parquet(path)
    assert refusal(path).startswith(f"{path}: cannot be read as a table: ")


def test_damaged_parquet_files_are_refused_or_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = pl.DataFrame({"a": [f"r{n}" for n in range(50)], "b": [[n] for n in range(50)]})
    frame.write_parquet(tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        (tmp_path / "y.parquet").write_bytes(damaged)
        try:
            rows_of(tmp_path / "y.parquet")
        except JobError as error:
            refused += str(tmp_path / "y.parquet") in str(error)
    assert refused > 30
    capfd.readouterr()  # polars writes of its panics


# bounded frames


def test_frames_of_wide_parquet_rows_are_bounded(tmp_path: Path) -> None:
    wide = pl.Series([bytes([n % 256]) * 1_000_000 for n in range(60)], dtype=pl.Binary)
    pl.DataFrame({"n": range(60), "blob": wide}).write_parquet(tmp_path / "x.parquet")
    source = opened(tmp_path / "x.parquet")
    frames = list(source.frames())
    assert max(frame.estimated_size() for frame in frames) <= 1.1 * TARGET_FRAME_BYTES
    assert [n for frame in frames for n in frame["n"]] == list(range(60))


def test_frames_of_one_huge_row_group_are_bounded(tmp_path: Path) -> None:
    pl.DataFrame({"n": range(120_000)}).write_parquet(
        tmp_path / "x.parquet", row_group_size=120_000
    )
    heights = [frame.height for frame in opened(tmp_path / "x.parquet").frames()]
    assert sum(heights) == 120_000
    assert max(heights) <= 50_000


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_frames_of_wide_text_rows_are_bounded(put: Put, name: str) -> None:
    text = "x" * 200_000
    line = {"x.csv": f"{text}\n", "x.jsonl": f'{{"a": "{text}"}}\n'}[name]
    path = put(name, ("a\n" if name == "x.csv" else "") + line * 150)
    frames = list(opened(path).frames())
    assert sum(frame.height for frame in frames) == 150
    assert max(frame.estimated_size() for frame in frames) <= TARGET_FRAME_BYTES


def test_items_come_in_chunks_of_at_most_so_many_rows(put: Put) -> None:
    for name, content in (("x.csv", "a\n" + "1\n" * 10), ("x.jsonl", '{"a": 1}\n' * 10)):
        chunks = list(opened(put(name, content)).items(["a"], 4))
        assert [len(chunk) for chunk in chunks] == [4, 4, 2]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_only_the_columns_asked_for_are_in_the_values(put: Put, name: str, tmp_path: Path) -> None:
    put("x.csv", "a,b,c\n1,2,3\n4,5,6\n")
    put("x.jsonl", '{"a": "1", "b": "2", "c": "3"}\n{"a": "4", "b": "5", "c": "6"}\n')
    pl.read_csv(tmp_path / "x.csv", infer_schema=False).write_parquet(tmp_path / "x.parquet")
    source = opened(tmp_path / name, id="a")
    [items] = source.items(["c", "b", "c"], 10)
    assert [(item.custom_id, item.values) for item in items] == [
        ("1", {"c": "3", "b": "2"}),
        ("4", {"c": "6", "b": "5"}),
    ]
    [items] = source.items([], 10)
    assert [(item.custom_id, item.values) for item in items] == [("1", {}), ("4", {})]


# several files


def test_a_glob_is_its_files_in_order(put: Put, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(f"{name}.csv", f"v\n{name}1\n{name}2\n")
    put("d.txt", "v\nd\n")
    source = opened(tmp_path / "*.csv")
    assert [path.name for path in source.paths] == ["a.csv", "b.csv", "c.csv"]
    assert rows_of(tmp_path / "*.csv") == [
        {"v": f"{name}{n}"} for name in ("a", "b", "c") for n in (1, 2)
    ]
    assert rows_of(tmp_path / "[ac].csv", limit=3) == [{"v": "a1"}, {"v": "a2"}, {"v": "c1"}]


def test_folders_below_can_be_globbed(put: Put, tmp_path: Path) -> None:
    put("one/x.csv", "v\n1\n")
    put("two/x.csv", "v\n2\n")
    assert rows_of(tmp_path / "**" / "*.csv") == [{"v": "1"}, {"v": "2"}]


def test_names_that_look_like_globs_are_names_first(put: Put, tmp_path: Path) -> None:
    put("run[1]/a*.csv", "v\n1\n")
    put("run[1]/ab.csv", "v\n2\n")
    assert rows_of(tmp_path / "run[1]" / "a*.csv") == [{"v": "1"}]
    assert rows_of(tmp_path / "run[1]" / "*.csv") == [{"v": "1"}, {"v": "2"}]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("a,c\n1,2\n", "it lacks b; adds c"),
        ("a\n1\n", "it lacks b"),
        ("a,b,c\n1,2,3\n", "it adds c"),
        ("b,a\n1,2\n", "it has another order"),
    ],
    ids=["other", "fewer", "more", "order"],
)
def test_files_with_different_columns(put: Put, tmp_path: Path, second: str, reason: str) -> None:
    first_path, second_path = put("1.csv", "a,b\n1,2\n"), put("2.csv", second)
    message = refusal(tmp_path / "*.csv")
    assert message == f"{second_path}: its columns differ from those of {first_path}: {reason}"


def test_files_with_different_types(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"a": ["1"]}).write_parquet(tmp_path / "2.parquet")
    assert refusal(tmp_path / "*.parquet").endswith("it has other types for a")


def test_json_lines_files_share_their_columns(put: Put, tmp_path: Path) -> None:
    put("1.jsonl", '{"a": 1}\n')
    put("2.jsonl", "")
    put("3.jsonl", '{"b": 2, "a": "x"}\n')
    assert rows_of(tmp_path / "*.jsonl") == [{"a": 1, "b": None}, {"a": "x", "b": 2}]
    put("3.jsonl", json.dumps({"a": 2**80}))
    assert opened(tmp_path / "*.jsonl").schema == {"a": pl.Int128}
    put("3.jsonl", '{"a": 0.5}')
    assert opened(tmp_path / "*.jsonl").schema == {"a": pl.Float64}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty CSV"), (b"a,b\n1,2,3\n", "line 2 has 3 fields"), (b"a,b\n\xe9,2\n", "line 2")],
    ids=["empty", "long", "latin-1"],
)
def test_the_bad_file_of_a_glob_is_the_one_that_is_named(
    put: Put, tmp_path: Path, content: bytes, reason: str
) -> None:
    put("1.csv", "a,b\n1,2\n")
    bad = put("2.csv", content)
    put("3.csv", "a,b\n1,2\n")
    message = refusal(tmp_path / "*.csv")
    assert message.startswith(f"{bad}: ")
    assert reason in message


def test_files_of_different_kinds(put: Put, tmp_path: Path) -> None:
    put("1.csv", "a\n1\n")
    put("2.jsonl", '{"a": 1}\n')
    message = refusal(tmp_path / "*")
    assert "files of different kinds: .csv, .jsonl" in message
    assert str(tmp_path) in message


# no such table


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.csv", "file not found"),
        ("*.tsv", "file not found"),
        ("gone/x.csv", "file not found"),
        ("[", "file not found"),
        ("x.txt/x.csv", "file not found"),
        ("a\0.csv", "file not found"),
        (".", 'is a folder; use a pattern for its files, for example "folder/*.csv"'),
        ("fold*", "is a folder"),
        ("x.txt", "unsupported file type"),
        ("*.txt", "unsupported file type"),
        ("x.parquet.gz", "unsupported file type"),
        ("x" * 300 + ".csv", "cannot be looked up"),
        ("loop.csv", "symbolic links"),
    ],
    ids=lambda value: value[:20],
)
def test_paths_that_are_no_table(put: Put, tmp_path: Path, name: str, reason: str) -> None:
    put("x.txt", "a\n1\n")
    put("x.parquet.gz", b"")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    message = refusal(tmp_path / name)
    assert message.startswith(str(tmp_path))
    assert reason in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.csv", True),
        ("x.tsv.gz", True),
        ("x.jsonl", True),
        ("x.ndjson.gz", True),
        ("X.Parquet", True),
        ("x.parquet.gz", False),
        ("x.toml", False),
        ("csv", False),
        ("x.csv.zip", False),
    ],
)
def test_tables_are_told_from_job_files_by_their_names(name: str, expected: bool) -> None:
    assert is_table(name) is expected


# ids


def test_without_an_id_column_rows_are_numbered_from_1(put: Put, tmp_path: Path) -> None:
    put("1.csv", "a\nx\ny\n")
    put("2.csv", "a\nz\n")
    items = [item for chunk in opened(tmp_path / "*.csv").items(["a"], 2) for item in chunk]
    assert [(item.custom_id, item.values["a"]) for item in items] == [
        ("1", "x"),
        ("2", "y"),
        ("3", "z"),
    ]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (["007", "7"], ["007", "7"]),
        ([7, -1], ["7", "-1"]),
        ([True, False], ["true", "false"]),
        ([1e20, 0.5], ["1e20", "0.5"]),
        ([Decimal("1.50"), Decimal("2.00")], ["1.50", "2.00"]),
        ([dt.date(2025, 1, 31), dt.date(2025, 2, 1)], ["2025-01-31", "2025-02-01"]),
        (
            [dt.datetime(2025, 1, 31, 12), dt.datetime(2025, 1, 31, 13)],
            ["2025-01-31T12:00:00.000000", "2025-01-31T13:00:00.000000"],
        ),
    ],
    ids=["text", "whole", "bool", "float", "decimal", "date", "datetime"],
)
def test_ids_are_spelt_as_the_outputs_spell_them(
    tmp_path: Path, values: list[Any], ids: list[str]
) -> None:
    pl.DataFrame({"key": values}).write_parquet(tmp_path / "x.parquet")
    source = opened(tmp_path / "x.parquet", id="key")
    source.check_ids()
    [items] = source.items([], 10)
    frame = pl.concat(source.frames())
    assert [item.custom_id for item in items] == source.ids(frame, 0)
    if "float" not in str(frame.schema["key"]).lower():
        assert [item.custom_id for item in items] == ids


def test_ids_of_json_lines_may_be_numbers_and_texts(put: Put) -> None:
    source = opened(put("x.jsonl", '{"k": 7}\n{"k": "007"}\n{"k": true}\n'), id="k")
    source.check_ids()
    [items] = source.items(["k"], 10)
    assert [item.custom_id for item in items] == ["7", "007", "true"]
    assert [item.values["k"] for item in items] == [7, "007", True]


def test_a_missing_id_column_names_those_that_are_there(put: Put) -> None:
    message = refusal(put("x.csv", "ticket_id,b\n1,2\n"), id="tiket_id")
    assert '[input] id = "tiket_id" is not a column' in message
    assert 'did you mean "ticket_id"?' in message
    assert message.endswith("the columns are ticket_id, b")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "k,b\n1,x\n2,x\n,x\n,x\n"),
        ("x.jsonl", '{"k": 1}\n{"k": 2}\n{"k": null}\n'),
        ("x.jsonl", '{"k": "1"}\n{"k": "2"}\n{"b": 1}\n'),
        ("x.jsonl", '{"k": "1"}\n{"k": "2"}\n{"k": ""}\n'),
    ],
    ids=["csv", "null", "absent", "empty"],
)
def test_a_row_without_an_id_is_named(put: Put, name: str, content: str) -> None:
    path = put(name, content)
    assert refusal(path, id="k").startswith(f'{path}: row 3 has no id in the column "k"')


def test_rows_are_counted_over_all_files(put: Put, tmp_path: Path) -> None:
    put("1.csv", "k\na\nb\n")
    put("2.csv", 'k\nc\n""\n')
    assert "row 4 has no id" in refusal(tmp_path / "*.csv", id="k")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "k\na\nb\nc\nb\nb\n"),
        ("x.jsonl", '{"k": "a"}\n{"k": "b"}\n{"k": "c"}\n{"k": "b"}\n'),
        ("x.parquet", ""),
    ],
)
def test_an_id_that_stands_twice_is_named_with_both_rows(put: Put, name: str, content: str) -> None:
    path = put(name, content)
    if name == "x.parquet":
        pl.DataFrame({"k": ["a", "b", "c", "b"]}).write_parquet(path)
    assert refusal(path, id="k").startswith(
        f"{path}: the id 'b' in the column \"k\" is in row 2 and in row 4; ids must be unique"
    )


def test_ids_must_be_unique_over_all_files_but_only_within_the_limit(
    put: Put, tmp_path: Path
) -> None:
    put("1.csv", "k\na\nb\n")
    put("2.csv", "k\nc\na\n")
    assert "row 1 and in row 4" in refusal(tmp_path / "*.csv", id="k")
    assert len(rows_of(tmp_path / "*.csv", id="k", limit=3)) == 3


@pytest.mark.parametrize(
    "values",
    [[b"a"], [["a"]], [{"a": 1}], [dt.timedelta(1)]],
    ids=["bytes", "list", "struct", "duration"],
)
def test_a_column_that_cannot_be_an_id(tmp_path: Path, values: list[Any]) -> None:
    pl.DataFrame({"k": values}).write_parquet(tmp_path / "x.parquet")
    message = refusal(tmp_path / "x.parquet", id="k")
    assert '[input] id = "k" has the type' in message


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
@pytest.mark.parametrize(("limit", "count"), [(1, 1), (4, 4), (9, 5), (10**30, 5)])
def test_the_limit_counts_rows(put: Put, tmp_path: Path, name: str, limit: int, count: int) -> None:
    put("x.csv", "a\n" + "1\n" * 5)
    put("x.jsonl", '{"a": "1"}\n' * 5)
    pl.DataFrame({"a": ["1"] * 5}).write_parquet(tmp_path / "x.parquet")
    assert rows_of(tmp_path / name, limit=limit) == [{"a": "1"}] * count


def test_nothing_is_read_beyond_the_limit(put: Put, tmp_path: Path) -> None:
    put("1.csv", "a\n1\n")
    beyond = put("2.csv", "a\n2\n")
    source = opened(tmp_path / "*.csv", limit=1)
    beyond.unlink()
    assert [frame.height for frame in source.frames()] == [1]


# change


def test_a_changed_or_missing_file_is_noticed(put: Put) -> None:
    path = put("x.csv", "a\n1\n")
    source = opened(path)
    assert source.is_unchanged()
    os.utime(path, ns=(1, 1))
    assert not source.is_unchanged()
    source = opened(path)
    assert source.is_unchanged()
    path.unlink()
    assert not source.is_unchanged()


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_file_that_disappears_is_a_job_error_still(put: Put, tmp_path: Path, name: str) -> None:
    put("x.csv", "a\n1\n")
    put("x.jsonl", '{"a": "1"}\n')
    pl.DataFrame({"a": ["1"]}).write_parquet(tmp_path / "x.parquet")
    source = opened(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(JobError, match=name):
        list(source.items(["a"], 10))


# round trips

_CELL = st.text(max_size=6) | st.sampled_from(["", '"', ",", "\n", "\r\n", "007", '""', "{{ a }}"])
_SAME_FILE = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@_SAME_FILE
@given(
    st.lists(st.tuples(_CELL, _CELL), max_size=8),
    st.sampled_from([("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_is_written_as_csv_is_read(
    rows: list[tuple[str, str]], kind: tuple[str, str], line_end: str
) -> None:
    name, separator = kind
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    data = text.getvalue().encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        assert rows_of(path) == [{"a": a, "b": b} for a, b in rows]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@_SAME_FILE
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c d"]), _JSON), min_size=1, max_size=6))
def test_whatever_is_written_as_json_lines_is_read(rows: list[dict[str, Any]]) -> None:
    columns = {name: None for row in rows for name in row}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if not columns:
            refusal(path)
            return
        assert rows_of(path) == [{**columns, **row} for row in rows]
        pl.concat(opened(path).frames()).write_parquet(Path(folder, "out.parquet"))


@_SAME_FILE
@given(
    st.binary(max_size=40) | st.text(alphabet='{}[]",:a1\n\r ', max_size=40).map(str.encode),
    st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.csv.gz", "x.jsonl.gz"]),
)
def test_any_bytes_are_a_table_or_a_job_error(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            rows_of(path)
        except JobError as error:
            message = str(error)
        else:
            message = str(path)
        assert str(path) in message
