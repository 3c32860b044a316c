"""Against a real server that is not ours: llama.cpp's, in both formats."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import KEY, ROOT, batchrun, command, environment
from tests.support.llama_server import is_available, running_llama_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if not is_available() and os.environ.get("CI") != "true":
    pytest.skip("gguf and xllamacpp are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_llama_server(tmp_path_factory.mktemp("llama"), api_key=KEY) as base_url:
        yield base_url


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_a_job_gets_real_answers_and_real_usage(
    llama: str,
    write_job: Callable[..., Path],
    results: Callable[[], pl.DataFrame],
    wire_format: str,
) -> None:
    job = write_job(
        llama,
        rows=24,
        wire_format=wire_format,
        request='system = "Be brief."\ntemperature = 0.0',
        extra="[limits]\nconcurrency = 4",
    )
    code, _, stderr = batchrun("run", job, "--model", "tiny-llama")
    assert code == 0, stderr
    found = results()
    assert set(found["status"]) == {"succeeded"}
    assert found["custom_id"].to_list() == [f"r{n:05d}" for n in range(24)]
    assert all(found["response"].str.len_chars() > 0)
    assert found["input_tokens"].min() > 5  # type: ignore[operator]
    assert 0 < found["output_tokens"].min() <= found["output_tokens"].max() <= 50  # type: ignore[operator]
    assert found["cost_usd"].null_count() == 24, "nobody knows a price for this model"
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage.height == 24
    assert usage["input_tokens"].sum() == found["input_tokens"].sum()


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_streaming_is_another_way_to_the_same_run(
    llama: str,
    write_job: Callable[..., Path],
    results: Callable[[], pl.DataFrame],
    wire_format: str,
) -> None:
    extra = "[limits]\nconcurrency = 2"
    request = "temperature = 0.0\nstream = true"
    job = write_job(llama, rows=8, wire_format=wire_format, request=request, extra=extra)
    code, _, stderr = batchrun("run", job)
    assert code == 0, stderr
    found = results()
    assert all(found["response"].str.len_chars() > 0)
    assert set(found["stop_reason"]) <= {"end_turn", "max_tokens", "stop", "length"}
    assert found["input_tokens"].min() > 5  # type: ignore[operator]
    assert found["output_tokens"].min() > 0  # type: ignore[operator]
    code, _, stderr = batchrun("run", job, "--set", "stream=false")
    assert code == 0
    assert "nothing to send" in stderr, "how an answer travels is no part of what was asked"


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_a_longer_prompt_has_more_tokens(
    llama: str,
    write_job: Callable[..., Path],
    results: Callable[[], pl.DataFrame],
    wire_format: str,
) -> None:
    job = write_job(llama, rows=1, wire_format=wire_format)
    assert batchrun("run", job)[0] == 0
    short = results()["input_tokens"][0]
    longer = "prompt=Say {{ text }} again and again, please"
    assert batchrun("run", job, "--yes", "--set", longer)[0] == 0
    assert results()["input_tokens"][0] > short


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_its_refusal_of_a_key_stops_the_run(
    write_job: Callable[..., Path], tmp_path: Path, llama: str, wire_format: str
) -> None:
    job = write_job(llama, rows=50, wire_format=wire_format)
    code, _, stderr = batchrun("run", job, env=environment(TEST_KEY="wrong"))
    assert code == 4
    assert "TEST_KEY" in stderr
    assert "401" in stderr


def test_structured_output_and_several_choices_in_chat(
    llama: str, write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    schema = (
        '{ type = "object", required = ["label", "urgent"], properties = { '
        'label = { enum = ["bug", "billing"] }, urgent = { type = "boolean" } } }'
    )
    request = f"json_schema = {schema}\nn = 2\ntemperature = 0.8"
    job = write_job(llama, rows=4, wire_format="chat", request=request, extra="unnest = true")
    code, _, stderr = batchrun("run", job, "--set", "max_tokens=300", "--concurrency", "2")
    assert code == 0, stderr
    found = results()
    assert all(len(choices) == 2 for choices in found["responses"])
    assert set(found["label"]) <= {"bug", "billing"}
    assert found["urgent"].dtype == pl.Boolean
    assert found["urgent"].null_count() == 0


def test_cache_reads_in_messages_are_parts_of_the_input(
    llama: str, write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    job = write_job(llama, rows=6, request='system = "Always be brief, kind and exact."')
    code, _, stderr = batchrun("run", job, "--concurrency", "1")
    assert code == 0, stderr
    found = results()
    assert found["cache_read_tokens"].max() > 0  # type: ignore[operator]
    assert (found["cache_read_tokens"] < found["input_tokens"]).all()
    # With the cache counted in, near-identical prompts have near-identical sizes.
    assert found["input_tokens"].max() - found["input_tokens"].min() <= 2  # type: ignore[operator]


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_a_sample_tells_how_this_tokenizer_counts(
    llama: str, tmp_path: Path, wire_format: str
) -> None:
    """Its vocabulary is tiny, so the characters alone say little: a prompt has four times as much."""
    settings = {
        "request.base_url": llama,
        "request.format": wire_format,
        "request.api_key_env": "TEST_KEY",
        "request.max_tokens": "8",
        "input.limit": "100",
        "limits.concurrency": "4",
        "output.dir": str(tmp_path / "out"),
    }
    arguments = [str(ROOT / "jobs" / "ticket_triage.toml")]
    arguments += [f"--set={key}={value}" for key, value in settings.items()]
    code, stdout, stderr = command("estimate", *arguments, "--sample", "20", "--json", "-q")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["already_answered"] == found["calibrated_by_answers"] == 20
    before = json.loads(command("status", tmp_path / "out", "--json")[1])["tokens"]["input"]
    assert command("run", *arguments, "-q")[0] == 0
    real = json.loads((tmp_path / "out" / "summary.json").read_text())["tokens"]["input"] - before
    assert found["input_tokens"]["expected"] == pytest.approx(real, rel=0.15)
    assert found["input_tokens"]["low"] <= real <= found["input_tokens"]["high"]
