"""`on_unsupported`: a parameter that the provider refuses is left out, once for each model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from batchrun.errors import ProviderFault
from batchrun.formats.unsupported import DROPPABLE, unsupported_parameter
from tests.conftest import ROOT, batchrun, command
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]

SENT = json.dumps({"model": "m", "temperature": 0.5, "top_p": 0.9, "messages": []}).encode()
OPENAI = "Unsupported parameter: 'temperature' is not supported with this model."
KEYS = "temperature = 0.5\nseed = 7\n"
DROP = 'on_unsupported = "drop"\n'


def fault(message: str, status: int = 400) -> ProviderFault:
    return ProviderFault("invalid_request_error", message, status)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (OPENAI, "temperature"),
        (
            "Unsupported value: 'temperature' does not support 0.5. Only the default is supported.",
            "temperature",
        ),
        ("top_p: Extra inputs are not permitted", "top_p"),
        ("`top_p` is deprecated for this model.", "top_p"),
        ('Unrecognized request argument supplied: "top_p"', "top_p"),
        # Not in the request, not in the list, wrong in another way, or the row's own words.
        ("seed: Extra inputs are not permitted", None),
        ("messages: Extra inputs are not permitted", None),
        ("temperature: range: 0..1", None),
        ("temperature_unit: Extra inputs are not permitted", None),
        ('unsupported content: "what is the temperature of the sun"', None),
        ("no", None),
    ],
)
def test_what_a_refusal_names(message: str, name: str | None) -> None:
    assert unsupported_parameter(fault(message), SENT) == name
    assert unsupported_parameter(fault(message, 500), SENT) is None


def test_the_page_lists_what_is_left_out() -> None:
    page = (ROOT / "docs" / "job.md").read_text(encoding="utf-8")
    _, _, part = page.partition("Only these parameters of a request body are left out:")
    listed = part.partition(". All")[0]
    assert listed.replace("\n", " ").replace(" and ", ", ").split(", ") == [
        f" `{name}`" if n == 0 else f"`{name}`" for n, name in enumerate(DROPPABLE)
    ]


def decide(call: Call) -> Reply:
    """A server whose model `m-old` takes everything, and any other neither temperature nor seed."""
    if call.json["model"] != "m-old":
        for name in ("temperature", "seed"):
            if name in call.json:
                return refusal(400, "unsupported_parameter", OPENAI.replace("temperature", name))
    return answer(call)


def test_by_default_the_rows_are_errored(write_job: WriteJob) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=3, wire_format="chat", request=KEYS)
        code, _, stderr = batchrun("run", job)
        assert code == 4
        assert "remove the parameter from [request], or set on_unsupported" in " ".join(
            stderr.split()
        )
        assert all("temperature" in call.json for call in provider.calls)


def test_a_parameter_is_left_out_once_for_each_model(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(decide) as provider:
        extra = "[limits]\nconcurrency = 1\n[retry]\nmax_attempts = 1\n"
        job = write_job(provider.url, rows=20, wire_format="chat", request=KEYS + DROP, extra=extra)
        code, _, stderr = batchrun("run", job, "--log-file", log)
        assert code == 0, stderr
        assert len(provider.calls) == 22  # one more for each parameter
        first, second, *others = [call.json for call in provider.calls]
        assert {"temperature", "seed"} <= first.keys()
        assert "temperature" not in second
        assert all(not {"temperature", "seed"} & body.keys() for body in others)
        assert {key for key in first if key not in others[0]} == {"temperature", "seed"}
        assert "does not support temperature: it is omitted" in stderr
        summary = json.loads((job.parent / "out" / "summary.json").read_text())
        assert [one["parameter"] for one in summary["dropped_parameters"]] == [
            "seed",
            "temperature",
        ]
        assert summary["retries"]["by_cause"] == {"unsupported_parameter": 2}
        assert "left out" in stderr
        notes = [json.loads(line) for line in log.read_text().splitlines()]
        assert sum("does not support" in str(note.get("message")) for note in notes) == 2
        usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
        assert usage["dropped"].drop_nulls().to_list() == ["temperature", "seed"]
        # What was learned is kept, and the setting is no part of the identity of a row.
        code, _, stderr = batchrun(
            "run",
            job,
            "--quiet",
            "--set",
            "input.limit=20",
            "--set",
            "request.on_unsupported=error",
        )
        assert code == 0, stderr
        assert len(provider.calls) == 22
        code, _, stderr = command("verify", job)
        assert code == 0, stderr


def test_another_execution_and_another_model(write_job: WriteJob) -> None:
    with serving(decide) as provider:
        request = KEYS + DROP
        job = write_job(provider.url, rows=6, wire_format="chat", request=request)
        assert batchrun("run", job, "--quiet", "--limit", "2")[0] == 0
        asked = len(provider.calls)
        assert batchrun("run", job, "--quiet")[0] == 0
        assert len(provider.calls) == asked + 4
        assert all("seed" not in call.json for call in provider.calls[asked:])
        asked = len(provider.calls)
        assert batchrun("run", job, "--quiet", "--yes", "--model", "m-old")[0] == 0
        assert all("seed" in call.json for call in provider.calls[asked:])


def test_workers_learn_from_each_other_what_to_leave_out(write_job: WriteJob) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=100, wire_format="chat", request=KEYS + DROP)
        run = ("run", job, "--workers", "2", "--concurrency", "1", "--quiet")
        code, _, stderr = batchrun(*run, "--limit", "96")
        assert code == 0, stderr
        # One refusal for each parameter, whichever worker sends the next request.
        assert len(provider.calls) == 96 + 2
        assert batchrun(*run)[0] == 0
        assert len(provider.calls) == 100 + 2
    summary = json.loads((job.parent / "out" / "summary.json").read_text())
    assert len(summary["dropped_parameters"]) == 2


def test_requests_of_a_batch_are_sent_again_without_it(write_job: WriteJob) -> None:
    """The newest version of the messages API refuses top_k."""
    with vendor() as server:
        job = write_job(
            server.url,
            rows=10,
            request='api_version = "2026-10-21"\nextra_body = { top_k = 5 }\n' + DROP,
            extra="[batch]\npoll_s = 0.05\ndoubt_s = 0.5\n",
        )
        code, _, stderr = batchrun("run", job, "--batch", "--quiet")
        assert code == 0, stderr
        assert server.usage()["billed"] == 10
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage["dropped"].to_list() == ["top_k", None] * 10
