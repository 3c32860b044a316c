"""Print to stderr, and check that the system limits are high enough."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from batchrun.errors import JobError, harmless

if TYPE_CHECKING:
    from typing import TextIO

    from batchrun.errors import BatchrunError


def ask(question: str) -> bool:
    """Ask a yes/no question; the default is no."""
    return click.confirm(harmless(question), err=True)


def wants_color(stream: TextIO | None) -> bool:
    """Return whether to print in colour to a stream.

    `NO_COLOR` (https://no-color.org) has priority over `FORCE_COLOR`, and both over the terminal.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0", "false"):
        return True
    return stream is not None and os.environ.get("TERM") != "dumb" and stream.isatty()


def terminal_width() -> int | None:
    """Return the width of the terminal in characters; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fail(error: BatchrunError | str) -> None:
    """Print an error."""
    from batchrun.formats.credentials import without_credentials  # noqa: PLC0415 - slow to load

    label = "error: "
    if wants_color(sys.stderr):
        label = click.style(label, fg="red", bold=True)
    echo(label + harmless(without_credentials(str(error))))


def say(message: str) -> None:
    """Print a message on its own line."""
    echo(harmless(message))


def echo(text: str) -> None:
    """Print text that is already safe for the terminal, in colour where supported."""
    # A closed terminal or pipe does not affect the run.
    with suppress(OSError):
        click.echo(text, err=True, color=wants_color(sys.stderr))


# For libraries, the checkpoint and one connection.
LEAST_FILES = 50
# With less than 2,450,000 KB (measured on two cores; more cores start more threads), libraries abort
# the process while they load or start threads.
LEAST_ADDRESS_SPACE_KB = 3_000_000
# Measured: 20 threads on two cores. Libraries that cannot start a thread abort the process or hang.
LEAST_THREADS, THREADS_PER_CORE = 16, 4
_STACK_BYTES = 64 * 1024


def check_system() -> None:
    """Check the limits of this process; raise the one on open files if allowed.

    Raises:
        JobError: when a limit is too low, with its value and the required one.
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
    """Return how many threads can run at a time, at most `count`."""
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
