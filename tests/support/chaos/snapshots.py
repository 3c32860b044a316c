"""Copies of a checkpoint taken while a process writes to it: everything written, the last commit torn."""

from __future__ import annotations

import os
import shutil
import signal
import struct
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.checkpoint import FILE_NAME, Checkpoint

if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.chaos.books import Books

WAL = f"{FILE_NAME}-wal"
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


@dataclass(frozen=True)
class Snapshot:
    """A copy of the run directory's checkpoint.

    Attributes:
        directory: where it is.
        answers: how many answers the provider had sent before.
        torn: whether the last commit was torn, as when only a part of it was written.
    """

    directory: Path
    answers: int
    torn: bool


def take(
    process: subprocess.Popen[str], run: Path, target: Path, books: Books, dice: random.Random
) -> Snapshot | None:
    """Halt a process, copy its files, let it go on. None when there is nothing to copy yet."""
    answers = books.answers
    process.send_signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if not (run / FILE_NAME).exists():
            return None
        target.mkdir()
        for name in (FILE_NAME, WAL):
            if (run / name).exists():
                shutil.copy(run / name, target)
    finally:
        process.send_signal(signal.SIGCONT)
    torn = dice.random() < 0.5 and tear(target / WAL, dice)
    return Snapshot(target, answers, torn)


def tear(wal: Path, dice: random.Random) -> bool:
    """Damage what follows the last commit but one: only that need not be on the disk yet."""
    content = bytearray(wal.read_bytes()) if wal.exists() else bytearray()
    ends = commit_ends(content)
    if len(ends) < 2 or ends[-1] == ends[-2]:
        return False
    cut = dice.randrange(ends[-2], ends[-1])
    rest = dice.choice([b"", bytes(ends[-1] - cut), dice.randbytes(ends[-1] - cut)])
    wal.write_bytes(content[:cut] + rest)
    return True


def commit_ends(wal: bytearray) -> list[int]:
    """Return where each commit of a write-ahead log ends, the header first."""
    if len(wal) < WAL_HEADER_BYTES:
        return []
    (page_bytes,) = struct.unpack_from(">I", wal, 8)
    salts = wal[16:24]
    ends = [WAL_HEADER_BYTES]
    at = WAL_HEADER_BYTES
    while at + FRAME_HEADER_BYTES + page_bytes <= len(wal) and wal[at + 8 : at + 16] == salts:
        (pages_after_commit,) = struct.unpack_from(">I", wal, at + 4)
        at += FRAME_HEADER_BYTES + page_bytes
        if pages_after_commit:
            ends.append(at)
    return ends


def look_into(snapshot: Snapshot, expected: Callable[[int], str], at_least: int) -> int:
    """Open a snapshot as a run would; return how many answers it holds.

    Raises:
        AssertionError: when it is damaged, holds a wrong answer, or lacks one that was acknowledged.
    """
    with closing(Checkpoint(snapshot.directory, writable=True)) as store:
        assert store.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (held,) = store.db.execute("SELECT count(*) FROM results").fetchone()
        (rows,) = store.db.execute("SELECT coalesce(max(ordinal), -1) + 1 FROM items").fetchone()
        found = store.columns(0, rows, ["status", "response"])
        for ordinal, status, response in zip(*found.values(), strict=True):
            assert status in {"succeeded", "pending"}
            assert status == "pending" or response == expected(ordinal), ordinal
    assert held >= at_least, f"{held} answers in {snapshot}, at least {at_least} were acknowledged"
    return int(held)
