"""The simulator's tools and structured output: all that is written for a JSON Schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import jsonschema_rs
import openai
import pytest

from batchrun.simulator import SimulatorConfig
from tests.support.simulated import (
    BOTH,
    CHAT,
    CHAT_TOOLS,
    MESSAGES,
    MODEL,
    TICKET,
    TOOLS,
    WEATHER,
    check,
    serving,
    text_of,
)

if TYPE_CHECKING:
    import httpx

    from tests.support.simulated import Peer

pytestmark = pytest.mark.anyio

SCHEMAS = {"get_weather": WEATHER, "open_ticket": TICKET}


def satisfies(text: str, schema: dict[str, Any]) -> bool:
    try:
        check(json.loads(text), schema)
    except (json.JSONDecodeError, jsonschema_rs.ValidationError):
        return False
    return True


def calls_of(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Return the tools that are called, and their arguments."""
    told = answer.json()
    assert answer.status_code == 200, told
    if "choices" not in told:
        blocks = [block for block in told["content"] if block["type"] == "tool_use"]
        assert (told["stop_reason"] == "tool_use") == bool(blocks)
        return [(block["name"], block["input"]) for block in blocks]
    (choice,) = told["choices"]
    functions = [call["function"] for call in choice["message"].get("tool_calls", [])]
    assert (choice["finish_reason"] == "tool_calls") == bool(functions)
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def tools_for(path: str, choice: str) -> dict[str, Any]:
    """Return tools and how to use them: "auto", "none", "any" or a tool's name."""
    if path == MESSAGES:
        named = {"type": choice} if choice in {"auto", "none", "any"} else None
        return {"tools": TOOLS, "tool_choice": named or {"type": "tool", "name": choice}}
    words: dict[str, Any] = {"auto": "auto", "none": "none", "any": "required"}
    function = {"type": "function", "function": {"name": choice}}
    return {"tools": CHAT_TOOLS, "tool_choice": words.get(choice, function)}


# --- Tools


@BOTH
async def test_forced_tools_get_arguments_that_satisfy_their_schema(path: str) -> None:
    names = set()
    counts = set()
    async with serving() as peer:
        for number in range(40):
            prompt = f"Complaint {number}: I was billed twice"
            calls = calls_of(
                await peer.post(path, prompt, max_tokens=2000, **tools_for(path, "any"))
            )
            counts.add(len(calls))
            for name, arguments in calls:
                names.add(name)
                check(arguments, SCHEMAS[name])
            named = tools_for(path, "get_weather")
            (call,) = calls_of(await peer.post(path, prompt, max_tokens=2000, **named))
            assert call[0] == "get_weather"
    assert names == {"get_weather", "open_ticket"}
    assert counts == {1, 2}


@BOTH
async def test_a_tool_that_the_prompt_speaks_of_is_called(path: str) -> None:
    async with serving() as peer:
        for prompt in ("Please use get_weather.", "Any forecast for Oslo?"):
            calls = calls_of(
                await peer.post(path, prompt, max_tokens=2000, **tools_for(path, "auto"))
            )
            assert calls[0][0] == "get_weather"
        never = [
            calls_of(await peer.post(path, f"get_weather {n}", **tools_for(path, "none")))
            for n in range(10)
        ]
        unasked = [
            bool(calls_of(await peer.post(path, f"Sing {n}", **tools_for(path, "auto"))))
            for n in range(40)
        ]
    assert not any(never)
    assert 0 < sum(unasked) < 20


@BOTH
async def test_one_call_at_a_time_when_asked(path: str) -> None:
    single: dict[str, Any] = tools_for(path, "any")
    if path == MESSAGES:
        single["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    else:
        single["parallel_tool_calls"] = False
    async with serving() as peer:
        for number in range(30):
            answer = await peer.post(path, f"Prompt {number}", max_tokens=2000, **single)
            assert len(calls_of(answer)) == 1


async def test_results_of_tools_are_quoted() -> None:
    async with (
        serving() as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as claude,
        openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0) as gpt,
    ):
        asked: Any = [{"role": "user", "content": "Use get_weather for Oslo"}]
        forced: Any = tools_for(MESSAGES, "get_weather")
        tools: Any = TOOLS
        message = await claude.messages.create(
            model=MODEL, max_tokens=500, messages=asked, **forced
        )
        use = message.content[-1]
        assert use.type == "tool_use"
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "21 degrees"}
        said: Any = {"role": "assistant", "content": message.to_dict()["content"]}
        final = await claude.messages.create(
            model=MODEL,
            max_tokens=500,
            tools=tools,
            messages=[*asked, said, {"role": "user", "content": [result]}],
        )
        chat_forced: Any = tools_for(CHAT, "get_weather")
        completion = await gpt.chat.completions.create(model=MODEL, messages=asked, **chat_forced)
        reply = completion.choices[0].message
        assert reply.tool_calls
        results: Any = [
            {"role": "tool", "tool_call_id": call.id, "content": "14 degrees"}
            for call in reply.tool_calls
        ]
        end = await gpt.chat.completions.create(
            model=MODEL, messages=[*asked, reply.to_dict(), *results], tools=chat_forced["tools"]
        )
        orphan = await peer.post(MESSAGES, messages=[*asked, {"role": "user", "content": [result]}])
    assert final.stop_reason == "end_turn"
    assert final.content[0].type == "text"
    assert 'The tool returned "21 degrees".' in final.content[0].text
    assert 'The tool returned "14 degrees".' in str(end.choices[0].message.content)
    assert end.choices[0].finish_reason == "stop"
    assert orphan.status_code == 400


async def test_the_vendors_own_tools_get_their_arguments() -> None:
    tools: list[dict[str, Any]] = [
        {"type": "computer_20241022", "name": "computer", "display_width_px": 9},
        {"type": "text_editor_20241022", "name": "str_replace_editor"},
        {"type": "bash_20241022", "name": "bash"},
    ]
    found: dict[str, set[str]] = {}
    async with serving() as peer:
        for tool in tools:
            choice = {"type": "tool", "name": tool["name"]}
            answer = await peer.post(MESSAGES, tools=tools, tool_choice=choice)
            ((name, arguments),) = calls_of(answer)
            found[name] = set(arguments)
    assert found == {
        "computer": {"action"},
        "str_replace_editor": {"command", "path"},
        "bash": {"command"},
    }


@BOTH
async def test_calls_that_do_not_fit_are_not_made(path: str) -> None:
    async with serving() as peer:
        answer = await peer.post(path, max_tokens=3, **tools_for(path, "open_ticket"))
    told = answer.json()
    assert calls_of(answer) == []
    assert (told.get("stop_reason") or told["choices"][0]["finish_reason"]) in {
        "max_tokens",
        "length",
    }


# --- Structured output


def structured(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    if path == MESSAGES:
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    described = {"name": "ticket", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


@BOTH
async def test_structured_answers_satisfy_their_schema(path: str) -> None:
    asked = structured(path, TICKET) | {"max_tokens": 4000}
    answers = set()
    async with serving() as peer:
        for number in range(30):
            text = text_of(await peer.post(path, f"Ticket {number}: I was billed twice", **asked))
            check(json.loads(text), TICKET)
            assert json.loads(text)["label"] == "billing"
            assert json.loads(text)["summary"].startswith("(simulated) ")
            answers.add(text)
        crashed = json.loads(text_of(await peer.post(path, "The bug is back", **asked)))
    assert len(answers) == 30
    assert crashed["label"] == "bug"


@BOTH
async def test_a_share_of_structured_answers_violates_the_schema(path: str) -> None:
    asked = structured(path, TICKET) | {"max_tokens": 4000}

    async def verdicts(peer: Peer) -> list[list[bool]]:
        found = []
        for number in range(40):
            tries = [await peer.post(path, f"Ticket {number}", **asked) for _ in range(2)]
            found.append([satisfies(text_of(answer), TICKET) for answer in tries])
        return found

    config = SimulatorConfig(invalid_json_rate=0.4)
    async with serving(config) as peer, serving(config) as other:
        first = await verdicts(peer)
        assert await verdicts(other) == first
    assert 0.4 < sum(sum(tries) for tries in first) / 80 < 0.8
    assert any(not tries[0] and tries[1] for tries in first)
    async with serving(SimulatorConfig(invalid_json_rate=1.0)) as peer:
        assert not any(map(any, await verdicts(peer)))
        assert text_of(await peer.post(path, "Plain")).startswith("(simulated) ")


async def test_a_json_object_is_some_json_object() -> None:
    async with serving() as peer:
        answer = await peer.post(CHAT, "Why?", response_format={"type": "json_object"})
        text = await peer.post(CHAT, "Why?", response_format={"type": "text"})
    assert json.loads(text_of(answer))["simulated"] is True
    assert text_of(text).startswith("(simulated) ")


@BOTH
async def test_features_follow_from_seed_and_body_alone(path: str) -> None:
    asked = tools_for(path, "any") | {"model": MODEL, "max_tokens": 2000}
    prompts = [f"Prompt {number} about invoices" for number in range(12)]

    async def answers(seed: int, order: list[str]) -> dict[str, Any]:
        async with serving(SimulatorConfig(seed=seed)) as peer:
            return {prompt: calls_of(await peer.post(path, prompt, **asked)) for prompt in order}

    first = await answers(1, prompts)
    assert await answers(1, prompts[::-1]) == first
    assert await answers(2, prompts) != first
