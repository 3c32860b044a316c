"""Runs with workers: their processes, and a provider that treats each row alike in every run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.provider import Call, Reply, answer, refusal

if TYPE_CHECKING:
    import subprocess

CONCURRENCY = 8
LIMITS = f"[limits]\nconcurrency = {CONCURRENCY}"
# What depends on when and by whom a row was sent.
VARYING = ("response_id", "request_id", "latency_s", "finished_at", "attempts")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes of an owner."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = [int(child) for child in path.read_text().split()] if path.exists() else []
    return [child for child in children if "batchrun.workers" in command_of(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def faulty(call: Call) -> Reply:
    """Some rows are wrong, some attempts fail, some answers are cut: decided by the row alone."""
    number = int(call.prompt.rpartition(" ")[2])
    if number % 31 == 3:
        return refusal(400, "invalid_request_error", "this row is wrong")
    if call.seen == 0 and number % 7 == 1:
        return refusal(529, "overloaded_error", "try again")
    if call.seen == 0 and number % 11 == 2:
        return answer(call, "cut", cut=40, is_billed=False)
    return answer(call, f"answer to {call.prompt}")
