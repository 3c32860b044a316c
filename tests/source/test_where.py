"""`[input] where`: a SQL condition on rows, evaluated while the table is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import InputConfig
from batchrun.source import Source, parquet
from tests.conftest import command
from tests.support.provider import serving

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("csv", "tsv", "parquet", "jsonl", "csv.gz")


def write(path: Path, table: pl.DataFrame) -> Path:
    if path.name.endswith(".parquet"):
        table.write_parquet(path, row_group_size=64)
    elif path.suffix == ".jsonl":
        table.write_ndjson(path)
    elif path.suffix == ".gz":
        import gzip

        path.write_bytes(gzip.compress(table.write_csv().encode()))
    else:
        table.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def ids(source: Source) -> list[str]:
    return [item.custom_id for items in source.items(["n"], 100) for item in items]


@pytest.mark.parametrize("kind", KINDS)
def test_only_rows_that_satisfy_it_are_read(tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame(
        {"n": [f"r{n}" for n in range(1_000)], "language": ["en", "fr", "de", "fr"] * 250}
    )
    config = InputConfig(
        str(write(tmp_path / f"t.{kind}", table)),
        id="n",
        where="language = 'fr' AND n NOT LIKE '%7'",
        limit=300,
    )
    source = Source(config)
    wanted = [f"r{n}" for n in range(1_000) if n % 2 and n % 10 != 7][:300]
    assert ids(source) == wanted
    assert source.count() == 300
    frames = pl.concat(list(source.frames()))
    assert frames["n"].to_list() == wanted
    assert frames.columns == ["n", "language"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(kept=st.lists(st.booleans(), max_size=700), rows=st.integers(1, 40))
def test_parquet_is_read_in_slices_where_there_is_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[bool], rows: int
) -> None:
    monkeypatch.setattr(parquet, "MAX_FRAME_ROWS", rows * 3)
    table = pl.DataFrame(
        {"n": range(len(kept)), "kept": kept}, schema={"n": pl.Int64, "kept": pl.Boolean}
    )
    source = Source(InputConfig(str(write(tmp_path / "t.parquet", table)), where="kept"))
    found = [n for frame in source.frames(["n"]) for n in frame["n"]]
    assert found == [n for n, is_kept in enumerate(kept) if is_kept]
    assert source.count() == len(found)
    assert all(0 < frame.height <= rows * 3 for frame in source.frames(["n"]))


def test_the_condition_reaches_the_scan(tmp_path: Path) -> None:
    """Row groups whose statistics rule them out are not read: damage there is not noticed."""
    path = tmp_path / "t.parquet"
    pl.DataFrame({"n": range(4_000), "text": ["x" * 50] * 4_000}).write_parquet(
        path, row_group_size=1_000, compression="uncompressed", statistics=True
    )
    content = bytearray(path.read_bytes())
    first = content.index(b"x" * 50)
    content[4:first] = b"\xff" * (first - 4)  # the first row group's numbers and page heads
    path.write_bytes(content)
    source = Source(InputConfig(str(path), where="n >= 3000"))
    assert source.count() == 1_000
    with pytest.raises(JobError):
        list(Source(InputConfig(str(path))).frames())


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("langage = 'fr'", "unknown column 'langage' (did you mean \"language\"?)"),
        ("language =", "unable to parse"),
        ("language = 'fr'; DROP TABLE x", "unexpected token"),
        ("SELECT 1", "expected an expression"),
        ("n > 3", "in CSV every column is text: CAST(n AS BIGINT) > 3"),
        ("language", "must be of type `Boolean`"),
        ("count(*) > 1", "uses several rows"),
        ("n = max(n)", "uses several rows"),
        ("row_number() OVER (ORDER BY n) < 3", "uses several rows"),
        ("n > (SELECT 3)", "uses several rows"),
        ("read_csv('/etc/passwd')", "unsupported function 'read_csv'"),
        ("  ", "is empty"),
        ("CAST(language AS BIGINT) > 1", "conversion from `str` to `i64` failed"),
    ],
)
def test_a_wrong_condition_is_named(tmp_path: Path, where: str, message: str) -> None:
    write(tmp_path / "t.csv", pl.DataFrame({"n": ["1", "2"], "language": ["fr", "en"]}))
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = "t.csv"\nwhere = {json.dumps(where)}\n'
        '[request]\nmodel = "m"\nprompt = "{{ n }}"\nmax_tokens = 9\n'
    )
    code, stdout, stderr = command("run", job, "--simulate")
    assert (code, stdout) == (2, "")
    assert "t.csv" in stderr or "job.toml" in stderr
    assert "[input] where" in stderr
    assert where.strip() in stderr
    assert message in stderr
    assert not (tmp_path / "runs").exists()


def run(job: Path, *arguments: str) -> tuple[int, str]:
    code, _, stderr = command("run", job, *arguments)
    return code, stderr


def test_changing_it_keeps_the_answers(write_job: Any, results: Any) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=20)
        assert run(job, "--set", "where=text LIKE '%1%'")[0] == 0
        assert len(provider.calls) == 11
        assert results()["text"].to_list() == [f"text {n}" for n in (1, *range(10, 20))]
        assert run(job)[0] == 0
        assert len(provider.calls) == 20, "each row was sent once"
        # Fewer rows leave paid answers behind, which takes a yes.
        code, stderr = run(job, "--set", "where=text = 'text 3'")
        assert code == 2
        assert "paid answers would no longer be used" in stderr
        assert run(job, "--set", "where=text = 'text 3'", "--yes")[0] == 0
        assert results()["response"].to_list() == ["ok"]
        assert run(job, "--yes")[0] == 0
        assert len(provider.calls) == 20
    assert set(results()["status"]) == {"succeeded"}


def test_a_condition_with_the_same_number_of_rows_is_another_plan(
    write_job: Any, results: Any
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2)
        assert run(job, "--set", "where=text = 'text 0'")[0] == 0
        assert run(job, "--set", "where=text = 'text 1'", "--yes")[0] == 0
        assert [call.prompt for call in provider.calls] == ["Say text 0", "Say text 1"]
    assert results()["id"].to_list() == ["r00001"]


def test_no_row_at_all_is_a_success(write_job: Any, results: Any) -> None:
    with serving() as provider:
        code, stderr = run(write_job(provider.url), "--set", "where=id = 'none'")
        assert code == 0, stderr
        assert not provider.calls
    assert results().height == 0


def test_exports_and_scores_read_the_same_rows(write_job: Any, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url, extra="[score]\nexpected = 'ok'")
        assert run(job, "--set", "where=id > 'r00016'")[0] == 0
    assert command("export", tmp_path / "out", "--to", tmp_path / "x.csv")[0] == 0
    assert pl.read_csv(tmp_path / "x.csv")["score"].to_list() == [1.0] * 3
    code, stdout, _ = command("score", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(stdout)["scored"] == 3
