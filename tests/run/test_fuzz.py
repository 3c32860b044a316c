"""Whatever a job file, a template or a table holds: the command ends with an exit code of its own.

Exit 1 and a traceback would be bugs. `make fuzz` looks for more, at random.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzzing import JSON, as_job_file, checked, fuzzed, run_over
from tests.support.provider import Provider, answer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving() as running:
        yield running


# Job files

SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("name", "date"),
    "input": ("path", "id", "where", "limit"),
    "request": (
        *("format", "base_url", "allow_http", "api_key_env", "auth", "api_version", "model"),
        *("system", "system_file", "prompt", "prompt_file", "messages", "messages_column"),
        *("from_columns", "max_tokens", "max_tokens_key", "temperature", "top_p", "stop", "top_k"),
        *("n", "seed", "presence_penalty", "frequency_penalty", "user", "service_tier"),
        *("thinking_tokens", "tools", "tool_choice", "parallel_tool_calls", "json_schema"),
        *(
            "json_schema_as",
            "cache_system",
            "images",
            "image_dir",
            "documents",
            "document_dir",
            "stream",
            "extra_body",
        ),
        *("extra_headers", "samples", "dedupe"),
    ),
    "tools": ("module", "max_turns", "timeout_s"),
    "limits": (
        *("concurrency", "requests_per_minute", "tokens_per_minute", "input_tokens_per_minute"),
        *("output_tokens_per_minute", "max_errors", "max_cost_usd"),
    ),
    "retry": ("max_attempts", "max_wait_s", "timeout_s"),
    "price": ("input", "output", "cache_read", "cache_write", "cache_write_1h"),
    "matrix": ("model", "temperature", "prompt", "gone"),
    "score": ("expected", "match", "answer", "choices", "function"),
    "output": ("dir", "files", "prefix", "unnest", "escape_formulas"),
}
PLAUSIBLE = st.sampled_from(
    [
        *("rows.csv", "*.csv", "id", "text", "m", "chat", "messages", "http://127.0.0.1:9", "auto"),
        *(
            "{{ text }}",
            "{{ gone }}",
            "{{ text | int }}",
            "{{ n ** n }}",
            "{% for %}",
            "{{",
            "../x",
        ),
        *("", " ", "\0", "\x1b[2J", "é" * 300, "results.csv", "a.parquet", "bearer", "any", "none"),
        *("id = '1'", "n > 5 AND", "SELECT 1", "{{ today }}", "2025-01-31"),
        *("/dev/null", "~", "~nobody/x", ".", "5m", "tool", "user", "1e400", "x" * 5_000),
        *(0, 1, -1, 2**63, 2**64, 10**400, 0.5, 1e308, math.inf, -math.inf, math.nan, True, False),
        {"type": "object", "properties": {"a": {"type": "string"}}},
        [{"role": "user", "content": "{{ text }}"}],
        [{"name": "t", "input_schema": {"type": "object"}}],
        {"x-a": "b"},
    ]
)
SCALARS = (
    PLAUSIBLE
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.datetimes(min_value=dt.datetime(1, 1, 1))
    | st.dates()
    | st.times()
)
KEYS = st.sampled_from(["role", "content", "type", "name", "text", "input_schema", "a", "$ref", ""])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from([(section, key) for section, keys in SECTIONS.items() for key in keys])


@fuzzed(150)
@given(
    changes=st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=4),
    wire_format=st.sampled_from(["messages", "chat"]),
)
def test_any_values_in_a_job_file(
    changes: list[tuple[tuple[str, str], Any]], wire_format: str
) -> None:
    document: dict[str, dict[str, Any]] = {
        "": {},
        "input": {"path": "rows.csv"},
        "request": {"format": wire_format, "model": "m", "prompt": "{{ text }}", "max_tokens": 9},
    }
    for (section, key), value in changes:
        document.setdefault(section, {})[key] = value
        if key in {"prompt_file", "messages", "messages_column"}:
            document["request"].pop("prompt", None)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.toml")
        job.write_text(as_job_file(document), encoding="utf-8", errors="surrogatepass")
        Path(folder, "rows.csv").write_text("id,text,n\n1,one,9\n2,,99\n")
        checked("preview", job)


@fuzzed(60)
@given(
    st.binary(max_size=60) | st.text(alphabet='[]{}=",.#\n ainput\\u0', max_size=60).map(str.encode)
)
def test_any_bytes_as_a_job_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.toml")
        job.write_bytes(content)
        assert checked("preview", job)[0] == 2


@fuzzed(60)
@given(st.sampled_from([key for keys in SECTIONS.values() for key in keys]), st.text(max_size=20))
def test_any_setting_of_the_command_line(key: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.toml")
        document: dict[str, dict[str, Any]] = {
            "input": {"path": "rows.csv"},
            "request": {"model": "m", "prompt": "{{ text }}", "max_tokens": 9},
        }
        job.write_text(as_job_file(document))
        Path(folder, "rows.csv").write_text("id,text\n1,one\n")
        checked("preview", job, "--set", f"{key}={value}")


# Templates

PIECES = [
    *("{{ ", " }}", "{% ", " %}", "{#", "#}", "if ", "for ", " in ", "endif", "endfor", "else"),
    *("set x = ", "endset", "macro m(a)", "endmacro", "call m(1)", "endcall", "filter upper"),
    *("endfilter", "raw", "endraw", "include 'a'", "import 'a' as b", "block b", "endblock"),
    *("text", "row", "n", "x", "loop", "self", "namespace()", "range(9)", "dict(a=1)", "cycler"),
    *("['a']", ".a", "[0]", "[::-1]", "(1)", "()", " | ", "upper", "join(',')", "tojson", "int"),
    *("attr('__class__')", "format(n)", "map('upper')", "sort", "groupby('a')", "default('')"),
    *(" ~ ", " + ", " * ", " ** ", " % ", " // ", " and ", " not ", " is ", "defined", "mapping"),
    *(
        "'",
        '"',
        "'a'",
        "9",
        "-1",
        "1e999",
        "none",
        "true",
        "[1, 2]",
        "{'a': 1}",
        ",",
        " ",
        "\n",
        "-",
    ),
]
TEMPLATES = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)
KEYS_OF_TEXTS = st.sampled_from(["prompt", "system", "model", "temperature", "images", "user"])


@fuzzed(150)
@given(
    inner=TEMPLATES | st.text(max_size=30),
    form=st.sampled_from(["{}", "{{{{ {} }}}}", "{{% for x in {} %}}{{{{ x }}}}{{% endfor %}}"]),
    key=KEYS_OF_TEXTS,
)
def test_any_template_in_a_job_file(inner: str, form: str, key: str) -> None:
    request: dict[str, Any] = {"model": "m", "prompt": "p", "max_tokens": 9}
    request[key] = form.format(inner)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.toml")
        document = {"input": {"path": "rows.jsonl"}, "request": request}
        job.write_text(as_job_file(document), encoding="utf-8", errors="surrogatepass")
        Path(folder, "rows.jsonl").write_text('{"text": "one", "n": 9}\n{"text": null, "n": [1]}\n')
        checked("preview", job)


# Tables


@fuzzed(60)
@given(
    content=st.binary(max_size=80)
    | st.text(alphabet="ab,\"\r\n\t\0é;'", max_size=80).map(str.encode),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz"]),
)
def test_any_bytes_as_a_table(provider: Provider, content: bytes, name: str) -> None:
    provider.decide = answer
    assert run_over(provider, name, content) in {0, 2, 3}


@fuzzed(40)
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=4))
def test_any_json_lines_as_a_table(provider: Provider, rows: list[dict[str, Any]]) -> None:
    provider.decide = answer
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    assert run_over(provider, "t.jsonl", lines) in {0, 2, 3}
