"""Text about open batches: their number, their age, and their expected end."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchrun.errors import BatchesOut, HeldRows
from batchrun.report.formatting import dollars

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrun.formats.sent_batches import SentBatch

_SECOND_US = 1_000_000
# Before the provider deletes results.
_WARN_BEFORE_US = 5 * 86_400 * _SECOND_US


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return int(datetime.now(UTC).timestamp() * _SECOND_US)


def describe(batches: Sequence[SentBatch]) -> str:
    """Return a phrase about open batches: their number, rows, age and end."""
    now = now_us()
    rows = sum(batch.out for batch in batches)
    noun = "batch" if len(batches) == 1 else "batches"
    oldest_s = max(0, now - min(batch.intended_us for batch in batches)) / _SECOND_US
    parts = [f"{len(batches):,} {noun} with {rows:,} {'row' if rows == 1 else 'rows'}"]
    done = sum(batch.done or 0 for batch in batches)
    if done:
        parts.append(f"{done:,} answered")
    parts.append(f"oldest {_duration(oldest_s)}")
    if (end := expected_end(batches, now)) is not None:
        parts.append(end)
    return ", ".join(parts)


def expected_end(batches: Sequence[SentBatch], now: int) -> str | None:
    """Return when the last batch ends, in local time: `expected by 14:05`, or at the latest.

    None if the vendor does not report it.
    """
    ends = [_end_us(batch, now) for batch in batches]
    known = [end for end in ends if end is not None]
    if len(known) < len(ends) or not known:
        return None
    moment = datetime.fromtimestamp(max(known) / _SECOND_US).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    is_latest = any(_end_us(batch, now) == batch.expires_us for batch in batches)
    lead = "at the latest by" if is_latest else "expected by"
    return f"{lead} {moment:%H:%M}" if is_today else f"{lead} {moment:%Y-%m-%d %H:%M}"


def _end_us(batch: SentBatch, now: int) -> int | None:
    start = batch.created_us or batch.intended_us
    done = (batch.done or 0) + (batch.failed or 0)
    if batch.state is not None and batch.state.is_final:
        return now
    if done and done < batch.rows and now > start:
        guess = start + (now - start) * batch.rows // done
        return guess if batch.expires_us is None else min(guess, batch.expires_us)
    return batch.expires_us


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def come_back(
    batches: Sequence[SentBatch], held: HeldRows | None = None, unchecked: str | None = None
) -> str:
    """Return a line that says which batches are open, which rows wait, and when to run the command again.

    Args:
        batches: the open batches; none if every row waits.
        held: rows that were not submitted.
        unchecked: why the provider could not be asked about the batches.
    """
    is_one = held is not None and held.rows == 1
    waiting = (
        ""
        if held is None
        else f"{held.rows:,} {'row is' if is_one else 'rows are'} not submitted yet: {held.reason}"
    )
    if not batches:
        return f"{waiting}; run the same command again to submit {'it' if is_one else 'them'}"
    rows = sum(batch.out for batch in batches)
    number = f"{len(batches):,} {'batch' if len(batches) == 1 else 'batches'}"
    out = f"{number} with {rows:,} {'row' if rows == 1 else 'rows'}"
    end = expected_end(batches, now_us())
    when = "" if end is None else f" ({end})"
    verb = "is" if len(batches) == 1 else "are"
    state = f"{verb} being worked on{when}"
    if unchecked is not None:
        state = f"could not be checked ({unchecked})"
    again = f"{out} {state}: run the same command again to collect the answers"
    return again if held is None else f"{again}. {waiting}"


def come_back_together(batches: Sequence[SentBatch], errors: Sequence[BatchesOut]) -> BatchesOut:
    """Return one message about the batches of several runs, or of the parts of a run."""
    held = [error.held for error in errors if error.held is not None]
    reasons = dict.fromkeys(one.reason for one in held)
    whole = HeldRows(sum(one.rows for one in held), " and ".join(reasons)) if held else None
    unchecked = next((error.unchecked for error in errors if error.unchecked), None)
    return BatchesOut(come_back(batches, whole, unchecked), whole, unchecked)


def keep_running(batches: Sequence[SentBatch], directory: Path) -> str:
    """Return the message about open batches after an interrupt."""
    rows = sum(batch.out for batch in batches)
    number = f"{len(batches):,} {'batch' if len(batches) == 1 else 'batches'}"
    verb = "keeps" if len(batches) == 1 else "keep"
    return (
        f"{number} with {rows:,} {'row' if rows == 1 else 'rows'} {verb} running at the provider. To "
        f"cancel: batchrun cancel {shlex.quote(str(directory))}"
    )


def expiring(batches: Sequence[SentBatch]) -> str | None:
    """Return a warning if results will soon be deleted by the vendor; None otherwise."""
    ends = [b.results_expire_us for b in batches if b.results_expire_us is not None]
    soon = [end for end in ends if end - now_us() < _WARN_BEFORE_US]
    if not soon:
        return None
    number = f"{len(soon):,} {'batch' if len(soon) == 1 else 'batches'}"
    return f"the provider deletes the results of {number} from {_local(min(soon))} on"


def listed_batches(batches: Sequence[SentBatch]) -> list[str]:
    """Return a line for each open batch: id, state, rows, age, expiry, reserved cost."""
    lines = []
    for batch in batches:
        state = batch.state or ("not confirmed" if batch.remote_id is None else "sent")
        facts = [
            batch.remote_id or batch.tag,
            str(state),
            f"{batch.out:,} {'row' if batch.out == 1 else 'rows'}",
            f"{_duration(max(0, now_us() - batch.intended_us) / _SECOND_US)} old",
        ]
        if batch.expires_us is not None:
            facts.append(f"expires {_local(batch.expires_us)}")
        if batch.reserved:
            facts.append(f"up to {dollars(batch.reserved)}")
        lines.append(" · ".join(facts))
    return lines


def _local(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds / _SECOND_US).astimezone():%Y-%m-%d %H:%M}"
