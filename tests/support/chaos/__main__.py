"""`python -m tests.support.chaos`: kill a run many times, and check every row.

Prints the seed and what happened in each round; ends with a traceback at the first broken promise.
"""

from __future__ import annotations

import argparse
import random
import secrets
import tempfile
import time
from pathlib import Path

from tests.support.chaos.batch_rounds import SCENES, BatchStory, sweep
from tests.support.chaos.rounds import Round, Story, undisturbed

ROWS_A_ROUND = 5_000
FORMATS = ("messages", "chat")


def main() -> None:
    """Play rounds until there were as many rows and kills as wanted; then kill runs with batches."""
    options = parsed()
    if options.only != "batches":
        play_rows(options)
    if options.only != "rows":
        play_batches()


def play_rows(options: argparse.Namespace) -> None:
    """Kill live runs at random points, until there were as many rows and kills as wanted."""
    seed = options.seed if options.seed is not None else secrets.randbelow(10**6)
    print(f"seed {seed}", flush=True)
    size = min(options.rows, ROWS_A_ROUND)
    kills_a_round = max(1, options.kills * size // options.rows)
    stories: list[Story] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        references = {
            wire_format: undisturbed(Path(directory) / wire_format, size, wire_format)
            for wire_format in FORMATS
        }
        while rows(stories) < options.rows or kills(stories) < options.kills:
            number = len(stories) + 1
            dice = random.Random(f"{seed}/{number}")
            wire_format = FORMATS[number % 2]
            place = Path(directory) / f"round-{number}"
            stories.append(
                Round(
                    place,
                    references[wire_format],
                    kills_a_round,
                    dice,
                    wire_format,
                    workers=options.workers,
                ).play()
            )
            print(f"round {number}, {wire_format}: {stories[-1]}", flush=True)
    print(
        f"{len(stories)} rounds, {rows(stories)} rows, {kills(stories)} kills: 0 lost, 0 twice; "
        f"billed twice {sum(s.extra_bills for s in stories)}, "
        f"reported {sum(s.reported for s in stories)}; "
        f"{sum(s.snapshots for s in stories)} snapshots, {sum(s.torn for s in stories)} torn, "
        f"{sum(s.resumed for s in stories)} resumed; {time.monotonic() - started:.0f} s"
    )


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.chaos", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", choices=["rows", "batches"])
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args()


def play_batches() -> None:
    """Kill runs with batches at every call and commit, one point after the other."""
    for wire_format in FORMATS:
        whole, started = BatchStory(), time.monotonic()
        for scene in SCENES:
            with tempfile.TemporaryDirectory() as directory:
                story = sweep(Path(directory), wire_format, scene)
            print(f"batches, {wire_format}, {scene.name}: {story}", flush=True)
            whole += story
        print(f"batches, {wire_format}: {whole}; {time.monotonic() - started:.0f} s", flush=True)


def rows(stories: list[Story]) -> int:
    """Return how many rows were sent through."""
    return sum(story.rows for story in stories)


def kills(stories: list[Story]) -> int:
    """Return how many processes were killed."""
    return sum(story.kills.total() for story in stories)


if __name__ == "__main__":
    main()
