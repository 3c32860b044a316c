"""Every format of the results: the same rows, private, whole, and checked by `verify`."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.errors import JobError, OutputError
from batchrun.job import OutputConfig
from batchrun.output import check_outputs
from batchrun.output.folders import put_in_place, replacing_folder
from batchrun.output.workbooks import LONGEST_CELL
from tests.conftest import command

if TYPE_CHECKING:
    from pathlib import Path

LANGUAGES = ["fr", "007", "\u00fc/x", ""]
ROWS = 60
TABLE = pl.DataFrame(
    {
        "id": range(ROWS),
        "q": [f"q{n}" for n in range(ROWS)],
        "day": [dt.date(2026, 1, 1 + n % 5) if n % 7 else None for n in range(ROWS)],
        "lang": [LANGUAGES[n % 4] for n in range(ROWS)],
        "flag": [n % 2 == 0 for n in range(ROWS)],
        "price": [Decimal("1.50")] * ROWS,
        "big": [2**60 + n for n in range(ROWS)],
        "at": [dt.datetime(2026, 1, 1, 12, 0, 0, n) for n in range(ROWS)],
        "tags": [["a"]] * ROWS,
        "bytes": [b"\xff"] * ROWS,
        "nan": [float("nan")] * ROWS,
        "text": ["x" * 40_000, "=1+1", "a\r\nb\x00", "_x0041_", *[""] * (ROWS - 4)],
    }
)
JOB = """
[input]
path = "t.parquet"
id = "id"
[request]
model = "m"
prompt = "{{ q }}"
max_tokens = 9
[output]
dir = "out"
"""


def run(folder: Path, output: str, table: pl.DataFrame = TABLE) -> Path:
    table.write_parquet(folder / "t.parquet")
    (folder / "job.toml").write_text(JOB + output)
    code, _, stderr = command("run", folder / "job.toml", "--simulate", "-q", "--yes")
    assert code == 0, stderr
    return folder / "out.simulated"


def verify(directory: Path) -> tuple[int, str]:
    code, stdout, stderr = command("verify", directory)
    return code, stdout + stderr


def test_every_format_has_the_same_rows_for_the_owner_alone(tmp_path: Path) -> None:
    files = ["r.parquet", "r.arrow", "r.xlsx", "r.csv", "r.jsonl"]
    directory = run(tmp_path, f"files = {files}")
    expected = pl.read_parquet(directory / "r.parquet")
    assert expected.select(TABLE.columns).equals(TABLE)
    assert pl.read_ipc(directory / "r.arrow").equals(expected)
    sheet = pl.read_excel(directory / "r.xlsx", infer_schema_length=None)
    assert sheet.columns == expected.columns
    for name in ("id", "q", "flag", "custom_id", "response", "input_tokens"):
        assert sheet[name].to_list() == expected[name].to_list()
    assert sheet["at"][1] == "2026-01-01T12:00:00.000001"
    assert (sheet["big"][0], sheet["price"][0], sheet["tags"][0]) == (str(2**60), "1.50", '["a"]')
    assert sheet["text"].to_list()[1:5] == ["=1+1", "a\r\nb\x00", "_x0041_", ""]
    assert len(sheet["text"][0]) == LONGEST_CELL
    assert "[cut: 40,000 characters" in sheet["text"][0]
    assert {(directory / name).stat().st_mode & 0o777 for name in files} == {0o600}
    assert verify(directory)[0] == 0


CUT = "1 cell was cut, because an Excel cell holds 32,767 characters; .parquet has the whole text"


def test_cells_that_excel_cuts_are_counted_after_a_run_and_an_export(tmp_path: Path) -> None:
    directory = run(tmp_path, 'files = ["r.xlsx", "r.parquet"]')
    job = tmp_path / "job.toml"
    _, _, stderr = command("run", job, "--simulate")
    assert f"\nwarning: r.xlsx: {CUT}\n" in stderr
    assert command("export", directory)[2] == f"warning: r.xlsx: {CUT}\n"
    _, stdout, stderr = command("export", directory, "--to", tmp_path / "x.xlsx")
    assert (stdout, stderr) == (f"{tmp_path / 'x.xlsx'}\n", f"warning: x.xlsx: {CUT}\n")
    assert command("export", directory, "--to", tmp_path / "x.parquet")[2] == ""


def test_cells_that_excel_cuts_are_counted_in_a_run_in_parts(tmp_path: Path) -> None:
    directory = run(tmp_path, 'files = ["r.xlsx"]\npartition_rows = 5')
    _, _, stderr = command("run", tmp_path / "job.toml", "--simulate")
    assert stderr.count(f"warning: r.xlsx: {CUT}") == 1
    assert command("export", directory)[2] == f"warning: r.xlsx: {CUT}\n"
    assert command("export", directory, "--to", tmp_path / "x.xlsx")[2].count(CUT) == 1


@pytest.mark.parametrize("file", ["r.arrow", "r.xlsx", "r.parquet"])
def test_export_replaces_a_file_and_verify_sees_what_changed_in_it(
    tmp_path: Path, file: str
) -> None:
    directory = run(tmp_path, f'files = ["{file}"]')
    other = TABLE.with_columns(q=pl.when(pl.col("id") == 7).then(pl.lit("z")).otherwise("q"))
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(run(beside, f'files = ["{file}"]', other) / file, directory / file)
    code, said = verify(directory)
    assert code == 5
    assert "q is 'z', and the checkpoint gives 'q7'" in said
    assert command("export", directory)[0] == 0
    assert verify(directory)[0] == 0
    (tmp_path / "t.parquet").unlink()
    assert verify(directory)[0] == 0  # our columns can be checked without the input


def test_export_to_a_file_of_each_format(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["lang"]')
    for name in ("x.parquet", "x.arrow", "x.xlsx"):
        assert command("export", directory, "--to", tmp_path / name)[0] == 0
        assert (tmp_path / name).is_file()
    assert pl.read_ipc(tmp_path / "x.arrow").equals(pl.read_parquet(tmp_path / "x.parquet"))


# Datasets


def dataset(directory: Path, **types: Any) -> pl.DataFrame:
    place = directory / "results.parquet"
    return pl.read_parquet(place, hive_partitioning=True, hive_schema=types)


def test_a_dataset_has_every_row_once_in_a_folder_for_each_value(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["day", "lang"]')
    found = dataset(directory, day=pl.Date, lang=pl.String)
    assert found.sort("id").select(TABLE.columns).equals(TABLE)
    parts = [path for path in (directory / "results.parquet").rglob("*") if path.is_file()]
    assert len(parts) == TABLE.select("day", "lang").n_unique()
    for part in parts:
        assert pl.read_parquet(part, hive_partitioning=False)["id"].is_sorted()
    assert {path.stat().st_mode & 0o777 for path in parts} == {0o600}
    folders = {path for part in parts for path in (part.parent, part.parent.parent)}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert verify(directory)[0] == 0
    (tmp_path / "t.parquet").unlink()
    assert verify(directory)[0] == 0


def test_verify_sees_what_is_wrong_with_a_dataset(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["flag"]')
    part = directory / "results.parquet" / "flag=true" / "00000000.parquet"
    whole = pl.read_parquet(part, hive_partitioning=False)
    whole.filter(pl.col("id") != 8).write_parquet(part)
    code, said = verify(directory)
    assert code == 5
    assert "has 59 rows, and there should be 60; the first that differs is row 9 (8)" in said
    whole.with_columns(response=pl.lit("z")).write_parquet(part)
    code, said = verify(directory)
    assert (code, "response is 'z'" in said) == (5, True)
    pl.concat([whole, whole.tail(1)]).write_parquet(part)
    assert "has 61 rows" in verify(directory)[1]
    whole.write_parquet(part)
    part.parent.rename(part.parent.with_name("flag=false.moved"))
    assert verify(directory)[0] == 5
    assert command("export", directory)[0] == 0
    assert verify(directory)[0] == 0


def test_a_dataset_takes_the_place_of_a_file_and_a_file_that_of_a_dataset(tmp_path: Path) -> None:
    place = run(tmp_path, "") / "results.parquet"
    assert place.is_file()
    for output, is_folder in (('partition_by = ["lang"]', True), ("", False)) * 2:
        run(tmp_path, output)
        assert place.is_dir() == is_folder
        assert verify(place.parent)[0] == 0
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".results")]


def test_a_dataset_divided_by_one_of_our_columns(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["status"]')
    assert [path.name for path in (directory / "results.parquet").iterdir()] == ["status=succeeded"]
    assert verify(directory)[0] == 0


def test_a_dataset_without_rows_has_its_columns(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["lang"]', TABLE.clear())
    assert {"lang", "custom_id"} <= {*dataset(directory).columns}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ('partition_by = ["lag"]', "'lag' is not a column to divide by (did you mean"),
        ('partition_by = ["custom_id"]', "'custom_id' is not a column to divide by"),
        ('partition_by = ["tags"]', "tags has the type List"),
        ('partition_by = ["cost_usd"]', "cost_usd has the type Float64"),
        ('partition_by = ["lang", "lang"]', "contains a column twice"),
        ('files = ["r.csv"]\npartition_by = ["lang"]', "needs a file ending in .parquet"),
    ],
)
def test_what_cannot_divide_a_dataset_is_refused(tmp_path: Path, output: str, reason: str) -> None:
    TABLE.write_parquet(tmp_path / "t.parquet")
    (tmp_path / "job.toml").write_text(JOB + output)
    code, _, stderr = command("run", tmp_path / "job.toml", "--simulate", "-q")
    assert (code, reason in stderr) == (2, True), stderr


def test_a_value_that_has_no_folder_of_its_own_leaves_the_results_as_they_were(
    tmp_path: Path,
) -> None:
    directory = run(tmp_path, 'partition_by = ["lang"]')
    before = dataset(directory, lang=pl.String)
    table = TABLE.with_columns(lang=pl.lit("__HIVE_DEFAULT_PARTITION__"))
    table.write_parquet(tmp_path / "t.parquet")
    code, _, stderr = command("run", tmp_path / "job.toml", "--simulate", "-q", "--yes")
    assert code == 6
    assert "is the name of the folder of nulls" in stderr
    assert dataset(directory, lang=pl.String).equals(before)


def test_a_folder_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "out.simulated" / "results.parquet" / "note.txt"
    run(tmp_path, 'partition_by = ["lang"]')
    mine.write_text("mine")
    code, _, stderr = command("export", tmp_path / "out.simulated")
    assert code == 2, stderr
    assert mine.read_text() == "mine"


def test_a_dataset_that_is_the_input_is_not_replaced(tmp_path: Path) -> None:
    directory = run(tmp_path, 'partition_by = ["lang"]')
    place = directory / "results.parquet"
    job = (tmp_path / "job.toml").read_text()
    pattern = "out.simulated/results.parquet/**/*.parquet"
    (tmp_path / "job.toml").write_text(job.replace("t.parquet", pattern))
    before = sorted(place.rglob("*"))
    code, _, stderr = command(
        "run", tmp_path / "job.toml", "--simulate", "-q", "--set", "output.prefix=x_", "--yes"
    )
    assert (code, "would be moved" in stderr) == (2, True), stderr
    assert sorted(place.rglob("*")) == before


def test_what_is_in_place_stays_when_a_folder_cannot_be_written(tmp_path: Path) -> None:
    place = tmp_path / "x"
    place.mkdir()
    (place / "old.parquet").touch()
    with (
        pytest.raises(OutputError, match="could not be written"),
        replacing_folder(place) as folder,
    ):
        (folder / "new" / "x").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "old.parquet"]
    with replacing_folder(place) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "new"]


@pytest.mark.parametrize("there", ["file", "folder", "nothing"])
@pytest.mark.parametrize("comes", ["file", "folder"])
def test_files_and_folders_take_each_others_place(tmp_path: Path, there: str, comes: str) -> None:
    def make(path: Path, kind: str) -> None:
        if kind == "folder":
            path.mkdir()
            (path / "part.parquet").touch()
        elif kind == "file":
            path.touch()

    make(tmp_path / "x", there)
    make(tmp_path / "new", comes)
    put_in_place(tmp_path / "new", tmp_path / "x")
    assert (tmp_path / "x").is_dir() == (comes == "folder")


@pytest.mark.parametrize("table", [None, TABLE.select("id", "q")], ids=["empty", "dataset"])
def test_a_folder_of_the_user_is_never_replaced(tmp_path: Path, table: pl.DataFrame | None) -> None:
    """Neither one that is there before the run, nor one that appears during it."""
    place = run(tmp_path, 'files = ["r.parquet"]') / "r.parquet"
    place.unlink()
    place.mkdir()
    if table is not None:
        table.write_parquet(place / "mine.parquet")
    there = list(place.iterdir())
    code, _, stderr = command("run", tmp_path / "job.toml", "--simulate", "-q")
    assert (code, "not a table of results that batchrun wrote" in stderr) == (2, True), stderr
    (tmp_path / "new").touch()
    with pytest.raises(FileExistsError, match="batchrun did not write"):
        put_in_place(tmp_path / "new", place)
    assert list(place.iterdir()) == there


# Excel


def test_a_table_that_is_too_long_for_a_sheet_is_refused(tmp_path: Path) -> None:
    config = OutputConfig(tmp_path, ("r.xlsx",))
    check_outputs(config, {"id": pl.Int64}, {"custom_id": "text"}, 1_048_575)
    with pytest.raises(JobError, match="an Excel sheet holds 1,048,575 rows"):
        check_outputs(config, {"id": pl.Int64}, {"custom_id": "text"}, 1_048_576)
