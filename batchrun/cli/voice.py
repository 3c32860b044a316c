"""What is said on stderr, where nothing can steer the terminal or change how a run ends."""

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
    """Put a question that is answered by yes or no; no is the default."""
    return click.confirm(harmless(question), err=True)


def fail(error: BatchrunError | str) -> None:
    """Say what went wrong."""
    label = "error: "
    if wants_color(sys.stderr):
        label = click.style(label, fg="red", bold=True)
    echo(label + harmless(without_credentials(str(error))))


def say(message: str) -> None:
    """Say something on a line of its own."""
    echo(harmless(message))


def echo(text: str) -> None:
    """Print what is harmless already, with its colours where they are wanted."""
    # Somebody who closed the terminal or the pipe does not change how the run went.
    with suppress(OSError):
        click.echo(text, err=True, color=wants_color(sys.stderr))
