"""The summary on the terminal: a table of at most 80 columns, without empty parts."""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.errors import RunEnd
from batchrun.records import PICO_PER_USD, unusual_endings
from batchrun.report.hints import ENDINGS, hint
from batchrun.report.run_summary import cost_of_rows, is_unpriced, projected, throughput
from batchrun.report.text import (
    counted,
    dollars,
    moment,
    rate,
    seconds,
    short,
)
from batchrun.scoring import score_lines
from batchrun.terminal import harmless, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.history import RunTotals
    from batchrun.scoring import ScoreTotals

WIDTH = 80
LABEL = 16
NUMBER = 12
# Where the text of an error begins.
ERROR = 18
MOST_ERRORS = 5
MOST_MODELS = 8
MODEL_WIDTH = 28
# A cap is worth raising by somewhat more than the average says.
MARGIN = 1.1
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Paint:
    """Puts colours on text, or leaves it as it is."""

    is_on: bool = False

    def __call__(self, text: str, *codes: int) -> str:
        """Return text in the colours of these SGR codes."""
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if self.is_on and text else text


BOLD, DIM, RED, GREEN, YELLOW = 1, 2, 31, 32, 33


def summary_text(
    totals: RunTotals, directory: Path, score: ScoreTotals | None = None, *, colour: bool = False
) -> str:
    """Return the summary that a person reads after a run."""
    paint = Paint(colour)
    parts = [
        _headline(totals, paint),
        [*_money(totals, paint), *_unpriced(totals, directory, paint)],
        _models(totals, paint),
        _pace(totals, paint),
        _errors(totals, paint),
        _endings(totals, paint),
        _score(score, paint),
        _last(totals, directory, paint),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def shortfall(runs: Sequence[RunTotals]) -> str | None:
    """Return in one line which rows have no answer, and most often why; None when all have one."""
    rows = sum(one.total for one in runs)
    errored, pending = (sum(getattr(one, key) for one in runs) for key in ("errored", "pending"))
    counts = [(errored, "failed"), (pending, "are pending")]
    parts = [f"{count:,} of {rows:,} rows {what}" for count, what in counts if count]
    if not parts:
        return None
    by_type = [(n, kind, said) for one in runs for kind, (n, said) in one.errors_by_type.items()]
    if by_type:
        _, kind, said = max(by_type, key=lambda each: each[0])
        most = "the error" if len(by_type) == 1 else "the most frequent error"
        parts.append(f"{most}: {short(kind, 40)}: {short(said or '', 300)}")
    return "; ".join(parts)


def status_text(totals: RunTotals, directory: Path, *, running: bool, colour: bool = False) -> str:
    """Return what `batchrun status` prints."""
    paint = Paint(colour)
    state = paint("running", BOLD, GREEN) if running else paint("not running", BOLD)
    started = totals.executions[-1]["started_us"] if totals.executions else None
    since = f", last started {moment(started)}" if started is not None else ""
    lines = [f"{state}{since}", summary_text(totals, directory, colour=colour)]
    if running or totals.in_flight:
        lines.append(_line("in flight", f"{totals.in_flight:,}", paint))
    if running and totals.waiting:
        lines.append(_line("waiting", f"for {printable(totals.waiting)}", paint))
    if totals.last_error:
        lines += _wrapped("last error", short(totals.last_error, 200), paint)
    if not running and (why := _why_it_ended(totals)):
        lines += _wrapped("ended", why, paint)
    return "\n".join(lines)


def _why_it_ended(totals: RunTotals) -> str | None:
    """What ended the latest execution early, and why."""
    last = totals.executions[-1] if totals.executions else None
    if last is None or last["reason"] is None:
        return None
    return f"{last['outcome'].replace('_', ' ')}: {short(last['reason'], 300)}"


def _headline(totals: RunTotals, paint: Paint) -> list[str]:
    whole = totals.succeeded == totals.total
    parts = [(f"{totals.succeeded:,} of {totals.total:,} rows succeeded", GREEN if whole else BOLD)]
    if totals.errored:
        parts.append((f"{totals.errored:,} errored", RED))
    if totals.pending:
        parts.append((f"{totals.pending:,} pending", YELLOW))
    if unusual := sum(unusual_endings(totals.endings).values()):
        parts.append((counted(unusual, "unusual ending"), YELLOW))
    name = short(totals.name, 40)
    is_long = len(name) + sum(len(text) + 2 for text, _ in parts) > WIDTH
    counts = ", ".join(paint(text, code) for text, code in parts)
    lines = (
        [f"{paint(name, BOLD)}:", f"  {counts}"] if is_long else [f"{paint(name, BOLD)}: {counts}"]
    )
    if totals.to_retry:
        lines.append(f"  {counted(totals.to_retry, 'failed row')} will be retried on the next run")
    return lines


def _money(totals: RunTotals, paint: Paint) -> list[str]:
    """Tokens and cost by kind, side by side."""
    usage, cost = totals.usage, totals.cost
    total_in, total_out = usage.input_tokens or 0, usage.output_tokens or 0
    if not total_in and not total_out and not cost.total:
        return []
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    reasoning = f"{usage.reasoning_tokens:,} for reasoning" if usage.reasoning_tokens else ""
    saved = f"saved {dollars(cost.cache_saved)}" if cost.cache_saved else ""
    rows = [
        ("input" if not read + write else "uncached input", total_in - read - write, ""),
        ("cache read", read, saved),
        ("cache write", write, ""),
        ("output", total_out, reasoning),
        ("other", 0, ""),
        ("total", total_in + total_out, _per_thousand(totals)),
    ]
    parts = (cost.uncached_input, cost.cache_read, cost.cache_write, cost.output, cost.other)
    money = _unknown if is_unpriced(totals) else dollars
    part = "at least " if totals.unpriced and money is dollars else ""  # the sum is not the whole
    cells = [
        (kind, f"{tokens:,}" if tokens else "", f"{part}{money(amount)}", note)
        for (kind, tokens, note), amount in zip(rows, (*parts, cost.total), strict=True)
        if tokens or amount
    ]
    return _table(("", "tokens", "cost", ""), cells, "<>><", paint)


def _per_thousand(totals: RunTotals) -> str:
    """The average cost, once it is of more rows than one can count."""
    average = cost_of_rows(totals, 1_000)
    return f"{dollars(average)} per 1,000 rows" if average and totals.held_rows >= 2 else ""


def _unpriced(totals: RunTotals, directory: Path, paint: Paint) -> list[str]:
    if not totals.unpriced:
        return []
    answers = counted(totals.unpriced, "answer")
    unknown = f"the price of {answers} is unknown: set [price], then recalculate:"
    again = f"batchrun recost {shlex.quote(str(directory))} --job JOB"
    return [f"  {paint(unknown, YELLOW)}", f"  {paint(again, YELLOW)}"]


def _models(totals: RunTotals, paint: Paint) -> list[str]:
    if len(totals.models) < 2:
        return [_line("model", short(one.model, 60), paint) for one in totals.models]
    cells = [
        (
            short(one.model, MODEL_WIDTH),
            f"{one.answers:,}",
            _tokens(one.input_tokens),
            _tokens(one.output_tokens),
            "unknown" if one.cost is None else dollars(one.cost),
        )
        for one in totals.models[:MOST_MODELS]
    ]
    head = ("model", "answers", "input", "output", "cost")
    more = len(totals.models) - MOST_MODELS
    return _table(head, cells, "<>>>>", paint) + ([f"  and {more:,} more"] if more > 0 else [])


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _pace(totals: RunTotals, paint: Paint) -> list[str]:
    latency = [f"{name} {value:.2f} s" for name, value in totals.latency_s.items() if value]
    pace = throughput(totals)
    speed = [f"{rate(value)} {key.replace('_per_s', '/s')}" for key, value in pace.items() if value]
    if speed:
        executions = len(totals.executions)
        several = f" in {executions:,} executions" if executions > 1 else ""
        speed.append(f"{seconds(totals.wall_time_s)}{several}")
    waits = sorted(totals.waits_s_by_cause.items(), key=lambda pair: -pair[1])
    waited = [f"{seconds(total)} {cause}" for cause, total in waits if total >= 0.05]
    if waited:
        # Rows wait at the same time, so together they may have waited longer than the run took.
        waited.append("summed over rows")
    retries = totals.retries_by_cause.items()
    tried = [f"{count:,} {cause.replace('_', ' ')}" for cause, count in retries]
    rows = (
        ("latency", latency),
        ("speed", speed),
        ("waited", waited),
        ("retried", tried),
        ("last execution", _last_execution(totals)),
    )
    return [
        line
        for label, parts in rows
        if parts
        for line in _wrapped(label, " · ".join(map(_unbroken, parts)), paint)
    ]


def _last_execution(totals: RunTotals) -> list[str]:
    """What the latest of several executions did by itself."""
    last = totals.last_execution
    if last is None or len(totals.executions) < 2:
        return []
    counts = [f"{last.sent:,} sent", f"{last.succeeded:,} succeeded"]
    if last.errored:
        counts.append(f"{last.errored:,} errored")
    return [*counts, "unknown cost" if last.cost is None else dollars(last.cost)]


def _errors(totals: RunTotals, paint: Paint) -> list[str]:
    lines = []
    errors = list(totals.errors_by_type.items())
    for error_type, (count, example) in errors[:MOST_ERRORS]:
        lines += _counted(count, _error(error_type, example or ""), hint(error_type), RED, paint)
    if len(errors) > MOST_ERRORS:
        lines.append(f"{'':{ERROR}}and {counted(len(errors) - MOST_ERRORS, 'more error type')}")
    return [f"  {paint('errors', DIM)}", *lines] if lines else []


def _endings(totals: RunTotals, paint: Paint) -> list[str]:
    """The endings of answers that look complete and are not, with what helps."""
    lines = []
    for ending, count in unusual_endings(totals.endings).items():
        meaning, remedy = ENDINGS.get(ending, ("", None))
        told = textwrap.wrap(f"{ending}: {meaning}", WIDTH - ERROR)
        lines += _counted(count, told, remedy, YELLOW, paint)
    return [f"  {paint('endings', DIM)}", *lines] if lines else []


def _counted(
    count: int, text: Sequence[str], remedy: str | None, code: int, paint: Paint
) -> list[str]:
    """A number with what it counts, in lines, and what helps."""
    first, *rest = text
    lines = [f"  {paint(f'{count:>14,}', code)}  {first}"]
    lines += [f"{'':{ERROR}}{line}" for line in rest]
    if remedy is not None:
        told = textwrap.wrap(f"→ {remedy}", WIDTH - ERROR, subsequent_indent="  ")
        lines += [f"{'':{ERROR}}{paint(line, DIM)}" for line in told]
    return lines


def _error(error_type: str, example: str) -> list[str]:
    """An error in a few lines; what is too long for them is cut."""
    text = f"{short(error_type, 40)}: {printable(example)}"
    return textwrap.wrap(text, WIDTH - ERROR, max_lines=4, placeholder=" …")


def _score(score: ScoreTotals | None, paint: Paint) -> list[str]:
    if score is None:
        return []
    first, *rest = (harmless(line) for line in score_lines(score))
    return [_line("score", first, paint), *(f"{'':{LABEL + 2}}{line}" for line in rest)]


def _last(totals: RunTotals, directory: Path, paint: Paint) -> list[str]:
    lines = []
    if totals.maybe_billed:
        attempts = counted(totals.maybe_billed, "attempt")
        lines += _wrapped("billed?", f"{attempts} may have been billed without an answer", paint)
    lines += [line for text in _cap(totals) for line in _wrapped("cap", text, paint)]
    return [*lines, _line("results", str(directory), paint)]


def _cap(totals: RunTotals) -> Iterator[str]:
    """How far the money went, where a cap ended the run."""
    ended = totals.executions[-1]["outcome"] if totals.executions else None
    whole = projected(totals)
    if totals.cap is None or whole is None or ended is not RunEnd.MAX_COST:
        return
    done = totals.succeeded + totals.errored
    enough = whole * MARGIN / PICO_PER_USD
    yield (
        f"{dollars(totals.cost.total)} covered {done:,} of {totals.total:,} rows; all rows would "
        f"cost about {dollars(whole)}. To continue: --set limits.max_cost_usd={enough:.2g}"
    )


def _unbroken(text: str) -> str:
    return printable(text).replace(" ", _NO_BREAK)


def _line(label: str, text: str, paint: Paint) -> str:
    return f"  {paint(f'{label:<{LABEL}}', DIM)}{text}"


def _wrapped(label: str, text: str, paint: Paint) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - LABEL - 2)
    first, *rest = [line.replace(_NO_BREAK, " ") for line in lines] or [""]
    return [_line(label, first, paint), *(f"{'':{LABEL + 2}}{line}" for line in rest)]


def _table(
    head: Sequence[str], cells: Sequence[Sequence[str]], sides: str, paint: Paint
) -> list[str]:
    """Align columns, wide ones while there is room; where there is not, the first one is cut."""
    natural = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    least = (LABEL - 2, *(NUMBER if side == ">" else 0 for side in sides[1:]))
    widths = [max(pair) for pair in zip(natural, least, strict=True)]
    room = WIDTH - 2 * len(sides)
    if sum(widths) > room:
        widths = [min(natural[0], room - sum(natural[1:])), *natural[1:]]

    def row(values: Sequence[str]) -> str:
        shown = (short(values[0], widths[0]), *values[1:])
        parts = zip(shown, sides, widths, strict=True)
        return "  ".join(f"{value:{side}{width}}" for value, side, width in parts).rstrip()

    return [f"  {paint(row(head), DIM)}", *(f"  {row(values)}" for values in cells)]


def _unknown(_pico: int) -> str:
    return "unknown"
