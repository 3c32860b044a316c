"""The command line: options and arguments, exit codes, and what goes to the terminal; no logic.

Progress and messages go to stderr, data to stdout. The library behind a command is loaded when the
command runs, so that `--help` is fast.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

import batchrun
from batchrun.cli import jobs, runs
from batchrun.cli.console import check_system, fail, say
from batchrun.cli.ending import EndedBySignal, ended_by_signals
from batchrun.errors import BatchrunError, JobError, OutputError, quoted

if TYPE_CHECKING:
    from typing import TextIO

BROKEN_PIPE_EXIT_CODE = 141
# Commands that handle the signals themselves, or have nothing to remove.
WITHOUT_ENDING = ("run", "simulate")
LARGE_BLOCK_BYTES = 1024 * 1024
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def main() -> None:
    """Run a command and exit with its code."""
    _free_large_blocks_at_once()
    code, signum = 0, None
    try:
        code = _run_command()
    except OSError as error:
        code = _stdout_failed(error)
    except KeyboardInterrupt:
        signum = signal.SIGINT
    except EndedBySignal as ended:
        signum = ended.signum
    # Outside of `except`, where the exception would keep objects alive that have temporary files.
    if signum is not None:
        gc.collect()
        say("interrupted; all answers are saved")
        _exit_at_once(128 + signum)
    for stream in (sys.stdout, sys.stderr):
        _flush_or_discard(stream)
    sys.exit(code)


def _free_large_blocks_at_once() -> None:
    """Make glibc return large blocks to the system when they are freed.

    Otherwise it keeps blocks up to the size of the largest one so far, and its heaps fragment: a run
    over rows of 1.5 MB needs twice the memory.
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
        # Click exits like this after a shell completion, and with 1 when the reader has closed.
        return BROKEN_PIPE_EXIT_CODE if leaving.code == 1 else 0
    except BatchrunError as error:
        fail(error)
        return error.exit_code


def _stdout_failed(error: OSError) -> int:
    """Report that stdout cannot be written; errors of other files have a file name."""
    if error.filename is not None:
        return _name_too_long(error)
    try:
        Path.cwd()
    except OSError:
        gone = JobError("the current folder was removed; change to another one with: cd")
        fail(gone)
        return gone.exit_code
    fail(OutputError(f"standard output could not be written: {error}"))
    return OutputError.exit_code


def _name_too_long(error: OSError) -> int:
    """Report that a given path has a name that no file can have; raise any other error."""
    if error.errno != errno.ENAMETOOLONG:
        raise error
    wrong = JobError(f"{quoted(error.filename)}: the name of a file or folder is too long")
    fail(wrong)
    return wrong.exit_code


def _flush_or_discard(stream: TextIO | None) -> None:
    """Discard unwritten output, which would change the exit code when Python ends."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_at_once(code: int) -> NoReturn:
    """Exit without waiting for threads, which may be reading a large input."""
    for stream in (sys.stdout, sys.stderr):
        _flush_or_discard(stream)
    os._exit(code)


class OrderedGroup(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(batchrun.__version__, prog_name="batchrun")
@click.pass_context
def cli(context: click.Context) -> None:
    """Send every row of a table to an LLM.

    Run the same command again to resume an interrupted run. Saved answers are never requested
    again.

    \b
    Examples:
      batchrun init tickets.csv
      batchrun run tickets.toml --simulate
      batchrun report runs/tickets.simulated
    """
    if not {"--help", "-h"} & {*sys.argv[1:]}:
        check_system()
    if context.invoked_subcommand not in WITHOUT_ENDING:
        context.with_resource(ended_by_signals())


for command in (
    *(jobs.init, jobs.preview, jobs.estimate, jobs.run),
    *(
        runs.status,
        runs.cancel,
        runs.export,
        runs.report,
        runs.score,
        runs.recost,
        runs.compare,
        runs.verify,
    ),
    runs.simulate,
):
    cli.add_command(command)

__all__ = ["cli", "main"]
