"""Tables that are wrong, hostile or changing: a clear error before anything is sent, or an errored row."""

from __future__ import annotations

import gzip
import os
from decimal import Decimal
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import command
from tests.support.provider import Call, Provider, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as running:
        yield running


@pytest.fixture
def job_over(write_job: WriteJob, provider: Provider, tmp_path: Path) -> Callable[..., Path]:
    """Write a job over a table of this name and content, with the column `text` as its prompt."""

    def write(
        content: bytes | str | None, name: str = "rows.csv", *, request: str = "", **options: str
    ) -> Path:
        job = write_job(provider.url, request=request, **options)
        (tmp_path / "rows.csv").unlink()
        if content is not None:
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(data)
        job.write_text(job.read_text().replace("rows.csv", name).replace('id = "id"\n', ""))
        return job

    return write


def refused(job: Path, provider: Provider) -> str:
    """Run a job that must not send anything; return what it says."""
    code, stdout, stderr = command("run", job)
    assert (code, stdout, provider.calls) == (2, "", [])
    assert "Traceback" not in stderr
    assert not (job.parent / "out").exists()
    return stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty CSV"),
        ("\n\n\n", "empty CSV"),
        ("text,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        (b"text\n\xe9\n", "line 2 is not UTF-8 text"),
        ("text\nx\n".encode("utf-16-le"), "not UTF-8"),
        ("text\rx\ry\r", "bare carriage return"),
        ('text\n"open\n', "the quote that opens in line 2 is not closed"),
        ("text,text\n1,2\n", 'the column "text" appears twice'),
        (b"\0\0\0\0", "not UTF-8"),
        ("other\nx\n", "the input has no column 'text'"),
    ],
)
def test_a_text_table_that_is_none(
    job_over: Callable[..., Path], provider: Provider, content: bytes | str, reason: str
) -> None:
    message = refused(job_over(content), provider)
    assert reason in message
    assert "rows.csv" in message or "[request] prompt" in message


@pytest.mark.parametrize("content", ["text\n", "text", "\ufefftext\r\n"])
def test_a_header_alone_is_a_run_without_rows(
    job_over: Callable[..., Path], provider: Provider, results: Results, content: str
) -> None:
    assert command("run", job_over(content))[0] == 0
    assert (results().height, results().columns[0], provider.calls) == (0, "text", [])


def test_marks_line_ends_and_null_characters_are_data(
    job_over: Callable[..., Path], provider: Provider, results: Results
) -> None:
    assert command("run", job_over(b'\xef\xbb\xbftext\r\na\0b\r\n"c\r\nd"\r\n'))[0] == 0
    assert sorted(call.prompt for call in provider.calls) == ["Say a\0b", "Say c\r\nd"]
    assert results()["text"].to_list() == ["a\0b", "c\r\nd"]


def test_a_cell_of_50_mb_is_errored_where_it_would_be_sent(
    job_over: Callable[..., Path], provider: Provider, results: Results
) -> None:
    huge = "x" * 50_000_000
    job = job_over(f"text,other\nshort,{huge}\n{huge},short\n")
    assert command("run", job)[0] == 3
    assert [call.prompt for call in provider.calls] == ["Say short"]
    table = results()
    assert table["status"].to_list() == ["succeeded", "errored"]
    assert table["other"].str.len_bytes().to_list() == [50_000_000, 5]
    assert table["error_type"][1] == "text_too_long"
    assert "prompt: the text has 50,000,004 characters" in table["error_message"][1]


def test_ten_thousand_columns(
    job_over: Callable[..., Path], provider: Provider, results: Results
) -> None:
    names = [f"c{n}" for n in range(9_999)]
    job = job_over(f"{','.join(names)},text\n" + f"{',' * 9_999}a\n" * 3)
    code, _, stderr = command("run", job)
    assert (code, len(provider.calls)) == (0, 3), stderr
    assert len(results().columns) == 10_000 + 28
    message = command("run", job, "--set", "prompt={{ txet }}")[2]
    assert len(message) < 2_000


def test_ids_must_be_there_and_differ(job_over: Callable[..., Path], provider: Provider) -> None:
    job = job_over("id,text\na,1\nb,2\na,3\n")
    job.write_text(job.read_text().replace("[request]", 'id = "id"\n[request]'))
    assert "the id 'a' in the column \"id\" is in row 1 and in row 3" in refused(job, provider)
    (job.parent / "rows.csv").write_text("id,text\na,1\n,2\n")
    assert "row 2 has no id" in refused(job, provider)
    (job.parent / "rows.csv").write_text("idd,text\na,1\n")
    message = refused(job, provider)
    assert '[input] id = "id" is not a column (did you mean "idd"?)' in message


def test_columns_named_like_ours_need_a_prefix(
    job_over: Callable[..., Path], provider: Provider, results: Results
) -> None:
    job = job_over("text,status,cost_usd\na,x,y\n")
    message = refused(job, provider)
    assert "columns that batchrun writes too: cost_usd, status" in message
    assert '[output] prefix = "llm_"' in message
    assert command("run", job, "--set", "output.prefix=llm_")[0] == 0
    assert {"status", "llm_status", "llm_cost_usd"} <= set(results().columns)


def test_columns_that_are_no_identifiers_are_reached_through_the_row(
    job_over: Callable[..., Path], provider: Provider
) -> None:
    names = ["unit price", "2nd", "class", "ünïcode", "a.b", "", "{{ x }}", "__class__", "row"]
    header = ",".join(names[:-1])
    template = "".join("{{ row['" + name + "'] }}" for name in names[:-1] if name)
    job = job_over(f"{header},text\n1,2,3,4,5,6,7,8,t\n")
    assert command("run", job, "--set", f"prompt={template}")[0] == 0
    assert [call.prompt for call in provider.calls] == ["1234578"]


def test_files_of_a_glob_with_different_columns(
    job_over: Callable[..., Path], provider: Provider, tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_text("text,b\n1,2\n")
    (tmp_path / "2.csv").write_text("text,c\n1,2\n")
    message = refused(job_over(None, "*.csv"), provider)
    assert "2.csv: its columns differ from those of" in message
    assert "it lacks b; adds c" in message


def test_a_truncated_parquet_file(
    job_over: Callable[..., Path], provider: Provider, tmp_path: Path
) -> None:
    path = tmp_path / "whole.parquet"
    pl.DataFrame({"text": [f"text {n}" for n in range(500)]}).write_parquet(path)
    whole = path.read_bytes()
    job = job_over(b"", "rows.parquet")
    for length in (0, 4, 10, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        (tmp_path / "rows.parquet").write_bytes(whole[:length])
        assert "rows.parquet: cannot be read as a table" in refused(job, provider)


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz"])
def test_a_truncated_compressed_file(
    job_over: Callable[..., Path], provider: Provider, name: str
) -> None:
    lines = "text\n" if "csv" in name else ""
    row = "x\n" if "csv" in name else '{"text": "x"}\n'
    whole = gzip.compress((lines + row * 1_000).encode())
    for length in (15, len(whole) // 2, len(whole) - 1):
        assert f"{name}: cannot be read as a table" in refused(
            job_over(whole[:length], name), provider
        )


def test_nested_binary_and_decimal_columns(
    job_over: Callable[..., Path], provider: Provider, results: Results, tmp_path: Path
) -> None:
    job = job_over(b"", "rows.parquet")
    frame = pl.DataFrame(
        {
            "text": ["a", "b"],
            "tags": [["x", None], []],
            "size": [{"w": 1, "h": None}, None],
            "price": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(30, 2)),
            "raw": [b"caf\xc3\xa9", b"\xff"],
        }
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    template = "{{ text }}{{ tags }}{{ size.w if size }}{{ price or 0 }}{{ raw }}"
    assert command("run", job, "--set", f"prompt={template}")[0] == 3
    assert [call.prompt for call in provider.calls] == ["a['x', None]11.50café"]
    table = results()
    assert table["error_type"].to_list() == [None, "template_error"]
    assert "can't decode byte" in table["error_message"][1]
    assert table.select(frame.columns).equals(frame)


def test_what_is_no_file_is_never_waited_for(
    job_over: Callable[..., Path], provider: Provider, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    for name in ("pipe", "folder", "zero", "circle", "gone"):
        assert f"{name}.csv: " in refused(job_over(None, f"{name}.csv"), provider)


def test_a_table_that_grows_while_it_is_sent_is_told_and_matched_by_the_next_run(
    job_over: Callable[..., Path], provider: Provider, results: Results, tmp_path: Path
) -> None:
    """The rows that were planned are answered; outputs wait until rows and results fit again."""
    table = tmp_path / "rows.csv"

    def decide(call: Call) -> Reply:
        if call.number == 1:
            table.write_text("text\nnew\n" + table.read_text().removeprefix("text\n"))
        return answer(call, call.prompt)

    provider.decide = decide
    job = job_over("text\n" + "".join(f"t{n}\n" for n in range(30)))
    code, _, stderr = command("run", job)
    assert code == 6, stderr
    assert "has changed" in stderr
    assert "Traceback" not in stderr
    assert command("run", job)[0] == 0
    found = results()
    assert found["response"].to_list() == [f"Say {text}" for text in found["text"]]
    assert found.height == 31
    assert set(provider.billed.values()) == {1}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_table_that_goes_away_while_it_is_sent_keeps_its_answers(
    job_over: Callable[..., Path], provider: Provider, results: Results, tmp_path: Path, name: str
) -> None:
    table = tmp_path / name

    def decide(call: Call) -> Reply:
        if call.number == 1:
            table.rename(tmp_path / "elsewhere")
        return answer(call)

    provider.decide = decide
    rows = [f'{{"text": "{n}"}}' if "json" in name else f"{n}" for n in range(9)]
    job = job_over("\n".join([*(["text"] if "csv" in name else []), *rows]), name)
    code, _, stderr = command("run", job)
    assert (code, name in stderr, "Traceback" in stderr) == (6, True, False), stderr
    (tmp_path / "elsewhere").rename(table)
    assert command("run", job)[0] == 0
    assert results()["status"].to_list() == ["succeeded"] * 9
    assert len(provider.calls) == 9
