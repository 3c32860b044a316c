"""SIGTERM and SIGHUP end commands in an orderly way: nothing temporary remains, and nothing is half-written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchrun.cli.ending import EndedBySignal, ended_by_signals
from tests.conftest import batchrun, command, environment
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.provider import Call, Reply

    WriteJob = Callable[..., Path]

# A process with this file in its path sends itself a signal at an event of Python (see sys.audit).
HOOK = """
import os, sys
sent = []
def send(event, arguments):
    if event == os.environ.get("AT_EVENT") and os.environ["OF"] in str(arguments[0]) and not sent:
        sent.append(event)
        os.kill(os.getpid(), int(os.environ["SEND"]))
sys.addaudithook(send)
"""
SCORED = '[score]\nexpected = "{{ text }}"\nmatch = "contains"\n'


def say(call: Call) -> Reply:
    return answer(call, f"answer to {call.prompt}")


def ended(
    tmp_path: Path, *arguments: str | Path, event: str, of: str, signum: signal.Signals
) -> int:
    """Run a command that gets a signal at the first event whose first argument contains `of`."""
    (tmp_path / "hook").mkdir(exist_ok=True)
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    temporary = tmp_path / "temporary"
    temporary.mkdir(exist_ok=True)
    sent = {"AT_EVENT": event, "OF": of, "SEND": str(signum.value)}
    env = environment(PYTHONPATH=str(tmp_path / "hook"), TMPDIR=str(temporary), **sent)
    code, _, stderr = batchrun(*arguments, env=env)
    assert "Traceback" not in stderr
    assert "error" not in stderr
    assert not [*temporary.iterdir()]
    return code


def contents(folder: Path) -> dict[Path, bytes]:
    """The files of a run directory, except those that SQLite opens also to read."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths if not path.name.startswith("checkpoint.db-")}


@pytest.mark.parametrize(
    ("name", "signum"),
    [
        ("report", signal.SIGTERM),
        ("report", signal.SIGHUP),
        ("compare", signal.SIGTERM),
        ("verify", signal.SIGTERM),
    ],
)
def test_the_copy_of_the_parts_of_a_run_is_removed(
    write_job: WriteJob, tmp_path: Path, name: str, signum: signal.Signals
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=25, extra=f"partition_rows = 10\n{SCORED}")
        for folder in ("out", "other"):
            assert command("run", job, "--output-dir", tmp_path / folder)[0] == 0
    before = contents(tmp_path / "out")
    runs = [tmp_path / "out", *([tmp_path / "other"] if name == "compare" else [])]
    copy = str(tmp_path / "temporary")
    code = ended(tmp_path, name, *runs, event="sqlite3.connect", of=copy, signum=signum)
    assert code == 128 + signum
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("arguments", "partial"),
    [
        (("export", "{run}"), ".results.parquet.partial"),
        (("export", "{run}", "--to", "{copy}"), ".copy.csv.partial"),
        (("score", "{run}"), ".results.parquet.partial"),
        (("recost", "{run}"), ".results.parquet.partial"),
        (("report", "{run}"), ".report.html.partial"),
    ],
)
def test_no_incomplete_file_remains(
    write_job: WriteJob, tmp_path: Path, arguments: tuple[str, ...], partial: str
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=3, extra=SCORED)
        assert command("run", job)[0] == 0
    before = contents(tmp_path / "out")
    places = {"run": tmp_path / "out", "copy": tmp_path / "copy.csv"}
    words = [word.format(**places) for word in arguments]
    # The complete content is in the temporary file, and is not moved to its place any more.
    code = ended(tmp_path, *words, event="os.rename", of=partial, signum=signal.SIGTERM)
    assert code == 143
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys()
    assert not (tmp_path / "copy.csv").exists()
    assert command("verify", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("signum", "expected"),
    [(signal.SIGTERM, EndedBySignal), (signal.SIGINT, KeyboardInterrupt)],
)
def test_an_error_that_a_signal_causes_is_not_reported(
    signum: signal.Signals, expected: type[BaseException]
) -> None:
    def send() -> None:
        os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with closing(sqlite3.connect(":memory:")) as db:
        db.create_function("send", 0, send)
        with pytest.raises(expected) as caught, ended_by_signals():
            db.execute("SELECT send()")  # SQLite makes an error of its own
    assert getattr(caught.value, "signum", signal.SIGINT) is signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize("loop", [True, False], ids=["uvloop", "asyncio"])
def test_an_event_loop_that_handles_no_signals_ends_at_once(*, loop: bool) -> None:
    code = f"""
import anyio, os, signal
from batchrun.cli.ending import ended_by_signals

async def send():
    os.kill(os.getpid(), signal.SIGTERM)
    await anyio.sleep(60)

with ended_by_signals():
    anyio.run(send, backend_options={{"use_uvloop": {loop}}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
