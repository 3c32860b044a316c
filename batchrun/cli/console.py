"""Print to stderr, and check what the process needs of the system."""

from __future__ import annotations

import os
import resource
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from batchrun.errors import JobError, harmless
from batchrun.formats.credentials import without_credentials
from batchrun.report.formatting import wants_color

if TYPE_CHECKING:
    from batchrun.errors import BatchrunError


def ask(question: str) -> bool:
    """Ask a yes/no question; the default is no."""
    return click.confirm(harmless(question), err=True)


def fail(error: BatchrunError | str) -> None:
    """Print an error."""
    label = "error: "
    if wants_color(sys.stderr):
        label = click.style(label, fg="red", bold=True)
    echo(label + harmless(without_credentials(str(error))))


def say(message: str) -> None:
    """Print a message on its own line."""
    echo(harmless(message))


def echo(text: str) -> None:
    """Print text that is already safe for the terminal, in colour where supported."""
    # A closed terminal or pipe must not affect the run.
    with suppress(OSError):
        click.echo(text, err=True, color=wants_color(sys.stderr))


# Libraries, their threads, the checkpoint and one connection take this many.
LEAST_FILES = 50
# With less, the libraries abort the process while they load or start their threads: measured on two
# cores from 2,450,000 KB down. More cores start more threads, so there is room to spare.
LEAST_ADDRESS_SPACE_KB = 3_000_000
# Threads beside those that the libraries start for each core: measured 20 in all on two cores. Where
# they cannot start theirs, they abort the process or wait forever.
LEAST_THREADS, THREADS_PER_CORE = 16, 4
_STACK_BYTES = 64 * 1024


def check_system() -> None:
    """See that this process may use as much as a command takes.

    Raises:
        JobError: saying which limit is too low, what it is, and what it has to be.
    """
    files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_below(most_files, LEAST_FILES):
        raise JobError(
            f"this system allows {most_files} open files per process; batchrun needs at least "
            f"{LEAST_FILES}; raise the limit, for example: ulimit -n 1024"
        )
    if _is_below(files, LEAST_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES, most_files))
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if _is_below(space, LEAST_ADDRESS_SPACE_KB * 1024):
        raise JobError(
            f"this system allows {space // 1024:,} KB of address space per process (ulimit -v); "
            f"batchrun needs at least {LEAST_ADDRESS_SPACE_KB:,} KB, most of it never used as "
            "memory; raise the limit, for example: ulimit -v unlimited"
        )
    needed = LEAST_THREADS + THREADS_PER_CORE * (os.cpu_count() or 1)
    if (started := _threads_that_start(needed)) < needed:
        raise JobError(
            f"this system allows {started} more threads, and batchrun needs {needed}: the limit on "
            "processes and threads of this user (ulimit -u) or of this container (pids) is reached; "
            "end other processes or raise the limit, for example: ulimit -u 4096"
        )


def _threads_that_start(count: int) -> int:
    """Return how many threads can be started at a time, at most `count`; all of them end again."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    before = threading.stack_size(_STACK_BYTES)
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass
    finally:
        threading.stack_size(before)
        end.set()
        for thread in threads:
            thread.join()
    return len(threads)


def _is_below(limit: int, least: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < least
