"""Templates and cells become requests; whatever a cell holds, it stays data."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import InputConfig, Job
from batchrun.records import Item, Message, RenderedItem, Request
from batchrun.render import Renderer
from batchrun.source import Source

BASE = Path("/srv/project")


def make_job(**request: Any) -> Job:
    keys = {"model": "m", "max_tokens": 10, "prompt": "p", **request}
    if "messages" in request or "messages_column" in request:
        del keys["prompt"]
    return Job.from_document({"input": {"path": "rows.csv"}, "request": keys}, BASE)


def render(row: dict[str, Any], **request: Any) -> RenderedItem:
    [rendered] = Renderer(make_job(**request), list(row)).render([Item(4, "id-5", row)])
    assert (rendered.ordinal, rendered.custom_id) == (4, "id-5")
    return rendered


def request_of(row: dict[str, Any], **request: Any) -> Request:
    rendered = render(row, **request)
    assert rendered.error_message is None
    assert rendered.request is not None
    assert rendered.wire is not None
    assert rendered.fingerprint is not None
    return rendered.request


def prompt_of(row: dict[str, Any], template: str) -> Any:
    [message] = request_of(row, prompt=template).messages
    return message.content


def error_of(row: dict[str, Any], **request: Any) -> tuple[str, str]:
    rendered = render(row, **request)
    assert (rendered.request, rendered.wire, rendered.fingerprint) == (None, None, None)
    return rendered.error_type or "", rendered.error_message or ""


def load_error(columns: list[str], **request: Any) -> str:
    with pytest.raises(JobError) as caught:
        Renderer(make_job(**request), columns)
    return str(caught.value)


# templates


def test_a_prompt_is_filled_in_and_sent() -> None:
    rendered = render(
        {"name": "Ann", "n": 3}, prompt="Hi {{ name }}, {{ n }} times", system="{{ n }}"
    )
    assert rendered.wire is not None
    assert orjson.loads(rendered.wire.body) == {
        "model": "m",
        "max_tokens": 10,
        "system": "3",
        "messages": [{"role": "user", "content": "Hi Ann, 3 times"}],
    }


def test_a_text_without_an_expression_is_sent_as_it_is() -> None:
    text = '  {"a": {1}} }} \\n %} \r\n'
    assert prompt_of({"a": "x"}, text) == text


def test_white_space_of_a_template_is_kept() -> None:
    assert prompt_of({"a": "x"}, " {{ a }}\n") == " x\n"


@pytest.mark.parametrize(
    ("value", "template", "text"),
    [
        (Decimal("1.50"), "{{ v }}", "1.50"),
        (Decimal("1.50"), "{{ v * 2 }}", "3.00"),
        (dt.date(2025, 1, 31), "{{ v.year }}/{{ v.strftime('%d') }}", "2025/31"),
        (dt.datetime(2025, 1, 31, 12, 30), "{{ v }}", "2025-01-31 12:30:00"),
        (["a", "b"], "{{ v | join(', ') }} {{ v[0] }} {{ v | length }}", "a, b a 2"),
        ({"k": 1}, "{{ v.k }} {{ v['k'] }}", "1 1"),
        (True, "{% if v %}yes{% endif %}", "yes"),
        (0, "{{ v }}", "0"),
        (1.5, "{{ v | round | int }}", "2"),
        ("", "[{{ v }}]", "[]"),
        ("007", "{{ v }}", "007"),
        (b"caf\xc3\xa9", "{{ v }}", "café"),
    ],
    ids=[
        "decimal",
        "decimal-arithmetic",
        "date",
        "datetime",
        "list",
        "struct",
        "bool",
        "zero",
        "float",
        "empty",
        "text-number",
        "utf8-bytes",
    ],
)
def test_values_keep_their_types_in_templates(value: object, template: str, text: str) -> None:
    assert prompt_of({"v": value}, template) == text


def test_any_column_can_be_reached_through_the_row() -> None:
    row = {"unit price": 5, "2nd": "b", "a": "x"}
    assert prompt_of(row, '{{ row["unit price"] }}{{ row["2nd"] }}{{ row.a }}') == "5bx"
    assert prompt_of(row, "{% for k, v in row.items() %}{{ k }}={{ v }};{% endfor %}") == (
        "unit price=5;2nd=b;a=x;"
    )


def test_a_column_called_row_is_the_column() -> None:
    assert prompt_of({"row": {"x": 5}}, "{{ row.x }}{{ row['x'] }}") == "55"


def test_a_column_named_like_a_function_of_jinja_is_the_column() -> None:
    row = {"range": "x", "dict": 5}
    assert prompt_of(row, "{{ range }}!{{ dict + 1 }}") == "x!6"
    assert prompt_of({"a": "x"}, "{% for n in range(2) %}{{ n }}{% endfor %}") == "01"


def test_only_the_columns_that_are_used_are_read() -> None:
    columns = ["z", "a", "b", "c"]
    assert Renderer(make_job(prompt="{{ c }}{{ a }}", system="{{ a }}"), columns).columns == (
        "a",
        "c",
    )
    assert Renderer(make_job(prompt="p"), columns).columns == ()
    assert Renderer(make_job(prompt="{{ row.a }}"), columns).columns == ("z", "a", "b", "c")
    guarded = Renderer(make_job(prompt="{{ a | default('x') }}{{ q | default('y') }}"), columns)
    assert guarded.columns == ("a",)


# null and undefined


@pytest.mark.parametrize(
    "template",
    [
        "{{ notes }}",
        "{{ notes | trim }}",
        "{{ notes | upper }}",
        "{{ notes | replace('a', 'b') }}",
        "{{ notes | string }}",
        "{{ 'x' ~ notes }}",
        "{{ notes ~ 'x' ~ 5 }}",
        "{{ notes | default('none') }}",
        "{% filter upper %}{{ notes }}{% endfilter %}",
        "{{ row.notes }}",
        "{{ row['notes'] }}",
    ],
)
def test_a_null_where_text_is_needed_names_the_column(template: str) -> None:
    error_type, message = error_of({"notes": None, "other": None}, prompt=template)
    assert error_type == "null_value"
    assert message.startswith("prompt: the column 'notes' is null where text is needed")
    assert "{% if … %}" in message


def test_a_null_inside_a_struct_or_a_list_is_none_the_less_one() -> None:
    row = {"s": {"k": None}, "tags": ["a", None]}
    for template in ("{{ s.k }}", "{{ tags | join(', ') }}"):
        error_type, message = error_of(row, prompt=template)
        assert (error_type, message.partition(";")[0]) == (
            "null_value",
            "prompt: a value is null where text is needed",
        )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if notes %}{{ notes }}{% else %}none{% endif %}", "none"),
        ("{% if notes is not none %}{{ notes }}{% endif %}none", "none"),
        ("{{ notes or 'none' }}", "none"),
        ("{{ notes | default('none', true) }}", "none"),
        ("{{ gone | default('none') }}", "none"),
        ("{{ gone | d('none') }}", "none"),
        ("{% if gone is defined %}{{ gone }}{% else %}none{% endif %}", "none"),
        ("{% if gone is undefined %}none{% endif %}", "none"),
        ("{{ row['gone'] | default('none') }}", "none"),
        ("{{ row.get('gone', 'none') }}", "none"),
    ],
)
def test_a_template_can_provide_for_a_null_and_a_missing_column(template: str, text: str) -> None:
    assert prompt_of({"notes": None}, template) == text


@pytest.mark.parametrize(
    ("keys", "where", "column", "hint"),
    [
        ({"prompt": "{{ subjct }}"}, "prompt", "subjct", ' (did you mean "subject"?)'),
        ({"prompt": "{{ row['subjct'] }}"}, "prompt", "subjct", ' (did you mean "subject"?)'),
        ({"prompt": "{{ row.subjct }}"}, "prompt", "subjct", ' (did you mean "subject"?)'),
        ({"prompt": "{% if zzz %}{% endif %}"}, "prompt", "zzz", ""),
        ({"system": "{{ zzz }}"}, "system", "zzz", ""),
        ({"model": "{{ zzz }}"}, "model", "zzz", ""),
        ({"temperature": "{{ zzz }}"}, "temperature", "zzz", ""),
        ({"messages": [{"role": "user", "content": "{{ zzz }}"}]}, "prompt", "zzz", ""),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "{{ zzz }}"},
                ]
            },
            "messages, turn 2",
            "zzz",
            "",
        ),
        ({"messages_column": "zzz"}, "messages_column", "zzz", ""),
        ({"messages_column": ""}, "messages_column", "", ""),
        ({"from_columns": ["system"]}, "from_columns", "system", ""),
    ],
    ids=lambda value: None if isinstance(value, dict) else (value or "-"),
)
def test_a_column_that_no_row_has_is_refused_before_anything_is_sent(
    keys: dict[str, Any], where: str, column: str, hint: str
) -> None:
    assert load_error(["subject", "body"], **keys) == (
        f"[request] {where}: the input has no column '{column}'{hint}; it has subject, body"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ a", "unexpected end of template"),
        ("{% for %}", "Expected an expression"),
        ("{{ a | nofilter }}", "No filter named 'nofilter'"),
        ("{{ a is notest }}", "No test named 'notest'"),
        ("{{ a | random }}", "No filter named 'random'"),
        ("{% include 'secrets' %}", "cannot read other files"),
        ("{% import 'secrets' as s %}", "cannot read other files"),
        ("{% from 'secrets' import s %}", "cannot read other files"),
        ("{% extends 'secrets' %}", "cannot read other files"),
        ("{% for i in a %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{{ " + "(" * 500 + "a" + ")" * 500 + " }}", "recursion"),
        ("{{ " + "1" * 5_000 + " }}", "4300 digits"),
        ("{{ a * -1e999 }}", "a number is too large"),
    ],
    ids=[
        "open",
        "for",
        "filter",
        "test",
        "random",
        "include",
        "import",
        "from",
        "extends",
        "nested",
        "deep",
        "digits",
        "infinite",
    ],
)
def test_a_template_that_is_none_is_refused_before_anything_is_sent(
    template: str, reason: str
) -> None:
    message = load_error(["a"], prompt=template)
    assert message.startswith("[request] prompt: not a valid template: ")
    assert reason in message
    assert "\n" not in message


def test_the_line_of_a_syntax_error_is_told() -> None:
    assert load_error(["a"], prompt="one\n{{ a }\nthree").endswith("(line 2)")


def test_chance_has_no_place_in_a_prompt() -> None:
    # The same row must give the same request, or a resumed run would pay again.
    assert "no column 'lipsum'" in load_error(["a"], prompt="{{ lipsum() }}")


# what evaluation cannot do


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ a['__class__'] }}", "unsafe"),
        ("{{ '{0.__class__}'.format(a) }}", "unsafe"),
        ("{{ l.append(1) }}", "unsafe"),
        ("{{ s.update({'k': 2}) }}", "unsafe"),
        ("{{ range(big) | list }}", "Range too big"),
        ("{{ 1 / n }}", "division by zero"),
        ("{{ s.gone }}", "has no attribute 'gone'"),
        ("{{ l[9] }}", "has no element 9"),
        ("{{ a + 1 }}", "can only concatenate"),
        ("{{ a() }}", "not callable"),
        ("{{ cycler(*[][n:]) }}", "at least one item"),
        ("{{ a.upper }}", "call it with ()"),
        ("{{ row.items }}", "call it with ()"),
        ("{{ l | map('string') }}", "add | join(…) or | list"),
        ("{{ raw }}", "can't decode byte"),
        ("{{ a * big * big }}", "the template exceeds the limit for one row"),
        ("{% macro f(i) %}{{ f(i) }}{% endmacro %}{{ f(n) }}", "recursion"),
    ],
)
def test_an_expression_that_fails_is_an_error_of_its_row(template: str, reason: str) -> None:
    row = {"a": "x", "n": 0, "big": 10**9, "l": [1], "s": {"k": 1}, "raw": b"\xff"}
    error_type, message = error_of(row, prompt=template)
    assert error_type == "template_error"
    assert message.startswith("prompt: ")
    assert reason in message
    assert row["l"] == [1]


def test_text_that_is_no_text_is_an_error_of_its_row() -> None:
    error_type, message = error_of({"a": "half \ud83d pair"}, prompt="{{ a }}")
    assert error_type == "invalid_text"
    assert "cannot be written as JSON" in message


def test_one_bad_row_leaves_the_others_alone() -> None:
    renderer = Renderer(make_job(prompt="{{ 6 // n }}"), ["n"])
    items = [Item(n, str(n), {"n": n}) for n in (1, 0, 2)]
    texts = [item.request and item.request.messages[0].content for item in renderer.render(items)]
    assert texts == ["6", None, "3"]


@pytest.mark.parametrize(
    "cell", ["{{ secret }}", "{% if x %}", "{# #}", "{{ ''.__class__ }}", "{%", "}}"]
)
def test_a_cell_that_looks_like_a_template_stays_data(cell: str) -> None:
    row = {"a": cell, "secret": "s", "messages": [{"role": "user", "content": cell}]}
    assert prompt_of(row, "{{ a }}") == cell
    request = request_of(row, system="{{ a }}", messages_column="messages")
    assert (request.system, request.messages) == (cell, (Message("user", cell),))
    assert request_of({"model": cell}, from_columns=["model"]).model == cell


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(str.strip), st.text())
def test_any_cells_stand_in_the_prompt_as_they_are(first: str, second: str) -> None:
    template = "A {{ a }} {% if b %}B {{ b }}{% endif %} {{ row['a'] }}"
    expected = f"A {first} {f'B {second}' if second else ''} {first}"
    assert prompt_of({"a": first, "b": second}, template) == expected


@settings(max_examples=40, deadline=None)
@given(st.text() | st.text(alphabet="{}%#'\"ab.()[]|~- ").map(lambda text: "{{" + text + "}}"))
def test_any_template_is_refused_or_rendered(template: str) -> None:
    try:
        rendered = render({"a": "x"}, prompt=template)
    except JobError:
        return
    assert rendered.request or rendered.error_message


# parameters and columns


def test_a_bare_column_keeps_its_type_for_a_parameter() -> None:
    row = {"t": 0.25, "stops": ["a", "b"], "tokens": Decimal(7), "seed": 2**60 + 1}
    keys = {"temperature": "{{ t }}", "stop": "{{- stops -}}", "max_tokens": " {{ tokens }}\n"}
    parameters = request_of(row, format="chat", seed="{{ seed }}", **keys).parameters
    assert (parameters.temperature, parameters.stop) == (0.25, ("a", "b"))
    assert (parameters.max_tokens, parameters.seed) == (7, 2**60 + 1)


def test_a_parameter_can_be_calculated() -> None:
    parameters = request_of({"n": 3}, max_tokens="{{ n * 100 }}", stop="{{ n }}.").parameters
    assert (parameters.max_tokens, parameters.stop) == (300, ("3.",))


@pytest.mark.parametrize("cell", [None, "", "  "], ids=["null", "empty", "blank"])
def test_an_empty_cell_leaves_a_parameter_out(cell: object) -> None:
    assert request_of({"t": cell}, temperature="{{ t }}").parameters.temperature is None


def test_an_empty_cell_cannot_leave_max_tokens_out_of_the_messages_format() -> None:
    error = error_of({"t": None}, max_tokens="{{ t }}")
    assert error == ("invalid_parameter", "max_tokens: is required by the messages format")
    assert (
        request_of({"t": None}, format="chat", max_tokens="{{ t }}").parameters.max_tokens is None
    )


@pytest.mark.parametrize(
    ("key", "cell", "reason"),
    [
        ("temperature", "warm", "temperature: must be a number, not 'warm'"),
        ("temperature", 1.5, "temperature: must be between 0 and 1 in the messages format"),
        ("max_tokens", "12.5", "max_tokens: must be a whole number, not '12.5'"),
        ("max_tokens", 0, "max_tokens: must be at least 1"),
        ("stop", 5, "stop: must be a string or an array of strings"),
        ("user", ["a"], "user: must be a string"),
        ("model", 5, "model: must be text, not 5"),
        ("system", ["a"], "system: must be text, not ['a']"),
        ("temperature", "x" * 10_000, "temperature: must be a number"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_cell_that_does_not_fit_is_an_error_of_its_row(
    key: str, cell: object, reason: str
) -> None:
    error_type, message = error_of({key: cell}, from_columns=[key])
    assert error_type == "invalid_parameter"
    assert message.startswith(reason)
    assert len(message) < 200


def test_columns_named_like_keys_take_their_place_row_by_row() -> None:
    job = make_job(
        from_columns=["model", "system", "temperature", "stop"],
        system="general",
        temperature=0.5,
        prompt="{{ q }}",
    )
    rows: list[dict[str, Any]] = [
        {"q": "a", "model": "other", "system": "special", "temperature": "0.1", "stop": "END"},
        {"q": "b", "model": "", "system": " ", "temperature": None, "stop": None},
    ]
    renderer = Renderer(job, list(rows[0]))
    requests = [item.request for item in renderer.render([Item(0, "1", row) for row in rows])]
    assert [
        (r.model, r.system, r.parameters.temperature, r.parameters.stop) for r in requests if r
    ] == [("other", "special", 0.1, ("END",)), ("m", "general", 0.5, None)]


def test_a_row_without_a_model_anywhere() -> None:
    job = Job.from_document(
        {
            "input": {"path": "x"},
            "request": {"prompt": "p", "max_tokens": 5, "from_columns": ["model"]},
        },
        BASE,
    )
    [item] = Renderer(job, ["model"]).render([Item(0, "1", {"model": ""})])
    assert (item.error_type, item.error_message) == ("empty_model", "model: is empty for this row")


def test_rows_without_parameters_of_their_own_share_them() -> None:
    renderer = Renderer(make_job(prompt="{{ a }}", temperature=0.5), ["a"])
    first, second = renderer.render([Item(n, str(n), {"a": n}) for n in (0, 1)])
    assert first.request is not None
    assert second.request is not None
    assert first.request.parameters is second.request.parameters


def test_equal_rows_have_equal_fingerprints_and_others_have_others() -> None:
    renderer = Renderer(make_job(prompt="{{ a }}"), ["a"])
    items = [Item(n, str(n), {"a": a}) for n, a in enumerate(["x", "y", "x"])]
    one, other, again = (item.fingerprint for item in renderer.render(items))
    assert one == again != other


# conversations

TURNS = [
    {"role": "system", "content": "s1"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "Sure:"},
]


def test_turns_are_templates_and_the_last_may_be_a_prefill() -> None:
    request = request_of({"a": "x"}, messages=[{**turn, "content": "{{ a }}"} for turn in TURNS])
    assert request.system == "x"
    assert request.messages == (Message("user", "x"), Message("assistant", "x"))


@pytest.mark.parametrize(
    "cell",
    [orjson.dumps(TURNS).decode(), orjson.dumps(TURNS), TURNS],
    ids=["json", "bytes", "list"],
)
def test_a_conversation_from_a_cell(cell: object) -> None:
    request = request_of({"m": cell}, messages_column="m", system="s0")
    assert request.system == "s0\n\ns1"
    assert request.messages == (Message("user", "u"), Message("assistant", "Sure:"))


def turns_of(row: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    wire = render(row, messages_column="m", **request).wire
    assert wire is not None
    found: list[dict[str, Any]] = orjson.loads(wire.body)["messages"]
    return found


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_turn_between_others_stays_there_or_is_an_error(role: str) -> None:
    turns = [{"role": "user", "content": "u"}, {"role": role, "content": "s"}]
    assert turns_of({"m": turns}, format="chat") == turns
    error, message = error_of({"m": turns}, messages_column="m")
    assert error == "invalid_messages"
    assert message.startswith("message 2: the messages format has the system prompt at the beg")
    with pytest.raises(JobError, match="turn 2: the messages format has the system prompt at the"):
        make_job(messages=turns)
    [rendered] = Renderer(make_job(messages=turns, format="chat"), []).render([Item(0, "1", {})])
    assert rendered.wire is not None
    assert orjson.loads(rendered.wire.body)["messages"] == turns


def test_a_developer_turn_is_the_system_prompt_of_messages() -> None:
    turns = [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}]
    assert turns_of({"m": turns}, format="chat", system="s") == [
        {"role": "system", "content": "s"},
        *turns,
    ]
    wire = render({"m": turns}, messages_column="m", system="s").wire
    assert wire is not None
    assert orjson.loads(wire.body)["system"] == "s\n\nd"


def test_marks_for_the_cache_stand_where_the_job_has_them() -> None:
    mark = {"type": "ephemeral"}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    wire = render(
        {"a": "x"},
        system=[{"text": "long", "cache": "1h"}, "short"],
        messages=[
            {"role": "user", "content": "{{ a }}", "cache": True},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        tools=[{**tool, "cache": True}, {"type": "mcp_toolset", "mcp_server_name": "m"}],
    ).wire
    assert wire is not None
    body = orjson.loads(wire.body)
    assert body["system"] == [
        {"type": "text", "text": "long", "cache_control": {**mark, "ttl": "1h"}},
        {"type": "text", "text": "short"},
    ]
    assert body["messages"][0]["content"] == [{"type": "text", "text": "x", "cache_control": mark}]
    assert body["messages"][2]["content"] == "c"
    assert body["tools"] == [
        {**tool, "cache_control": mark},
        {"type": "mcp_toolset", "mcp_server_name": "m"},
    ]
    with pytest.raises(JobError, match="turn 1: the chat format cannot mark what to cache"):
        make_job(format="chat", messages=[{"role": "user", "content": "c", "cache": True}])


SCHEMA = {
    "type": "object",
    "properties": {"q": {"type": "string"}},
    "required": ["q"],
    "additionalProperties": False,
}
CLAUDE_TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
}


@pytest.mark.parametrize(
    "tool", [CLAUDE_TOOL, CHAT_TOOL, {"type": "custom", **CLAUDE_TOOL}], ids=["a", "b", "custom"]
)
def test_a_tool_in_either_shape_is_written_in_that_of_the_format(tool: dict[str, Any]) -> None:
    for wire_format, written in (("messages", CLAUDE_TOOL), ("chat", CHAT_TOOL)):
        wire = render({"a": "x"}, format=wire_format, tools=[tool], tool_choice="f").wire
        assert wire is not None
        assert orjson.loads(wire.body)["tools"] == [written]


def test_tools_of_a_vendors_own_pass_unchanged() -> None:
    own = {"type": "web_search", "filters": {"domains": ["example.com"]}}
    wire = render({"a": "x"}, format="chat", tools=[own]).wire
    assert wire is not None
    assert orjson.loads(wire.body)["tools"] == [own]
    with pytest.raises(JobError, match="tools with this type are the vendor's own"):
        make_job(format="chat", tools=[{"type": "bash_20250124", "name": "bash"}])


@pytest.mark.parametrize("strict", [True, False])
def test_the_schema_of_answers_need_not_be_enforced(strict: bool) -> None:
    wire = render({"a": "x"}, format="chat", json_schema=SCHEMA, strict=strict).wire
    assert wire is not None
    assert orjson.loads(wire.body)["response_format"]["json_schema"]["strict"] is strict
    with pytest.raises(JobError, match="strict: needs a json_schema"):
        make_job(format="chat", strict=True)


def test_blocks_are_passed_on_without_the_nulls_of_typed_columns(tmp_path: Path) -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    turns = [{"role": "user", "content": blocks}]
    pl.DataFrame({"m": [turns]}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_bytes(orjson.dumps({"m": turns}))
    for name in ("x.parquet", "x.jsonl"):
        source = Source(InputConfig(str(tmp_path / name)))
        renderer = Renderer(make_job(messages_column="m"), source.columns)
        [items] = source.items(renderer.columns, 10)
        [rendered] = renderer.render(items)
        assert rendered.request is not None
        image = {"type": "base64", "media_type": "image/png", "data": "AA=="}
        written = [blocks[0], {"type": "image", "source": image}]
        assert rendered.request.messages == (Message("user", written),)


def test_a_conversation_may_mix_texts_and_blocks(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"text": "kind."}]},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "there"}]},
    ]
    (tmp_path / "x.jsonl").write_bytes(orjson.dumps({"messages": turns}))
    source = Source(InputConfig(str(tmp_path / "x.jsonl")))
    [items] = source.items(["messages"], 10)
    [rendered] = Renderer(make_job(messages_column="messages"), source.columns).render(items)
    assert rendered.request is not None
    assert rendered.request.system == "Be kind."
    assert [message.content for message in rendered.request.messages] == [
        "Hi",
        [{"type": "text", "text": "there"}],
    ]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("not json", "m: is not JSON"),
        (b"\xff", "m: is not JSON"),
        ("[" * 5_000, "m: is not JSON"),
        ("", "m: is not JSON"),
        (None, "m: must be a list of messages, not None"),
        ("{}", "m: must be a list of messages, not {}"),
        ("[]", "m: must be a list of messages, not []"),
        (5, "m: must be a list of messages, not 5"),
        (["x"], "m, message 1: must be an object, not 'x'"),
        ([{"role": "bot", "content": "x"}], "m, message 1: role must be"),
        ([{"role": None, "content": "x"}], "m, message 1: role must be"),
        ([{"role": ["user"], "content": "x"}], "m, message 1: role must be"),
        ([{"content": "x"}], "m, message 1: role must be"),
        ([*TURNS, {"role": "user"}], "m, message 4: content must be text or blocks, not None"),
        ([{"role": "user", "content": 5}], "m, message 1: content must be text or blocks"),
        ([{"role": "user", "content": []}], "m, message 1: content must be text or blocks"),
        ([{"role": "user", "content": ["x"]}], "m, message 1: content must be text or blocks"),
        (
            [{"role": "user", "content": "x", "weight": 1}],
            "m, message 1: can have role, content, name, tool_calls, tool_call_id only, not weight",
        ),
        (
            [{"role": "system", "content": [{"type": "image"}]}, *TURNS],
            "a system message can hold text only",
        ),
    ],
    ids=[
        "text",
        "bytes",
        "deep",
        "empty",
        "null",
        "object",
        "empty-list",
        "number",
        "text-turn",
        "role",
        "null-role",
        "list-role",
        "no-role",
        "no-content",
        "number-content",
        "empty-blocks",
        "text-block",
        "more-keys",
        "system-image",
    ],
)
def test_a_cell_that_is_no_conversation(cell: object, reason: str) -> None:
    error_type, message = error_of({"m": cell}, messages_column="m")
    assert error_type == "invalid_messages"
    assert message.startswith(reason)


def test_keys_that_are_null_are_as_good_as_absent() -> None:
    cell = '[{"role": "user", "content": "x", "name": null}]'
    assert request_of({"m": cell}, messages_column="m").messages == (Message("user", "x"),)


@pytest.mark.parametrize(
    ("keys", "row", "reason"),
    [
        ({"prompt": "{{ a }}"}, {"a": " \n"}, "the user message is empty"),
        ({"prompt": "{% if a %}x{% endif %}"}, {"a": ""}, "the user message is empty"),
        (
            {"messages_column": "m"},
            {"m": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            "the assistant message is empty",
        ),
        (
            {"messages_column": "m"},
            {"m": [{"role": "system", "content": "a"}]},
            "the conversation has no user message",
        ),
        (
            {"messages_column": "m"},
            {"m": [{"role": "assistant", "content": "a"}]},
            "the conversation has no user message",
        ),
    ],
    ids=["blank", "guarded", "assistant", "system-only", "assistant-only"],
)
def test_a_conversation_that_says_nothing_is_not_sent(
    keys: dict[str, Any], row: dict[str, Any], reason: str
) -> None:
    assert error_of(row, **keys) == ("empty_prompt", reason)


_CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=10,
)
_ROLES = st.sampled_from(["user", "system", "assistant"])


@settings(max_examples=40, deadline=None)
@given(_CELLS | st.lists(st.fixed_dictionaries({"role": _ROLES, "content": _CELLS}), max_size=3))
def test_any_cell_is_a_conversation_or_an_error_of_its_row(cell: object) -> None:
    for value in (cell, json.dumps(cell)):
        rendered = render({"m": value}, messages_column="m")
        assert rendered.request or rendered.error_type in {
            "invalid_messages",
            "empty_prompt",
            "invalid_text",
        }
