"""The bar on a terminal, lines where there is none, and a display that never ends a run."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import time
from contextlib import redirect_stderr, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchrun.records import Attempt, Completion, Cost, Ending, Result, Status, Usage
from batchrun.run.progress import LINE_EVERY_S, SILENT_S, Progress, Show

ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")


class Terminal(io.StringIO):
    """A terminal in memory."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return ESCAPE.sub("\n", self.getvalue())


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def pipe() -> io.StringIO:
    """A stderr that is no terminal."""
    return io.StringIO()


def progress_on(
    stderr: io.TextIOBase | None,
    total: int,
    clock: Clock,
    *,
    show: Show = Show.AUTO,
) -> Progress:
    with redirect_stderr(stderr):
        return Progress("triage", total, show=show, clock=clock)


def result(
    *,
    errored: bool = False,
    pico: int | None = 10**9,
    tokens: int = 500,
    ending: Ending = Ending.STOP,
) -> Result:
    cost = None if pico is None else Cost(pico, 0, 0, 0)
    last = Attempt(1, 1, 1.0, usage=Usage(tokens, tokens), cost=cost)
    status = Status.ERRORED if errored else Status.SUCCEEDED
    completion = Completion(("x",), None, None, None, Usage(), ending=ending)
    return Result(1, status, last, datetime.now(UTC), None if errored else completion)


# On a terminal


def test_the_bar_shows_rows_tokens_money_and_errors(terminal: Terminal, clock: Clock) -> None:
    with progress_on(terminal, 10, clock) as progress:
        for errored in (False, False, True):
            progress.finished(result(errored=errored))
        clock.now += 1
        progress.waiting(None)
        shown = terminal.text.split("\n")[-1]
    assert shown.startswith("triage  30%|")
    assert "| 3/10 [" in shown
    assert shown.endswith("3.0k tokens, $0.0030, 1 errors")


def test_the_bar_says_what_is_being_waited_for(terminal: Terminal, clock: Clock) -> None:
    with progress_on(terminal, 10, clock) as progress:
        clock.now += 1
        progress.waiting("request rate")
        assert terminal.text.endswith("waiting: request rate")
        clock.now += 1
        progress.waiting(None)
        assert not terminal.text.split("\n")[-1].endswith("request rate")


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        (60, "waiting: the provide…"),
        (80, "waiting: the provider asked for a pause …"),
        (140, "a pause of 30 s"),
    ],
)
def test_the_cause_of_a_wait_is_shown_on_a_narrow_terminal(
    clock: Clock, columns: int, cause: str
) -> None:
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with (
        os.fdopen(its, "w", encoding="utf-8") as screen,
        progress_on(screen, 5_000, clock) as progress,
    ):
        for errored in (False, True):
            progress.finished(result(errored=errored))
        clock.now += 1
        progress.waiting("the provider asked for a pause of 30 s")
    shown = ""
    with os.fdopen(own, "rb", buffering=0) as seen, suppress(OSError):  # the other end is closed
        while part := seen.read(65_536):
            shown += part.decode()
    shown = next(part for part in reversed(shown.split("\r")) if "waiting" in part).rstrip()
    assert shown.endswith(cause), shown
    assert "2/5000" in shown
    assert "1 errors" in shown
    assert len(shown) <= columns


def test_the_bar_of_a_run_that_has_ended_waits_for_nothing(
    terminal: Terminal, clock: Clock
) -> None:
    with progress_on(terminal, 1, clock) as progress:
        clock.now += 1
        progress.waiting("server (1 in flight)")
        assert terminal.text.endswith("waiting: server (1 in flight)")
        progress.finished(result())
    assert "waiting" not in terminal.text.rstrip().split("\n")[-1]


def test_the_bar_is_drawn_now_and_then_however_many_rows_finish(
    terminal: Terminal, clock: Clock
) -> None:
    with progress_on(terminal, 10_000, clock) as progress:
        for _ in range(10_000):
            progress.finished(result())
    assert terminal.getvalue().count("tokens") < 50
    assert "| 10000/10000 [" in terminal.text
    assert terminal.getvalue().endswith("\n")


def test_rows_that_were_done_before_say_nothing_about_the_speed(
    terminal: Terminal, clock: Clock
) -> None:
    with progress_on(terminal, 1_000_100, clock) as progress:
        for _ in range(4_000):
            progress.reused(250)
        clock.now += 1
        progress.waiting(None)
        shown = terminal.text.split("\n")[-1]
        assert "| 1000000/1000100 [" in shown
        assert re.search(r"<\?,\s+\?row/s\]", shown), shown
        # tqdm looks at its own clock before it judges the speed.
        time.sleep(0.25)
        progress.finished(result())
        clock.now += 1
        progress.waiting(None)
        shown = terminal.text.split("\n")[-1]
    assert re.search(r",\s+\d\.\d\d(row/s|s/row)\]", shown), shown


def test_a_note_stands_on_a_line_of_its_own(terminal: Terminal, clock: Clock) -> None:
    with progress_on(terminal, 10, clock) as progress:
        progress.note("5 requests were in flight")
    assert "\n5 requests were in flight\n" in terminal.text


def test_a_job_without_rows_has_a_bar_all_the_same(terminal: Terminal, clock: Clock) -> None:
    with progress_on(terminal, 0, clock) as progress:
        progress.waiting(None)
    assert "0/0" in terminal.text


def test_rows_that_cannot_be_rendered_are_errors(terminal: Terminal, clock: Clock) -> None:
    with progress_on(terminal, 4, clock) as progress:
        progress.unrenderable(2)
    assert "| 2/4 [" in terminal.text
    assert "2 errors" in terminal.text


@pytest.mark.parametrize(
    ("prices", "shown"),
    [
        ((None, None), "1.0k tokens, unknown cost"),
        ((None, 10**12), "1.0k tokens, $1.0000 or more"),
        ((0, 0), "1.0k tokens, $0.0000"),
    ],
)
def test_an_unknown_price_is_not_shown_as_nothing(
    terminal: Terminal, clock: Clock, prices: tuple[int | None, ...], shown: str
) -> None:
    with progress_on(terminal, 2, clock) as progress:
        for pico in prices:
            progress.finished(result(pico=pico, tokens=250))
    assert terminal.text.strip().endswith(shown)


def test_failed_attempts_and_turns_are_counted_once_each(terminal: Terminal, clock: Clock) -> None:
    one = result(pico=10**12, tokens=250)
    with progress_on(terminal, 1, clock) as progress:
        progress.used(one.last)
        progress.finished(one, is_counted=True)
    once = terminal.text.strip()
    assert once.endswith("500 tokens, $1.0000")
    with progress_on(terminal, 1, clock) as progress:
        progress.used(one.last)
        progress.finished(one)
    assert terminal.text.strip().endswith("1.0k tokens, $2.0000")


# Without a terminal


def test_without_a_terminal_there_is_a_line_now_and_then(pipe: io.StringIO, clock: Clock) -> None:
    with progress_on(pipe, 1_000, clock) as progress:
        progress.reused(100)
        for _ in range(60):
            clock.now += 1
            progress.finished(result(errored=False))
    assert pipe.getvalue().splitlines() == [
        "triage: 130/1000 rows, 1.0/s, 30.0k tokens, $0.0300",
        "triage: 160/1000 rows, 1.0/s, 60.0k tokens, $0.0600",
    ]


def test_a_short_run_without_a_terminal_prints_nothing(pipe: io.StringIO, clock: Clock) -> None:
    with progress_on(pipe, 10, clock) as progress:
        for _ in range(10):
            progress.finished(result())
        clock.now += LINE_EVERY_S - 1
        progress.waiting("retry")
    assert pipe.getvalue() == ""


def test_a_line_says_what_is_being_waited_for(pipe: io.StringIO, clock: Clock) -> None:
    with progress_on(pipe, 10, clock) as progress:
        clock.now += LINE_EVERY_S
        progress.waiting("provider's rate limit")
    assert pipe.getvalue().endswith("waiting: provider's rate limit\n")


def test_a_note_without_a_terminal_is_a_line(pipe: io.StringIO, clock: Clock) -> None:
    with progress_on(pipe, 10, clock) as progress:
        progress.note("stopping")
    assert pipe.getvalue() == "stopping\n"


def test_what_is_no_terminal_can_be_treated_as_one_and_the_other_way_round(
    terminal: Terminal, clock: Clock
) -> None:
    with progress_on(terminal, 10, clock, show=Show.LINES):
        pass
    assert terminal.getvalue() == ""
    with progress_on(terminal, 10, clock, show=Show.BAR):
        pass
    assert "0/10" in terminal.text


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()])
def test_quiet_shows_nothing_at_all(stderr: io.StringIO, clock: Clock) -> None:
    with progress_on(stderr, 10, clock, show=Show.NOTHING) as progress:
        progress.note("note")
        clock.now += 2 * LINE_EVERY_S
        progress.finished(result())
        progress.waiting("retry")
    assert stderr.getvalue() == ""


def test_quiet_says_once_that_no_request_succeeds(pipe: io.StringIO, clock: Clock) -> None:
    with progress_on(pipe, 10, clock, show=Show.NOTHING) as progress:
        progress.failing("connection refused (localhost:8001)", 600.0)
        assert pipe.getvalue() == ""
        for _ in range(3):
            clock.now += SILENT_S
            progress.failing("connection refused (localhost:8001)", 600.0)
    assert pipe.getvalue() == (
        "triage: no request has succeeded yet (connection refused (localhost:8001)); the run tries "
        "again, and stops when a row has waited 600 s ([retry] max_wait_s)\n"
    )


@pytest.mark.parametrize("show", [Show.NOTHING, Show.LINES])
def test_nothing_is_said_of_failures_beside_answers_or_where_the_wait_is_shown(
    pipe: io.StringIO, clock: Clock, *, show: Show
) -> None:
    with progress_on(pipe, 10, clock, show=show) as progress:
        if show is Show.NOTHING:
            progress.finished(result())
        progress.failing("timeout", 600.0)
        clock.now += SILENT_S
        progress.failing("timeout", 600.0)
    assert pipe.getvalue() == ""


# The display is not what the run is for


def everything(progress: Progress, clock: Clock) -> None:
    with progress:
        progress.note("note")
        progress.reused(1)
        for _ in range(3):
            clock.now += 2 * LINE_EVERY_S
            progress.finished(result())
            progress.waiting("retry")


@pytest.mark.parametrize("show", [Show.AUTO, Show.BAR, Show.LINES])
def test_a_reader_that_goes_away_does_not_end_the_run(clock: Clock, *, show: Show) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        everything(progress_on(stream, 4, clock, show=show), clock)
        # What is left in the buffer shall not fail when the file is closed either.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), writing)


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("show", [Show.AUTO, Show.BAR, Show.LINES])
@pytest.mark.parametrize("stderr", [closed_stream(), None], ids=["closed", "none"])
def test_a_missing_stderr_does_not_end_the_run(
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    stderr: io.StringIO | None,
    *,
    show: Show,
) -> None:
    everything(progress_on(stderr, 4, clock, show=show), clock)
    assert capsys.readouterr().out == ""


def test_without_stderr_there_is_no_terminal(clock: Clock) -> None:
    everything(progress_on(None, 4, clock), clock)
