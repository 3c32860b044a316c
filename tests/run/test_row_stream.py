"""`stream`: rows as they finish, back pressure, and loops that end early."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun as library
from tests.conftest import DEADLINE_S, KEY
from tests.support.provider import Call, Provider, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]

CONCURRENCY = 4
ROWS = 120
# What `stream` promises to keep ready beside what is in flight.
READY = 16

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    return tmp_path


def table(rows: int = ROWS) -> pl.DataFrame:
    return pl.DataFrame({"text": [f"text {n}" for n in range(rows)], "number": range(rows)})


def stream(provider: Provider, rows: object, **more: Any) -> AsyncGenerator[dict[str, Any], None]:
    return library.stream(rows, **asked(provider, **more))


def asked(provider: Provider, **more: Any) -> dict[str, Any]:
    return {
        "prompt": "Say {{ text }}",
        "model": "claude-haiku-4-5-20251001",
        "base_url": provider.url,
        "provider": "anthropic",
        "api_key_env": "TEST_KEY",
        "quiet": True,
        "limits": {"concurrency": CONCURRENCY},
        **more,
    }


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0.05)


async def every(rows: AsyncGenerator[dict[str, Any], None]) -> list[dict[str, Any]]:
    async with asyncio.timeout(DEADLINE_S):
        return [row async for row in rows]


async def test_rows_are_those_of_the_table_of_results() -> None:
    def decide(call: Call) -> Reply:
        if call.prompt == "Say text 3":
            return refusal(400, "invalid_request_error")
        return answer(call, f'{{"word": "{call.prompt}", "size": {len(call.prompt)}}}')

    properties = {"word": {"type": "string"}, "size": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["word", "size"]}
    frame = table(30).with_columns(response=pl.lit("mine"), when=pl.date(2026, 1, 2))
    more = {"prefix": "llm_", "json_schema": schema, "unnest": True}
    with serving(decide) as provider:
        found = await every(stream(provider, frame, **more))
        whole = library.complete(frame, **asked(provider, **more))
    assert len(provider.calls) == 30
    by_number = sorted(found, key=lambda row: row["number"])
    assert by_number == whole.to_dicts()
    assert [row["status"] for row in by_number].count("errored") == 1


async def test_a_row_arrives_while_others_are_in_flight() -> None:
    others = threading.Event()

    def decide(call: Call) -> Reply:
        return answer(call, until=others if call.prompt == "Say text 0" else None)

    found = []
    with serving(decide) as provider:
        async with asyncio.timeout(DEADLINE_S):
            async for row in stream(provider, table(20)):
                found.append(row["number"])
                if len(found) == 19:
                    others.set()
    assert found[-1] == 0
    assert len(found) == 20


async def test_nothing_is_sent_while_the_caller_works_on_a_row() -> None:
    most = READY + 1 + 2 * CONCURRENCY
    with serving() as provider:
        async with aclosing(stream(provider, table())) as rows, asyncio.timeout(DEADLINE_S):
            first = await anext(rows)
            await until(lambda: len(provider.calls) >= CONCURRENCY)
            before = -1
            while len(provider.calls) != before:  # until nothing happens any more
                before = len(provider.calls)
                await asyncio.sleep(0.3)
            assert before <= most
            others = [row async for row in rows]
    assert sorted(row["number"] for row in [first, *others]) == list(range(ROWS))
    assert len(provider.calls) == ROWS


async def test_a_loop_that_ends_early_is_resumed() -> None:
    with serving(lambda call: answer(call, delay_s=0.05)) as provider:
        seen = []
        async with aclosing(stream(provider, table())) as rows, asyncio.timeout(DEADLINE_S):
            async for row in rows:
                seen.append(row["number"])
                if len(seen) == 5:
                    break
        sent = len(provider.calls)
        assert sent <= 5 + READY + 2 * CONCURRENCY
        found = await every(stream(provider, table()))
    assert sorted(row["number"] for row in found) == list(range(ROWS))
    assert len(provider.calls) == ROWS  # what was in flight was finished and saved
    assert sent < ROWS


async def test_a_break_without_closing_ends_the_run_too() -> None:
    def is_over() -> bool:
        return not any(task.get_name().startswith("batchrun ") for task in asyncio.all_tasks())

    with serving(lambda call: answer(call, delay_s=0.05)) as provider:
        async for _ in stream(provider, table()):
            break
        await until(is_over)
        assert len(provider.calls) < ROWS
        assert len(await every(stream(provider, table()))) == ROWS
    assert len(provider.calls) == ROWS


async def test_a_task_that_is_cancelled_cancels_what_is_in_flight() -> None:
    hold = True

    def decide(call: Call) -> Reply:
        return answer(call, delay_s=3_600 if hold and call.number > 8 else 0)

    with serving(decide) as provider:
        reading = asyncio.create_task(every(stream(provider, table(20))))
        await until(lambda: len(provider.calls) == 8 + CONCURRENCY)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE_S):
                await reading
        hold = False
        found = await every(stream(provider, table(20)))
        assert len(found) == 20
    assert len(provider.calls) == 20 + CONCURRENCY


async def test_rows_that_share_an_answer_each_arrive_once() -> None:
    frame = pl.DataFrame({"text": [f"text {n % 3}" for n in range(700)], "number": range(700)})
    with serving(lambda call: answer(call, call.prompt)) as provider:
        for _ in range(2):  # the second time, all have their answers already
            found = await every(stream(provider, frame, dedupe=True))
            assert sorted(row["number"] for row in found) == list(range(700))
            assert all(row["response"] == f"Say {row['text']}" for row in found)
        assert len(provider.calls) == 3


async def test_a_row_that_is_retried_arrives_with_its_new_result_only() -> None:
    with serving(
        lambda call: refusal(400, "bad") if call.number == 5 else answer(call)
    ) as provider:
        first = await every(stream(provider, table(20)))
        assert [row["status"] for row in first].count("errored") == 1
        again = await every(stream(provider, table(20), retry_errored=True))
    assert [row["status"] for row in again] == ["succeeded"] * 20
    assert len(provider.calls) == 21


async def test_the_rows_of_a_job_with_samples(write_job: WriteJob) -> None:
    with serving() as provider:
        job = library.Job.load(write_job(provider.url, rows=25, request="samples = 2"))
        found = await every(library.stream(job, library.RunOptions(quiet=True)))
    assert sorted(row["id"] for row in found) == [f"r{n:05d}" for n in range(25)]
    assert all(row["responses"] == ["ok", "ok"] for row in found)
    assert len(provider.calls) == 50


@pytest.mark.parametrize(
    "how", [{"workers": 2}, {"dispatcher": library.BATCH}], ids=["workers", "batch"]
)
async def test_rows_arrive_from_workers_and_from_batches(
    write_job: WriteJob, how: dict[str, Any]
) -> None:
    job = library.Job.load(write_job("https://api.anthropic.com", rows=40), {"batch.poll_s": 1})
    options = library.RunOptions(quiet=True, simulate=library.SimulatorConfig(), **how)
    found = await every(library.stream(job, options))
    assert sorted(row["id"] for row in found) == [f"r{n:05d}" for n in range(40)]
    assert {row["status"] for row in found} == {"succeeded"}


async def test_what_stops_a_run_is_raised_behind_the_rows() -> None:
    with serving(lambda call: answer(call) if call.number < 9 else refusal(401, "x")) as provider:
        rows = stream(provider, table())
        found = [await anext(rows) for _ in range(8)]
        with pytest.raises(library.RunStopped, match="TEST_KEY"):
            await every(rows)
    assert {row["status"] for row in found} == {"succeeded"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompt": "{{ txt }}"}, "no column 'txt'"),
        ({"temprature": 1}, 'stream(): [request] temprature: unknown key (did you mean "temp'),
        ({"options": library.RunOptions()}, "options: only for a Job"),
    ],
)
async def test_wrong_arguments_are_named_and_nothing_is_sent(
    more: dict[str, Any], message: str
) -> None:
    with serving() as provider, pytest.raises(library.JobError) as error:
        await every(stream(provider, table(), **more))
    assert message in str(error.value)
    assert not provider.calls


async def test_a_job_takes_no_arguments_of_a_table(write_job: WriteJob) -> None:
    job = library.Job.load(write_job("http://127.0.0.1:9", rows=1))
    with pytest.raises(library.JobError, match="prompt: cannot be combined with a Job"):
        await every(library.stream(job, prompt="x"))
