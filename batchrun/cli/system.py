"""Checks of the system limits that every command needs, before anything else runs."""

from __future__ import annotations

import resource

from batchrun.errors import JobError

# Libraries, their threads, the checkpoint and one connection take this many.
LEAST_FILES = 50
# With less, the libraries abort the process while they load or start their threads: measured on two
# cores from 2,450,000 KB down. More cores start more threads, so there is room to spare.
LEAST_ADDRESS_SPACE_KB = 3_000_000


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


def _is_below(limit: int, least: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < least
