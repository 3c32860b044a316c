"""Whatever a job file, a table or a server holds: the command ends with an exit code of its own.

Exit 1 and a traceback would be bugs. Set FUZZ_EXAMPLES to look for more, at random.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import command
from tests.provider import Call, Provider, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def fuzzed(count: int) -> settings:
    """The same examples each time, unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def checked(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command; it may refuse, fail rows or stop, and nothing else."""
    code, stdout, stderr = command(*arguments)
    assert code in {0, 2, 3, 4, 6}, stderr
    assert "Traceback" not in stderr
    assert "Error(" not in stderr
    if code == 2:
        assert stderr.startswith(("error: ", "Error: ", "Usage: "))
        assert len(stderr) < 20_000
    return code, stdout, stderr


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving() as running:
        yield running


# Job files

SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("name",),
    "input": ("path", "id", "limit"),
    "request": (
        *("format", "base_url", "allow_http", "api_key_env", "auth", "api_version", "model"),
        *("system", "system_file", "prompt", "prompt_file", "messages", "messages_column"),
        *("from_columns", "max_tokens", "max_tokens_key", "temperature", "top_p", "stop", "top_k"),
        *("n", "seed", "presence_penalty", "frequency_penalty", "user", "service_tier"),
        *("thinking_tokens", "tools", "tool_choice", "parallel_tool_calls", "json_schema"),
        *("json_schema_as", "cache_system", "images", "image_dir", "stream", "extra_body"),
        "extra_headers",
    ),
    "tools": ("module", "max_turns", "timeout_s"),
    "limits": ("concurrency", "requests_per_minute", "max_errors", "max_cost_usd"),
    "retry": ("max_attempts", "max_wait_s", "timeout_s"),
    "price": ("input", "output", "cache_read", "cache_write", "cache_write_1h"),
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


def toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def as_job_file(document: dict[str, dict[str, Any]]) -> str:
    lines = [f"{key} = {toml(value)}" for key, value in document.get("", {}).items()]
    for section, table in document.items():
        if section:
            lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines)


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


# Tables


def run_over(provider: Provider, name: str, content: bytes, **request: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        document = {
            "input": {"path": name},
            "request": {
                "base_url": provider.url,
                "api_key_env": "TEST_KEY",
                "model": "m",
                "prompt": "{{ row }}",
                "max_tokens": 9,
                **request,
            },
            "retry": {"max_attempts": 1},
            "output": {"files": ["r.parquet", "r.csv", "r.jsonl"], "prefix": "batchrun_"},
        }
        Path(folder, name).write_bytes(content)
        job = Path(folder, "job.toml")
        job.write_text(as_job_file(document))
        return checked("run", job, "--quiet")[0]


@fuzzed(60)
@given(
    content=st.binary(max_size=80)
    | st.text(alphabet="ab,\"\r\n\t\0é;'", max_size=80).map(str.encode),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz"]),
)
def test_any_bytes_as_a_table(provider: Provider, content: bytes, name: str) -> None:
    provider.decide = answer
    assert run_over(provider, name, content) in {0, 2, 3}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from([2**63, -(2**70), 10**400, "text", "tool_use", "stop", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@fuzzed(40)
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=4))
def test_any_json_lines_as_a_table(provider: Provider, rows: list[dict[str, Any]]) -> None:
    provider.decide = answer
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    assert run_over(provider, "t.jsonl", lines) in {0, 2, 3}


# Servers

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "…"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 1},
}
CHAT = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "content": "hello",
                "reasoning_content": "…",
                "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {}},
}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "no", "code": None}}
CHUNK = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]


def changed(value: Any, path: list[int], new: Any) -> Any:
    """Return JSON in which the value that a path of numbers leads to is another one."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    first, rest = path[0], path[1:]
    if isinstance(value, list):
        place = first % len(value)
        return [changed(v, rest, new) if n == place else v for n, v in enumerate(value)]
    key = list(value)[first % len(value)]
    return {k: changed(v, rest, new) if k == key else v for k, v in value.items()}


PATHS = st.lists(st.integers(0, 6), max_size=5)
BODIES = st.builds(
    lambda base, path, new: json.dumps(changed(base, path, new)).encode(),
    st.sampled_from([MESSAGE, CHAT, ERROR, CHUNK]),
    PATHS,
    JSON,
)


def as_stream(base: list[dict[str, Any]], path: list[int], new: Any, cut: int) -> bytes:
    events = changed(base, path, new)
    written = b"".join(
        b"event: %s\ndata: %s\n\n"
        % (str(e.get("type") if isinstance(e, dict) else e)[:20].encode(), json.dumps(e).encode())
        for e in (events if isinstance(events, list) else [events])
    )
    return (written + b"data: [DONE]\n\n")[: cut or None]


STREAMS = st.builds(
    as_stream,
    st.sampled_from([EVENTS, [CHUNK, CHUNK, {**CHUNK, "usage": CHAT["usage"]}], [ERROR]]),
    PATHS,
    JSON,
    st.integers(-40, 400),
)
SSE_BYTES = st.text(alphabet='data: event\n\r{}[]":,1x\0é', max_size=80).map(str.encode)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *(
                "retry-after",
                "retry-after-ms",
                "x-should-retry",
                "request-id",
                "x-request-id",
                "date",
            ),
            *("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
            *("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-input-tokens-limit"),
            *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
            *("x-ratelimit-reset-requests", "content-encoding", "location"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
    | st.sampled_from(["0", "-1", "1e400", "nan", "99999999999999999999", "0.01", "1s", "gzip"]),
    max_size=3,
)


def calm(headers: dict[str, str]) -> dict[str, str]:
    """Leave out waits that a provider may well ask for: they are obeyed."""
    left = ("-remaining", "retry-after")
    return {n: v for n, v in headers.items() if not any(word in n for word in left) or v == "nan"}


@fuzzed(150)
@given(
    body=st.binary(max_size=60)
    | BODIES
    | STREAMS
    | SSE_BYTES
    | JSON.map(lambda v: json.dumps(v).encode()),
    status=st.sampled_from([200, 200, 200, 200, 400, 422, 429, 500, 529, 201, 204, 302, 401, 999]),
    content_type=st.sampled_from(["application/json", "text/event-stream", "text/html", ""]),
    headers=HEADERS,
    wire_format=st.sampled_from(["messages", "chat"]),
)
def test_any_answer_of_a_server(  # noqa: PLR0917 - hypothesis passes them by name
    provider: Provider,
    body: bytes,
    status: int,
    content_type: str,
    headers: dict[str, str],
    wire_format: str,
) -> None:
    def decide(_: Call) -> Reply:
        return Reply(status, body, {**calm(headers), "content-type": content_type})

    provider.decide = decide
    code = run_over(provider, "t.csv", b"a\n1\n2\n", format=wire_format, stream=b"data" in body)
    assert code in {0, 3, 4}
