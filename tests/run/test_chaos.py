"""The short form of `make chaos`: a run killed 20 times, and copies of its files at any instant.

What a power failure leaves, where nothing is on the disk that was not flushed: `tests/run/test_power.py`.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.support.chaos.batch_rounds import BatchStory, play
from tests.support.chaos.lives import AFTER, BEFORE, COMMIT, HALF, Kill, Life
from tests.support.chaos.rounds import Round, undisturbed
from tests.support.chaos.snapshots import commit_ends

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 20
ROWS = 600


def test_killed_20_times_and_every_row_has_one_result(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    reference = undisturbed(tmp_path / "undisturbed", ROWS, "messages")
    story = Round(tmp_path / "run", reference, KILLS, random.Random(seed), "messages").play()
    print(story)
    assert story.kills.total() == KILLS
    assert story.kills["output"] >= 3


def test_workers_and_their_owner_are_killed(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    reference = undisturbed(tmp_path / "undisturbed", ROWS, "chat")
    kills = 5
    dice = random.Random(seed)
    story = Round(tmp_path / "run", reference, kills, dice, "chat", workers=2).play()
    print(story)
    assert story.kills.total() >= kills


def test_commits_are_found_in_a_write_ahead_log() -> None:
    assert commit_ends(bytearray()) == []
    header = bytes(8) + (4096).to_bytes(4, "big") + bytes(4) + b"salts..." + bytes(8)

    def frame(pages_after_commit: int, salts: bytes = b"salts...") -> bytes:
        page = bytes(4096)
        return bytes(4) + pages_after_commit.to_bytes(4, "big") + salts + bytes(8) + page

    wal = header + frame(0) + frame(7) + frame(8) + frame(0) + frame(9, b"older...")
    assert commit_ends(bytearray(wal)) == [32, 32 + 2 * 4120, 32 + 3 * 4120]


# `make chaos` kills at every call and commit; here are the windows that differ most, one after the other.
KILLS_OF_BATCHES = (
    Kill(BEFORE, 1, "create"),
    Kill(AFTER, 1, "create"),
    Kill(COMMIT, 5),
    Kill(HALF, 1, "results"),
    Kill(AFTER, 1, "results"),
)


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_batches_survive_kills_at_calls_and_commits(tmp_path: Path, wire_format: str) -> None:
    story = BatchStory()
    lives = [Life(tmp_path, kill, is_faulty=n > 1) for n, kill in enumerate(KILLS_OF_BATCHES)]
    assert play(tmp_path / "run", wire_format, lives, story)
    assert story.kills.total() == len(KILLS_OF_BATCHES)
