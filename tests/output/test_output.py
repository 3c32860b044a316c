"""The outputs: every row once and in order, types as promised, files whole or not at all."""

from __future__ import annotations

import base64
import json
import resource
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.exceptions import PanicException
from polars.testing import assert_frame_equal

from batchrun.checkpoint import ATTEMPT_KINDS, result_kinds
from batchrun.errors import CheckpointError, JobError, OutputError
from batchrun.job import OutputConfig
from batchrun.output import result_names, write_outputs, write_text
from batchrun.output.frames import CHUNK_ROWS, Results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)
NOON_US = 1_767_355_200_123_456

# The contract with whoever reads the files: name → type, in this order.
DESIGN = {
    "custom_id": pl.String,
    "status": pl.String,
    "response": pl.String,
    "responses": pl.List(pl.String),
    "reasoning": pl.String,
    "tool_calls": pl.String,
    "stop_reason": pl.String,
    "model": pl.String,
    "ending": pl.String,
    "refusal": pl.String,
    "citations": pl.String,
    "stop_sequence": pl.String,
    "choices": pl.String,
    "server_tools": pl.String,
    "response_id": pl.String,
    "request_id": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "attempts": pl.Int64,
    "latency_s": pl.Float64,
    "finished_at": pl.Datetime("us", "UTC"),
    "http_status": pl.Int64,
    "error_type": pl.String,
    "error_message": pl.String,
}


class Table:
    """An input in memory, in frames of the size that the test wants."""

    def __init__(
        self, frame: pl.DataFrame, frame_rows: int = 1_000_000, id_column: str | None = None
    ) -> None:
        self._frame = frame
        self._frame_rows = frame_rows
        self._id_column = id_column

    @property
    def schema(self) -> pl.Schema:
        return self._frame.schema

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        frame = self._frame if columns is None else self._frame.select(columns)
        yield from (part for part in frame.iter_slices(self._frame_rows) if part.height)

    def ids(self, frame: pl.DataFrame, start: int) -> list[str]:
        if self._id_column is None:
            return [str(start + n + 1) for n in range(frame.height)]
        return frame[self._id_column].cast(pl.String).to_list()


class Rows:
    """Results in memory. `fails` is raised once results are asked for at or beyond a row."""

    def __init__(
        self,
        results: Sequence[Mapping[str, Any]] = (),
        attempts: Sequence[Mapping[str, Any]] = (),
        *,
        fails: BaseException | None = None,
        fails_at: int = 0,
    ) -> None:
        self._results = {row["ordinal"]: row for row in results}
        self._attempts = list(attempts)
        self._fails = fails
        self._fails_at = fails_at

    def rows_within(self, first: int, end: int, most_bytes: int) -> int:
        return end - first

    def columns(self, first: int, end: int, names: Sequence[str]) -> dict[str, list[Any]]:
        if self._fails is not None and end > self._fails_at:
            raise self._fails
        known = [self._results[n] for n in range(first, end) if n in self._results]
        return {name: [row[name] for row in known] for name in ("ordinal", *names)}

    def attempt_columns(self, chunk_rows: int) -> Iterator[dict[str, list[Any]]]:
        for first in range(0, len(self._attempts), chunk_rows):
            rows = self._attempts[first : first + chunk_rows]
            yield {name: [row[name] for row in rows] for name in ATTEMPT_KINDS}


def result(ordinal: int, custom_id: str | None = None, **facts: Any) -> dict[str, Any]:
    """A row as the checkpoint gives it."""
    return (
        dict.fromkeys(result_kinds())
        | {
            "ordinal": ordinal,
            "custom_id": custom_id or str(ordinal + 1),
            "status": "succeeded",
            "response": f"answer {ordinal}",
            "cost_usd": 1_500_000,
            "attempts": 1,
            "finished_at": NOON_US,
        }
        | facts
    )


def attempt(**facts: Any) -> dict[str, Any]:
    values = {"custom_id": "1", "attempt": 1, "execution": 1, "started_at": NOON_US}
    return dict.fromkeys(ATTEMPT_KINDS) | values | {"maybe_billed": 0} | facts


def write(
    config: OutputConfig,
    directory: Path,
    table: Table,
    rows: Rows,
) -> list[Path]:
    results = Results(table, rows, result_kinds())
    return list(write_outputs(config, directory, results, ATTEMPT_KINDS).paths)


def written(
    directory: Path,
    frame: pl.DataFrame,
    rows: Rows,
    file: str = "results.parquet",
    *,
    id_column: str | None = None,
    prefix: str = "",
    frame_rows: int = 1_000_000,
) -> Path:
    config = OutputConfig(directory, (file,), prefix)
    paths = write(config, directory, Table(frame, frame_rows, id_column), rows)
    assert paths == [directory / file, directory / "usage.parquet"]
    return directory / file


SMALL = pl.DataFrame({"text": ["a", "b", "c"]})


# What is in the files


def test_results_are_the_input_and_then_the_promised_columns(tmp_path: Path) -> None:
    rows = Rows([result(n) for n in range(3)])
    table = pl.read_parquet(written(tmp_path, SMALL, rows))
    assert dict(table.schema) == {"text": pl.String, **DESIGN}
    assert table["text"].to_list() == ["a", "b", "c"]
    assert table["response"].to_list() == ["answer 0", "answer 1", "answer 2"]


def test_values_come_through_as_they_were_recorded(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "status": "errored",
        "response": "one",
        "reasoning": "why",
        "tool_calls": "[]",
        "stop_reason": "stop",
        "model": "m",
        "response_id": "resp",
        "request_id": "req",
        "input_tokens": 2**53,
        "output_tokens": 2,
        "cache_read_tokens": 3,
        "cache_write_tokens": 4,
        "reasoning_tokens": 5,
        "ending": "length",
        "refusal": "no",
        "citations": "[1]",
        "stop_sequence": "END",
        "choices": "[2]",
        "server_tools": "[3]",
        "attempts": 6,
        "latency_s": 0.25,
        "http_status": 429,
        "error_type": "e",
        "error_message": "m",
    }
    stored = facts | {"responses": '["one","two"]', "cost_usd": 123_456_789}
    rows = Rows([result(0, "1", **stored)])
    table = pl.read_parquet(written(tmp_path, SMALL.head(1), rows))
    assert table.row(0, named=True) == {
        "text": "a",
        "custom_id": "1",
        **facts,
        "responses": ["one", "two"],
        "cost_usd": 0.000123456789,
        "finished_at": NOON,
    }


def test_an_unknown_price_is_null_and_not_zero(tmp_path: Path) -> None:
    rows = Rows([result(0, cost_usd=None), result(1, cost_usd=0), result(2)])
    table = pl.read_parquet(written(tmp_path, SMALL, rows))
    assert table["cost_usd"].to_list() == [None, 0.0, 1.5e-6]


def test_prices_are_the_nearest_numbers_to_the_exact_amounts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": range(200)})
    rows = Rows([result(n, cost_usd=n) for n in range(200)])
    table = pl.read_parquet(written(tmp_path, frame, rows))
    assert table["cost_usd"].to_list() == [float(f"{n}e-12") for n in range(200)]


def test_rows_without_a_record_are_pending_in_their_place(tmp_path: Path) -> None:
    table = pl.read_parquet(written(tmp_path, SMALL, Rows([result(1)])))
    assert table["custom_id"].to_list() == ["1", "2", "3"]
    assert table["status"].to_list() == ["pending", "succeeded", "pending"]
    assert table["response"].to_list() == [None, "answer 1", None]


def test_a_run_without_any_record_is_all_pending(tmp_path: Path) -> None:
    table = pl.read_parquet(written(tmp_path, SMALL, Rows()))
    assert table["status"].to_list() == ["pending"] * 3
    assert dict(table.schema) == {"text": pl.String, **DESIGN}


@pytest.mark.parametrize("file", ["results.parquet", "results.csv", "results.jsonl"])
@pytest.mark.parametrize("frame_rows", [7_001, 1_000_000])
def test_many_rows_keep_their_order_across_chunks(
    tmp_path: Path, file: str, frame_rows: int
) -> None:
    count = 3 * CHUNK_ROWS + 17
    frame = pl.DataFrame({"n": range(count)})
    rows = Rows([result(n) for n in range(0, count, 2)])
    path = written(tmp_path, frame, rows, file, frame_rows=frame_rows)
    table = read(path)
    assert table["n"].cast(pl.Int64).to_list() == list(range(count))
    assert table["custom_id"].cast(pl.String).to_list() == [str(n + 1) for n in range(count)]
    expected = ["pending" if n % 2 else "succeeded" for n in range(count)]
    assert table["status"].to_list() == expected
    assert table["response"][count - 1] == f"answer {count - 1}"


def read(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_ndjson(path)


@pytest.mark.parametrize("file", ["results.parquet", "results.csv", "results.jsonl"])
def test_an_input_without_rows_gives_a_table_without_rows(tmp_path: Path, file: str) -> None:
    path = written(tmp_path, SMALL.clear(), Rows(), file)
    if file.endswith(".jsonl"):
        assert path.read_bytes() == b""
    else:
        table = read(path)
        assert table.height == 0
        assert table.columns == ["text", *DESIGN]


def test_ids_are_those_of_the_id_column(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["007", "x"]})
    rows = Rows([result(0, "007"), result(1, "x")])
    table = pl.read_parquet(written(tmp_path, frame, rows, id_column="id"))
    assert table["custom_id"].to_list() == ["007", "x"]


def test_an_input_that_has_changed_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    (tmp_path / "results.parquet").write_bytes(b"old")
    frame = pl.DataFrame({"id": ["a", "c"]})
    rows = Rows([result(0, "a"), result(1, "b")])
    with pytest.raises(OutputError, match="input has changed .* safe in the checkpoint"):
        written(tmp_path, frame, rows, id_column="id")
    assert contents(tmp_path) == {"results.parquet": b"old"}


# Names


def test_only_names_that_collide_get_the_prefix(tmp_path: Path) -> None:
    frame = pl.DataFrame({"model": ["mine"], "status": ["mine"]})
    rows = Rows([result(0, model="theirs")])
    table = pl.read_parquet(written(tmp_path, frame, rows, prefix="llm_"))
    assert table.columns[:4] == ["model", "status", "custom_id", "llm_status"]
    row = table.row(0, named=True)
    assert (row["model"], row["llm_model"]) == ("mine", "theirs")
    assert (row["status"], row["llm_status"]) == ("mine", "succeeded")


@pytest.mark.parametrize(
    ("columns", "prefix", "named"),
    [
        (["model", "status", "text"], "", "model, status"),
        (["model", "llm_model"], "llm_", "llm_model"),
    ],
)
def test_names_that_collide_all_the_same_are_an_error_of_the_job(
    columns: list[str], prefix: str, named: str
) -> None:
    with pytest.raises(JobError, match=rf"writes too: {named}; .*prefix = ") as caught:
        result_names(columns, prefix, (), result_kinds())
    assert caught.value.exit_code == 2


def test_column_names_of_any_kind_are_taken_literally(tmp_path: Path) -> None:
    frame = pl.DataFrame({"^.*$": [[1]], "*": [b"x"], "": [[2]], "a\nb": ["c"]})
    rows = Rows([result(0)])
    for file in ("results.parquet", "results.csv", "results.jsonl"):
        table = read(written(tmp_path, frame, rows, file))
        assert table.columns[:4] == frame.columns
        assert table["response"].to_list() == ["answer 0"]
    assert json.loads((tmp_path / "results.jsonl").read_text())["^.*$"] == [1]


# Types of the input

HUGE = pl.List(pl.Struct({"a": pl.List(pl.Int128)}))
TYPED = pl.DataFrame(
    {
        "enum": pl.Series(["low", None], dtype=pl.Enum(["low", "high"])),
        "category": pl.Series(["x", None], dtype=pl.Categorical),
        "decimal": [Decimal("12.50"), None],
        "struct": [{"a": 1, "b": ["x"]}, None],
        "list": [[1, 2], None],
        "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
        "date": [date(2026, 1, 2), None],
        "zoned": pl.Series([NOON, None], dtype=pl.Datetime("ms", "Europe/Berlin")),
        "duration": [timedelta(days=1, seconds=1), None],
        "float32": pl.Series([1.5, None], dtype=pl.Float32),
        "uint8": pl.Series([255, None], dtype=pl.UInt8),
        "binary": [b"\xff\x00", None],
        "null": [None, None],
        "bool": [True, None],
        "empty": ["", None],
    }
)


def test_parquet_keeps_the_types_of_the_input(tmp_path: Path) -> None:
    table = pl.read_parquet(written(tmp_path, TYPED, Rows([result(0), result(1)])))
    assert_frame_equal(table.select(TYPED.columns), TYPED)


def test_parquet_holds_empty_structs_as_text_because_it_has_none(tmp_path: Path) -> None:
    frame = pl.DataFrame({"meta": [{}, None], "deep": [[{"x": {}}], []], "fine": [{"a": 1}, None]})
    table = pl.read_parquet(written(tmp_path, frame, Rows()))
    assert table["meta"].to_list() == ["{}", None]
    assert table["deep"].to_list() == ['[{"x":{}}]', "[]"]
    assert table["fine"].to_list() == [{"a": 1}, None]


def test_csv_writes_what_it_cannot_hold_as_text(tmp_path: Path) -> None:
    stored = result(0, responses='["a","ü"]')
    path = written(tmp_path, TYPED, Rows([stored, result(1)]), "results.csv")
    first, second = pl.read_csv(path, infer_schema=False).rows(named=True)
    assert {name: first[name] for name in TYPED.columns} == {
        "enum": "low",
        "category": "x",
        "decimal": "12.50",
        "struct": '{"a":1,"b":["x"]}',
        "list": "[1,2]",
        "array": "[1,2]",
        "date": "2026-01-02",
        "zoned": "2026-01-02T13:00:00.123+0100",
        "duration": "P1DT1S",
        "float32": "1.5",
        "uint8": "255",
        "binary": base64.b64encode(b"\xff\x00").decode(),
        "null": None,
        "bool": "true",
        "empty": "",
    }
    assert first["responses"] == '["a","ü"]'
    assert first["finished_at"] == "2026-01-02T12:00:00.123456+0000"
    assert [second[name] for name in TYPED.columns] == [None] * len(TYPED.columns)


def test_csv_keeps_text_that_looks_like_csv(tmp_path: Path) -> None:
    text = 'a "quoted", \r\n line\n; and\ttab'
    frame = pl.DataFrame({"text": [text]})
    table = read(written(tmp_path, frame, Rows([result(0, response=text)]), "results.csv"))
    assert table["text"][0] == table["response"][0] == text


def test_jsonl_writes_one_object_a_row(tmp_path: Path) -> None:
    stored = result(0, responses='["a","b"]')
    path = written(tmp_path, TYPED, Rows([stored, result(1)]), "results.jsonl")
    first, second = map(json.loads, path.read_text().splitlines())
    assert list(first) == [*TYPED.columns, *DESIGN]
    assert first["struct"] == {"a": 1, "b": ["x"]}
    assert first["list"] == first["array"] == [1, 2]
    assert first["binary"] == base64.b64encode(b"\xff\x00").decode()
    assert first["responses"] == ["a", "b"]
    assert first["finished_at"].startswith("2026-01-02T12:00:00.123456")
    assert first["cost_usd"] == 1.5e-6
    assert (first["null"], first["empty"]) == (None, "")
    assert [second[name] for name in TYPED.columns] == [None] * len(TYPED.columns)


def test_integers_beyond_64_bits_inside_of_nested_values(tmp_path: Path) -> None:
    numbers = [2**63, -(2**63) - 1, 2**64, 2**100, 1]
    frame = pl.DataFrame({"deep": pl.Series([[{"a": numbers}]], dtype=HUGE)})
    assert read(written(tmp_path, frame, Rows([result(0)]), "results.csv"))["deep"][0] == (
        json.dumps([{"a": numbers}], separators=(",", ":"))
    )


@pytest.mark.parametrize("file", ["results.csv", "results.jsonl"])
def test_bytes_inside_of_nested_values_become_base64(tmp_path: Path, file: str) -> None:
    frame = pl.DataFrame(
        {
            "image": [{"bytes": b"\xff\xd8", "path": "a.jpg"}],
            "images": [[b"\x00", None]],
            "pairs": pl.Series([[b"a", b"b"]], dtype=pl.Array(pl.Binary, 2)),
        }
    )
    row = read(written(tmp_path, frame, Rows([result(0)]), file)).row(0, named=True)
    found = {n: json.loads(v) if isinstance(v, str) else v for n, v in row.items() if n in frame}
    assert found == {
        "image": {"bytes": "/9g=", "path": "a.jpg"},
        "images": ["AA==", None],
        "pairs": ["YQ==", "Yg=="],
    }


# The usage table


def test_usage_has_one_typed_row_for_every_attempt(tmp_path: Path) -> None:
    failed = attempt(latency_s=0.5, http_status=500, error_type="api_error", maybe_billed=1)
    answered = attempt(attempt=2, execution=2, cost_usd=2 * 10**12, input_tokens=5, model="m")
    written(tmp_path, SMALL, Rows(attempts=[failed, answered]))
    table = pl.read_parquet(tmp_path / "usage.parquet")
    assert dict(table.schema) == {
        "custom_id": pl.String,
        "attempt": pl.Int64,
        "execution": pl.Int64,
        "started_at": pl.Datetime("us", "UTC"),
        "latency_s": pl.Float64,
        "http_status": pl.Int64,
        "error_type": pl.String,
        "error_message": pl.String,
        "request_id": pl.String,
        "model": pl.String,
        "input_tokens": pl.Int64,
        "output_tokens": pl.Int64,
        "cache_read_tokens": pl.Int64,
        "cache_write_tokens": pl.Int64,
        "reasoning_tokens": pl.Int64,
        "cost_usd": pl.Float64,
        "cost_source": pl.String,
        "service_tier": pl.String,
        "web_searches": pl.Int64,
        "maybe_billed": pl.Boolean,
        "dropped": pl.String,
    }
    first, second = table.rows(named=True)
    assert (first["maybe_billed"], first["http_status"], first["cost_usd"]) == (True, 500, None)
    assert (second["maybe_billed"], second["attempt"], second["cost_usd"]) == (False, 2, 2.0)
    assert first["started_at"] == NOON


def test_usage_of_a_run_without_attempts_is_an_empty_table(tmp_path: Path) -> None:
    written(tmp_path, SMALL, Rows())
    table = pl.read_parquet(tmp_path / "usage.parquet")
    assert (table.height, table.columns) == (0, list(ATTEMPT_KINDS))


def test_usage_keeps_its_order_across_chunks(tmp_path: Path) -> None:
    count = 2 * CHUNK_ROWS + 3
    written(tmp_path, SMALL, Rows(attempts=[attempt(attempt=n) for n in range(count)]))
    table = pl.read_parquet(tmp_path / "usage.parquet")
    assert table["attempt"].to_list() == list(range(count))


# Whole or not at all


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("file", ["results.parquet", "results.csv", "results.jsonl"])
def test_a_source_that_fails_half_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, file: str
) -> None:
    frame = pl.DataFrame({"n": range(3 * CHUNK_ROWS)})
    (tmp_path / file).write_bytes(b"old")
    rows = Rows(fails=CheckpointError("damaged"), fails_at=2 * CHUNK_ROWS)
    with pytest.raises(CheckpointError, match="damaged"):
        written(tmp_path, frame, rows, file)
    assert contents(tmp_path) == {file: b"old"}


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let the kernel refuse to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("file", ["results.parquet", "results.csv", "results.jsonl"])
def test_a_full_disk_leaves_the_old_file_and_tells_the_way_out(tmp_path: Path, file: str) -> None:
    frame = pl.DataFrame({"n": [f"row {n} {n * 7919}" * 20 for n in range(20_000)]})
    (tmp_path / file).write_bytes(b"old")
    with files_no_larger_than(100_000), pytest.raises(OutputError) as caught:
        written(tmp_path, frame, Rows(), file)
    assert contents(tmp_path) == {file: b"old"}
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / file}: could not be written: ")
    assert "results are safe in the checkpoint" in message
    assert message.endswith(f"batchrun export {tmp_path}")
    assert caught.value.exit_code == 6


def test_a_bug_inside_of_polars_is_an_output_error(tmp_path: Path) -> None:
    rows = Rows(fails=PanicException("not yet implemented"))
    with pytest.raises(OutputError, match="not yet implemented"):
        written(tmp_path, SMALL, rows)
    assert contents(tmp_path) == {}


def test_a_directory_in_the_place_of_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "results.parquet").mkdir()
    (tmp_path / "results.parquet" / "mine").touch()
    with pytest.raises(OutputError, match="could not be written"):
        written(tmp_path, SMALL, Rows())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "results.parquet"]


def test_a_run_directory_that_is_gone_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="could not be written"):
        written(tmp_path / "gone", SMALL, Rows())


def test_files_are_replaced_by_whole_ones_while_somebody_reads(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL, Rows())
    with path.open("rb") as reader:
        written(tmp_path, SMALL, Rows([result(n) for n in range(3)]))
        assert pl.read_parquet(reader.read())["status"].to_list() == ["pending"] * 3
    assert pl.read_parquet(path)["status"].to_list() == ["succeeded"] * 3
    assert sorted(contents(tmp_path)) == ["results.parquet", "usage.parquet"]


def test_every_configured_file_is_written(tmp_path: Path) -> None:
    config = OutputConfig(tmp_path, ("a.parquet", "b.csv", "c.jsonl"))
    paths = write(config, tmp_path, Table(SMALL), Rows())
    assert [path.name for path in paths] == ["a.parquet", "b.csv", "c.jsonl", "usage.parquet"]
    assert all(path.stat().st_size for path in paths)


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "naïve\n")
    assert path.read_text(encoding="utf-8") == "naïve\n"
    with files_no_larger_than(10), pytest.raises(OutputError, match="could not be written"):
        write_text(path, "x" * 1_000)
    assert contents(tmp_path) == {"summary.json": "naïve\n".encode()}


# Spreadsheets


def test_formulas_are_escaped_in_csv_on_demand(tmp_path: Path) -> None:
    cells = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "'=1", " =1", "1=1", "", None]
    frame = pl.DataFrame(
        {
            "=cell": cells,
            "'=cell": pl.Series(["=a"] * 11, dtype=pl.Categorical),
            "n": range(-5, 6),
            "bytes": [b"\xf8\x00\x00"] * 11,
        }
    )
    rows = Rows([result(n, response="=cmd()", error_message="@x") for n in range(11)])
    config = OutputConfig(tmp_path, ("r.csv", "r.parquet", "r.jsonl"), escape_formulas=True)
    write(config, tmp_path, Table(frame, 4), rows)

    table = pl.read_csv(tmp_path / "r.csv", infer_schema=False)
    assert table.columns[:4] == ["''=cell", "'=cell", "n", "bytes"]
    escaped = ["'=1+1", "'+1", "'-1", "'@sum", "'\tx", "'\rx", "'=1", " =1", "1=1", "", None]
    assert table["''=cell"].to_list() == escaped
    assert set(table["'=cell"]) == {"'=a"}
    assert table["n"].to_list() == [str(n) for n in range(-5, 6)]
    assert set(table["bytes"]) == {"'+AAA"}
    assert set(table["response"]) == {"'=cmd()"}
    assert set(table["error_message"]) == {"'@x"}

    assert pl.read_parquet(tmp_path / "r.parquet")["=cell"].to_list() == cells
    assert pl.read_ndjson(tmp_path / "r.jsonl")["response"].unique().to_list() == ["=cmd()"]


def test_formulas_stay_as_they_are_by_default(tmp_path: Path) -> None:
    path = written(tmp_path, pl.DataFrame({"=a": ["=1"]}), Rows([result(0)]), "r.csv")
    table = pl.read_csv(path, infer_schema=False)
    assert (table.columns[0], table["=a"].to_list()) == ("=a", ["=1"])
