"""Ways out of a run: a log of inspect_ai, fine-tuning data, and an exit status for pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from batchrun.errors import JobError
from batchrun.inspection.exporting import export
from batchrun.inspection.fine_tuning import export_fine_tuning
from tests.conftest import command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 6
SCORE = '[score]\nexpected = "yes"\n'
# Reads the log as inspect_ai does, in a process of its own: it changes the event loop and warnings.
READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
log = read_eval_log(sys.argv[1])
again = log.model_dump(mode="json", exclude_none=True)
again["summaries"] = len(read_eval_log_sample_summaries(sys.argv[1]))
print(json.dumps(again))
"""


def decide(call: Call) -> Reply:
    """Of six rows the third fails, the fourth is cut, and one of two others is right."""
    number = int(call.prompt.split()[-1])
    if number == 2:
        return refusal(400, "invalid_request_error", "not this one")
    reply = answer(call, "yes" if number % 2 == 0 or number == 3 else "no")
    if number == 3:
        cut = reply.body.replace(b"end_turn", b"max_tokens")
        return Reply(body=cut)
    return reply


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    """A run of six rows with a system prompt and a score."""
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"r{n},text {n}\n" for n in range(ROWS)))
    with serving(decide) as provider:
        (folder / "job.toml").write_text(
            f"""
[input]
path = "rows.csv"
id = "id"
[request]
base_url = "{provider.url}"
api_key_env = "TEST_KEY"
provider = "anthropic"
model = "claude-haiku-4-5-20251001"
system = "Be brief."
prompt = "Say {{{{ text }}}}"
max_tokens = 50
{SCORE}
[output]
dir = "out"
"""
        )
        code, _, stderr = command("run", folder / "job.toml", "--quiet")
        assert code == 3, stderr
    return folder / "out"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_fine_tuning_data_has_the_rows_that_passed(done: Path, tmp_path: Path) -> None:
    report = export_fine_tuning(done, tmp_path / "training.jsonl")
    assert (report.written, report.left_out, report.unsuitable) == (2, 4, 0)
    assert lines(report.path) == [
        {
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": f"Say text {number}"},
                {"role": "assistant", "content": "yes"},
            ],
        }
        for number in (0, 4)
    ]


def test_fine_tuning_data_in_the_other_shape(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    code, stdout, stderr = command("export", done, "--to", path, "--finetune", "chat")
    assert (code, stdout.strip()) == (0, str(path)), stderr
    assert "2 rows written, 4 that did not pass left out" in stderr
    assert [turn["role"] for turn in lines(path)[0]["messages"]] == ["system", "user", "assistant"]
    code, _, stderr = command("export", done, "--to", path, "--finetune")
    assert (code, "exists; choose another name" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--finetune"], "needs --to"),
        (["--finetune", "other", "--to", "x.jsonl"], "must be messages or chat"),
        (["--finetune", "--to", "x.csv"], "needs a name ending in .jsonl"),
        (["--to", "x.eval", "--last"], "a log has all rows"),
    ],
)
def test_what_cannot_be_exported_is_said(
    done: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, _, stderr = command("export", done, *arguments, cwd=tmp_path)
    assert (code, words in stderr) == (2, True), stderr
    assert list(tmp_path.iterdir()) == []


def test_inspect_ai_reads_the_log(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.eval"
    assert export(done, path).paths == (path,)
    read = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    log = json.loads(read.stdout)
    assert log["status"] == "success"
    assert log["eval"]["model"] == "anthropic/claude-haiku-4-5-20251001"
    assert (log["results"]["total_samples"], log["results"]["completed_samples"]) == (6, 5)
    (score,) = log["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert log["summaries"] == len(log["samples"]) == ROWS
    first, third, fourth = log["samples"][0], log["samples"][2], log["samples"][3]
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]
    assert first["scores"]["score"]["value"] == 1.0
    assert first["scores"]["score"]["answer"] == "yes"
    assert first["target"] == "yes"
    assert first["metadata"] == {"id": "r0", "text": "text 0"}
    assert first["output"]["usage"]["input_tokens"] == 11
    assert "not this one" in third["error"]["message"]
    assert fourth["output"]["choices"][0]["stop_reason"] == "max_tokens"


def test_a_log_replaces_only_a_log_of_ours(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.eval"
    export(done, path)
    export(done, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({"eval": {"packages": {"inspect_ai": "1"}}}))
    with pytest.raises(JobError, match="is not a log that batchrun wrote"):
        export(done, path)


@pytest.mark.parametrize(("least", "expected"), [(0.6, 0), (0.61, 8)])
def test_a_score_below_the_threshold_is_status_8(done: Path, least: float, expected: int) -> None:
    code, _, stderr = command("score", done, "--fail-under", str(least))
    assert (code, "was not reached" in stderr) == (expected, bool(expected))
    code, _, _ = command("report", done, "--fail-under", str(least))
    assert code == expected


def test_a_threshold_in_percent_is_explained(done: Path) -> None:
    code, _, stderr = command("score", done, "--fail-under", "90")
    assert code == 8
    assert "scores are from 0 to 1, so write --fail-under 0.9 if you mean 90 %" in stderr
    assert "so write" not in command("score", done, "--fail-under", "0.9")[2]


@pytest.mark.parametrize("least", ["nan", "inf", "-inf", "high"])
def test_a_threshold_is_a_finite_number(done: Path, least: str) -> None:
    code, _, stderr = command("score", done, f"--fail-under={least}")
    assert (code, "--fail-under" in stderr) == (2, True)


def test_a_run_below_the_threshold_is_status_8(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    def yes(call: Call) -> Reply:
        return answer(call, "yes" if call.prompt.endswith("0") else "no")

    with serving(yes) as provider:
        job = write_job(provider.url, rows=4, extra=SCORE)
        assert command("run", job, "--quiet", "--fail-under", "0.25")[0] == 0
        code, _, stderr = command("run", job, "--quiet", "--fail-under", "0.3")
        assert code == 8
        assert "accuracy 25.0 %" in stderr
        # Of a matrix, each run must reach it.
        matrix = ["--set", "matrix.temperature=[0.0,1.0]", "--output-dir", str(tmp_path / "cells")]
        code, _, stderr = command("run", job, "--quiet", "--fail-under", "0.3", *matrix)
        assert (code, "temperature=0" in stderr, "temperature=1" in stderr) == (8, True, True)
        plain = write_job(provider.url, rows=4)
        code, _, stderr = command("run", plain, "--quiet", "--fail-under", "0.3")
        assert (code, "needs a [score]" in stderr) == (2, True)


def test_a_run_that_was_stopped_keeps_its_status(write_job: Callable[..., Path]) -> None:
    with serving(lambda _: refusal(401, "authentication_error", "no")) as provider:
        job = write_job(provider.url, rows=2, extra=SCORE)
        code, _, stderr = command("run", job, "--quiet", "--fail-under", "0.5")
    assert code == 4
    assert "was not reached: there is no score" in stderr or "nothing was scored" in stderr
