"""Disks that are full, directories that are taken away, files that are damaged.

Real processes meet limits that the kernel enforces. What was paid for is kept as far as it can be,
and once the fault is mended the next run completes.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

import batchrun as library
from batchrun.checkpoint import FILE_NAME, Checkpoint, totals
from batchrun.errors import BatchrunError, CheckpointError
from tests.conftest import (
    KEY,
    batchrun,
    bound_by_permissions,
    environment,
    finish,
    resume,
    start_batchrun,
    wait_for_line,
    wait_until,
)
from tests.support.provider import Call, Provider, Reply, answer, serving

WriteJob = Callable[..., Path]
Results = Callable[[], pl.DataFrame]

CONCURRENCY = 16
LIMITS = f"[limits]\nconcurrency = {CONCURRENCY}"
WAITING = "waits up to 20 s for room"
SMALL_DISK = 1_200_000

needs_prlimit = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux changes the limits of another process"
)


def say(call: Call) -> Reply:
    return answer(call, f"answer to {call.prompt} " + "at length " * 50, delay_s=0.01)


def start_on_small_disk(*arguments: str | Path, size: int = SMALL_DISK) -> subprocess.Popen[str]:
    """Start the command where no file can grow beyond a size: a write fails, as on a full disk."""
    return subprocess.Popen(
        [sys.executable, "-m", "batchrun", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size * 10**6)),  # noqa: PLW1509 - no threads hold locks that this needs
    )


def wait_for_calls(provider: Provider, process: subprocess.Popen[str], count: int) -> None:
    wait_until(lambda: len(provider.calls) >= count, process)


def assert_complete(found: pl.DataFrame, rows: int) -> None:
    assert found["custom_id"].to_list() == [f"r{n:05d}" for n in range(rows)]
    assert set(found["status"]) == {"succeeded"}
    texts = [text.split(" at ")[0] for text in found["response"].to_list()]
    assert texts == [f"answer to Say text {n}" for n in range(rows)]


# The disk is full


@needs_prlimit
def test_answers_are_kept_in_memory_until_the_disk_has_room(
    write_job: WriteJob, results: Results
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=600, extra=LIMITS)
        process = start_on_small_disk("run", job)
        wait_for_line(process, WAITING)
        sent = len(provider.calls)
        time.sleep(0.5)
        assert len(provider.calls) <= sent + CONCURRENCY, "nothing more is sent meanwhile"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10**9, 10**9))
        code, _, stderr = finish(process)
        assert code == 0, stderr
        assert len(provider.calls) == 600
        assert provider.extra_bills == 0
    assert_complete(results(), 600)


def test_a_disk_that_stays_full_ends_the_run_and_the_next_one_completes(
    write_job: WriteJob, results: Results
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=600, extra=LIMITS)
        process = start_on_small_disk("run", job)
        wait_for_line(process, WAITING)
        # Somebody who does not want to wait; otherwise it would end by itself.
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "stopping: ")
        process.send_signal(signal.SIGINT)
        code, _, stderr = finish(process)
        assert code == 5, stderr
        assert "Make room and run the job again" in stderr
        assert "Traceback" not in stderr
        assert resume(job) == 0
        assert provider.extra_bills <= CONCURRENCY
        summary = pl.read_json(job.parent / "out" / "summary.json").row(0, named=True)
        assert summary["possibly_double_billed"] >= provider.extra_bills
    assert_complete(results(), 600)


def test_without_any_room_nothing_is_sent(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url)
        code, _, stderr = finish(start_on_small_disk("run", job, size=4096))
        assert code == 5
        assert "check the disk" in stderr
        assert "Traceback" not in stderr
        assert provider.calls == []


def test_outputs_that_do_not_fit_are_written_once_there_is_room(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=30, extra='files = ["results.csv"]')
        table = pl.read_csv(job.parent / "rows.csv", infer_schema=False)
        table.with_columns(pad=pl.lit("x" * 100_000)).write_csv(job.parent / "rows.csv")
        out = job.parent / "out"
        code, _, stderr = finish(start_on_small_disk("run", job, size=2_000_000))
        assert code == 6
        assert "results.csv: could not be written" in stderr
        assert f"batchrun export {out}" in stderr
        assert [path.name for path in out.iterdir()] == [FILE_NAME]
        assert batchrun("export", out)[0] == 0
        assert len(provider.calls) == 30
    assert_complete(pl.read_csv(out / "results.csv", infer_schema=False), 30)


# The directory may not be written to, or goes away


def start_bound(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*bound_by_permissions(), sys.executable, "-m", "batchrun", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_read_only_directory_is_refused_before_anything_is_sent(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url)
        out = job.parent / "out"
        out.mkdir(mode=0o500)
        code, _, stderr = finish(start_bound("run", job))
        assert code == 5
        assert "check the disk and permissions" in stderr
        assert provider.calls == []


def test_a_directory_that_becomes_read_only_costs_the_outputs_alone(
    write_job: WriteJob, results: Results
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=300, extra=LIMITS)
        out = job.parent / "out"
        process = start_bound("run", job)
        wait_for_calls(provider, process, 50)
        out.chmod(0o500)
        code, _, stderr = finish(process)
        out.chmod(0o700)
        assert code == 6, stderr
        assert "results.parquet: could not be written" in stderr
        assert "results are safe in the checkpoint" in stderr
        assert resume(job) == 0
        assert len(provider.calls) == 300
    assert_complete(results(), 300)


@pytest.mark.parametrize("fate", ["removed", "moved"])
def test_a_directory_that_goes_away_stops_the_run_and_loses_nothing(
    write_job: WriteJob, results: Results, fate: str
) -> None:
    with serving(say) as provider:
        job = write_job(provider.url, rows=800, extra=LIMITS)
        out, elsewhere = job.parent / "out", job.parent / "elsewhere"
        process = start_batchrun("run", job)
        wait_for_calls(provider, process, 200)
        if fate == "removed":
            shutil.rmtree(out)
        else:
            out.rename(elsewhere)
        code, _, stderr = finish(process)
        assert code == 5
        assert "was removed or moved during the run" in stderr
        assert "to resume, run again" in stderr
        answered = len(provider.calls)
        assert answered < 800, "it stopped"
        if fate == "moved":
            with closing(Checkpoint(elsewhere, writable=False)) as moved:
                assert totals(moved).succeeded == answered
        assert resume(job) == 0
        assert len(provider.calls) == 800
        assert provider.extra_bills == 0
    assert_complete(results(), 800)


def test_a_file_that_took_the_place_of_the_checkpoint_is_left_as_it_is(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        (tmp_path / FILE_NAME).unlink()
        (tmp_path / FILE_NAME).write_text("somebody else's")
        assert not store.is_in_place()
        with pytest.raises(CheckpointError, match="File exists"):
            store.restore_file()
        assert (tmp_path / FILE_NAME).read_text() == "somebody else's"
        assert not (tmp_path / f".{FILE_NAME}.partial").exists()


# The file is damaged


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a job whose run is finished, and the provider gone."""
    place = tmp_path_factory.mktemp("finished")
    table = pl.DataFrame({"prompt": [f"Say text {n}" for n in range(200)]})
    table.write_csv(place / "rows.csv")
    with serving(say) as provider:
        overrides = {"request.model": "m", "request.base_url": provider.url}
        (place / "url").write_text(provider.url)
        os.environ["TEST_KEY"] = KEY
        assert run(place, overrides) == 0
    return place


def run(place: Path, overrides: dict[str, str]) -> int:
    fixed = {"request.max_tokens": 9, "request.api_key_env": "TEST_KEY", "retry.max_attempts": 1}
    job = library.load_job(place / "rows.csv", {**fixed, **overrides, "output.dir": "out"})
    return library.run_job(job, library.RunOptions(quiet=True)).exit_code


def damage(file: Path, dice: random.Random) -> None:
    """Cut a file short, move parts of it, or put random bytes into some of its places."""
    content = bytearray(file.read_bytes())
    kind = dice.choice(["cut", "moved", "few bytes", "many bytes", "pages"])
    if kind == "cut":
        del content[dice.randrange(len(content)) :]
    most, size = {"few bytes": (3, 1), "many bytes": (300, 1), "pages": (9, 4096)}.get(
        kind, (9, 16)
    )
    for _ in range(dice.randrange(1, most + 1)):
        at = dice.randrange(len(content) + 1)
        content[at : at + (1 if kind == "moved" else size)] = dice.randbytes(size)
    file.write_bytes(content)


@pytest.mark.parametrize("seed", [*range(22), 369, 750])
def test_whatever_is_damaged_the_end_is_an_error_of_ours(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    place = tmp_path / "job"
    shutil.copytree(finished, place)
    damage(place / "out" / FILE_NAME, random.Random(seed))
    overrides = {"request.model": "m", "request.base_url": (finished / "url").read_text()}
    told: list[tuple[int, str]] = []
    for use in (
        lambda: library.status(place / "out", as_json=True),
        lambda: library.export(place / "out", None),
        lambda: run(place, overrides),
    ):
        try:
            use()
        except BatchrunError as error:
            told.append((error.exit_code, str(error)))
    assert all(code in {2, 5, 6} and "checkpoint" in message for code, message in told), told


def test_a_damaged_checkpoint_is_refused_and_new_starts_over(write_job: WriteJob) -> None:
    with serving(say) as provider:
        job = write_job(provider.url)
        assert resume(job) == 0
        file = job.parent / "out" / FILE_NAME
        content = file.read_bytes()
        file.write_bytes(content[:1000] + b"\xff" * 20_000 + content[21_000:])
        before = file.read_bytes()
        code, _, stderr = batchrun("run", job)
        assert code == 5
        assert "start over with --new" in stderr
        assert "Traceback" not in stderr
        assert file.read_bytes() == before
        assert len(provider.calls) == 20
        assert batchrun("run", job, "--new")[0] == 0
