"""Every type of column as the id: refused before anything is sent, or exported whole."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.conftest import command

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[input]
path = "{table}"
id = "id"
[request]
model = "m"
prompt = "Say {{{{ q }}}}"
max_tokens = 10
[output]
dir = "out"
files = ["results.parquet", "results.csv", "results.jsonl"]
"""
NOON = dt.datetime(2025, 1, 31, 12)
SPELLED: list[tuple[Any, list[Any], list[str]]] = [
    (pl.String, ["b", "007"], ["b", "007"]),
    (pl.Categorical, ["b", "a"], ["b", "a"]),
    (pl.Enum(["a", "b"]), ["b", "a"], ["b", "a"]),
    (pl.Boolean, [True, False], ["true", "false"]),
    *((kind, [7, 100], ["7", "100"]) for kind in (pl.Int8, pl.Int16, pl.Int32, pl.Int64)),
    *((kind, [7, 200], ["7", "200"]) for kind in (pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)),
    (pl.Int128, [-(2**100), 1], [str(-(2**100)), "1"]),
    (pl.UInt128, [2**127, 1], [str(2**127), "1"]),
    (pl.Float16, [0.5, 2], ["0.5", "2.0"]),
    (pl.Float32, [0.1, 1e16], ["0.1", "1e+16"]),
    (pl.Float64, [0.00001, float("inf")], ["0.00001", "inf"]),
    (pl.Decimal(9, 2), [Decimal("1.50"), Decimal(2)], ["1.50", "2.00"]),
    (pl.Date, [NOON.date(), dt.date(1, 1, 1)], ["2025-01-31", "0001-01-01"]),
    (
        pl.Datetime("us"),
        [NOON, NOON + dt.timedelta(microseconds=5)],
        ["2025-01-31T12:00:00.000000", "2025-01-31T12:00:00.000005"],
    ),
    (
        pl.Datetime("ms", "Europe/Berlin"),
        [NOON.replace(tzinfo=dt.UTC), None],
        ["2025-01-31T13:00:00.000+01:00"],
    ),
    (
        pl.Datetime("ns"),
        [1, 2],
        ["1970-01-01T00:00:00.000000001", "1970-01-01T00:00:00.000000002"],
    ),
    (pl.Time, [dt.time(12, 30), dt.time(0, 0, 0, 1)], ["12:30:00", "00:00:00.000001"]),
]
REFUSED: list[tuple[Any, list[Any], str]] = [
    (pl.Float64, [1.0, float("nan")], 'row 2 has the id NaN in the column "id"'),
    (pl.Float32, [float("nan"), float("nan")], "row 1 has the id NaN"),
    (pl.Null, [None, None], "row 1 has no id"),
    (pl.Boolean, [True, None], "row 2 has no id"),
    (pl.Binary, [b"a", b"b"], "has the type Binary"),
    (pl.Duration, [dt.timedelta(1), dt.timedelta(2)], "has the type Duration"),
    (pl.List(pl.Int64), [[1], [2]], "has the type List"),
    (pl.Array(pl.Int64, 1), [[1], [2]], "has the type Array"),
    (pl.Struct({"a": pl.Int64}), [{"a": 1}, {"a": 2}], "has the type Struct"),
]


def put(folder: Path, kind: Any, values: list[Any]) -> Path:
    ids = pl.Series("id", values, dtype=kind, strict=False)
    frame = pl.DataFrame([ids, pl.Series("q", ["x", "y"][: len(ids)])])
    frame.write_parquet(folder / "rows.parquet")
    job = folder / "job.toml"
    job.write_text(JOB.format(table="rows.parquet"))
    return job


@pytest.mark.parametrize(("kind", "values", "spelled"), SPELLED, ids=lambda value: str(value)[:30])
def test_an_id_is_spelled_alike_in_the_checkpoint_and_in_every_file(
    tmp_path: Path, kind: Any, values: list[Any], spelled: list[str]
) -> None:
    job = put(tmp_path, kind, [value for value in values if value is not None])
    assert command("run", job, "--simulate", "--quiet")[0] == 0
    directory = tmp_path / "out.simulated"
    table = pl.read_parquet(directory / "results.parquet")
    assert table["custom_id"].to_list() == spelled
    assert table["id"].dtype == kind
    lines = (directory / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == spelled
    usage = pl.read_parquet(directory / "usage.parquet")
    assert sorted(usage["custom_id"]) == sorted(spelled)
    before = table.sort("custom_id")
    assert command("export", directory)[0] == 0
    assert pl.read_parquet(directory / "results.parquet").sort("custom_id").equals(before)
    assert command("verify", directory)[0] == 0


@pytest.mark.parametrize(("kind", "values", "reason"), REFUSED, ids=lambda value: str(value)[:30])
def test_an_id_without_a_spelling_is_refused_before_anything_is_sent(
    tmp_path: Path, kind: Any, values: list[Any], reason: str
) -> None:
    code, _, stderr = command("run", put(tmp_path, kind, values), "--simulate")
    assert code == 2
    assert reason in stderr
    assert not (tmp_path / "out.simulated").exists()


def test_every_type_of_polars_is_one_of_these() -> None:
    kinds = {kind.base_type() if isinstance(kind, pl.DataType) else kind for kind, *_ in SPELLED}
    kinds |= {kind.base_type() if isinstance(kind, pl.DataType) else kind for kind, *_ in REFUSED}
    every = {
        value
        for value in vars(pl).values()
        if isinstance(value, type) and issubclass(value, pl.DataType)
    }
    # Not types of a file's columns: the base of all, one for Python objects, and those that stand
    # for a type that is not known.
    abstract = {"DataType", "Object", "Unknown", "BaseExtension", "Extension"}
    assert {kind.__name__ for kind in every - kinds} - abstract <= {"Map"}
