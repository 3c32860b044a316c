"""The progress bar (tqdm) on a terminal or in a notebook; otherwise a line every 30 seconds."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm
from tqdm.utils import disp_len

from batchrun.errors import harmless
from batchrun.records import PICO_PER_USD, Status, unusual_endings
from batchrun.report.formatting import is_dumb

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from batchrun.limits import CostBudget
    from batchrun.records import Attempt, Result


LINE_EVERY_S = 30.0
REFRESH_EVERY_S = 0.2
# A server that needs a moment more is no news to somebody who asked for quiet.
SILENT_S = 2.0


# Columns of the bar itself: at most, with every fact that fits, with those that must be shown.
WIDEST_BAR, NARROW_BAR, NARROWEST_BAR = 24, 10, 4
# Letters of a fact that is cut: "waiting: " and a word.
SHORTEST_FACT = 16
# tqdm draws the bar between two fits, too, when counts and rates have grown.
SPARE = 2
_TIMES = (" [{elapsed}<{remaining}, {rate_fmt}]", " [{elapsed}<{remaining}]", "")


def _format(bar: str, times: str = _TIMES[0]) -> str:
    return f"{{desc}} {{percentage:3.0f}}%|{bar}| {{n_fmt}}/{{total_fmt}}{times}{{postfix}}"


@dataclass(frozen=True, slots=True)
class _Fact:
    """A fact beside the bar. Facts of `rank` 0 are always shown, others if there is room."""

    text: str
    rank: int = 0

    @property
    def width(self) -> int:
        return disp_len(f", {self.text}")

    def cut(self, columns: int) -> _Fact:
        """Return this fact, shorter by some columns; its first words stay."""
        return _Fact(f"{self.text[: max(SHORTEST_FACT, len(self.text) - columns) - 1]}…", self.rank)


class _Display:
    """A stream that may close (`2>&1 | head`, a closed window) without ending the run."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever tqdm asks a stream
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False  # it was closed

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()


class _Skipping:
    """Additions to a bar of tqdm; it is not drawn by tqdm's own thread."""

    monitor_interval = 0
    n: float
    initial: float
    last_print_n: float

    def skip(self, count: int) -> None:
        """Count rows that took no time: rate and remaining time ignore them."""
        self.n += count
        self.initial += count
        self.last_print_n += count


class _Bar(_Skipping, tqdm):  # type: ignore[type-arg]
    """A bar on a terminal."""


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return "IPKernelApp" in getattr(shell, "config", ())


def _notebook_bar(**facts: Any) -> Any:  # noqa: ANN401 - a class that is made here
    """Return tqdm's bar for notebooks: a widget, or text if there are no widgets."""
    widget = import_module("tqdm.auto").tqdm
    return type("_NotebookBar", (_Skipping, widget), {})(**facts)


class Show(Enum):
    """How to show progress."""

    AUTO = "auto"  # a bar if stderr can redraw a line, otherwise lines
    BAR = "bar"
    LINES = "lines"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class RunCosts:
    """The costs of a run, for display.

    Attributes:
        budget: the cost cap, and the cost of earlier executions.
        are_simulated: the answers are from the simulator.
    """

    budget: CostBudget
    are_simulated: bool


class Progress:
    """Shows the progress of a run on stderr.

    Args:
        name: name of the run.
        total: number of items in the run.
        unit: the word for an item.
        show: how to show it.
        costs: costs of the run; None to show those of its answers without a cap.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        unit: str = "row",
        show: Show = Show.AUTO,
        costs: RunCosts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self.unit = unit
        self._total = total
        self._quiet = show is Show.NOTHING
        self._clock = clock
        self._display = _Display(sys.stderr)
        can_redraw = self._display.isatty() and not is_dumb()
        self._terminal = show is Show.BAR or (show is Show.AUTO and can_redraw)
        self._is_notebook = _in_notebook()
        self._bar: _Bar | None = None
        self._done = 0
        self._sent = 0
        self._errors = 0
        self._endings: Counter[str] = Counter()
        self._tokens = 0
        self._cap = None if costs is None else costs.budget.cap
        self._is_simulated = costs is not None and costs.are_simulated
        self._pico = 0 if costs is None or costs.budget.cap is None else costs.budget.spent
        self._unpriced = 0
        self._start = clock()
        self._next = self._start
        self._waiting: str | None = None
        self._failing_since: float | None = None
        self._batches: dict[object, str] = {}

    def __enter__(self) -> Self:
        if self._quiet:
            pass
        elif self._is_notebook:
            self._bar = _notebook_bar(**self._bar_options(bar_format=_format("{bar}")))
        elif self._terminal:
            self._bar = _Bar(file=self._display, dynamic_ncols=True, **self._bar_options())
        self._next = self._clock() + (LINE_EVERY_S if self._bar is None else REFRESH_EVERY_S)
        return self

    def _bar_options(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - what tqdm takes
        return {
            "total": self._total,
            "desc": self._name,
            "unit": self.unit,
            "mininterval": REFRESH_EVERY_S,
            "smoothing": 0.1,
            "bar_format": _format(f"{{bar:{WIDEST_BAR}}}"),
            **more,
        }

    def __exit__(self, *_error: object) -> None:
        self._waiting = None  # a run that has ended waits for nothing
        if self._bar is not None:
            self._describe()
            self._bar.close()
            self._bar = None

    def reused(self, count: int) -> None:
        """Count items that were already done."""
        self._done += count
        if self._bar is not None:
            self._bar.skip(count)
        self._show()

    def unrenderable(self, count: int) -> None:
        """Count items that cannot be rendered into a request."""
        self._errors += count
        self.reused(count)

    def used(self, attempt: Attempt) -> None:
        """Count the tokens and cost of an attempt, also of a failed one."""
        usage, cost = attempt.usage, attempt.cost
        self._tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._pico += cost.total if cost is not None else 0

    def finished(self, result: Result, *, is_counted: bool = False) -> None:
        """Count a result, and the usage of its last attempt unless it was counted before."""
        if not is_counted:
            self.used(result.last)
        self._sent += 1
        self._errors += result.status is Status.ERRORED
        if result.completion is not None and result.status is Status.SUCCEEDED:
            self._endings[result.completion.ending] += 1
        self._unpriced += result.last.cost is None and result.status is Status.SUCCEEDED
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)
        self._show()

    def waiting(self, reason: str | None) -> None:
        """Show what the run is waiting for; None for nothing."""
        self._waiting = reason and harmless(reason)
        self._show()

    def failing(self, error: str, most_s: float) -> None:
        """Print once, if there is no bar, that no request succeeds and the run waits.

        Args:
            error: the last error.
            most_s: maximum duration of the wait, in seconds.
        """
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if not self._quiet or self._sent or now - self._failing_since < SILENT_S:
            return
        self._failing_since = math.inf
        self._write(
            f"{self._name}: no request has succeeded yet ({error}); the run tries again, and stops "
            f"when a {self.unit} has waited {most_s:g} s ([retry] max_wait_s)"
        )

    def batches(self, run: object, text: str | None) -> None:
        """Show the open batches of a run; None for none."""
        self._batches.pop(run, None)
        if text is not None:
            self._batches[run] = text
        self._show()

    def note(self, message: str) -> None:
        """Print a message above the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(harmless(message), file=self._display)
        else:
            self._write(message)

    def _write(self, message: str) -> None:
        self._display.write(f"{harmless(message)}\n")
        self._display.flush()

    def _show(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (REFRESH_EVERY_S if self._bar is not None else LINE_EVERY_S)
        if self._bar is not None:
            self._describe()
        else:
            rate = self._sent / max(now - self._start, 1e-9)
            done = f"{self._done}/{self._total} {self.unit}s"
            facts = "".join(f", {fact.text}" for fact in self._facts())
            self.note(f"{self._name}: {done}, {rate:.1f}/s{facts}")

    def _describe(self) -> None:
        if self._bar is None:
            return
        facts = self._facts()
        if not self._is_notebook and (columns := self._bar.format_dict["ncols"]) is not None:
            self._bar.bar_format, facts = self._fitted(self._bar, columns, facts)
        self._bar.set_postfix_str(", ".join(fact.text for fact in facts), refresh=True)

    def _fitted(self, bar: _Bar, columns: int, facts: list[_Fact]) -> tuple[str, list[_Fact]]:
        """Return the format and the facts that fit on a line.

        Facts of rank 0 take space from the bar and then from the rate; if even that is too little, the
        longest is truncated. Other facts are shown if the bar does not become too short.
        """
        state = {**bar.format_dict, "postfix": None, "ncols": None}
        shown = [fact for fact in facts if fact.rank == 0]
        for times in _TIMES:
            line = bar.format_meter(**state | {"bar_format": _format("", times)})
            room = columns - SPARE - disp_len(line) - sum(fact.width for fact in shown)
            if room >= NARROWEST_BAR:
                break
        if room < NARROWEST_BAR and shown:
            longest = max(shown, key=lambda fact: fact.width)
            facts = [fact.cut(NARROWEST_BAR - room) if fact is longest else fact for fact in facts]
            shown, room = [fact for fact in facts if fact.rank == 0], NARROWEST_BAR
        for fact in sorted(facts, key=lambda fact: fact.rank):
            if fact.rank and room - fact.width >= NARROW_BAR:
                shown.append(fact)
                room -= fact.width
        width = max(1, min(WIDEST_BAR, room))
        return _format(f"{{bar:{width}}}", times), [fact for fact in facts if fact in shown]

    def _facts(self) -> list[_Fact]:
        """Return the facts beside the bar."""
        facts = [_Fact(f"{_short(self._tokens)} tokens", 3), _Fact(self._cost(), 2)]
        if self._is_simulated:
            facts.append(_Fact("simulated", 4))
        if self._errors:
            facts.append(_Fact(f"{self._errors} errors"))
        unusual = unusual_endings(self._endings)
        facts += [_Fact(f"{_short(count)} {ending}") for ending, count in unusual.items()]
        facts += [_Fact(text) for text in self._batches.values()]
        if self._waiting:
            facts.append(_Fact(f"waiting: {self._waiting}"))
        return facts

    def _cost(self) -> str:
        if self._unpriced and not self._pico:
            return "unknown cost"
        of_cap = "" if self._cap is None else f" of ${self._cap / PICO_PER_USD:.4f}"
        more = " or more" if self._unpriced else ""
        return f"${self._pico / PICO_PER_USD:.4f}{more}{of_cap}"


def _short(number: int) -> str:
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{suffix}"
    return str(number)
