"""The command line: options in, exit codes out, no logic.

Progress and messages go to stderr, data to stdout. The library behind each command is loaded when
the command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

import batchrun
from batchrun.cli import jobs, runs
from batchrun.cli.console import check_system, fail, say
from batchrun.errors import BatchrunError, JobError, OutputError

if TYPE_CHECKING:
    from typing import TextIO

INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
LARGE_BLOCK_BYTES = 1024 * 1024
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def main() -> None:
    """Run the command line and leave with its exit code."""
    _return_large_blocks()
    try:
        code = _run_command()
    except OSError as error:
        code = _stdout_failed(error)
    except KeyboardInterrupt:
        say("interrupted; all answers are saved")
        _leave_at_once(INTERRUPTED_EXIT_CODE)
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritten(stream)
    sys.exit(code)


def _return_large_blocks() -> None:
    """Let glibc give large blocks back to the system as soon as they are freed.

    Otherwise it keeps all that are not larger than the largest so far, in heaps that fall to
    pieces: a run over rows of 1.5 MB took twice the memory.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _run_command() -> int:
    try:
        return cli.main(prog_name="batchrun", standalone_mode=False) or 0
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as leaving:
        # Click's own ways to leave: what a shell wanted completed is told, or the reader has gone.
        return BROKEN_PIPE_EXIT_CODE if leaving.code == 1 else 0
    except BatchrunError as error:
        fail(error)
        return error.exit_code


def _stdout_failed(error: OSError) -> int:
    """Answer for a stdout that cannot be written, which is the one file without a name here."""
    if error.filename is not None:
        raise error
    try:
        Path.cwd()
    except OSError:
        gone = JobError("the current folder was removed; change to another one with: cd")
        fail(gone)
        return gone.exit_code
    fail(OutputError(f"standard output could not be written: {error}"))
    return OutputError.exit_code


def _give_up_unwritten(stream: TextIO | None) -> None:
    """Let what a stream cannot write not fail again, with a code of its own, as Python ends."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave_at_once(code: int) -> NoReturn:
    """Leave without waiting for threads: one may be reading a large input."""
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritten(stream)
    os._exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batchrun.__version__, prog_name="batchrun")
def cli() -> None:
    """Send every row of a table to an LLM.

    Run the same command again to resume an interrupted run. Saved answers are never requested
    again.

    \b
    Examples:
      batchrun init tickets.csv
      batchrun run tickets.toml --simulate
      batchrun report runs/tickets.simulated
    """  # noqa: D301 - click knows \\b as the sign for a block to leave as it is
    if not {"--help", "-h"} & {*sys.argv[1:]}:
        check_system()


for command in (
    *(jobs.init, jobs.preview, jobs.estimate, jobs.run),
    *(runs.status, runs.export, runs.report, runs.score, runs.recost, runs.compare, runs.verify),
    runs.simulate,
):
    cli.add_command(command)

__all__ = ["cli", "main"]
