"""`api_key_command`: a program prints the key, and again when the server refuses it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from batchrun.client import KeyCommand, key_command
from batchrun.errors import JobError
from tests.conftest import batchrun, command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Prints a new key at every run, and fails when the folder has a file `broken`.
PROGRAM = """
import os, sys
from pathlib import Path
runs = Path("runs.txt")
number = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (number + 1))
if os.path.exists("broken"):
    sys.exit("cannot log in with sk-ant-api03-123456789012345678901234567890")
print(f"token-number-{number:06}")
"""


@pytest.fixture
def write_command_job(write_job: Callable[..., Path]) -> Callable[..., Path]:
    def write(url: str, **keys: object) -> Path:
        job = write_job(url, **keys)
        (job.parent / "token.py").write_text(PROGRAM)
        arguments = json.dumps([sys.executable, "token.py"])
        text = job.read_text().replace(
            'api_key_env = "TEST_KEY"', f'api_key_command = {arguments}\nauth = "bearer"'
        )
        job.write_text(text)
        return job

    return write


def runs_of(job: Path) -> int:
    path = job.parent / "runs.txt"
    return len(path.read_text()) if path.exists() else 0


def accepting(valid: Callable[[str], bool]) -> Callable[[Call], Reply]:
    def decide(call: Call) -> Reply:
        key = call.headers.get("authorization", "").removeprefix("Bearer ")
        if valid(key):
            return answer(call)
        return refusal(401, "authentication_error", f"{key} has expired")

    return decide


def test_the_key_of_a_program_is_sent_and_never_shown(
    write_command_job: Callable[..., Path],
) -> None:
    with serving(accepting(lambda key: key == "token-number-000000")) as server:
        job = write_command_job(server.url, rows=5)
        code, shown, _ = command("preview", job, "-n", "1")
        assert code == 0
        assert json.loads(shown)["headers"]["authorization"] == "Bearer ***"
        assert runs_of(job) == 0, "preview sends nothing and needs no key"
        code, _, stderr = command("run", job, "--quiet")
        assert code == 0, stderr
    assert runs_of(job) == 1
    stored = (job.parent / "out" / "checkpoint.db").read_bytes()
    assert b"token-number-" not in stored


def test_a_refused_key_is_renewed_once_for_all_and_no_row_is_lost(
    write_command_job: Callable[..., Path],
) -> None:
    answered: list[str] = []

    def valid(key: str) -> bool:
        # The first key expires after five answers.
        good = key == "token-number-000001" or (key.endswith("0") and len(answered) < 5)
        answered.extend([key] if good else [])
        return good

    with serving(accepting(valid)) as server:
        job = write_command_job(server.url, rows=40)
        log = job.parent / "log.jsonl"
        code, _, stderr = command("run", job, "--quiet", "--log-file", log)
    assert code == 0, stderr
    assert len(answered) == 40
    assert runs_of(job) == 2
    events = [json.loads(line) for line in log.read_text().splitlines()]
    [renewed] = [event for event in events if event["event"] == "key_renewed"]
    assert (renewed["reason"], renewed["error"]) == ("refused", None)
    assert "token-number-" not in log.read_text()


def test_a_key_that_a_worker_renews_is_in_the_log(write_command_job: Callable[..., Path]) -> None:
    with serving(accepting(lambda key: key == "token-number-000001")) as server:
        job = write_command_job(server.url, rows=8)
        log = job.parent / "log.jsonl"
        run = ("run", job, "--workers", "1", "--quiet", "--log-file", log)
        code, _, stderr = batchrun(*run)
    assert code == 0, stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    renewals = [event for event in events if event["event"] == "key_renewed"]
    assert [(one["reason"], one["error"]) for one in renewals] == [("refused", None)]


def test_a_key_that_stays_refused_stops_the_run(write_command_job: Callable[..., Path]) -> None:
    with serving(accepting(lambda _: False)) as server:
        job = write_command_job(server.url, rows=3)
        code, _, stderr = command("run", job, "--quiet")
    assert code == 4
    assert "check the key from api_key_command" in stderr
    assert "token-number-" not in stderr


def test_a_program_that_fails_later_stops_the_run_with_what_it_said(
    write_command_job: Callable[..., Path],
) -> None:
    def valid(_key: str) -> bool:
        (job.parent / "broken").touch()
        return False

    with serving(accepting(valid)) as server:
        job = write_command_job(server.url, rows=3)
        log = job.parent / "log.jsonl"
        code, _, stderr = command("run", job, "--quiet", "--log-file", log)
    assert code == 4
    assert "api_key_command" in stderr
    assert "cannot log in with ***" in stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    renewals = [event for event in events if event["event"] == "key_renewed"]
    assert renewals
    assert all("cannot log in with ***" in event["error"] for event in renewals)


def test_a_program_that_fails_at_the_start_sends_nothing(
    write_command_job: Callable[..., Path],
) -> None:
    with serving(accepting(lambda _: True)) as server:
        job = write_command_job(server.url, rows=3)
        (job.parent / "broken").touch()
        code, _, stderr = command("run", job, "--quiet")
        assert server.calls == []
    assert code == 2
    assert "failed with exit code 1: cannot log in with ***" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-program-anywhere"], "was not found"),
        ([sys.executable, "-c", "print()"], "it printed nothing"),
        ([sys.executable, "-c", "print('two words')"], "it printed more than one word"),
    ],
)
def test_what_a_program_can_do_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        KeyCommand(arguments, None).run()


@pytest.mark.anyio
async def test_an_old_key_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token.py").write_text(PROGRAM)
    held = KeyCommand([sys.executable, "token.py"], tmp_path)
    held.run()
    await held.renew_if_old()
    assert held.key == "token-number-000000"
    monkeypatch.setattr(key_command, "MOST_AGE_S", 0.0)
    await held.renew_if_old()
    assert held.keys == ("token-number-000001", "token-number-000000")
    (tmp_path / "broken").touch()
    await held.renew_if_old()
    assert held.key == "token-number-000001"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('api_key_command = "gcloud auth"', "must be a list of a program and its arguments"),
        ("api_key_command = []", "must be a list of a program and its arguments"),
        ('api_key_command = ["echo", "sk-ant-api03-1234567890123456"]', "contains a key"),
        ('api_key_command = ["a"]', "api_key_env is also set; remove one of them"),
    ],
)
def test_commands_that_are_none(write_job: Callable[..., Path], line: str, message: str) -> None:
    code, _, stderr = command("preview", write_job("https://host", rows=1, request=line))
    assert code == 2
    assert message in stderr
    assert "1234567890123456" not in stderr
