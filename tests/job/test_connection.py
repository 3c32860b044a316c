"""Where requests go: base URLs, whole endpoints, and what a provider's name sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchrun.errors import JobError
from batchrun.formats.providers import PROVIDERS, ProviderPreset, blanks, meant_provider
from batchrun.job import Job, RequestConfig


def request(**keys: Any) -> RequestConfig:
    document = {
        "input": {"path": "x.csv"},
        "request": {"model": "m", "prompt": "p", "max_tokens": 9, **keys},
    }
    return Job.from_document(document, Path("/jobs")).request


def refusal(**keys: Any) -> str:
    with pytest.raises(JobError) as caught:
        request(**keys)
    return str(caught.value)


AZURE = "https://res.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        # whole endpoints
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/chat/completions/", "https://host/chat/completions"),
        (AZURE, AZURE),
        # base URLs, with and without a version
        ("https://host", "https://host/v1/chat/completions"),
        ("https://host/v1", "https://host/v1/chat/completions"),
        ("https://host/api/v3", "https://host/api/v3/chat/completions"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/a/b/compat", "https://host/v1/a/b/compat/chat/completions"),
        # without a scheme, on this machine
        ("localhost:8181", "http://localhost:8181/v1/chat/completions"),
        ("localhost:8181/v1", "http://localhost:8181/v1/chat/completions"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
        # known providers, whose paths are known
        ("https://api.perplexity.ai", "https://api.perplexity.ai/chat/completions"),
        ("https://api.groq.com/v1", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://openrouter.ai", "https://openrouter.ai/api/v1/chat/completions"),
        (
            "https://res.openai.azure.com",
            "https://res.openai.azure.com/openai/v1/chat/completions",
        ),
        (
            "https://api.cloudflare.com/client/v4/accounts/a/ai/v1",
            "https://api.cloudflare.com/client/v4/accounts/a/ai/v1/chat/completions",
        ),
        (
            "https://w.cloud.databricks.com/serving-endpoints",
            "https://w.cloud.databricks.com/serving-endpoints/chat/completions",
        ),
    ],
)
def test_the_url_of_requests(address: str, endpoint: str) -> None:
    assert request(format="chat", base_url=address).endpoint == endpoint


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("https://host/v1/messages?x=1", "https://host/v1/messages?x=1"),
        # the vendor's SDK adds /v1 to every base URL
        ("https://host/v1/a/b/anthropic", "https://host/v1/a/b/anthropic/v1/messages"),
        ("https://api.z.ai", "https://api.z.ai/api/anthropic/v1/messages"),
    ],
)
def test_the_url_of_messages(address: str, endpoint: str) -> None:
    assert request(format="messages", base_url=address).endpoint == endpoint


GOOGLE = "https://generativelanguage.googleapis.com"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"{GOOGLE}/v1beta/openai/v1", f"write {GOOGLE}/v1beta/openai"),
        (f"{GOOGLE}/v1beta/openai/v1/chat/completions", f"write {GOOGLE}/v1beta/openai"),
        (f"{GOOGLE}/v1beta", f"write {GOOGLE}/v1beta/openai"),
        ("https://api.cloudflare.com/client/v4/accounts/a/ai", "ACCOUNT_ID/ai/v1"),
        ("https://res.openai.azure.com/openai/deployments/d", "?api-version="),
        ("https://aiplatform.googleapis.com", "with your own PROJECT"),
        ("https://host/v1/messages", 'use format = "messages"'),
        ("https://host/path?tenant=1", "https://host/chat/completions?…"),
        ("https://host/v1/embeddings", "or the whole endpoint ending in /chat/completions"),
    ],
)
def test_an_address_that_surely_is_wrong_says_what_to_write(address: str, message: str) -> None:
    found = refusal(format="chat", base_url=address)
    assert "[request] base_url: " in found
    assert message in found


def test_openai_has_no_messages() -> None:
    assert 'with format = "chat"' in refusal(format="messages", base_url="https://api.openai.com")


@pytest.mark.parametrize(
    ("auth", "expected"), [("Bearer", "bearer"), ("API-Key", "api-key"), (None, None)]
)
def test_the_key_is_sent_in_any_header(auth: str | None, expected: str | None) -> None:
    keys = {} if auth is None else {"auth": auth}
    assert request(**keys).auth == expected


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ("none", 'write api_key_env = ""'),
        ("basic", "secret_headers"),
        ("content-length", "is set by batchrun"),
        ("x y", "or the name of a header"),
        ("sk-ant-api03-123456789012345678", "or the name of a header"),
    ],
)
def test_what_cannot_carry_a_key_is_refused(auth: str, message: str) -> None:
    found = refusal(auth=auth)
    assert message in found
    assert "123456789012345678" not in found


# providers


def formats_of() -> list[tuple[ProviderPreset, str]]:
    return [(preset, name) for preset in PROVIDERS for name in preset.addresses]


@pytest.mark.parametrize(
    ("preset", "wire_format"), formats_of(), ids=lambda value: getattr(value, "id", value)
)
def test_an_address_of_the_table_is_accepted_and_belongs_to_its_provider(
    preset: ProviderPreset, wire_format: str
) -> None:
    address = preset.addresses[wire_format]
    for word in blanks(address):
        address = address.replace(word, word.lower().replace("_", ""))
    given = request(format=wire_format, base_url=address)
    assert preset.is_local or preset.answers_at(urlsplit(given.endpoint).hostname or "")
    # The address alone has the same effect as the name.
    if not preset.is_local:
        assert given.preset is preset
        assert (given.api_key_env, given.auth) == (preset.key_env, preset.auth)
    if not blanks(preset.addresses[wire_format]):
        named = request(format=wire_format, provider=preset.id)
        assert named.endpoint == given.endpoint
        assert (named.api_key_env, named.auth) == (preset.key_env, preset.auth)
        # Nobody is asked to write what batchrun completes by itself.
        assert request(format=wire_format, base_url=named.endpoint).endpoint == named.endpoint


def test_the_first_format_of_a_provider_is_the_default() -> None:
    assert request(provider="groq").format == "chat"
    assert request(provider="anthropic").format == "messages"
    found = refusal(provider="groq", format="messages")
    assert 'use format = "chat", or set base_url' in found


def test_every_setting_of_a_provider_can_be_overridden() -> None:
    found = request(
        provider="openrouter",
        format="messages",
        base_url="https://eu.openrouter.ai/api",
        api_key_env="MINE",
        auth="x-api-key",
    )
    assert found.endpoint == "https://eu.openrouter.ai/api/v1/messages"
    assert (found.api_key_env, found.auth) == ("MINE", "x-api-key")


def test_a_name_alone_does_not_send_a_key_to_another_host() -> None:
    found = request(provider="openrouter", format="chat", base_url="https://gateway.example")
    assert found.api_key_env == "OPENAI_API_KEY"
    assert found.provider_name == "openrouter"


def test_a_server_of_ones_own_needs_no_key_wherever_it_is() -> None:
    found = request(provider="vllm", base_url="https://gpu.example/v1")
    assert (found.endpoint, found.api_key_env) == ("https://gpu.example/v1/chat/completions", "")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("xai", "x-ai"), ("bedrock", "aws"), ("gemini", "google"), ("mistrall", "mistral")],
)
def test_another_name_of_a_provider_is_named(name: str, meant: str) -> None:
    assert meant_provider(name) == meant
    assert f'did you mean "{meant}"?' in refusal(provider=name)
    # With an address, any name is possible.
    assert request(provider=name, base_url="https://host").provider == name


def test_the_user_fills_in_what_only_they_know() -> None:
    found = refusal(provider="azure")
    assert 'base_url = "https://RESOURCE.openai.azure.com/openai/v1"' in found
    assert "with your own RESOURCE" in found


def test_ids_and_aliases_are_unique() -> None:
    names = [name for preset in PROVIDERS for name in (preset.id, *preset.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("reasoning_effort", "unknown key (write effort)"),
        ("response_format", "unknown key (write json_schema)"),
        ("metadata", "unknown key (write user, or extra_body)"),
        ("stop_sequences", "unknown key (write stop)"),
        ("temprature", 'unknown key (did you mean "temperature"?)'),
        ("repetition_penalty_range_x", "unknown key (to send it as it is, write it in extra_body)"),
    ],
)
def test_an_unknown_key_names_the_right_one(key: str, hint: str) -> None:
    assert f"[request] {key}: {hint}" in refusal(**{key: "x"})
