"""Messages on stderr: safe for the terminal, and without effect on how a run ends."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from batchrun.formats.credentials import without_credentials
from batchrun.terminal import harmless, wants_color

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
