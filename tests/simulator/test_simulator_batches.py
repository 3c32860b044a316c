"""The simulator's batch endpoints, used by the vendors' own clients."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from batchrun.simulator import SimulatorConfig
from tests.support.simulated import CHAT, MESSAGES, Clock, Peer, body, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

QUICK = SimulatorConfig(batch_s=10)


@asynccontextmanager
async def claude(peer: Peer) -> AsyncIterator[Any]:
    client = anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0)
    async with client:
        yield client.messages.batches


@asynccontextmanager
async def gpt(peer: Peer) -> AsyncIterator[Any]:
    client = openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0)
    async with client:
        yield client


def requests(count: int, **fields: object) -> list[Any]:
    """Requests of a message batch."""
    return [{"custom_id": f"row-{n}", "params": body(f"Hello {n}", **fields)} for n in range(count)]


def jsonl(count: int, **fields: object) -> bytes:
    """An input file of OpenAI's batches."""
    lines = [
        {
            "custom_id": f"row-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body(f"Hello {n}"),
            **fields,
        }
        for n in range(count)
    ]
    return b"\n".join(json.dumps(line).encode() for line in lines)


async def chat_batch(client: Any, content: bytes, **fields: Any) -> Any:
    file = await client.files.create(file=("rows.jsonl", content), purpose="batch")
    assert (file.bytes, file.purpose, file.filename) == (len(content), "batch", "rows.jsonl")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **fields,
    )


async def test_the_anthropic_client_runs_a_batch() -> None:
    clock = Clock()
    async with serving(QUICK, clock) as peer, claude(peer) as batches:
        batch = await batches.create(requests=requests(30))
        assert (batch.processing_status, batch.results_url) == ("in_progress", None)
        assert batch.request_counts.processing == 30
        assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
        clock.now += 4
        assert (await batches.retrieve(batch.id)).request_counts.succeeded == 0
        assert peer.simulator.usage.billed == 0
        clock.now += 12
        batch = await batches.retrieve(batch.id)
        assert (batch.processing_status, batch.request_counts.succeeded) == ("ended", 30)
        results = [each async for each in await batches.results(batch.id)]
        assert [each.id async for each in batches.list()] == [batch.id]
        deleted = await batches.delete(batch.id)
        assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")
        assert [each async for each in batches.list()] == []
    by_id = {each.custom_id: each.result for each in results}
    assert sorted(by_id) == sorted(each["custom_id"] for each in requests(30))
    assert [each.custom_id for each in results] != list(by_id.fromkeys(sorted(by_id)))
    message = by_id["row-7"].message
    assert message.content[0].text.startswith("(simulated) ")
    assert message.usage.service_tier == "batch"
    usage = peer.simulator.usage
    assert (usage.billed, usage.billed_in_batches, usage.batches) == (30, 30, 1)
    assert usage.batch_tokens[1] == sum(each.message.usage.output_tokens for each in by_id.values())


async def test_the_openai_client_runs_a_batch() -> None:
    clock = Clock()
    async with serving(QUICK, clock) as peer, gpt(peer) as client:
        batch = await chat_batch(client, jsonl(30), metadata={"tag": "a"})
        seen = [batch.status]
        done = [0]
        for _ in range(60):
            clock.now += 0.5
            batch = await client.batches.retrieve(batch.id)
            seen.append(batch.status)
            done.append(batch.request_counts.completed)
        assert list(dict.fromkeys(seen)) == ["validating", "in_progress", "finalizing", "completed"]
        assert done == sorted(done)
        assert len(set(done)) > 5
        assert (batch.request_counts.total, batch.request_counts.completed) == (30, 30)
        assert (batch.metadata, batch.error_file_id) == ({"tag": "a"}, None)
        content = await client.files.content(batch.output_file_id)
        answers = [json.loads(line) for line in content.text.splitlines()]
        assert [each.id async for each in client.batches.list()] == [batch.id]
        names = {file.purpose async for file in client.files.list()}
        assert names == {"batch", "batch_output"}
        assert (await client.files.retrieve(batch.input_file_id)).purpose == "batch"
        assert (await client.files.delete(batch.input_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(batch.input_file_id)
    assert len({each["custom_id"] for each in answers}) == 30
    assert {each["response"]["status_code"] for each in answers} == {200}
    completion = openai.types.chat.ChatCompletion.model_validate(answers[0]["response"]["body"])
    assert (completion.choices[0].message.content or "").startswith("(simulated) ")
    assert peer.simulator.usage.billed_in_batches == 30


async def test_a_batch_answers_like_live_requests_and_shares_their_bills() -> None:
    clock = Clock()
    async with serving(QUICK, clock) as peer, claude(peer) as batches:
        content = json.dumps(requests(1)[0]["params"], separators=(",", ":"))
        live = (await peer.http.post(MESSAGES, content=content)).json()
        batch = await batches.create(requests=requests(1))
        clock.now += 20
        (result,) = [each async for each in await batches.results(batch.id)]
    assert result.result.message.content[0].text == live["content"][0]["text"]
    assert peer.simulator.usage.billed_more_than_once == 1


async def test_requests_that_fail_are_not_billed() -> None:
    clock = Clock()
    config = SimulatorConfig(batch_s=1, error_rate=0.3)
    async with serving(config, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        wrong = [{"custom_id": "wrong", "params": body("Hi", temperature=7)}]
        message = await batches.create(requests=requests(40) + wrong)
        chat = await chat_batch(client, jsonl(40))
        clock.now += 2
        results = {
            each.custom_id: each.result
            for each in [e async for e in await batches.results(message.id)]
        }
        chat = await client.batches.retrieve(chat.id)
        errors = (await client.files.content(chat.error_file_id)).text.splitlines()
        counts = (await batches.retrieve(message.id)).request_counts
    assert results["wrong"].error.error.type == "invalid_request_error"
    failed = [each for each in results.values() if each.type == "errored"]
    assert 5 < len(failed) < 25
    assert {each.error.error.type for each in failed} == {
        "invalid_request_error",
        "api_error",
        "overloaded_error",
    }
    assert (counts.errored, counts.succeeded) == (len(failed), 41 - len(failed))
    assert chat.status == "completed"
    assert chat.request_counts.failed == len(errors) > 0
    assert json.loads(errors[0])["response"]["status_code"] in {500, 503}
    assert json.loads(errors[0])["error"] is None
    billed = counts.succeeded + chat.request_counts.completed
    assert peer.simulator.usage.billed == billed


async def test_canceled_and_expired_batches_keep_what_was_answered() -> None:
    clock = Clock()
    config = SimulatorConfig(batch_s=10, batch_expiry_rate=0.5, seed=1)
    async with serving(config, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        expiring = [
            await batches.create(requests=requests(40, stop_sequences=[f"stop {n}"]))
            for n in range(8)
        ]
        chats = [await chat_batch(client, jsonl(40 + n)) for n in range(8)]
        clock.now += 4
        canceled = await batches.create(requests=requests(40, stop_sequences=["other"]))
        chat = await chat_batch(client, jsonl(60))
        clock.now += 3
        assert (await batches.cancel(canceled.id)).processing_status == "canceling"
        assert (await client.batches.cancel(chat.id)).status == "cancelling"
        clock.now += 20
        counts = [(await batches.retrieve(each.id)).request_counts for each in expiring]
        statuses = [(await client.batches.retrieve(each.id)).status for each in chats]
        canceled = await batches.retrieve(canceled.id)
        results = [each.result.type async for each in await batches.results(canceled.id)]
        chat = await client.batches.retrieve(chat.id)
        with pytest.raises(anthropic.BadRequestError, match="has ended"):
            await batches.cancel(canceled.id)
        expired = await client.batches.retrieve(chats[statuses.index("expired")].id)
        error = (await client.files.content(expired.error_file_id)).text.splitlines()[0]
    assert {each.expired > 0 for each in counts} == {True, False}
    assert [each for each in counts if each.expired + each.succeeded != 40] == []
    assert set(statuses) == {"completed", "expired"}
    assert json.loads(error)["error"]["code"] == "batch_expired"
    assert json.loads(error)["response"] is None
    assert canceled.cancel_initiated_at is not None
    assert results.count("canceled") == canceled.request_counts.canceled > 0
    assert results.count("succeeded") == canceled.request_counts.succeeded > 0
    assert chat.status == "cancelled"
    assert 0 < chat.request_counts.completed < 60


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
async def test_a_lost_answer_leaves_a_batch_that_the_list_shows(path: str) -> None:
    config = SimulatorConfig(batch_s=10, lost_create_rate=1.0)
    async with serving(config, Clock()) as peer, claude(peer) as batches, gpt(peer) as client:
        if path == MESSAGES:
            with pytest.raises(anthropic.APIConnectionError):
                await batches.create(requests=requests(7))
            (found,) = [each async for each in batches.list()]
            assert found.request_counts.processing == 7
        else:
            with pytest.raises(openai.APIConnectionError):
                await chat_batch(client, jsonl(7), metadata={"tag": "b"})
            (chat,) = [each async for each in client.batches.list()]
            assert chat.metadata == {"tag": "b"}


async def test_a_torn_download_can_be_repeated() -> None:
    clock = Clock()
    config = SimulatorConfig(batch_s=1, torn_download_rate=0.5)
    whole = torn = 0
    async with serving(config, clock) as peer, claude(peer) as batches:
        batch = await batches.create(requests=requests(50))
        clock.now += 2
        url = (await batches.retrieve(batch.id)).results_url
        for _ in range(12):
            try:
                content = (await peer.http.get(url)).content
            except httpx.RemoteProtocolError:
                torn += 1
            else:
                whole += len(content.splitlines()) == 50
    assert whole > 2
    assert torn > 2


async def test_the_queue_has_a_limit() -> None:
    clock = Clock()
    config = SimulatorConfig(batch_s=10, enqueued_tokens=3_000)
    async with serving(config, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        await batches.create(requests=requests(80))
        with pytest.raises(anthropic.RateLimitError):
            await batches.create(requests=requests(81))
        first, second = [await chat_batch(client, jsonl(80 + n)) for n in range(2)]
        clock.now += 5
        first, second = [await client.batches.retrieve(each.id) for each in (first, second)]
        assert (first.status, second.status) == ("in_progress", "failed")
        assert second.errors.data[0].code == "token_limit_exceeded"
        clock.now += 20
        assert (await batches.create(requests=requests(82))).processing_status == "in_progress"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", None),
        (jsonl(3) + b"\nnonsense", "invalid_json_line", 4),
        (jsonl(2) + b"\n" + jsonl(1), "duplicate_custom_id", 3),
        (jsonl(2, url="/v1/embeddings"), "url_mismatch", 1),
        (jsonl(2) + b"\n" + jsonl(1, custom_id="x", body=body(model="m2")), "model_mismatch", 3),
    ],
)
async def test_a_wrong_file_fails_its_batch_later(
    content: bytes, code: str, line: int | None
) -> None:
    clock = Clock()
    async with serving(QUICK, clock) as peer, gpt(peer) as client:
        batch = await chat_batch(client, content)
        assert batch.status == "validating"
        clock.now += 5
        batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, line)
    assert peer.simulator.usage.billed == 0


@pytest.mark.parametrize("custom_id", ["", "a b", "ü", "x" * 65, "row-1"])
async def test_one_wrong_custom_id_refuses_the_whole_batch(custom_id: str) -> None:
    async with serving(QUICK, Clock()) as peer, claude(peer) as batches:
        with pytest.raises(anthropic.BadRequestError, match="custom_id"):
            await batches.create(
                requests=[*requests(3), {"custom_id": custom_id, "params": body("x")}]
            )
        assert [each async for each in batches.list()] == []


async def test_lists_have_pages() -> None:
    clock = Clock()
    async with serving(QUICK, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        made = []
        for n in range(7):
            made.append((await batches.create(requests=requests(1 + n))).id)
            await chat_batch(client, jsonl(1 + n))
        assert [each.id async for each in batches.list(limit=3)] == made[::-1]
        page = await batches.list(before_id=made[2], limit=2)
        assert [each.id for each in page.data] == [made[4], made[3]]
        counted = [each async for each in client.batches.list(limit=2)]
        assert len({each.id for each in counted}) == 7
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await batches.list(limit=1001)


async def test_batches_can_outlive_the_process(tmp_path: Path) -> None:
    clock = Clock()
    config = SimulatorConfig(batch_s=10, batch_directory=tmp_path / "batches")
    async with serving(config, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        message = await batches.create(requests=requests(5))
        chat = await chat_batch(client, jsonl(5))
    clock.now += 30
    async with serving(config, clock) as peer, claude(peer) as batches, gpt(peer) as client:
        results = [each async for each in await batches.results(message.id)]
        chat = await client.batches.retrieve(chat.id)
        assert chat.request_counts.completed == 5
    assert {each.result.type for each in results} == {"succeeded"}


async def test_later_requests_of_a_batch_and_later_batches_read_the_cache() -> None:
    clock = Clock()
    system = [{"type": "text", "text": "Rules. " * 200, "cache_control": {"type": "ephemeral"}}]
    async with serving(QUICK, clock) as peer, claude(peer) as batches:
        reads = []
        for count in (40, 41):
            batch = await batches.create(requests=requests(count, system=system))
            clock.now += 20
            results = [each async for each in await batches.results(batch.id)]
            usage = [each.result.message.usage for each in results]
            reads.append(sum(each.cache_read_input_tokens > 0 for each in usage))
    assert 5 < reads[0] < 35
    assert reads[1] == 41
