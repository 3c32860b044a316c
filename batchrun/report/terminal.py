"""The summary on the terminal: a table of at most 80 columns, without empty parts."""

from __future__ import annotations

import re
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

from batchrun import evaluation
from batchrun.errors import RunEnd, harmless, printable, short
from batchrun.job.paths import is_simulated
from batchrun.records import PICO_PER_USD, unusual_endings
from batchrun.report.formatting import counted, dollars, moment, rate, seconds
from batchrun.report.hints import Problem, ending_problems, error_problems
from batchrun.report.open_batches import expiring, listed_batches
from batchrun.report.run_summary import cost_by_kind, throughput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from batchrun.evaluation import ScoreTotals
    from batchrun.pricing.totals import RunTotals

WIDTH = 80
# The widths of a label and of a column of numbers, and where the text of an error begins.
LABEL, NUMBER, INDENT = 16, 12, 18
MOST_ERRORS, MOST_MODELS, MODEL_WIDTH = 5, 8, 28
MOST_BATCHES = 20
# The suggested cap is higher than the average says, because the remaining rows may cost more.
CAP_MARGIN = 1.1
# Of an execution without an end, such as after `kill -9` or a power failure.
DIED = "its process ended without a message; run the same command again to resume"
BOLD, DIM, RED, GREEN, YELLOW = 1, 2, 31, 32, 33

_NO_BREAK = "\N{NO-BREAK SPACE}"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def summary_text(
    totals: RunTotals, directory: Path, score: ScoreTotals | None = None, *, colour: bool = False
) -> str:
    """Return the summary that is printed after a run."""
    parts = [
        _headline(totals),
        [*_costs(totals, directory), *_unpriced(totals, directory)],
        _models(totals),
        _speed(totals),
        _errors(totals),
        _problems("endings", ending_problems(totals), YELLOW),
        _alike(totals),
        [] if score is None else _field("score", *_score_lines(score)),
        _last(totals, directory),
    ]
    return _joined("\n\n".join("\n".join(lines) for lines in parts if lines), colour=colour)


def shortfall(runs: Sequence[RunTotals]) -> str | None:
    """Return a line with the number of rows without an answer and the most frequent error; None if 0."""
    rows = sum(one.total for one in runs)
    errored, pending = sum(one.errored for one in runs), sum(one.pending for one in runs)
    counts = [(errored, "failed"), (pending, "are pending")]
    parts = [f"{count:,} of {rows:,} rows {what}" for count, what in counts if count]
    if not parts:
        return None
    errors = [(n, kind, said) for one in runs for kind, (n, said) in one.errors_by_type.items()]
    if errors:
        _, kind, said = max(errors, key=lambda each: each[0])
        most = "the error" if len(errors) == 1 else "the most frequent error"
        parts.append(f"{most}: {short(kind, 40)}: {short(said or '', 300)}")
    return "; ".join(parts)


def status_text(totals: RunTotals, directory: Path, *, running: bool, colour: bool = False) -> str:
    """Return the text of `batchrun status`."""
    last = totals.executions[-1] if totals.executions else None
    state = paint("running", BOLD, GREEN) if running else paint(_state(last), BOLD)
    since = f", last started {moment(last['started_us'])}" if last else ""
    lines = [f"{state}{since}", summary_text(totals, directory, colour=True)]
    if running or totals.in_flight:
        lines += _field("in flight", f"{totals.in_flight:,}")
    if totals.open_batches:
        lines += _field(
            "batches", *map(printable, listed_batches(totals.open_batches)[:MOST_BATCHES])
        )
        if (more := len(totals.open_batches) - MOST_BATCHES) > 0:
            lines.append(f"{'':{LABEL + 2}}and {more:,} more")
        if (warning := expiring(totals.open_batches)) is not None:
            lines += _field("", paint(warning, YELLOW))
    if running and totals.waiting:
        lines += _field("waiting", f"for {printable(totals.waiting)}")
    if totals.last_error:
        lines += _field("last error", *_wrapped(short(totals.last_error, 200)))
    if last and last["outcome"] is RunEnd.UNFINISHED and not running:
        lines += _field("ended", *_wrapped(DIED))
    elif last and last["reason"] is not None and not running:
        reason = f"{last['outcome'].replace('_', ' ')}: {short(last['reason'], 300)}"
        lines += _field("ended", *_wrapped(reason))
    return _joined("\n".join(lines), colour=colour)


SIMULATED = "simulated: nothing was billed; costs are as if the provider had answered"


def state_of_all(runs: Iterable[RunTotals]) -> str:
    """Return how the last executions of several runs ended; one that did not finish takes precedence."""
    states = [_state(run.executions[-1] if run.executions else None) for run in runs]
    for state in ("interrupted", "stopped", "not running"):
        if state in states:
            return state
    return "finished" if states else "not running"


def _state(last: Mapping[str, Any] | None) -> str:
    """Return one or two words about the end of the last execution."""
    if last is None:
        return "not running"
    if last["outcome"] in (RunEnd.UNFINISHED, RunEnd.INTERRUPTED):
        return "interrupted"
    ended_well = (RunEnd.FINISHED, RunEnd.PRECISE, RunEnd.SAMPLED)
    return "finished" if last["outcome"] in ended_well else "stopped"


def judge_status_line(totals: RunTotals, name: str, *, colour: bool = False) -> str:
    """Return a line about the progress of a judge; `name` is the name of its folder."""
    cost = "unknown cost" if totals.known_cost is None else dollars(totals.known_cost)
    failed = f", {totals.errored:,} without a verdict" if totals.errored else ""
    done = f"{totals.succeeded:,} of {totals.total:,} verdicts{failed}, {cost} in addition"
    return _joined("\n".join(_field(name, done)), colour=colour)


def paint(text: str, *codes: int) -> str:
    """Return text in the colours of these SGR codes."""
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if text else text


def _joined(text: str, *, colour: bool) -> str:
    return text if colour else _COLOUR.sub("", text)


def _headline(totals: RunTotals) -> list[str]:
    whole = totals.succeeded == totals.total
    unusual = sum(unusual_endings(totals.endings).values())
    parts = [
        (f"{totals.succeeded:,} of {totals.total:,} rows succeeded", GREEN if whole else BOLD),
        (f"{totals.errored:,} errored" if totals.errored else "", RED),
        (f"{totals.pending:,} pending" if totals.pending else "", YELLOW),
        (counted(unusual, "unusual ending") if unusual else "", YELLOW),
    ]
    parts = [(text, code) for text, code in parts if text]
    name = short(totals.name, 40)
    is_long = len(name) + sum(len(text) + 2 for text, _ in parts) > WIDTH
    counts = ", ".join(paint(text, code) for text, code in parts)
    lines = [f"{paint(name, BOLD)}:" + (f"\n  {counts}" if is_long else f" {counts}")]
    if totals.to_retry:
        lines.append(f"  {counted(totals.to_retry, 'failed row')} will be retried on the next run")
    last = totals.executions[-1] if totals.executions else None
    if last is not None and last["outcome"] is RunEnd.PRECISE:
        lines.append(f"  {short(last['reason'] or '', 300)}")
    return lines


def _costs(totals: RunTotals, directory: Path) -> list[str]:
    """Return lines with tokens and costs by kind."""
    usage, cost, kinds = totals.usage, totals.cost, cost_by_kind(totals)
    if not kinds:
        return []
    reasoning, saved = usage.reasoning_tokens, cost.cache_saved
    notes = {
        "cache read": f"saved {dollars(saved)}" if saved else "",
        "output": f"{reasoning:,} for reasoning" if reasoning else "",
    }
    is_cached = usage.cache_read_tokens or usage.cache_write_tokens
    names = {} if is_cached else {"uncached input": "input"}
    rows: list[tuple[str, int, int | None, str]] = [
        (names.get(k.name, k.name), k.tokens, k.cost, notes.get(k.name, "")) for k in kinds
    ]
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    average = totals.cost_of_rows(1_000)
    # The average of a single row says nothing about others.
    known = average and totals.held_rows >= 2
    note = f"{dollars(average or 0)} per 1,000 rows" if known else ""
    if cost.batch_saved:
        note = f"batches saved {dollars(cost.batch_saved)}" + (f"; {note}" if note else "")
    rows.append(("total", tokens, cost.total, note))
    # Without some of the prices, the sum is not the whole.
    part = "at least " if totals.unpriced else ""
    cells = [
        (
            name,
            f"{n:,}" if n else "",
            _amount(pico, totals, part),
            note,
        )
        for name, n, pico, note in rows
    ]
    lines = _table(("", "tokens", "cost", ""), cells, "<>><")
    if is_simulated(directory):
        lines.append(f"  {SIMULATED}")
    return lines


def _amount(pico: int | None, totals: RunTotals, part: str) -> str:
    if totals.is_unpriced:
        return "unknown"
    return "" if pico is None else part + dollars(pico)


def _unpriced(totals: RunTotals, directory: Path) -> list[str]:
    if not totals.unpriced:
        return []
    if totals.unreported == totals.unpriced:
        answers = counted(totals.unpriced, "answer")
        reason = f"the provider reported no tokens for {answers}, so their cost is unknown"
        return [f"  {paint(reason, YELLOW)}"]
    answers = counted(totals.unpriced - totals.unreported, "answer")
    unknown = f"the price of {answers} is unknown: set [price], then recalculate:"
    again = f"batchrun recost {shlex.quote(str(directory))} --job JOB"
    return [f"  {paint(line, YELLOW)}" for line in (unknown, again)]


def _models(totals: RunTotals) -> list[str]:
    if len(totals.models) < 2:
        return [line for one in totals.models for line in _field("model", short(one.model, 200))]
    cells = [
        (
            short(one.model, MODEL_WIDTH),
            f"{one.answers:,}",
            "unknown" if one.input_tokens is None else f"{one.input_tokens:,}",
            "unknown" if one.output_tokens is None else f"{one.output_tokens:,}",
            "unknown" if one.cost is None else dollars(one.cost),
        )
        for one in totals.models[:MOST_MODELS]
    ]
    lines = _table(("model", "answers", "input", "output", "cost"), cells, "<>>>>")
    more = len(totals.models) - MOST_MODELS
    return [*lines, f"  and {more:,} more"] if more > 0 else lines


def _speed(totals: RunTotals) -> list[str]:
    """Return lines about latency, speed, waits and retries."""
    speeds = throughput(totals)
    speed = [f"{rate(n)} {key.replace('_per_s', '/s')}" for key, n in speeds.items() if n]
    if speed:
        count = len(totals.executions)
        several = f" in {count:,} executions" if count > 1 else ""
        speed.append(f"{seconds(totals.wall_time_s)}{several}")
    waits = sorted(totals.waits_s_by_cause.items(), key=lambda pair: -pair[1])
    waited = [f"{seconds(total)} {cause}" for cause, total in waits if total >= 0.05]
    if waited:
        # Rows wait at the same time, so together they may have waited longer than the run took.
        waited.append("summed over rows")
    retries = totals.retries_by_cause.items()
    fields = {
        "latency": [f"{name} {value:.2f} s" for name, value in totals.latency_s.items() if value],
        "speed": speed,
        "waited": waited,
        "retried": [f"{count:,} {cause.replace('_', ' ')}" for cause, count in retries],
        "left out": [f"{name} for {model}" for model, name in totals.dropped],
        "last execution": _last_execution(totals),
    }
    return [
        line
        for label, parts in fields.items()
        if parts
        for line in _field(label, *_wrapped(" · ".join(map(_unbroken, parts))))
    ]


def _last_execution(totals: RunTotals) -> list[str]:
    """Return lines about the latest execution alone, if there are several."""
    last = totals.last_execution
    if last is None or len(totals.executions) < 2:
        return []
    counts = [f"{last.sent:,} sent", f"{last.succeeded:,} succeeded"]
    if last.errored:
        counts.append(f"{last.errored:,} errored")
    return [*counts, "unknown cost" if last.cost is None else dollars(last.cost)]


def _errors(totals: RunTotals) -> list[str]:
    """Return lines about the most frequent errors."""
    errors = error_problems(totals)
    lines = _problems("errors", errors[:MOST_ERRORS], RED)
    if (more := len(errors) - MOST_ERRORS) > 0:
        lines.append(f"{'':{INDENT}}and {counted(more, 'more error type')}")
    return lines


def _problems(label: str, problems: Sequence[Problem], code: int) -> list[str]:
    """Return lines about errors or endings, each with its meaning and a suggested fix."""
    if not problems:
        return []
    lines = [f"  {paint(label, DIM)}"]
    for one in problems:
        meaning = f"{short(one.name, 40)}: {printable(one.meaning)}"
        first, *rest = textwrap.wrap(meaning, WIDTH - INDENT, max_lines=4, placeholder=" …")
        lines.append(f"  {paint(f'{one.count:>14,}', code)}  {first}")
        lines += [f"{'':{INDENT}}{line}" for line in rest]
        if one.remedy is not None:
            remedy = textwrap.wrap(f"→ {one.remedy}", WIDTH - INDENT, subsequent_indent="  ")
            lines += [f"{'':{INDENT}}{paint(line, DIM)}" for line in remedy]
    return lines


def _alike(totals: RunTotals) -> list[str]:
    """Return a warning if every row has the same answer, which is rarely intended."""
    if totals.same_answer is None:
        return []
    said = f"all {totals.succeeded:,} answers are the same: {short(totals.same_answer, 100)}"
    lines = _wrapped(f"{said} (check the requests with batchrun preview)")
    return _field("answers", *lines)


def _last(totals: RunTotals, directory: Path) -> list[str]:
    lines = []
    if totals.maybe_billed:
        attempts = counted(totals.maybe_billed, "attempt")
        lines += _field("billed?", f"{attempts} may have been billed without an answer")
    whole = totals.projected_cost
    ended = totals.executions[-1]["outcome"] if totals.executions else None
    if totals.cap is not None and whole is not None and ended is RunEnd.MAX_COST:
        done = totals.succeeded + totals.errored
        enough = whole * CAP_MARGIN / PICO_PER_USD
        cap = (
            f"{dollars(totals.cost.total)} covered {done:,} of {totals.total:,} rows; all rows would "
            f"cost about {dollars(whole)}. To continue: --set limits.max_cost_usd={enough:.2g}"
        )
        lines += _field("cap", *_wrapped(cap))
    return [*lines, *_field("results", str(directory))]


def _score_lines(score: ScoreTotals) -> list[str]:
    """Return sentences about the scores, wrapped; lines of tables stay unchanged."""
    lines = map(harmless, evaluation.score_lines(score))
    return [part for line in lines for part in ([line] if "  " in line else _wrapped(line))]


def _unbroken(text: str) -> str:
    return printable(text).replace(" ", _NO_BREAK)


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - LABEL - 2)
    return [line.replace(_NO_BREAK, " ") for line in lines] or [""]


def _field(label: str, first: str, *rest: str) -> list[str]:
    """Return a label with one or more lines beside it."""
    line = f"  {paint(f'{label:<{LABEL}}', DIM)}{first}"
    return [line, *(f"{'':{LABEL + 2}}{line}" for line in rest)]


def _table(head: Sequence[str], cells: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Align columns; if the line is too long, the first column is truncated."""
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
