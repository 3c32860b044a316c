"""One writer for a checkpoint, by whatever name it is reached."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchrun.checkpoint import FILE_NAME, Checkpoint, totals
from batchrun.errors import CheckpointError
from tests.conftest import command, finish, start_batchrun, wait_until
from tests.support.provider import Gate, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 400
LIMITS = "[limits]\nconcurrency = 4"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_another_name_for_the_checkpoint_does_not_evade_the_lock(
    write_job: Callable[..., Path], link: Callable[[Path, Path], None]
) -> None:
    gate = Gate(20)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=ROWS, extra=LIMITS)
        out, other = job.parent / "out", job.parent / "other"
        process = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) > 20, process)
        other.mkdir()
        link(out / FILE_NAME, other / FILE_NAME)
        code, _, stderr = command("run", job, "--output-dir", other)
        assert code == 5, stderr
        assert "hard links" in stderr if link is os.link else "another batchrun process" in stderr
        assert process.poll() is None, "the first goes on"
        gate.opened.set()
        assert finish(process)[0] == 0
        assert len(provider.calls) == ROWS
    with closing(Checkpoint(out, writable=False)) as store:
        assert totals(store).succeeded == ROWS
        assert store.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_checkpoint_with_two_names_is_read_and_not_written(
    write_job: Callable[..., Path],
) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, extra='[score]\nexpected = "ok"')
        assert command("run", job)[0] == 0
        out, backup = job.parent / "out", job.parent / "backup"
        shutil.copytree(out, backup, copy_function=os.link)
        for arguments in (("run", job), ("run", job, "--output-dir", backup), ("score", backup)):
            code, _, stderr = command(*arguments)
            assert code == 5
            assert "has 2 names (hard links)" in stderr
            assert "cp " in stderr
        assert command("status", backup)[0] == 0
        path = out / FILE_NAME
        shutil.copy(path, f"{path}.copy")  # the way out that it says
        path.with_name(f"{path.name}.copy").replace(path)
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 20


def test_what_a_killed_process_left_of_putting_it_back_is_no_second_name(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, writable=True)):
        pass
    os.link(tmp_path / FILE_NAME, tmp_path / f".{FILE_NAME}.partial")
    with closing(Checkpoint(tmp_path, writable=True)):
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_within_one_process_too(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with closing(Checkpoint(tmp_path, writable=True)):
        (tmp_path / "other" / FILE_NAME).symlink_to(tmp_path / FILE_NAME)
        for directory in (tmp_path, tmp_path / "other"):
            with pytest.raises(CheckpointError, match="another batchrun process"):
                Checkpoint(directory, writable=True)
    with closing(Checkpoint(tmp_path / "other", writable=True)):
        pass
