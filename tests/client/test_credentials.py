"""Keys come from the environment, and appear in no file, log, error, exception or preview."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchrun
from batchrun.client import Credentials
from batchrun.errors import JobError
from batchrun.formats.credentials import without_credentials
from batchrun.job import Job
from tests.conftest import KEY, command, environment
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    WriteJob = Callable[..., Path]

GATEWAY = 'gw/+"9f8e7d6c5b4a-Quux'
HEADERS = 'secret_headers = { "X-Gateway-Key" = "GATEWAY_KEY", authorization = "GATEWAY_BASIC" }'
PASSWORD = "correct-horse-battery"
BASIC = "Basic " + base64.b64encode(f"night:{PASSWORD}".encode()).decode()
SECRETS = (KEY, GATEWAY, PASSWORD)


def with_secrets(**others: str) -> dict[str, str]:
    return environment(GATEWAY_KEY=GATEWAY, GATEWAY_BASIC=BASIC, **others)


def job_of(request: dict[str, Any], **sections: Any) -> Job:
    document = {
        "input": {"path": "table.csv"},
        "request": {"model": "m", "prompt": "Hi", "max_tokens": 5, **request},
        **sections,
    }
    return Job.from_document(document, Path.cwd())


def refused(request: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(JobError) as caught:
        job_of(request, **sections)
    return str(caught.value)


def forms_of(secret: str) -> list[str]:
    """How a server may write what it got."""
    plain = json.dumps(secret)[1:-1]
    forms = [
        secret,
        plain,
        plain.replace("/", "\\/"),
        quote(secret),
        quote(secret, safe=""),
        "".join(f"%{ord(letter):02X}" for letter in secret),
        "".join(f"\\u{ord(letter):04x}" for letter in secret),
    ]
    for before in range(3):
        content = b"x" * before + secret.encode() + b":after"
        encoded = base64.b64encode(content).decode()
        forms += [encoded, base64.urlsafe_b64encode(content).decode(), quote(encoded, safe="")]
    return forms


# what a job may not hold


MARKED = [
    "sk-ant-api03-abcdefGHIJ0123456789",
    "sk-or-v1-0123456789abcdef0123456789abcdef",
    "sk-proj-0123456789abcdefghijkl",
    "gsk_0123456789abcdefghijABCDEFGHIJ",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
    "xai-0123456789abcdefghijABCDEFGHIJ",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
]


@pytest.mark.parametrize("key", [*MARKED, "Bearer abcdef012345", "Basic bmlnaHQ6aG9yc2U="])
def test_what_is_marked_as_a_key_is_refused_wherever_it_stands(key: str) -> None:
    for request in (
        {"extra_headers": {"x-team": key}},
        {"extra_body": {"metadata": {"notes": [key]}}},
        {"base_url": f"https://host.example/{quote(key, safe='')}"},
        {"base_url": f"https://host.example?team={quote(key, safe='')}"},
        {"api_key_env": key},
        {"secret_headers": {"x-team": key}},
        {"auth": key},
    ):
        text = refused(request)
        assert f"[request] {next(iter(request))}: " in text
        assert key not in text
        assert key[8:] not in text


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Authorization",
            "proxy-authorization",
            "x-api-key",
            "api-key",
            "Cookie",
            "x-goog-api-key",
        ),
        *("x-auth-token", "x-gateway-key", "ocp-apim-subscription-key", "x-client-secret"),
        *("helicone-auth", "cf-aig-authorization", "x-amz-security-token", "x-password"),
    ],
)
def test_headers_named_like_credentials_are_refused_with_the_way_out(name: str) -> None:
    text = refused({"extra_headers": {name: "hunter2"}})
    variable = name.upper().replace("-", "_")
    assert f'secret_headers = {{ "{name}" = "{variable}" }}' in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "body",
    [
        {"api_key": "hunter2"},
        {"a": [{"access_token": "hunter2"}]},
        {"provider": {"aws_secret_access_key": "hunter2"}},
        {"client_secret": "hunter2"},
        {"api_token": "abcd1234efgh5678"},
        {"account": {"gateway_key": "abcd1234efgh5678"}},
        {"db_password": "hunter2"},
        {"Authorization": "hunter2"},
    ],
)
def test_keys_of_the_body_named_like_credentials_are_refused(body: dict[str, Any]) -> None:
    text = refused({"extra_body": body})
    assert "[request] extra_body: " in text
    assert "secret_headers" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "url",
    [
        "https://night:hunter2@host.example",
        "https://host.example?key=hunter2",
        "https://host.example/?api_key=hunter2",
        "https://host.example?sig=hunter2&api-version=1",
        "https://host.example?access_token=hunter2",
        "https://host.example?subscription-key=hunter2",
    ],
)
def test_addresses_with_credentials_are_refused(url: str) -> None:
    text = refused({"base_url": url})
    assert "[request] base_url: must not contain credentials" in text
    assert "secret_headers" in text
    assert "hunter2" not in text


def test_what_only_looks_a_little_like_a_credential_is_let_pass() -> None:
    headers = {
        "anthropic-beta": "token-efficient-tools-2025-02-19",
        "http-referer": "https://example.com",
        "x-title": "Basic questions of sk-learn, in sk-SK",
        "idempotency-key": "night-2026-11-28",
        "helicone-cache-key": "tickets",
        "openai-organization": "org-0123456789abcdef",
        "x-user-token": "{{ token }}",
        "x-use-auth": "false",
    }
    body = {
        "prompt_cache_key": "tickets",
        "metadata": {"user_id": "13803d75-b4b5-4c3e-b2a2-6f21399b021b"},
        "logit_bias": {"token": 5},
        "stop_token": "END",
        "note": "Basic information about bearer bonds and a token ring",
        "max_completion_tokens": 100,
    }
    url = "https://gateway.example/v1/0123456789abcdef0123456789abcdef/tickets/anthropic"
    request = job_of({"extra_headers": headers, "extra_body": body, "base_url": url}).request
    assert dict(request.extra_headers) == headers
    assert request.extra_body == body


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("extra_headers", [{"x-api-key": "hunter2"}, {"x-team": "b"}]),
        ("extra_body", [{"api_key": "hunter2"}]),
        ("base_url", ["https://host.example?key=hunter2"]),
        ("secret_headers", [{"x-key": "hunter2-hunter2"}]),
        ("api_key_env", ["hunter2-hunter2"]),
    ],
)
def test_a_matrix_does_not_name_cells_by_credentials(key: str, values: list[Any]) -> None:
    text = refused({}, matrix={key: values})
    assert f"[matrix]: {key}: " in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "options",
    [
        ("--base-url", "https://host.example?api_key=hunter2"),
        ("--set", 'extra_headers.x-api-key="hunter2"'),
        ("--set", "extra_body.api_key=hunter2"),
        ("--set", "hunter2"),
        ("--set", f"{MARKED[0]}.hunter2=1"),
    ],
)
def test_options_of_the_command_line_are_no_way_around(
    write_job: WriteJob, tmp_path: Path, options: tuple[str, str]
) -> None:
    job = write_job("http://127.0.0.1:9")
    log = tmp_path / "log.jsonl"
    code, stdout, stderr = command("run", job, *options, "--log-file", log)
    assert code == 2
    said = stdout + stderr + (log.read_text() if log.exists() else "")
    assert "hunter2" not in said.replace("***.hunter2", "")
    assert MARKED[0] not in said
    assert not (tmp_path / "out").exists()


# secret headers


def test_secret_headers_are_sent_and_are_in_no_file(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3, request=HEADERS)
        log = tmp_path / "log.jsonl"
        code, stdout, stderr = command("run", job, "--log-file", log, env=with_secrets())
        assert code == 0, stderr
        assert {call.headers["x-gateway-key"] for call in provider.calls} == {GATEWAY}
        assert {call.headers["authorization"] for call in provider.calls} == {BASIC}
        _, shown, said = command("preview", job, env=with_secrets())
        head = json.loads(shown.splitlines()[0])["headers"]
        assert (head["x-gateway-key"], head["authorization"]) == ("***", "***")
        sent = len(provider.calls)
        # Another value, another variable, no header at all: nothing is asked anew.
        for env, extra in (
            (with_secrets() | {"GATEWAY_KEY": "another-one"}, HEADERS),
            (environment(OTHER=GATEWAY), 'secret_headers = { "x-gateway-key" = "OTHER" }'),
            (environment(), ""),
        ):
            job = write_job(provider.url, rows=3, request=extra)
            code, out, err = command("run", job, env=env)
            assert (code, len(provider.calls)) == (0, sent), err
            said += out + err
    texts = [stdout, stderr, shown, said]
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    for text in texts:
        for secret in (*SECRETS, BASIC[6:]):
            assert not any(form in text for form in forms_of(secret))


def test_a_variable_that_is_not_set_is_named_before_anything_is_sent(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, request=HEADERS)
        for env in (environment(GATEWAY_BASIC=BASIC), with_secrets() | {"GATEWAY_KEY": " "}):
            code, _, stderr = command("run", job, env=env)
            assert code == 2
            assert "the environment variable GATEWAY_KEY is not set" in stderr
            assert "x-gateway-key" in stderr
        code, _, stderr = command("run", job, env=with_secrets() | {"GATEWAY_KEY": f"{GATEWAY}é"})
        assert (code, GATEWAY in stderr) == (2, False)
        assert not provider.calls


def test_a_rehearsal_needs_no_secret(write_job: WriteJob) -> None:
    job = write_job("https://host.example", request=HEADERS)
    assert command("run", job, "--simulate", env=environment())[0] == 0


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x-gateway-key": ""}, "needs the name of an environment variable"),
        ({"x-gateway-key": "a b"}, "x-gateway-key must be the name of an environment variable"),
        ({"bad name": "A"}, "is not a valid header name"),
        ({"content-length": "A"}, "is set by batchrun"),
        ({"x-a": "A", "X-A": "B"}, "appears twice"),
        ({"x-team": "TEAM"}, "is also in extra_headers"),
    ],
)
def test_secret_headers_that_make_no_sense(headers: dict[str, str], message: str) -> None:
    text = refused({"secret_headers": headers, "extra_headers": {"X-Team": "night"}})
    assert f"[request] secret_headers: {message}" in text or message in text


def test_a_notebook_takes_secret_headers_and_refuses_literal_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pl.DataFrame({"text": ["a", "b"]})
    given: dict[str, Any] = {"prompt": "{{ text }}", "model": "m", "directory": tmp_path / "kept"}
    monkeypatch.setenv("GATEWAY_KEY", GATEWAY)
    with serving(answer) as provider:
        given |= {"base_url": provider.url, "api_key_env": "", "quiet": True}
        with pytest.raises(JobError) as caught:
            batchrun.complete(frame, extra_headers={"x-gateway-key": GATEWAY}, **given)
        assert GATEWAY not in str(caught.value)
        assert not (tmp_path / "kept" / "checkpoint.db").exists()
        batchrun.complete(frame, secret_headers={"x-gateway-key": "GATEWAY_KEY"}, **given)
        assert {call.headers["x-gateway-key"] for call in provider.calls} == {GATEWAY}
    with sqlite3.connect(tmp_path / "kept" / "checkpoint.db") as db:
        assert GATEWAY not in "\n".join(db.iterdump())
    db.close()


# what servers send back


def echo_in_answer(call: Call, form: str) -> Reply:
    reply = answer(call, f"You sent {form}.")
    body = json.loads(reply.body) | {"id": form, "stop_reason": form}
    body["content"] += [
        {"type": "thinking", "thinking": form},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"a": [form]}},
    ]
    return Reply(200, json.dumps(body).encode(), {"x-echo": quote(form)})


def echo_in_error(call: Call, form: str) -> Reply:
    return refusal(400, "invalid_request_error", f"{call.path} got {form}")


@pytest.mark.parametrize("echo", [echo_in_answer, echo_in_error])
def test_a_secret_that_the_server_sends_back_in_any_form_is_nowhere(
    write_job: WriteJob, tmp_path: Path, echo: Callable[[Call, str], Reply]
) -> None:
    forms = [form for secret in SECRETS for form in forms_of(secret)]

    def decide(call: Call) -> Reply:
        row = int(call.prompt.split()[-1])
        # Some rows succeed: nothing but refusals would be no row's fault.
        return echo(call, forms[row]) if row < len(forms) else answer(call, "***")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=len(forms) + 5, request=f"{HEADERS}\nkeep_raw = true")
        log = tmp_path / "log.jsonl"
        extra = ("--set", "limits.max_errors=1000")
        _, stdout, stderr = command("run", job, "--log-file", log, *extra, env=with_secrets())
        assert len(provider.calls) >= len(forms), stderr
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    column = "response" if echo is echo_in_answer else "error_message"
    masked = ["***" in str(text) for text in results[column][: len(forms)]]
    assert all(masked)
    texts = [stdout, stderr]
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    for row in results.iter_rows():
        texts.append("\n".join(str(value) for value in row))
    found = [(form, text[:80]) for form in forms for text in texts if form in text]
    assert found == []


@settings(deadline=None)
@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60),
    before=st.binary(max_size=20),
    after=st.binary(max_size=20),
)
def test_no_secret_shows_through_base64(secret: str, before: bytes, after: bytes) -> None:
    redaction = Credentials(secret).redaction
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + secret.encode() + after).decode()
        struck = redaction.text(f"see {encoded} there")
        assert "***" in struck
        assert encoded[len(before) * 4 // 3 + 3 :][: len(secret)] not in struck


def test_no_description_has_a_secret() -> None:
    credentials = Credentials(KEY, (("x-gateway-key", GATEWAY),))
    assert repr(credentials) == "Credentials(key=***, headers=(x-gateway-key))"
    assert GATEWAY not in str(credentials)


def test_messages_are_masked_where_something_looks_like_a_key() -> None:
    for key in MARKED:
        assert key not in without_credentials(f"The key {key} is not valid; {key}.")
    assert without_credentials("Bearer abc123def456ghi") == "Bearer ***"
    assert without_credentials("the bearer of this letter") == "the bearer of this letter"


def test_a_redirect_is_named_without_its_credentials(write_job: WriteJob, tmp_path: Path) -> None:
    target = "https://night:hunter2@elsewhere.example/v1?token=hunter2#hunter2"

    def decide(call: Call) -> Reply:
        is_first = call.prompt == "Say text 0"
        return Reply(302, b"", {"location": target}) if is_first else answer(call)

    with serving(decide) as provider:
        _, stdout, stderr = command("run", write_job(provider.url, rows=2))
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    message = results["error_message"][0]
    assert "https://elsewhere.example/v1?***;" in message
    assert "hunter2" not in stdout + stderr + message
