"""Structured output: asked for in either format, checked when it arrives, asked for again if wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.dispatch.review import SchemaReview, schema_problem
from batchrun.job import Job
from batchrun.records import Completion, Ending, Usage
from tests.conftest import batchrun
from tests.support.answering import body, refusal
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["good", "bad"]},
        "scores": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["label"],
    "additionalProperties": False,
}
AS_TOML = (
    'json_schema = { type = "object", required = ["label"], '
    'properties = { label = { enum = ["good", "bad"] } } }'
)


def completion(*texts: str, **changes: Any) -> Completion:
    return Completion(
        texts, changes.pop("stop_reason", "end_turn"), "m", "id", Usage(1, 1), **changes
    )


def test_each_format_has_its_own_way_to_ask() -> None:
    native = {"type": "json_schema", "schema": SCHEMA}
    assert body("messages", json_schema=SCHEMA)["output_config"] == {"format": native}
    gateway = "http://127.0.0.1:1"
    assert body("chat", json_schema=SCHEMA, base_url=gateway)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert body("chat", json_schema=True)["response_format"] == {"type": "json_object"}


def test_a_tool_that_must_be_called_can_stand_for_it() -> None:
    found = body("messages", json_schema=SCHEMA, json_schema_as="tool")
    assert found["tool_choice"] == {"type": "tool", "name": "answer"}
    assert found["tools"][0]["input_schema"] == SCHEMA
    assert "output_config" not in found
    found = body("chat", json_schema=SCHEMA, json_schema_as="tool")
    assert found["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
    assert found["tools"][0]["function"]["parameters"] == SCHEMA
    assert "response_format" not in found


def test_combinations_that_cannot_be() -> None:
    assert 'format = "chat"' in refusal("messages", json_schema=True)
    assert "as a table" in refusal("messages", json_schema="x")
    assert '"native" or "tool"' in refusal("chat", json_schema=SCHEMA, json_schema_as="x")
    message = refusal("messages", json_schema=SCHEMA, json_schema_as="tool", thinking_tokens=9)
    assert "cannot be combined with thinking_tokens" in message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nope"},
        {"properties": 5},
        {"$ref": "https://127.0.0.1:1/schema.json"},
        {"$ref": "file:///etc/hostname"},
    ],
)
def test_a_schema_that_is_none_or_points_elsewhere(schema: dict[str, Any]) -> None:
    assert schema_problem(schema) is not None


def test_references_within_the_schema_are_followed() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}
    assert schema_problem(schema) is None
    assert SchemaReview(schema, as_tool=False)(completion("5"))[1] is None
    assert SchemaReview(schema, as_tool=False)(completion('"x"'))[1] is not None


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (['{"label": "good", "scores": [1, 2]}'], None),
        (['{"label": "good"}', '{"label": "bad"}'], None),
        (['{"label": "fine"}'], "answer.label: "),
        (['{"label": "good", "scores": [1, "x"]}'], "answer.scores[1]: "),
        (['{"label": "good"}', "{}"], "answer: "),
        (["Sure! Here it is"], "is not JSON: Sure!"),
        ([""], "is not JSON"),
    ],
)
def test_an_answer_is_judged_by_the_path_that_fails(texts: list[str], problem: str | None) -> None:
    _, found = SchemaReview(SCHEMA, as_tool=False)(completion(*texts))
    assert (found is None) == (problem is None)
    assert (problem or "") in (found.message if found else "")


def test_a_cut_answer_names_the_way_out() -> None:
    cut = completion('{"label": "go', ending=Ending.LENGTH)
    assert "max_tokens is too low" in str(SchemaReview(SCHEMA, as_tool=False)(cut)[1])


def test_the_answer_is_taken_out_of_its_tool() -> None:
    calls = json.dumps([{"id": "c", "name": "answer", "input": {"label": "bad"}}])
    found, problem = SchemaReview(SCHEMA, as_tool=True)(completion("", tool_calls=calls))
    assert problem is None
    assert found.texts == ('{"label":"bad"}',)
    assert found.tool_calls is None


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_an_answer_that_is_wrong_is_asked_for_again(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    def decide(call: Call) -> Reply:
        stubborn = call.prompt == "Say text 3"
        return answer(call, '{"label": "good"}' if call.seen and not stubborn else "Well, good.")

    with serving(decide) as provider:
        extra = "[retry]\nmax_attempts = 3"
        job = write_job(provider.url, rows=5, wire_format=wire_format, request=AS_TOML, extra=extra)
        code, _, stderr = batchrun("run", job)
        assert code == 3, stderr
        assert len(provider.calls) == 4 * 2 + 3
        assert batchrun("run", job)[0] == 3
        assert len(provider.calls) == 4 * 2 + 3, "what was paid for three times is left alone"
    found = results()
    assert found["status"].to_list() == ["succeeded"] * 3 + ["errored", "succeeded"]
    wrong = found.row(3, named=True)
    assert wrong["error_type"] == "invalid_answer"
    assert wrong["response"] == "Well, good."
    assert wrong["attempts"] == 3
    # Every attempt was paid for, and the row says so.
    assert wrong["cost_usd"] == pytest.approx(3 * 46e-6)
    assert wrong["output_tokens"] == 21
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage["cost_usd"].sum() == pytest.approx(found["cost_usd"].sum())
    assert usage.filter(error_type="invalid_answer").height == 4 + 3


def test_a_schema_that_is_none_is_an_error_before_anything_is_sent(
    write_job: Callable[..., Path],
) -> None:
    with serving() as provider:
        job = write_job(provider.url, request='json_schema = { type = "nope" }')
        code, _, stderr = batchrun("run", job)
    assert code == 2
    assert "[request] json_schema: not a valid JSON schema" in stderr
    assert provider.calls == []


def test_a_job_with_a_schema_can_be_rebuilt_from_what_a_run_keeps(
    write_job: Callable[..., Path],
) -> None:
    job = Job.load(write_job("http://127.0.0.1:1", request=AS_TOML))
    assert Job.from_document(job.document, job.base).request == job.request


# Properties as columns


UNNEST_SCHEMA = """json_schema = { type = "object", required = ["label"], properties = { \
label = { type = "string" }, count = { type = ["integer", "null"] }, share = { type = "number" }, \
sure = { type = "boolean" }, tags = { type = "array", items = { type = "string" } }, \
more = { type = "object" }, status = { type = "string" } } }"""


def test_properties_become_typed_columns(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    answers = [
        {"label": "a", "count": 3, "share": 0.5, "sure": True, "tags": ["x"], "status": "new"},
        {"label": "b", "count": None, "share": 1, "more": {"k": [1]}, "tags": []},
    ]

    def decide(call: Call) -> Reply:
        number = int(call.prompt.rsplit(" ", 1)[1])
        return answer(call, json.dumps(answers[number]) if number < 2 else "no JSON")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=3, request=UNNEST_SCHEMA, extra="unnest = true")
        job.write_text(job.read_text() + '\nprefix = "llm_"\n[retry]\nmax_attempts = 1\n')
        assert batchrun("run", job)[0] == 3
    found = results()
    assert found.schema["count"] == pl.Int64
    assert found.schema["share"] == pl.Float64
    assert found.schema["tags"] == pl.List(pl.String)
    assert found["label"].to_list() == ["a", "b", None]
    assert found["count"].to_list() == [3, None, None]
    assert found["share"].to_list() == [0.5, 1.0, None]
    assert found["sure"].to_list() == [True, None, None]
    assert found["tags"].to_list() == [["x"], [], None]
    assert found["more"].to_list() == [None, '{"k":[1]}', None]
    # `status` is a column of ours, so the property of that name stands beside it.
    assert found["status"].to_list() == ["succeeded", "succeeded", "errored"]
    assert found["llm_status"].to_list() == ["new", None, None]
    assert batchrun("export", job.parent / "out")[0] == 0
    assert results().equals(found)


def test_unnesting_needs_a_schema_and_names_that_are_free(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:1", extra="unnest = true")
    code, _, stderr = batchrun("run", job)
    assert code == 2
    assert "[output] unnest: needs a [request] json_schema" in stderr
    code, _, stderr = batchrun(
        "run", write_job("http://127.0.0.1:1", request=UNNEST_SCHEMA, extra="unnest = true")
    )
    assert code == 2
    assert "writes too: status" in stderr
