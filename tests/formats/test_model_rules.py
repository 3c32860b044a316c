"""Parameters that models accept or refuse, and how an effort is written for each of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import Job, preview, request_hints
from batchrun.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path


def job(folder: Path, **request: Any) -> Job:
    (folder / "t.csv").write_text("q\nhello\n")
    keys = {"prompt": "{{ q }}", "max_tokens": 4_000, "model": "m", **request}
    given = {key: value for key, value in keys.items() if value is not None}
    return Job.from_document({"input": {"path": "t.csv"}, "request": given}, folder)


def body(folder: Path, **request: Any) -> dict[str, Any]:
    [line] = preview(job(folder, **request), 1)
    found: dict[str, Any] = json.loads(line)
    assert "body" in found, found
    return dict(found["body"])


# Models of OpenAI's that reason


@pytest.mark.parametrize(
    ("model", "effort", "is_sampled"),
    [
        ("o3", None, False),
        ("o4-mini-2025-04-16", None, False),
        ("gpt-5", None, False),
        ("gpt-5-mini", "low", False),
        ("gpt-6-sol", None, False),
        ("gpt-5.1", None, True),
        ("gpt-5.2-2025-12-11", "none", True),
        ("gpt-5.2", "low", False),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "azure"])
def test_models_that_reason_take_other_parameters(
    tmp_path: Path, model: str, effort: str | None, is_sampled: bool, provider: str
) -> None:
    keys = {} if effort is None else {"effort": effort}
    if provider == "azure":
        keys["base_url"] = "https://res.openai.azure.com"
    asked = {"temperature": 0.0, "top_p": 0.9, "seed": 7}
    found = body(tmp_path, provider=provider, format="chat", model=model, **asked, **keys)
    assert found["max_completion_tokens"] == 4_000
    assert "max_tokens" not in found
    assert found["seed"] == 7
    assert ("temperature" in found, "top_p" in found) == (is_sampled, is_sampled)
    assert found.get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-4o-mini"), ("openrouter", "openai/gpt-5"), ("vllm", "o3")],
)
def test_other_models_and_servers_take_the_usual_ones(
    tmp_path: Path, provider: str, model: str
) -> None:
    found = body(tmp_path, provider=provider, model=model, format="chat", temperature=0.0)
    assert (found["max_tokens"], found["temperature"]) == (4_000, 0.0)


def test_the_job_has_the_last_word_on_max_tokens(tmp_path: Path) -> None:
    found = body(tmp_path, provider="openai", model="o3", max_tokens_key="max_tokens")
    assert found["max_tokens"] == 4_000


def test_what_is_not_sent_is_said(tmp_path: Path) -> None:
    asked = job(tmp_path, provider="openai", model="gpt-5", temperature=0.5, top_p=0.5)
    [hint] = request_hints(asked)
    assert hint == ("[request] temperature, top_p: not sent, because gpt-5 does not accept them")
    assert request_hints(job(tmp_path, provider="openai", model="gpt-4o", temperature=0.5)) == []


def test_the_models_of_rows_have_rules_of_their_own(tmp_path: Path) -> None:
    asked = job(tmp_path, provider="openai", model="{{ q }}", temperature=0.5)
    (tmp_path / "t.csv").write_text("q\ngpt-4o\no3\n")
    usual, thinking = (json.loads(line)["body"] for line in preview(asked, 2))
    assert (usual["max_tokens"], usual["temperature"]) == (4_000, 0.5)
    assert "max_completion_tokens" in thinking
    assert "temperature" not in thinking


# Claude


@pytest.mark.parametrize(
    "model",
    ["claude-opus-4-7", "anthropic.claude-opus-4-8-v1", "claude-sonnet-5", "claude-fable-5"],
)
def test_newer_claude_models_have_no_sampling_parameters(tmp_path: Path, model: str) -> None:
    found = body(tmp_path, model=model, temperature=0.5, top_k=3)
    assert not {"temperature", "top_k"} & found.keys()


def test_nor_has_the_newest_version_of_the_api(tmp_path: Path) -> None:
    model = "claude-haiku-4-5-20251001"
    found = body(tmp_path, model=model, temperature=0.5, api_version="2026-10-21")
    assert "temperature" not in found
    assert body(tmp_path, model=model, temperature=0.5)["temperature"] == 0.5


@pytest.mark.parametrize(
    "model", ["claude-opus-4-5-20251101", "claude-sonnet-4-6", "claude-opus-5-5", "glm-4.6", "m"]
)
def test_an_effort_is_a_key_of_output_config(tmp_path: Path, model: str) -> None:
    schema = {"type": "object", "additionalProperties": False}
    found = body(tmp_path, model=model, effort="low", json_schema=schema)
    assert found["output_config"] == {
        "format": {"type": "json_schema", "schema": schema},
        "effort": "low",
    }
    assert "thinking" not in found


@pytest.mark.parametrize(
    ("model", "effort", "max_tokens", "budget"),
    [
        ("claude-haiku-4-5-20251001", "low", 10_000, 2_000),
        ("claude-sonnet-4-5-20250929", "medium", 10_000, 5_000),
        ("claude-3-7-sonnet-20250219", "high", 10_000, 8_000),
        ("anthropic/claude-opus-4.1", "minimal", 4_000, 1_024),
        ("claude-sonnet-4-20250514", "max", 60_000, 32_000),
    ],
)
def test_in_older_models_an_effort_is_a_thinking_budget(
    tmp_path: Path, model: str, effort: str, max_tokens: int, budget: int
) -> None:
    found = body(tmp_path, model=model, effort=effort, max_tokens=max_tokens)
    assert found["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert "output_config" not in found


def test_an_effort_is_one_of_the_formats_words(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"effort: must be one of none, minimal, .*, not 'huge'"):
        job(tmp_path, format="chat", effort="huge")
    with pytest.raises(JobError, match="effort: must be one of minimal, low"):
        job(tmp_path, format="messages", effort="none")


# What is certain to be refused is an error at load.

HAIKU = "claude-haiku-4-5-20251001"
TOOL = {"name": "f", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, "top_p: cannot be combined with temperature"),
        ({"thinking_tokens": 500}, "thinking_tokens: must be at least 1024"),
        ({"thinking_tokens": 4_000}, "thinking_tokens: must be below max_tokens, which is 4000"),
        ({"thinking_tokens": 2_000, "temperature": 0.5}, "temperature: cannot be combined with"),
        ({"thinking_tokens": 2_000, "top_k": 5}, "top_k: cannot be combined with thinking"),
        (
            {"thinking_tokens": 2_000, "tools": [TOOL], "tool_choice": "f"},
            "tool_choice: cannot be combined with thinking",
        ),
        (
            {
                "thinking_tokens": 2_000,
                "prompt": None,
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ],
            },
            "messages: cannot be combined with thinking",
        ),
        ({"effort": "low", "temperature": 0.5}, "temperature: cannot be combined with"),
        ({"effort": "low", "thinking_tokens": 2_000}, "effort: cannot be combined with thinking"),
        ({"effort": "low", "max_tokens": 1_000}, "effort: needs max_tokens above 1,024"),
        ({"effort": "low", "model": "claude-3-haiku-20240307"}, "effort: claude-3-haiku"),
        (
            {"thinking_tokens": 2_000, "model": "claude-opus-4-7"},
            "thinking_tokens: claude-opus-4-7 takes no budget; use effort",
        ),
        ({"stop": [" \n"]}, "stop: a stop sequence of white space only is refused"),
        (
            {
                "prompt": None,
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "Answer: "},
                ],
            },
            "messages: turn 2, the beginning of the answer, ends in white space",
        ),
        (
            {
                "model": "claude-opus-4-6",
                "prompt": None,
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "{"},
                ],
            },
            "messages: claude-opus-4-6 does not accept the beginning of the answer",
        ),
        ({"system": " ", "cache_system": True}, "cache_system: the system prompt is empty"),
    ],
)
def test_requests_that_are_certain_to_be_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError) as caught:
        job(tmp_path, **{"model": HAIKU, **keys})
    assert f"[request] {message}" in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"temperature": 0.5, "top_p": 0.9, "model": "claude-opus-4-20250514"},
        {"thinking_tokens": 2_000, "temperature": 1.0},
        {"format": "chat", "stop": ["\n"]},
    ],
)
def test_what_is_accepted_is_not_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert body(tmp_path, **{"model": HAIKU, **keys})


def test_a_row_that_is_certain_to_be_refused_is_errored(tmp_path: Path) -> None:
    asked = job(tmp_path, model="{{ q }}", temperature=0.5, top_p=0.9)
    (tmp_path / "t.csv").write_text(f"q\nclaude-opus-4-20250514\n{HAIKU}\n")
    accepted, refused = (json.loads(line) for line in preview(asked, 2))
    assert "body" in accepted
    assert refused["error_type"] == "invalid_parameter"
    assert "top_p: cannot be combined with temperature" in refused["error_message"]


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_conversations_of_rows_may_end_with_an_answer_only_where_the_model_takes_that(
    tmp_path: Path, wire_format: str
) -> None:
    asked = job(tmp_path, prompt=None, messages_column="m", model="{{ model }}", format=wire_format)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"model": "claude-opus-4-5", "m": turns},
        {"model": "anthropic/claude-opus-4.6", "m": turns},
        {"model": "claude-sonnet-5", "m": turns[:1]},
    ]
    (tmp_path / "t.csv").unlink()
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = Job.from_document(
        {**asked.document, "input": {"path": "t.jsonl"}, "name": "j"}, tmp_path
    )
    accepted, refused, plain = (json.loads(line) for line in preview(asked, 3))
    assert "body" in accepted
    assert refused["error_type"] == "invalid_parameter"
    assert "claude-opus-4.6 does not accept the beginning" in refused["error_message"]
    assert "body" in plain
