"""Calls from threads, and from where an event loop is running, one after the other."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from batchrun.limits.memory import COLLECTED_EVERY
from batchrun.run import run_loop
from tests.conftest import DEADLINE_S, environment
from tests.support.provider import serving

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.run.interrupts import Interrupts

CALLS = 40
PROGRAM = f"""
import asyncio, threading, batchrun, polars

def call(number):
    found = batchrun.complete(
        polars.DataFrame({{"text": [f"text {{n}}" for n in range(8)]}}),
        prompt="Say {{{{ text }}}}",
        model="claude-haiku-4-5-20251001",
        base_url="URL",
        api_key_env="TEST_KEY",
        directory=f"run {{number}}",
        quiet=True,
    )
    assert found["status"].unique().to_list() == ["succeeded"]

async def cells():
    for number in range({CALLS}):
        call(number)

def threads():
    for number in range({CALLS}):
        thread = threading.Thread(target=call, args=[number])
        thread.start()
        thread.join()

"""


@pytest.mark.parametrize("calls", ["asyncio.run(cells())", "threads()"])
def test_many_calls_of_one_process_do_not_crash_it(tmp_path: Path, calls: str) -> None:
    """The allocator of the HTTP library crashed in threads that took the place of others."""
    with serving() as provider:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("URL", provider.url) + calls],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * DEADLINE_S,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(provider.calls) == CALLS * 8


class Done:
    """A report without an error."""

    error = None

    def __init__(self, thread: int) -> None:
        self.thread = thread


def test_a_call_within_a_call_has_a_thread_of_its_own() -> None:
    async def inner(_: Interrupts) -> Done:
        return Done(threading.get_ident())

    async def outer(_: Interrupts) -> Done:
        assert run_loop(inner).thread != threading.get_ident()
        return Done(threading.get_ident())

    async def cell() -> Done:
        return run_loop(outer)

    first, second = asyncio.run(cell()), asyncio.run(cell())
    assert first.thread == second.thread != threading.get_ident()


def test_garbage_is_looked_for_less_often_during_a_run_and_as_before_after_it() -> None:
    before = gc.get_threshold()
    during: list[int] = []

    async def outer(_: Interrupts) -> Done:
        run_loop(inner)  # its end changes nothing for the outer one
        during.append(gc.get_threshold()[0])
        return Done(0)

    async def inner(_: Interrupts) -> Done:
        during.append(gc.get_threshold()[0])
        return Done(0)

    run_loop(outer)
    assert during == [COLLECTED_EVERY, COLLECTED_EVERY]
    assert gc.get_threshold() == before


def test_a_user_who_switched_the_collector_off_keeps_it_off() -> None:
    async def look(_: Interrupts) -> Done:
        return Done(gc.get_threshold()[0])

    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        assert run_loop(look).thread == 0
    finally:
        gc.set_threshold(*before)
