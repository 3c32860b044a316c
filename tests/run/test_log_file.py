"""`--log-file`: what happens in a run, one JSON line for each event."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import KEY, command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def events(path: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(path) if line["event"] == name]


def troubled(call: Call) -> Reply:
    """Row 3 fails once, row 5 is refused for good, the key is said back."""
    if call.prompt == "Say text 3" and not call.seen:
        return refusal(500, "api_error", f"no luck with {KEY}", retry_after="0")
    if call.prompt == "Say text 5":
        return refusal(400, "invalid_request_error", f"{KEY} is not allowed to ask this")
    return answer(call)


def test_what_is_in_it(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(troubled) as provider:
        job = write_job(provider.url)
        code, _, stderr = command("run", job, "--log-file", log)
    assert code == 3, stderr
    found = lines(log)
    assert [line["event"] for line in found[:1] + found[-1:]] == ["start", "end"]
    assert all({"time", "event", "run", "pid"} <= line.keys() for line in found)
    start, end = found[0], found[-1]
    assert (start["rows"], start["execution"], start["simulated"]) == (20, 1, False)
    assert start["directory"] == str(tmp_path / "out")
    (retried,) = events(log, "attempt_failed")
    assert retried["custom_id"] == "r00003"
    assert (retried["attempt"], retried["http_status"], retried["cause"]) == (1, 500, "transient")
    (errored,) = events(log, "row_errored")
    assert errored["custom_id"] == "r00005"
    assert errored["error_type"] == "invalid_request_error"
    assert errored["tried_again"] is False
    assert (end["exit_code"], end["error"]) == (3, None)
    assert end["summary"] == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert KEY not in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_it_is_appended_to(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    earlier = {"time": "2026-11-27T01:30:00.000+00:00", "event": "end", "pid": 7}
    log.write_text(json.dumps(earlier) + "\n")
    with serving() as provider:
        job = write_job(provider.url)
        for _ in range(2):
            assert command("run", job, "--log-file", log)[0] == 0
    assert [e["execution"] for e in events(log, "start")] == [1, 2]
    assert lines(log)[0] == earlier
    assert events(log, "note")[-1]["message"].endswith("nothing to send")


def test_rows_that_cannot_be_rendered_are_told(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving() as provider:
        job = write_job(provider.url, rows=2)
        code, _, _ = command("run", job, "--log-file", log, "--set", "prompt={{ text[9] }}{{ id }}")
    assert code == 3
    assert [e["custom_id"] for e in events(log, "row_errored")] == ["r00000", "r00001"]
    assert events(log, "row_errored")[0]["attempt"] == 0


def test_what_never_began_is_told(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    job = write_job("http://127.0.0.1:9")
    assert command("run", job, "--log-file", log, "--set", "prompt={{ txt }}")[0] == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.db").write_text("{")
    assert command("run", job, "--log-file", log)[0] == 5
    assert [(line["event"], line["exit_code"]) for line in lines(log)] == [("end", 2), ("end", 5)]
    assert "the input has no column 'txt'" in lines(log)[0]["error"]
    assert "damaged or not a SQLite file" in lines(log)[1]["error"]


def test_a_stop_is_told(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(lambda _: refusal(401, "authentication_error", f"bad key {KEY}")) as provider:
        job = write_job(provider.url)
        assert command("run", job, "--log-file", log)[0] == 4
    (end,) = events(log, "end")
    assert end["exit_code"] == 4
    assert "check the key in the environment variable TEST_KEY" in end["error"]
    assert events(log, "attempt_failed")[0]["cause"] == "fatal"
    assert KEY not in log.read_text()


def test_it_may_be_rotated_away(write_job: WriteJob, tmp_path: Path) -> None:
    log, old = tmp_path / "log.jsonl", tmp_path / "log.jsonl.1"

    def rotating(call: Call) -> Reply:
        if call.prompt == "Say text 7":
            log.rename(old)
        if call.number == 15:
            log.unlink(missing_ok=True)
        return refusal(400, "no") if call.number % 2 else answer(call)

    with serving(rotating) as provider:
        job = write_job(provider.url, extra="[limits]\nconcurrency = 1\nmax_errors = 100")
        assert command("run", job, "--log-file", log)[0] == 3
    assert lines(old)[0]["event"] == "start"
    assert lines(log)[-1]["event"] == "end"
    assert {line["event"] for line in lines(log)} == {"row_errored", "end"}


@pytest.mark.parametrize("place", ["none/log.jsonl", "folder/"])
def test_a_place_that_cannot_be_written_is_refused_at_once(
    write_job: WriteJob, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    with serving() as provider:
        job = write_job(provider.url)
        code, _, stderr = command("run", job, "--log-file", tmp_path / place)
        assert code == 2
        assert place.rstrip("/") in stderr
        assert not provider.calls


def test_a_log_that_breaks_never_ends_a_run(write_job: WriteJob, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()

    def breaking(call: Call) -> Reply:
        if call.number == 1:
            (folder / "log.jsonl").unlink()
            folder.rmdir()
        return refusal(400, "no") if call.number % 2 else answer(call)

    with serving(breaking) as provider:
        job = write_job(provider.url, extra="[limits]\nconcurrency = 1\nmax_errors = 100")
        code, _, stderr = command("run", job, "--log-file", folder / "log.jsonl")
    assert code == 3
    assert stderr.count("the log cannot be written") == 1
    assert len(provider.calls) == 20


def test_a_full_disk(write_job: WriteJob) -> None:
    with serving() as provider:
        code, _, stderr = command("run", write_job(provider.url), "--log-file", "/dev/full")
    assert code == 0
    assert stderr.count("/dev/full: the log cannot be written ([Errno 28]") == 1


def test_a_pipe_without_a_reader_is_refused(write_job: WriteJob, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, _, stderr = command(
        "run", write_job("http://127.0.0.1:9"), "--log-file", tmp_path / "pipe"
    )
    assert code == 2
    assert "pipe: cannot be written" in stderr


def test_waits_are_told(write_job: WriteJob, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(_busy) as provider:
        job = write_job(provider.url, rows=2, extra="[limits]\nconcurrency = 1")
        assert command("run", job, "--log-file", log)[0] == 0
    reasons = [event["reason"] for event in events(log, "waiting")]
    assert any(reason and "retry: rate_limit_error" in reason for reason in reasons), reasons
    assert events(log, "attempt_failed")[0]["cause"] == "rate_limit"


def _busy(call: Call) -> Reply:
    return refusal(429, "rate_limit_error", retry_after="3") if call.number == 1 else answer(call)
