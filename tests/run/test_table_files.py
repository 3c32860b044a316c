"""The tables in `tables/`, made after public bug reports: run and exported whole, or refused with the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import command

TABLES = Path(__file__).parent / "tables"
JOB = """
[input]
path = "{table}"
id = "id"
{keys}
[request]
model = "m"
prompt = "Say {{{{ q }}}}"
max_tokens = 10
[output]
dir = "out"
files = ["results.parquet", "results.csv"]
"""
# The ids as they are spelled, the texts, and the keys that the table needs.
READ: dict[str, tuple[list[str], list[str], str]] = {
    "array.json": (["a", "b"], ["one", "two"], ""),
    "backslash.csv": (
        ["4", "5", "6", "7"],
        ['size 5" pipe', "middle", 'size 6" pipe', "end"],
        "",
    ),
    "bool_ids.jsonl": (["true", "false"], ["a", "b"], ""),
    "datetime_ids.parquet": (
        ["2026-01-01T12:00:00.000000", "2026-01-01T13:00:00.000000"],
        ["a", "b"],
        "",
    ),
    "float32_ids.parquet": (["1.1", "2.2"], ["a", "b"], ""),
    "float_ids.jsonl": (["1e+16", "0.00001"], ["a", "b"], ""),
    "quote_inside.csv": (["1", "2"], ['5" pipe', "plain"], 'quote = ""'),
    "semicolon_cp1252.csv": (["1", "2"], ["Grüße", "naïve"], 'encoding = "cp1252"'),
}
# What a refusal without the keys says.
REFUSED = {
    "quote_inside.csv": (
        'line 2 has a quote inside a cell that is not quoted: 1,5" pipe',
        'quote = ""',
    ),
    "semicolon_cp1252.csv": ("line 2 is not UTF-8 text", 'encoding = "cp1252"'),
}


def put(folder: Path, table: str, keys: str) -> Path:
    shutil.copy(TABLES / table, folder)
    job = folder / "job.toml"
    job.write_text(JOB.format(table=table, keys=keys))
    return job


def test_every_table_is_one_of_these() -> None:
    assert sorted(path.name for path in TABLES.iterdir()) == sorted(READ)


@pytest.mark.parametrize("table", READ)
def test_a_table_is_run_and_exported_whole(tmp_path: Path, table: str) -> None:
    ids, texts, keys = READ[table]
    job = put(tmp_path, table, keys)
    assert command("run", job, "--simulate", "--quiet")[0] == 0
    directory = tmp_path / "out.simulated"
    assert command("export", directory)[0] == 0
    assert command("verify", directory)[0] == 0
    as_text = pl.read_csv(directory / "results.csv", infer_schema=False)
    for found in (pl.read_parquet(directory / "results.parquet"), as_text):
        assert found["custom_id"].to_list() == ids
        assert found["q"].to_list() == texts
        assert found["status"].to_list() == ["succeeded"] * len(ids)


@pytest.mark.parametrize("table", REFUSED)
def test_a_table_that_could_be_read_wrongly_is_refused_with_the_way_out(
    tmp_path: Path, table: str
) -> None:
    code, _, stderr = command("run", put(tmp_path, table, ""), "--simulate")
    assert code == 2
    assert all(part in stderr for part in REFUSED[table])
    assert not (tmp_path / "out.simulated").exists()
