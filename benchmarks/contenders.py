"""Send chat requests with one client and a fixed concurrency; print the seconds that it takes, and the CPU seconds.

Usage: python benchmarks/contenders.py NAME BASE_URL REQUESTS IN_FLIGHT

All send the same prompts and read the answer's text. Importing and reading the command line is not
measured: each client first sends a few requests, because some load modules only when they need them.
Of batchrun everything else is measured: it reads the table, renders, sends, parses, commits every
answer with `synchronous=FULL` and writes the results.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

MODEL = "gpt-4o-mini"
# Sent before the measurement.
FIRST_REQUESTS = 16
JOB = """
[input]
path = "rows.parquet"
[request]
format = "chat"
base_url = "{url}"
api_key_env = ""
model = "{model}"
prompt = "{{{{ text }}}}"
max_tokens = 100
[limits]
concurrency = {in_flight}
[output]
dir = "run"
"""


# Seconds, and CPU seconds of all threads of this process.
Measured = tuple[float, float]


def now() -> Measured:
    """Return the time on both clocks."""
    return time.perf_counter(), time.process_time()


def since(start: Measured) -> Measured:
    """Return what has passed."""
    seconds, cpu_s = now()
    return seconds - start[0], cpu_s - start[1]


def prompt(number: int) -> str:
    """Return the text of one request."""
    return f"{number}: " + "some words to read " * 10


def body(number: int) -> dict[str, Any]:
    """Return one request as the chat format has it."""
    messages = [{"role": "user", "content": prompt(number)}]
    return {"model": MODEL, "messages": messages, "max_tokens": 100}


async def drive(send: Callable[[int], Awaitable[None]], requests: int, in_flight: int) -> Measured:
    """Send the numbers 0 … requests-1 with concurrent workers; return what it took."""
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            await send(number)

    start = now()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return since(start)


async def bare_aiohttp(url: str, requests: int, in_flight: int) -> Measured:
    """The plainest loop over aiohttp; it keeps nothing."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(number: int) -> None:
            content = json.dumps(body(number)).encode()
            headers = {"content-type": "application/json"}
            target = f"{url}/v1/chat/completions"
            async with session.post(target, data=content, headers=headers) as response:
                json.loads(await response.read())["choices"][0]["message"]["content"]

        return await drive(send, requests, in_flight)


async def httpx_client(url: str, requests: int, in_flight: int) -> Measured:
    """The plainest loop over httpx.AsyncClient, its pool as large as needed."""
    import httpx

    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(limits=limits, timeout=600) as client:

        async def send(number: int) -> None:
            response = await client.post(f"{url}/v1/chat/completions", json=body(number))
            response.json()["choices"][0]["message"]["content"]

        return await drive(send, requests, in_flight)


async def async_openai(url: str, requests: int, in_flight: int) -> Measured:
    """The official client under a semaphore, as its examples show it."""
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", timeout=600)
    gate = asyncio.Semaphore(in_flight)

    async def send(number: int) -> None:
        async with gate:
            answer = await client.chat.completions.create(**body(number))
        assert answer.choices[0].message.content

    start = now()
    await asyncio.gather(*(send(number) for number in range(requests)))
    return since(start)


def batchrun(url: str, requests: int, in_flight: int) -> Measured:
    """This project, end to end."""
    import polars as pl

    from batchrun.job import Job
    from batchrun.run import RunOptions, run_job

    with tempfile.TemporaryDirectory() as directory:
        texts = [prompt(number) for number in range(requests)]
        pl.DataFrame({"text": texts}).write_parquet(Path(directory) / "rows.parquet")
        job = Path(directory) / "job.toml"
        job.write_text(JOB.format(url=url, model=MODEL, in_flight=in_flight))
        start = now()
        report = run_job(Job.load(job), RunOptions(quiet=True))
        assert report.totals.succeeded == requests, report
        return since(start)


async def lm_deluge(url: str, requests: int, in_flight: int) -> Measured:
    """The fastest peer; it keeps no checkpoint."""
    from lm_deluge import Conversation, LLMClient
    from lm_deluge.models import register_model

    os.environ["BENCH_KEY"] = "none"
    register_model(
        id="bench", name=MODEL, api_base=f"{url}/v1", api_key_env_var="BENCH_KEY", api_spec="openai"
    )
    client = LLMClient(
        "bench",
        max_requests_per_minute=10**9,
        max_tokens_per_minute=10**12,
        max_concurrent_requests=in_flight,
        max_new_tokens=100,
    )
    conversations = [Conversation().user(prompt(number)) for number in range(requests)]
    start = now()
    answers = await client.process_prompts_async(conversations, show_progress=False)
    assert all(answer is not None and answer.completion for answer in answers)
    return since(start)


async def async_batch_llm(url: str, requests: int, in_flight: int) -> Measured:
    """The fastest peer that keeps a checkpoint, as safe as this project's."""
    from async_batch_llm import OpenAIModel, OpenAIStrategy, SqliteArtifactStore, process_prompts
    from async_batch_llm.sqlite_artifacts import SqliteDurability
    from openai import AsyncOpenAI

    with tempfile.TemporaryDirectory() as directory:
        store = SqliteArtifactStore(
            Path(directory) / "run.db",
            durability=SqliteDurability.FULL,
            commit_batch_size=in_flight,
        )
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600)
        model = OpenAIModel(MODEL, client, api_surface="chat_completions")
        start = now()
        done = await process_prompts(
            OpenAIStrategy(model),
            [prompt(number) for number in range(requests)],
            concurrency=in_flight,
            artifact_store=store,
        )
        assert len(list(done.outputs())) == requests
        return since(start)


CONTENDERS: dict[str, Callable[[str, int, int], Coroutine[Any, Any, Measured]]] = {
    "aiohttp": bare_aiohttp,
    "httpx": httpx_client,
    "openai": async_openai,
    "lm-deluge": lm_deluge,
    "async-batch-llm": async_batch_llm,
}


def measure(name: str, url: str, requests: int, in_flight: int) -> Measured:
    """Run a client; return what it took."""
    if name == "batchrun":  # it chooses its own event loop; that is a part of it
        return batchrun(url, requests, in_flight)
    return asyncio.run(CONTENDERS[name](url, requests, in_flight))


if __name__ == "__main__":
    name, url, requests, in_flight = sys.argv[1:]
    measure(name, url, FIRST_REQUESTS, int(in_flight))
    print(*measure(name, url, int(requests), int(in_flight)))
