"""The job file: what is read, what is refused, and how the refusal names the way out."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job import Job, LimitsConfig, PriceConfig, RetryConfig, apply_overrides, parse_setting
from tests.support.jobs import BASE, document, make, refusal

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, text: str, name: str = "job.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = """
[input]
path = "rows.csv"
[request]
model = "m"
prompt = "p"
max_tokens = 10
"""


# what is read


def test_every_supported_key() -> None:
    job = Job.from_document(
        {
            "name": "nightly",
            "input": {"path": "in/*.csv", "id": "key", "limit": 7},
            "request": {
                "format": "chat",
                "base_url": "https://gateway.example.com/v1",
                "api_key_env": "GATEWAY_KEY",
                "model": "m",
                "system": "s",
                "prompt": "{{ a }}",
                "max_tokens": 5,
                "temperature": 1,
                "top_p": 0.5,
                "stop": ["x", "y"],
                "n": 2,
                "seed": -1,
                "presence_penalty": -2,
                "frequency_penalty": 2,
                "user": "u",
                "service_tier": "flex",
                "extra_body": {"logit_bias": {"5": 1}},
                "extra_headers": {"X-Team": "night"},
            },
            "limits": {
                "concurrency": 3,
                "requests_per_minute": 10,
                "tokens_per_minute": 20,
                "input_tokens_per_minute": 30,
                "output_tokens_per_minute": 40,
                "max_errors": 5,
            },
            "retry": {"max_attempts": 2, "max_wait_s": 30, "timeout_s": 20},
            "output": {"dir": "out", "files": ["a.csv", "b.jsonl"], "prefix": "llm_"},
        },
        BASE,
    )
    assert job.name == "nightly"
    assert (job.input.path, job.input.id, job.input.limit) == (
        "/srv/project/in/*.csv",
        "key",
        7,
    )
    request = job.request
    assert (request.format, request.base_url) == ("chat", "https://gateway.example.com")
    assert (request.api_key_env, request.model) == ("GATEWAY_KEY", "m")
    assert request.system == (("s", {}),)
    assert request.turns == (("user", "{{ a }}"),)
    assert request.parameters == {
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 0.5,
        "stop": ("x", "y"),
        "n": 2,
        "seed": -1,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "user": "u",
        "service_tier": "flex",
    }
    assert request.extra_body == {"logit_bias": {"5": 1}}
    assert request.extra_headers == (("x-team", "night"),)
    assert job.limits == LimitsConfig(3, 10.0, 20.0, 30.0, 40.0, 5.0)
    assert job.retry == RetryConfig(2, 30.0, 20.0)
    assert job.output.dir == BASE / "out"
    assert (job.output.files, job.output.prefix) == (("a.csv", "b.jsonl"), "llm_")


def test_keys_of_the_messages_format() -> None:
    request = make(request={"top_k": 5, "api_version": "2023-06-01"}).request
    assert (request.parameters["top_k"], request.api_version) == (5, "2023-06-01")


def test_flex_requests_have_more_time_unless_the_job_says_otherwise() -> None:
    flex = {"service_tier": "flex"}
    assert make(request=flex).retry == RetryConfig(6, 3600.0, 900.0)
    assert make(request=flex, retry={"timeout_s": 30}).retry == RetryConfig(6, 3600.0, 30.0)


def test_defaults() -> None:
    job = make()
    assert job.name == "job"
    assert (job.input.id, job.input.limit) == (None, None)
    assert job.limits == LimitsConfig()
    assert (job.limits.concurrency, job.limits.max_errors) == (None, 0.5)
    assert job.retry == RetryConfig(6, 600.0, 600.0)
    assert (job.output.files, job.output.prefix) == (("results.parquet",), "")
    assert (job.request.system, job.request.extra_headers) == ((), ())


@pytest.mark.parametrize(
    ("wire_format", "base_url", "variable"),
    [
        ("messages", "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
        ("chat", "https://api.openai.com", "OPENAI_API_KEY"),
    ],
)
def test_defaults_of_a_format(wire_format: str, base_url: str, variable: str) -> None:
    request = make(request={"format": wire_format}).request
    assert (request.base_url, request.api_key_env) == (base_url, variable)


def test_the_messages_format_is_the_default() -> None:
    assert make().request.format == "messages"


def test_the_provider_is_the_host_unless_it_has_a_name() -> None:
    keys = {"base_url": "http://127.0.0.1:8001/v1"}
    assert make(request=keys).request.provider_name == "localhost"
    assert make(request={**keys, "provider": " OpenRouter "}).request.provider_name == "openrouter"


@pytest.mark.parametrize("provider", ["", "  ", "a\nb", "x" * 101])
def test_a_provider_needs_a_name(provider: str) -> None:
    assert "[request] provider: must be the name of the provider" in refusal(
        request={"provider": provider}
    )


def test_an_empty_key_variable_means_no_key() -> None:
    assert make(request={"api_key_env": ""}).request.api_key_env == ""


def test_chat_needs_no_max_tokens() -> None:
    request = make(request={"format": "chat", "max_tokens": None}).request
    assert "max_tokens" not in request.parameters


def test_templates_stay_templates_in_parameters() -> None:
    parameters = make(request={"temperature": "{{ t }}", "stop": "{% if a %}x{% endif %}"})
    assert parameters.request.parameters["temperature"] == "{{ t }}"
    assert parameters.request.parameters["stop"] == "{% if a %}x{% endif %}"


def test_a_single_stop_text_is_an_array_of_one() -> None:
    assert make(request={"stop": "{"}).request.parameters["stop"] == ("{",)


def test_messages_become_turns() -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    request = make(request={"prompt": None, "messages": turns}).request
    assert request.turns == (("system", "a"), ("user", "b"))


def test_dates_in_the_extra_body_become_the_text_that_is_sent() -> None:
    extra = {"until": dt.date(2025, 1, 31)}
    assert make(request={"extra_body": extra}).request.extra_body == {"until": "2025-01-31"}


# problems


@pytest.mark.parametrize(
    ("sections", "label", "hint"),
    [
        ({"limits": {"concurency": 3}}, "[limits] concurency", 'did you mean "concurrency"?'),
        ({"reqest": {}}, "reqest", 'did you mean "request"?'),
        ({"request": {"promt": "x"}}, "[request] promt", 'did you mean "prompt"?'),
        ({"input": {"path": "x", "ids": "k"}}, "[input] ids", 'did you mean "id"?'),
        ({"retry": {"timeout": 3}}, "[retry] timeout", 'did you mean "timeout_s"?'),
        ({"output": {"file": "x"}}, "[output] file", 'did you mean "files"?'),
        ({"model": "m"}, "model", "it belongs in [request]"),
        ({"request": {"concurrency": 3}}, "[request] concurrency", "it belongs in [limits]"),
        ({"request": {"xyzzy": 3}}, "[request] xyzzy", "unknown key"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_unknown_key_is_named_with_the_likely_one(
    sections: dict[str, Any], label: str, hint: str
) -> None:
    message = refusal(**sections)
    assert f"job: {label}: unknown key" in message
    assert hint in message


@pytest.mark.parametrize(
    ("sections", "label", "wanted"),
    [
        ({"name": 5}, "name", "a string"),
        ({"request": {"model": 5}}, "[request] model", "a string"),
        ({"request": {"prompt": ["p"]}}, "[request] prompt", "a string"),
        ({"request": {"model": {}}}, "[request] model", "a string"),
        ({"request": {"prompt": None, "messages": "x"}}, "[request] messages", "an array"),
        ({"request": {"extra_body": []}}, "[request] extra_body", "a table"),
        ({"request": {"allow_http": 1}}, "[request] allow_http", "true or false"),
        ({"limits": {"concurrency": "64"}}, "[limits] concurrency", 'a whole number or "auto"'),
        ({"limits": {"concurrency": 6.5}}, "[limits] concurrency", 'a whole number or "auto"'),
        ({"limits": {"concurrency": True}}, "[limits] concurrency", 'a whole number or "auto"'),
        ({"limits": {"max_errors": True}}, "[limits] max_errors", "a number"),
        ({"limits": {"requests_per_minute": "9"}}, "[limits] requests_per_minute", "a number"),
        ({"retry": {"max_attempts": 1.5}}, "[retry] max_attempts", "a whole number"),
        ({"output": {"dir": 3}}, "[output] dir", "a string"),
        ({"output": {"escape_formulas": 1}}, "[output] escape_formulas", "true or false"),
        ({"output": {"files": [3]}}, "[output] files", "a string or an array of strings"),
        ({"limits": 3}, "limits", "a table"),
        ({"input": {"path": 3}}, "[input] path", "a string"),
        ({"input": {"path": "x", "limit": "3"}}, "[input] limit", "a whole number"),
        ({"request": {"user": True}}, "[request] user", "a string"),
        ({"request": {"stop": [1]}}, "[request] stop", "a string or an array of strings"),
        ({"request": {"max_tokens": "200"}}, "[request] max_tokens", "a number or a template"),
        ({"request": {"max_tokens": 1.5}}, "[request] max_tokens", "a whole number"),
        ({"request": {"temperature": False}}, "[request] temperature", "a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_type_is_named_with_the_right_one(
    sections: dict[str, Any], label: str, wanted: str
) -> None:
    assert f"job: {label}: must be {wanted}, not " in refusal(**sections)


@pytest.mark.parametrize(
    ("sections", "label"),
    [
        ({"input": {"path": "x", "limit": 0}}, "[input] limit"),
        ({"limits": {"concurrency": 0}}, "[limits] concurrency"),
        ({"limits": {"concurrency": 100_001}}, "[limits] concurrency"),
        ({"limits": {"requests_per_minute": 0}}, "[limits] requests_per_minute"),
        ({"limits": {"tokens_per_minute": -1}}, "[limits] tokens_per_minute"),
        ({"limits": {"input_tokens_per_minute": float("inf")}}, "input_tokens_per_minute"),
        ({"limits": {"output_tokens_per_minute": float("nan")}}, "output_tokens_per_minute"),
        ({"limits": {"tokens_per_minute": 10**400}}, "[limits] tokens_per_minute"),
        ({"limits": {"tokens_per_minute": -(10**400)}}, "[limits] tokens_per_minute"),
        ({"limits": {"max_errors": 0}}, "[limits] max_errors"),
        ({"retry": {"max_attempts": 0}}, "[retry] max_attempts"),
        ({"retry": {"max_wait_s": -1}}, "[retry] max_wait_s"),
        ({"retry": {"timeout_s": 86_401}}, "[retry] timeout_s"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_number_out_of_its_range(sections: dict[str, Any], label: str) -> None:
    message = refusal(**sections)
    assert f"{label}: must be a finite number above 0" in message


def test_a_cap_on_the_cost_needs_requests_whose_cost_has_a_bound() -> None:
    capped = {"max_cost_usd": 5.0}
    job = make(limits=capped, request={"max_tokens": 10})
    assert job.limits.max_cost_usd == 5.0
    message = refusal(limits=capped, request={"format": "chat", "max_tokens": None})
    assert "[limits] max_cost_usd: needs [request] max_tokens" in message
    for key in ("n", "speed", "inference_geo", "web_search_options", "service_tier"):
        message = refusal(limits=capped, request={"extra_body": {key: 3}})
        assert f"max_cost_usd: cannot be enforced with [request] extra_body {key}" in message
    message = refusal(limits=capped, request={"tools": [{"type": "web_search_1", "name": "w"}]})
    assert "max_cost_usd: cannot be enforced with the tool web_search_1" in message
    make(limits=capped, request={"max_tokens": 1, "service_tier": "priority"})
    for wrong in (0, -1, "5", True, float("inf"), 1e9):
        assert "[limits] max_cost_usd: must be" in refusal(limits={"max_cost_usd": wrong})


def test_concurrency_may_be_left_to_the_run() -> None:
    assert make(limits={"concurrency": "auto"}).limits.concurrency is None
    assert make(limits={"concurrency": 7}).limits.concurrency == 7


def test_all_problems_are_reported_at_once() -> None:
    lines = refusal(
        input={}, request={"model": None, "temperature": 3}, limits={"x": 1}, retry=5
    ).splitlines()
    assert len(lines) == 5
    for start in (
        "job: [input] path: is missing",
        "job: [request] model: is missing",
        "job: [request] temperature: must be between 0 and 1",
        "job: [limits] x: unknown key",
        "job: retry: must be a table",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_rows_share_answers_when_asked_to() -> None:
    assert not make().request.dedupe
    assert make(request={"dedupe": True}).request.dedupe
    assert "[request] dedupe: must be true or false" in refusal(request={"dedupe": "yes"})
    message = refusal(request={"dedupe": True, "samples": 2})
    assert (
        "[request] samples: cannot be combined with dedupe, which shares one answer; remove one of them"
        in message
    )


@pytest.mark.parametrize(("value", "read"), [("auto", None), (True, True), (False, False)])
def test_streaming_can_be_chosen(value: object, read: bool | None) -> None:
    assert make(request={"stream": value}).request.stream is read


@pytest.mark.parametrize("value", ["yes", 1, 0, []])
def test_streaming_is_chosen_by_name(value: object) -> None:
    assert '[request] stream: must be true, false or "auto"' in refusal(request={"stream": value})


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "a\nb", "a\0"], ids=["folder", "up", "here", "line", "null"]
)
def test_a_name_that_cannot_name_a_folder(name: str) -> None:
    assert "job: name: must be a valid folder name" in refusal(name=name)


def test_a_missing_input_path_shows_how_to_write_it() -> None:
    assert '[input] path: is missing; name the table, such as path = "' in refusal(input={})


def test_an_input_path_of_white_space_is_missing() -> None:
    assert "[input] path: is missing" in refusal(input={"path": " "})


# formats and parameters


@pytest.mark.parametrize("key", ["n", "seed", "presence_penalty", "frequency_penalty"], ids=str)
def test_chat_parameters_in_messages_name_the_other_format(key: str) -> None:
    message = refusal(request={key: 1})
    assert (
        f'[request] {key}: the messages format has no {key}; use format = "chat" or remove it'
        in message
    )


def test_top_k_in_chat_names_both_ways_out() -> None:
    message = refusal(request={"format": "chat", "top_k": 3})
    assert '[request] top_k: the chat format has no top_k; use format = "messages"' in message
    assert "extra_body = { top_k = … }" in message


def test_the_api_version_belongs_to_the_messages_format() -> None:
    message = refusal(request={"format": "chat", "api_version": "2023-06-01"})
    assert "[request] api_version: the chat format has no api_version" in message


def test_messages_needs_max_tokens() -> None:
    message = refusal(request={"max_tokens": None})
    assert "[request] max_tokens: is required by the messages format" in message


@pytest.mark.parametrize(
    ("wire_format", "key", "good", "bad"),
    [
        ("messages", "temperature", [0, 1], [-0.1, 1.1, float("nan")]),
        ("chat", "temperature", [0, 2], [-0.1, 2.1, float("inf")]),
        ("messages", "top_p", [0, 1], [-0.1, 1.1]),
        ("chat", "top_p", [0, 1], [-0.1, 1.1]),
        ("messages", "top_k", [0, 500], [-1]),
        ("messages", "max_tokens", [1, 64_000], [0, -5, 2**63]),
        ("chat", "n", [1, 128], [0]),
        ("chat", "seed", [-(2**63) + 1, 0, 2**63 - 1], [2**63, 10**30, 1e300]),
        ("chat", "presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("chat", "frequency_penalty", [-2, 2], [-2.1, 2.1]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_ranges(wire_format: str, key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        job = make(request={"format": wire_format, key: value})
        assert job.request.parameters[key] == value
    for value in bad:
        message = refusal(request={"format": wire_format, key: value})
        assert f"[request] {key}: " in message
        assert str(value) in message


def test_large_seeds_keep_every_digit() -> None:
    seed = 2**62 + 1
    assert make(request={"format": "chat", "seed": seed}).request.parameters["seed"] == seed


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (["a", "b", "c", "d", "e"], "takes at most 4 sequences, not 5"),
        ("", "an empty stop sequence would end every answer at once"),
        (["a", ""], "an empty stop sequence would end every answer at once"),
    ],
    ids=["five", "empty", "one-empty"],
)
def test_stop_sequences(stop: object, message: str) -> None:
    assert f"[request] stop: {message}" in refusal(request={"stop": stop})


def test_an_unknown_format_names_the_two() -> None:
    message = refusal(request={"format": "message"})
    assert '[request] format: must be "messages" or "chat", not \'message\'' in message
    assert 'did you mean "messages"?' in message


@pytest.mark.parametrize(
    ("request_keys", "found"),
    [
        ({"prompt": None}, "none of them"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt and messages"),
        ({"messages_column": "m"}, "prompt and messages_column"),
    ],
    ids=["none", "messages-too", "column-too"],
)
def test_exactly_one_prompt(request_keys: dict[str, Any], found: str) -> None:
    assert f"found {found}" in refusal(request=request_keys)


@pytest.mark.parametrize("prompt", ["", " \n"], ids=["empty", "white-space"])
def test_a_prompt_that_says_nothing(prompt: str) -> None:
    assert "[request] prompt: is empty" in refusal(request={"prompt": prompt})


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], 'needs a turn with role = "user"'),
        ([{"role": "system", "content": "x"}], 'needs a turn with role = "user"'),
        (["x"], "turn 1 must be { role = …, content = … }: 'x'"),
        ([{"role": "user"}], "turn 1 must be { role = …, content = … }"),
        ([{"role": "user", "content": "x", "name": "y"}], "turn 1 must be { role"),
        (
            [{"role": "tool", "content": "x"}],
            "turn 1: role must be user, assistant, system or developer",
        ),
        ([{"role": ["user"], "content": "x"}], "turn 1: role must be user, assistant, system or"),
        ([{"role": "user", "content": 5}], "turn 1: content must be text, not 5"),
        ([{"role": "user", "content": " "}], "turn 1: content must be text, not ' '"),
    ],
    ids=[
        "empty",
        "system-only",
        "text",
        "no-content",
        "more-keys",
        "role",
        "role-list",
        "number",
        "blank",
    ],
)
def test_turns_that_are_none(turns: list[Any], message: str) -> None:
    text = refusal(request={"prompt": None, "messages": turns})
    assert f"[request] messages: {message}" in text


def test_from_columns_takes_keys_that_can_differ_by_row() -> None:
    message = refusal(request={"from_columns": ["model", "max_token", "prompt"]})
    assert "[request] from_columns: 'max_token' is not a key that can be set per row" in message
    assert 'did you mean "max_tokens"?' in message
    assert "'prompt' is not a key that can be set per row" in message


def test_model_and_max_tokens_may_come_from_columns() -> None:
    keys = {"model": None, "max_tokens": None, "from_columns": ["model", "max_tokens"]}
    request = make(request=keys).request
    assert (request.model, request.from_columns) == ("", ("model", "max_tokens"))


def test_a_blank_model_is_missing() -> None:
    assert "[request] model: is missing" in refusal(request={"model": "  "})


@pytest.mark.parametrize(
    "extra",
    [{"x": float("nan")}, {"x": [float("inf")]}, {"x": 2**70}, {"x": {1, 2}}],
    ids=["nan", "inf", "huge", "set"],
)
def test_an_extra_body_that_json_cannot_carry(extra: dict[str, Any]) -> None:
    message = refusal(request={"extra_body": extra})
    assert "[request] extra_body: cannot be written as JSON" in message


def test_streaming_has_a_key_of_its_own() -> None:
    streaming: tuple[dict[str, Any], ...] = (
        {"stream": True},
        {"stream": False},
        {"stream_options": {}},
    )
    for extra in streaming:
        message = refusal(request={"extra_body": extra})
        [key] = extra
        assert f"[request] extra_body: {key}: set [request] stream instead" in message


# addresses and headers


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com"),
        ("https://api.anthropic.com/", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com"),
        ("https://host/anthropic/v1", "https://host/anthropic"),
        ("https://host//v1", "https://host"),
        ("https://host/api/v10", "https://host/api/v10"),
        ("http://localhost:8080/v1", "http://localhost:8080"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.8.8.8", "http://127.8.8.8"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_the_part_before_v1(given_url: str, url: str) -> None:
    assert make(request={"base_url": given_url}).request.base_url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must start with https://"),
        ("api.example.com", "must start with https://"),
        ("ftp://api.example.com", "must start with https://"),
        ("https://", "must start with https://"),
        ("https:///v1", "must start with https://"),
        ("https://user:hunter2@host", "must not contain credentials"),
        ("https://hunter2@host", "must not contain credentials"),
        ("ftp://user:hunter2@host", "must not contain credentials"),
        ("https://host?key=hunter2", "must not contain credentials, and its parameter key"),
        ("https://host/?", "a query is possible only in a whole endpoint"),
        ("https://host#hunter2", "must not have a fragment"),
        ("https://host:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://ho st", "without spaces"),
        ("https://host\n", "without spaces"),
        ("https://host\\v1", "backslashes"),
        ("api.example.com", 'write "https://api.example.com"'),
        ("https://host/v1/chat/completions", 'use format = "chat"'),
        ("https://host/v1/responses", "is not an address of the messages format"),
        ("http://localhost:11434/api/chat", "is not an address of the messages format"),
        ("http://localhost:11434/api/generate", "is not an address of the messages format"),
        ("http://localhost:8080/completion", "is not an address of the messages format"),
        ("https://host/v1/v1/", "is not an address of the messages format"),
        ("http://localhost:8080/v1beta/openai/v1", "is not an address of the messages format"),
        ("https://host/v1/models/m:rawPredict", "is not an address of the messages format"),
        ("http://api.example.com", "allow it with allow_http = true"),
        ("http://192.168.0.7", "allow it with allow_http = true"),
        ("http://localhost.example.com", "allow it with allow_http = true"),
    ],
)
def test_base_urls_that_are_refused_without_showing_a_secret(url: str, message: str) -> None:
    text = refusal(request={"base_url": url})
    assert "[request] base_url: " in text
    assert message in text
    assert "hunter2" not in text


def test_plain_http_can_be_allowed() -> None:
    keys = {"base_url": "http://inner:80", "allow_http": True}
    assert make(request=keys).request.base_url == "http://inner:80"


@pytest.mark.parametrize("key", ["sk-ant-secret", "Bearer secret", "1SECRET"])
def test_a_key_in_place_of_its_variable_is_not_repeated(key: str) -> None:
    text = refusal(request={"api_key_env": key})
    assert "[request] api_key_env: must be the name of an environment variable" in text
    assert key not in text


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x y": "secret"}, "'x y' is not a valid header name"),
        ({"x:": "secret"}, "'x:' is not a valid header name"),
        ({"": "secret"}, "'' is not a valid header name"),
        ({"x\r\ny": "secret"}, "is not a valid header name"),
        ({"é": "secret"}, "is not a valid header name"),
        ({"x": "secret\r\nInjected: 1"}, "x must be one line of printable ASCII text"),
        ({"x": "sécret"}, "x must be one line of printable ASCII text"),
        ({"x": 5}, "x must be one line of printable ASCII text"),
        ({"x": "1", "X": "2"}, "X appears twice"),
        ({"Content-Length": "5"}, "Content-Length is set by batchrun"),
    ],
)
def test_headers_that_are_refused_without_showing_a_secret(
    headers: dict[str, Any], message: str
) -> None:
    text = refusal(request={"extra_headers": headers})
    assert "[request] extra_headers: " in text
    assert message in text
    assert "hunter2" not in text


def test_an_api_version_is_one_line() -> None:
    assert "anthropic-version must be one line" in refusal(request={"api_version": "a\nb"})


# outputs


@pytest.mark.parametrize(
    "file",
    [
        "../x.parquet",
        "/tmp/x.csv",
        "a/b.csv",
        "..",
        ".parquet",
        "x.txt",
        "x",
        "x.parquet.gz",
        "X.PARQUET",
        "",
        "a\0.csv",
        "a\n.csv",
        "checkpoint.db",
        "summary.json",
    ],
)
def test_file_names_that_are_none(file: str) -> None:
    assert "[output] files: " in refusal(output={"files": [file]})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["usage.parquet"], "usage.parquet is reserved for the usage table"),
        (["Usage.parquet"], "usage.parquet is reserved for the usage table"),
        (["a.csv", "a.csv"], "contains a file twice"),
        (["a.csv", "A.csv"], "contains a file twice"),
        ([], "is empty; remove it"),
    ],
    ids=["usage", "usage-case", "twice", "twice-case", "none"],
)
def test_file_names_that_collide(files: list[str], message: str) -> None:
    assert f"[output] files: {message}" in refusal(output={"files": files})


def test_a_single_file_name_is_an_array_of_one() -> None:
    assert make(output={"files": "my answers.csv"}).output.files == ("my answers.csv",)


def test_formulas_can_be_escaped_also_for_a_later_export() -> None:
    assert not make().output.escape_formulas
    assert make(output={"escape_formulas": True}).output.escape_formulas


def test_the_run_directory_of_a_job_in_the_jobs_folder(tmp_path: Path) -> None:
    job = Job.load(write(tmp_path, MINIMAL, "jobs/triage.toml"))
    assert job.output.dir == tmp_path / "runs" / "triage"


def test_the_run_directory_of_a_job_elsewhere(tmp_path: Path) -> None:
    job = Job.load(write(tmp_path, MINIMAL, "work/triage.toml"))
    assert job.output.dir == tmp_path / "work" / "runs" / "triage"


def test_the_name_in_the_file_names_the_run_directory(tmp_path: Path) -> None:
    job = Job.load(write(tmp_path, 'name = "other"\n' + MINIMAL, "jobs/triage.toml"))
    assert job.output.dir == tmp_path / "runs" / "other"


# files


def test_paths_start_at_the_job_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("rows.csv", "../data/*.csv") + '[output]\ndir = "../out"\n'
    job = Job.load(write(tmp_path, text, "jobs/x.toml"))
    assert job.input.path == str(tmp_path / "jobs" / "../data/*.csv")
    assert job.output.dir.resolve() == tmp_path / "out"


def test_absolute_paths_stay() -> None:
    assert make(input={"path": "/data/x.csv"}).input.path == "/data/x.csv"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    job = make(input={"path": "~/x.csv"}, output={"dir": "~/out"})
    assert (job.input.path, str(job.output.dir)) == (
        "/home/someone/x.csv",
        "/home/someone/out",
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [("~nobody_here/x.csv", "starts with an unknown user"), ("a\0b.csv", "null character")],
    ids=["user", "null"],
)
def test_paths_that_cannot_be(path: str, message: str) -> None:
    text = refusal(input={"path": path}, output={"dir": path}, request={"system_file": path})
    for label in ("[input] path", "[output] dir", "[request] system_file"):
        assert any(label in line and message in line for line in text.splitlines()), label


def test_texts_from_files_stand_in_the_document(tmp_path: Path) -> None:
    write(tmp_path, "Say {{ a }}\r\n", "p.md")
    (tmp_path / "s.md").write_bytes(b"\xef\xbb\xbfBe kind.")
    text = MINIMAL.replace('prompt = "p"', 'prompt_file = "p.md"\nsystem_file = "s.md"')
    job = Job.load(write(tmp_path, text))
    assert job.request.turns == (("user", "Say {{ a }}\n"),)
    assert job.request.system == (("Be kind.", {}),)
    (tmp_path / "p.md").unlink()
    assert Job.from_document(job.document, job.base) == job


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('prompt_file = "gone.md"', "[request] prompt_file: gone.md file not found"),
        ('prompt_file = "."', "[request] prompt_file: . cannot be read (not a regular file)"),
        ('prompt_file = "pipe.md"', "[request] prompt_file: pipe.md cannot be read (not a"),
        ('prompt_file = "huge.md"', "[request] prompt_file: huge.md is larger than 16 MiB"),
        ('prompt_file = "latin.md"', "[request] prompt_file: latin.md is not UTF-8 text"),
        ("prompt_file = 5", "[request] prompt_file: must be a string, not 5"),
        (
            'prompt = "p"\nprompt_file = "ok.md"',
            "[request] prompt_file: prompt is also set; remove one of them",
        ),
    ],
    ids=["missing", "folder", "pipe", "huge", "latin", "type", "both"],
)
def test_texts_that_cannot_be_read(tmp_path: Path, line: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    (tmp_path / "latin.md").write_bytes(b"\xe9")
    (tmp_path / "ok.md").write_text("p")
    path = write(tmp_path, MINIMAL.replace('prompt = "p"', line))
    with pytest.raises(JobError) as caught:
        Job.load(path)
    assert f"{path}: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[input\n", "is not valid TOML"),
        (b'a = "\xff"', "is not UTF-8 text"),
        (b"a = " + b"[" * 2_000, "is not valid TOML"),
        (b"a = " + b"1" * 5_000, "is not valid TOML"),
    ],
    ids=["syntax", "latin", "deep", "huge-number"],
)
def test_job_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(JobError) as caught:
        Job.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.toml", "file not found"), (".", "cannot be read")],
    ids=["missing", "folder"],
)
def test_job_files_that_are_not_there(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        Job.load(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_job(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert Job.load(path).name == "x"


def test_a_job_error_leaves_with_exit_code_2() -> None:
    assert JobError.exit_code == 2


# overrides


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("temperature", 0.5, ("request", "temperature")),
        ("request.temperature", 0.5, ("request", "temperature")),
        ("concurrency", 3, ("limits", "concurrency")),
        ("limit", 3, ("input", "limit")),
        ("max_attempts", 3, ("retry", "max_attempts")),
        ("files", ["x.csv"], ("output", "files")),
        ("max_cost_usd", 5, ("limits", "max_cost_usd")),
        ("allow_http", True, ("request", "allow_http")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_key_finds_its_section(key: str, value: object, place: tuple[str, str]) -> None:
    section, name = place
    assert apply_overrides(document(), {key: value})[section][name] == value


def test_the_name_is_at_the_top() -> None:
    assert apply_overrides(document(), {"name": "x"})["name"] == "x"


def test_tables_inside_a_section() -> None:
    changed = apply_overrides(document(), {"request.extra_body.top_k": 4})
    assert changed["request"]["extra_body"] == {"top_k": 4}


def test_the_document_itself_is_not_changed() -> None:
    before = document(limits={"concurrency": 1})
    apply_overrides(before, {"limits.concurrency": 2, "request.extra_body.a": 1})
    assert before == document(limits={"concurrency": 1})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("limts.concurrency", 'no section [limts] (did you mean "limits"?)'),
        ("matrx.model", 'no section [matrx] (did you mean "matrix"?)'),
        ("request.model.x", "model is not a table"),
    ],
)
def test_keys_without_a_place(key: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        apply_overrides(document(), {key: 1})
    assert f"--set {key}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_section_that_is_no_table_is_named() -> None:
    with pytest.raises(JobError, match="request is not a table in the job file"):
        apply_overrides({"request": "x"}, {"model": "m"})


def test_a_prompt_takes_the_place_of_the_files_and_messages(tmp_path: Path) -> None:
    text = MINIMAL.replace('prompt = "p"', 'prompt_file = "gone.md"\nsystem_file = "gone.md"')
    job = Job.load(write(tmp_path, text), {"request.prompt": "q", "system": "s"})
    assert (job.request.turns, job.request.system) == ((("user", "q"),), (("s", {}),))


def test_two_prompts_on_the_command_line_are_still_two() -> None:
    overrides = {"request.prompt": "a", "request.messages_column": "m"}
    with pytest.raises(JobError, match="found prompt and messages_column"):
        Job.from_document(apply_overrides(document(), overrides), BASE)


def test_overrides_are_kept_in_the_document(tmp_path: Path) -> None:
    job = Job.load(write(tmp_path, MINIMAL), {"request.model": "other"})
    assert job.document["request"]["model"] == "other"
    assert Job.from_document(job.document, job.base) == job


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("temperature=0.2", "temperature", 0.2),
        (" n = 3", "n", 3),
        ("stop=['a', 'b']", "stop", ["a", "b"]),
        ("allow_http=true", "allow_http", True),
        ('model="m"', "model", "m"),
        ("model=claude-haiku-4-5", "model", "claude-haiku-4-5"),
        ("prompt={{ a }} = b", "prompt", "{{ a }} = b"),
        ("system=", "system", ""),
        ("extra_body.a={b = 1}", "extra_body.a", {"b": 1}),
        ("prompt=1\nmodel = 'x'", "prompt", "1\nmodel = 'x'"),
        ("user=" + "1" * 5_000, "user", "1" * 5_000),
        ("stop=" + "[" * 2_000, "stop", "[" * 2_000),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_settings_are_toml_or_text(setting: str, key: str, value: object) -> None:
    assert parse_setting(setting) == (key, value)


@pytest.mark.parametrize("setting", ["temperature", "=5", " =5"])
def test_settings_need_a_key_and_a_value(setting: str) -> None:
    with pytest.raises(JobError, match="write it as key=value"):
        parse_setting(setting)


# tables as jobs


def test_a_prompt_column_is_a_job(tmp_path: Path) -> None:
    table = tmp_path / "prompts.v2.csv"
    overrides = {"request.model": "m", "request.max_tokens": 5}
    job = Job.for_table(table, ["id", "prompt"], overrides)
    assert (job.name, job.input.path) == ("prompts", str(table))
    assert job.request.turns == (("user", "{{ prompt }}"),)
    assert job.request.from_columns == ()
    assert job.output.dir == tmp_path / "runs" / "prompts"


def test_a_messages_column_is_a_job_and_comes_first(tmp_path: Path) -> None:
    job = Job.for_table(
        tmp_path / "x.parquet", ["prompt", "messages"], {"model": "m", "max_tokens": 5}
    )
    assert (job.request.messages_column, job.request.turns) == ("messages", ())


def test_columns_named_like_keys_apply_to_their_row(tmp_path: Path) -> None:
    columns = ["prompt", "model", "system", "max_tokens", "temperature", "other"]
    job = Job.for_table(tmp_path / "x.csv", columns)
    assert job.request.from_columns == ("model", "system", "max_tokens", "temperature")


def test_a_column_that_the_format_cannot_express(tmp_path: Path) -> None:
    with pytest.raises(JobError, match='the messages format has no n; use format = "chat"'):
        Job.for_table(tmp_path / "x.csv", ["prompt", "model", "max_tokens", "n"])


def test_a_table_without_a_prompt_names_its_columns(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match='needs a "prompt" or "messages" column; its columns are a, b'
    ):
        Job.for_table(tmp_path / "x.csv", ["a", "b"])


@pytest.mark.parametrize("column", ["json_schema", "dedupe", "tools", "stream"])
def test_a_column_named_like_a_key_that_cannot_differ_by_row(tmp_path: Path, column: str) -> None:
    with pytest.raises(JobError, match=f'"{column}" has the name of a request key'):
        Job.for_table(tmp_path / "x.csv", ["prompt", column])


def test_a_column_of_images_applies_to_its_row(tmp_path: Path) -> None:
    options = {"model": "m", "max_tokens": 5}
    job = Job.for_table(tmp_path / "x.csv", ["prompt", "images"], options)
    assert job.request.images == ("{{ images }}",)


def test_a_table_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="set it in the job file or with --model"):
        Job.for_table(tmp_path / "x.csv", ["prompt"], {"max_tokens": 5})


def test_texts_from_files_work_for_a_table_too(tmp_path: Path) -> None:
    write(tmp_path, "Be kind.", "s.md")
    overrides = {"model": "m", "max_tokens": 5, "system_file": "s.md"}
    job = Job.for_table(tmp_path / "x.csv", ["prompt"], overrides)
    assert job.request.system == (("Be kind.", {}),)


# the document


def test_it_rebuilds_an_equal_job_after_a_trip_through_json(tmp_path: Path) -> None:
    text = MINIMAL + "[request.extra_body]\nuntil = 2025-01-31\n[limits]\nmax_errors = 3\n"
    job = Job.load(write(tmp_path, text, "jobs/x.toml"), {"output.dir": "/elsewhere"})
    stored = orjson.loads(orjson.dumps(job.document, default=str))
    again = Job.from_document(stored, job.base)
    assert (again.request, again.output, again.input) == (job.request, job.output, job.input)
    assert (again.name, again.limits, again.retry) == (job.name, job.limits, job.retry)


@pytest.mark.parametrize(
    "sections",
    [{"input": {"path": "x", "limit": 2**70}}, {"request": {"user": "\ud800"}}],
    ids=["number", "text"],
)
def test_what_a_run_directory_could_not_keep_is_refused(sections: dict[str, Any]) -> None:
    assert "job: contains a value that cannot be stored as JSON" in refusal(**sections)


_KEYS = st.sampled_from(
    sorted(
        {"name", "input", "path", "id", "limit", "request", "prompt_file", "allow_http", "model"}
        | {"format", "base_url", "system", "prompt", "messages", "role", "content", "max_tokens"}
        | {"temperature", "stop", "n", "seed", "extra_body", "extra_headers", "from_columns"}
        | {"api_key_env", "api_version", "limits", "concurrency", "max_errors", "retry", "x"}
        | {"timeout_s", "output", "dir", "files", "prefix"}
    )
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["chat", "messages", "http://localhost", "{{ a }}", "~", "x.csv", 10**400]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)
_DOCUMENTS = st.dictionaries(_KEYS, _VALUES, max_size=6)


# any document


@settings(max_examples=40, deadline=None)
@given(_DOCUMENTS, _DOCUMENTS, _DOCUMENTS)
def test_it_is_a_job_or_a_job_error(
    top: dict[str, Any], request: dict[str, Any], output: dict[str, Any]
) -> None:
    whole = document(request=request, output=output)
    for candidate in (top, whole, {**whole, **top}):
        try:
            job = Job.from_document(candidate, BASE)
        except JobError:
            continue
        stored = orjson.loads(orjson.dumps(job.document, default=str))
        assert Job.from_document(stored, BASE).request == job.request


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_setting_is_a_pair_or_a_job_error(text: str) -> None:
    for setting in (text, f"model={text}"):
        try:
            key, _ = parse_setting(setting)
        except JobError:
            continue
        assert key == setting.partition("=")[0].strip()


# prices


def test_prices_of_the_job_are_read_and_zero_is_a_price() -> None:
    price = make(price={"input": 0, "output": 0.29}).price
    assert price == PriceConfig(input=0.0, output=0.29)
    assert make().price is None


def test_prices_by_model_stand_beside_the_price_for_all() -> None:
    job = make(price={"gpt-4.1": {"input": 2, "output": 8, "web_search": 10}})
    assert job.price is None
    assert job.model_prices == {"gpt-4.1": PriceConfig(input=2.0, output=8.0, web_search=10.0)}
    both = make(price={"input": 1, "output": 1, "m": {"input": 2, "output": 2}})
    assert both.price == PriceConfig(input=1.0, output=1.0)
    assert list(both.model_prices) == ["m"]


def test_a_price_by_model_is_set_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[input]\npath = "x.csv"\n[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9\n'
    )
    settings = {'price."gpt-4.1".input': 2, 'price."gpt-4.1".output': 8}
    assert Job.load(path, settings).model_prices == {"gpt-4.1": PriceConfig(input=2.0, output=8.0)}


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ({"input": 1.0}, "[price] output: is missing"),
        ({"input": -1, "output": 1}, "[price] input: must be from 0 to 1,000"),
        ({"input": float("nan"), "output": 1}, "[price] input: must be from 0 to 1,000"),
        ({"input": 1, "outptu": 1}, "[price] outptu: unknown key"),
        ({"m": {"input": 1}}, '[price."m"] output: is missing'),
        ({"m": {}}, '[price."m"] input: is missing'),
        ({"m": {"input": 1, "output": 1, "outptu": 1}}, '[price."m"] outptu: unknown key'),
        ({"m": {"input": "1", "output": 1}}, '[price."m"] input: must be a number'),
    ],
)
def test_prices_that_cannot_be_meant(price: dict[str, Any], message: str) -> None:
    assert message in refusal(price=price)
