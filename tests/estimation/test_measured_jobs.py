"""Estimates against a server that counts with a real vocabulary. `benchmarks.estimates` has 40 such jobs."""

from __future__ import annotations

import base64
import json
import random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, estimate, run_job
from batchrun.estimation.image_tokens import tile_tokens
from tests.conftest import ROOT
from tests.support.png_files import png
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from pathlib import Path

library = pytest.importorskip("bpe_openai", exc_type=ImportError)
SIZE = (800, 600)
OUTPUT = 40


def counted(call: Call) -> Reply:
    """Answer with the usage that OpenAI documents: three tokens around each message, and its role."""
    encode = library.get_encoding("o200k_base").encode_ordinary
    taken: float = 3
    for message in call.json["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        taken += 4
        for block in blocks:
            is_text = block["type"] == "text"
            taken += len(encode(block["text"])) if is_text else tile_tokens(*SIZE)
    said = json.loads(answer(call).body)
    said["usage"] = {"prompt_tokens": round(taken), "completion_tokens": 1 + call.number % OUTPUT}
    return Reply(body=json.dumps(said).encode())


def job(folder: Path, url: str, model: str, values: list[Any], request: str) -> Job:
    rows = [json.dumps({"n": n, "value": value}) for n, value in enumerate(values)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    path = folder / "job.toml"
    path.write_text(
        f"""[input]
path = "rows.jsonl"
[request]
format = "chat"
base_url = "{url}/v1"
api_key_env = ""
model = "{model}"
max_tokens = {OUTPUT}
{request}
[price]
input = 1.0
output = 5.0
""",
        encoding="utf-8",
    )
    return Job.load(path)


def values(kind: str) -> list[Any]:
    dice = random.Random(4)
    table = pl.read_csv(ROOT / "sample_data" / "tickets.csv")
    if kind == "tickets":
        return table["body"].to_list()[::8]
    if kind == "code":
        return [path.read_text(encoding="utf-8")[:3_000] for path in ROOT.glob("batchrun/*.py")]
    if kind == "tables":
        return [table[n : n + 5].write_csv() for n in range(0, 40, 5)]
    if kind == "base64":
        return [base64.b64encode(dice.randbytes(600)).decode() for _ in range(8)]
    if kind == "conversations":
        turns = table["body"].to_list()
        roles = ("user", "assistant", "user")
        return [
            [{"role": r, "content": turns[n + i]} for i, r in enumerate(roles)] for n in range(8)
        ]
    picture = base64.b64encode(png(*SIZE)).decode()
    return [f"data:image/png;base64,{picture}"] * 4


REQUESTS = {
    "tickets": "prompt = '{{ value }}'\nsystem = 'Say the label.'",
    "conversations": "messages_column = 'value'",
    "images": "prompt = 'What is it? {{ n }}'\nimages = '{{ value }}'",
}


@pytest.mark.parametrize("kind", ["tickets", "code", "tables", "base64", "conversations", "images"])
def test_the_intervals_hold_what_a_server_counts(tmp_path: Path, kind: str) -> None:
    request = REQUESTS.get(kind, "prompt = '{{ value }}'")
    for model in ("gpt-4o", "a-model-of-our-own"):
        folder = tmp_path / model
        folder.mkdir()
        with serving(counted) as provider:
            made = job(folder, provider.url, model, values(kind), request)
            (before,) = estimate(made)
            totals = run_job(made, RunOptions(quiet=True)).totals
        assert totals.succeeded == before.requests
        for found, real in (
            (before.input, totals.usage.input_tokens),
            (before.output, totals.usage.output_tokens),
            (before.cost, totals.cost.total),
        ):
            assert found is not None
            assert real is not None
            assert found.low <= real <= (found.high or 0)
        if model == "gpt-4o":
            assert before.counted == ("counted with OpenAI's o200k_base",)
            assert before.input.expected == pytest.approx(totals.usage.input_tokens, abs=1)
        else:
            assert "of ten tokenizers" in before.counted[0].replace("for ten", "of ten")
