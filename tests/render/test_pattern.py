"""Requests made from one request with places for texts equal those that are built one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.job import Job
from batchrun.records import Item, RenderedItem
from batchrun.render import Renderer
from batchrun.render.template import Text

CACHED = {"type": "text", "text": "Rules of {{ a }}.", "cache_control": {"type": "ephemeral"}}
JOBS: dict[str, dict[str, Any]] = {
    "one text": {"prompt": "{{ a }}"},
    "several": {"prompt": "A: {{ a }} 100 %\nB: {{ b }}, %s {{ a }}", "system": "About {{ b }}."},
    "constant": {"prompt": "Say something.", "samples": 2},
    "system last in the body": {"prompt": "{{ b }}", "system": "{{ a }}", "format": "chat"},
    "cached system": {"prompt": "{{ a }}", "system": "{{ b }}", "cache_system": "1h"},
    "cached block": {"prompt": "{{ b }}", "system": [CACHED]},
    "several blocks": {"prompt": "{{ b }}", "system": [{"type": "text", "text": "x"}, CACHED]},
    "conversation": {
        "messages": [
            {"role": "system", "content": "{{ b }} first"},
            {"role": "user", "content": "{{ a }}"},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "{{ b }} {{ a }}"},
            {"role": "assistant", "content": "{"},
        ],
        "system": "Be brief, {{ a }}.",
    },
    "cached turn": {
        "messages": [
            {"role": "user", "content": "{{ a }}", "cache": "5m"},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "{{ b }}"},
        ],
    },
    "system turn in the middle": {
        "format": "chat",
        "messages": [
            {"role": "developer", "content": "{{ a }}"},
            {"role": "user", "content": "{{ b }}"},
            {"role": "system", "content": "Now answer {{ a }}."},
        ],
    },
    "streamed": {"prompt": "{{ a }}", "stream": True, "extra_body": {"x": {"y": [1]}}},
    "streamed chat": {"prompt": "{{ a }}", "stream": True, "format": "chat", "seed": 7},
    "by a filter": {"prompt": "{{ a | upper }} {% if b %}{{ b }}{% endif %}"},
    "whole row": {"prompt": "{{ row.a }} {{ row['b'] }}"},
    "header": {"prompt": "{{ a }}", "extra_headers": {"x-team": "t"}},
}
CELLS = (
    st.text(max_size=20)
    | st.sampled_from(['"', "\\", "", " \n", "<>", "\ud800", "%s", "{{ a }}", "\0", "é\u2028"])
    | st.none()
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.lists(st.integers(), max_size=2)
)


def render(row: dict[str, Any], **request: Any) -> RenderedItem:
    keys = {"model": "m", "max_tokens": 10, **request}
    document = {"input": {"path": "rows.csv"}, "request": keys}
    job = Job.from_document(document, Path("/srv"))
    [rendered] = Renderer(job, list(row)).render([Item(4, "id-5", row)])
    return rendered


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@settings(max_examples=25, deadline=None)
@given(a=CELLS, b=CELLS)
def test_a_request_is_the_same_however_it_is_made(
    job: dict[str, Any], a: object, b: object
) -> None:
    # A parameter from a column, whose cell is empty, makes every request be built separately.
    row = {"a": a, "b": b, "temperature": None}
    separate = render(row, **job, from_columns=["temperature"])
    assert render(row, **job) == separate


@settings(max_examples=100, deadline=None)
@given(a=CELLS, b=CELLS)
def test_columns_are_inserted_as_jinja_inserts_them(a: object, b: object) -> None:
    def said(template: str) -> str:
        try:
            return Text("prompt", template).text({"a": a, "b": b})
        except Exception as error:  # noqa: BLE001 - compared below
            return repr(error)

    template = "{{ a }} 5 % of {{ b -}}  \n{# no text #}."
    assert said(template) == said(template + "{% if false %}{% endif %}")


def test_an_integer_that_python_does_not_write_is_an_error_of_its_row() -> None:
    rendered = render({"a": 10**5000}, prompt="{{ a }}")
    assert rendered.error_type == "template_error"
    rendered = render({"a": 10**30}, prompt="{{ a }}")
    assert rendered.wire is not None
    assert str(10**30).encode() in rendered.wire.body
