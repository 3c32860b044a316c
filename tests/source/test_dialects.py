"""CSV as the world writes it: separators, quotes, escapes and encodings, detected or configured."""

from __future__ import annotations

import csv
import gzip
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import InputConfig
from batchrun.source import Source, csv_text, dialects
from tests.support.jobs import refusal as job_refusal

if TYPE_CHECKING:
    from pathlib import Path

CELLS = st.text(st.sampled_from("ab \\\"',;\t|\n{}\u00e9\u20ac#"), max_size=6)
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6)


def source(folder: Path, content: bytes | str, name: str = "x.csv", **config: Any) -> Source:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return Source(InputConfig(str(path), **config))


def rows(opened: Source) -> list[tuple[Any, ...]]:
    found = [
        tuple(item.values[name] for name in opened.columns)
        for chunk in opened.items(opened.columns, 2)
        for item in chunk
    ]
    assert opened.count() == len(found)
    return found


def refused(folder: Path, content: bytes | str, **config: Any) -> str:
    with pytest.raises(JobError) as caught:
        source(folder, content, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    table=ROWS,
    separator=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    encoding=st.sampled_from(["utf-8", "cp1252", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_python_writes_is_read(
    tmp_path: Path,
    *,
    table: list[tuple[str, ...]],
    separator: str,
    quote: str,
    quoting: Any,
    encoding: str,
    end: str,
) -> None:
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=separator, quotechar=quote, quoting=quoting, lineterminator=end
    )
    writer.writerows([("one", "two", "three"), *table])
    found = source(
        tmp_path,
        text.getvalue().encode(encoding),
        separator=separator,
        quote=quote,
        escape=quote,
        encoding=encoding,
    )
    assert found.columns == ("one", "two", "three")
    assert rows(found) == table


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=ROWS, name=st.sampled_from(["x.csv", "x.csv.gz"]))
def test_what_python_writes_with_backslashes_is_read(
    tmp_path: Path, table: list[tuple[str, ...]], name: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(
        text, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\", lineterminator="\n"
    )
    writer.writerows([("one", "two", "three"), *table])
    assert rows(source(tmp_path, text.getvalue(), name, escape="\\")) == table


def test_records_that_are_cut_anywhere_by_a_block_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'a,b\r\n"x\\"\r\n1",plain\r\n"\u00e9""",\\,end\n"\\\\","y"'
    expected = rows(source(tmp_path, text, escape="\\"))
    assert expected == [('x"\r\n1', "plain"), ('\u00e9"', ",end"), ("\\", "y")]
    for size in range(1, 12):
        monkeypatch.setattr(csv_text, "BLOCK_BYTES", size)
        assert rows(source(tmp_path, text, escape="\\")) == expected


@pytest.mark.parametrize(
    ("content", "expected", "note"),
    [
        ("a;b\n1;x, y\n2;\n", [("1", "x, y"), ("2", "")], 'separator = ";"'),
        ("a\tb\n1\tx\n", [("1", "x")], 'separator = "\\t"'),
        ("a|b\n1|x\n", [("1", "x")], 'separator = "|"'),
        ('a;b\n"1;2";x\n', [("1;2", "x")], 'separator = ";"'),
        ('a,b\n1,"5\\" x"\n2,"y"\n', [("1", '5" x'), ("2", "y")], 'escape = "\\\\"'),
        (
            'a,b\n"{\\"k\\": \\"v\\"}","C:\\new"\n',
            [('{"k": "v"}', "C:\\new")],
            'escape = "\\\\"',
        ),
        ('a;b\n1;"5\\" x"\n', [("1", '5" x')], 'separator = ";"'),
    ],
)
def test_what_is_certain_is_detected_and_said(
    tmp_path: Path, content: str, expected: list[Any], note: str
) -> None:
    found = source(tmp_path, content)
    assert rows(found) == expected
    assert any(note in said for said in found.notes)
    assert all(str(tmp_path / "x.csv") in said for said in found.notes)


def test_a_byte_order_mark_says_the_encoding(tmp_path: Path) -> None:
    found = source(tmp_path, "a,b\n1,\u00e9\n".encode("utf-16"))
    assert rows(found) == [("1", "\u00e9")]
    assert '[input] encoding = "utf-16"' in found.notes[0]


@pytest.mark.parametrize(
    "content",
    [
        'a,b\n"C:\\dir\\","x;y"\n',  # a backslash at the end of a cell
        "text\none; two\nthree; four\n",  # one column
        "a;b,c\n1;2,3\n",  # both would do
        'a,b\n"x ""y""",\n',
        "a,b\n1\n2,3\n",  # a short line
        "a,b\n",
    ],
)
def test_what_is_not_certain_is_read_as_the_suffix_says(tmp_path: Path, content: str) -> None:
    found = source(tmp_path, content)
    assert found.notes == ()
    [header, *table] = csv.reader(io.StringIO(content))
    padded = [tuple(row + [""] * (len(header) - len(row))) for row in table]
    assert found.columns == tuple(header)
    assert rows(found) == padded


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('a,b\n1,5" pipe\n2,x\n', 'line 2 has a quote inside a cell that is not quoted: 1,5" pipe'),
        ('a,b\n1,5"\n2,x\n3,6"\n', "line 2 has a quote inside a cell that is not quoted"),
        ('a,b\n1,"x" y\n', "line 2 has text after the closing quote"),
        (
            'a,b\n1,"x\ny\n2,"z"\n',
            "line 4 has text after the closing quote of a cell that begins in",
        ),
        ('a,b\n1,"x\n2,y\n', "the quote that opens in line 2 is not closed"),
        (b"a,b\n1,\xfcber\n", 'encoding = "cp1252" if this is right: 1,\u00fcber'),
    ],
)
def test_a_quote_out_of_place_names_the_line_and_the_way_out(
    tmp_path: Path, content: bytes | str, reason: str
) -> None:
    assert reason in refused(tmp_path, content)


def test_rows_far_down_the_file_are_never_glued_in_silence(tmp_path: Path) -> None:
    head = "id,q\n" + "".join(f'{n},"plain ""{n}"""\n' for n in range(40_000))
    assert len(head) > dialects.SAMPLE_BYTES
    message = refused(tmp_path, head + '40000,"size 5\\" pipe"\n40001,"x"\n40002,"6\\" y"\n')
    assert "line 40002 has a quote after a backslash" in message
    assert 'set [input] escape = "\\\\"' in message


def test_quotes_as_text(tmp_path: Path) -> None:
    found = source(tmp_path, 'a,b\n1,5" pipe\n2,"x"\n', quote="")
    assert rows(found) == [("1", '5" pipe'), ("2", '"x"')]


def test_a_text_in_another_encoding_than_said(tmp_path: Path) -> None:
    content = "a,b\n" + "1,x\n" * 3 + "2,\u4f60\n"
    assert "line 5 is not ascii text" in refused(tmp_path, content, encoding="ascii")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("separator", ";;"),
        ("separator", ""),
        ("quote", "\u00ab"),
        ("escape", "\n"),
        ("encoding", "x"),
    ],
)
def test_a_wrong_key_names_it(key: str, value: str) -> None:
    message = job_refusal(input={"path": "x.csv", key: value})
    assert f"[input] {key}" in message


def test_keys_of_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(JobError, match="separator is for CSV and TSV files"):
        Source(InputConfig(str(tmp_path / "x.jsonl"), separator=";"))
    with pytest.raises(JobError, match="sheet is for Excel files"):
        Source(InputConfig(str(tmp_path / "x.jsonl"), sheet="a"))


@pytest.mark.parametrize(
    ("name", "start", "what"),
    [
        ("x.csv", b"PK\x03\x04", "is an Excel workbook (or another ZIP file), not a .csv file"),
        ("x.csv", b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls), not a .csv file; save it as"),
        ("x.tsv", b"PAR1", "is a Parquet file, not a .tsv file; rename it to x.parquet"),
        (
            "x.jsonl",
            b"\x1f\x8b",
            "is compressed with gzip, not a .jsonl file; rename it to x.jsonl.gz",
        ),
        ("x.parquet", b"PK\x03\x04", "is an Excel workbook"),
        ("x.json", b"ARROW1", "is an Arrow file"),
    ],
)
def test_a_file_of_another_kind_is_recognised(
    tmp_path: Path, name: str, start: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(start + bytes(100))
    with pytest.raises(JobError) as caught:
        Source(InputConfig(str(tmp_path / name)))
    assert what in str(caught.value)
