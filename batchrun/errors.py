"""What can go wrong: the exception tree, and what ends a run.

BatchrunError
├── JobError              exit 2   the job file, an option or the input is wrong; nothing was sent
├── RunStopped            exit 4   stopped on purpose: credentials, quota, too many errors
├── CheckpointError       exit 5   the checkpoint is unusable or locked by another process
│   ├── CheckpointFull             … for want of room, which may pass
│   └── RecordsDamaged             … what was paid for does not match its checksums
├── OutputError           exit 6   outputs could not be written; the results are safe
├── Interrupted           exit 128 + signal number; resumable
├── RenderError           never ends a run: the item becomes an errored result
└── ProviderError         never ends a run by itself: one failed attempt, judged by `dispatch.judgement`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

    from batchrun.records import Billing, LimitState, Usage


class RunEnd(StrEnum):
    """What ended an execution of a run; a sentence beside it says why."""

    UNFINISHED = "unfinished"  # it is still going on, or its process died
    FINISHED = "finished"  # every row has its result
    SAMPLED = "sampled"  # only some rows were to be sent; no outputs were written
    INTERRUPTED = "interrupted"  # by a signal
    REFUSED = "refused"  # the provider accepts neither key, model nor address
    EXHAUSTED = "exhausted"  # the account's credit, quota or spend limit is used up
    REJECTED = "rejected"  # every request was rejected for the same reason
    UNAVAILABLE = "unavailable"  # the provider gave no answers for longer than a row may wait
    NOTHING_SUCCEEDED = "nothing_succeeded"  # requests were sent, and none of them succeeded
    MAX_ERRORS = "max_errors"  # too many rows failed
    MAX_COST = "max_cost_usd"  # the next request could cost more than is left, or than it may
    FAILED = "failed"  # the input, the checkpoint or the disk failed under it

    @classmethod
    def _missing_(cls, _value: object) -> RunEnd:
        """Read a word that a damaged checkpoint holds: nobody knows how that execution ended."""
        return cls.UNFINISHED


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run stops before every row has its result."""

    end: RunEnd
    reason: str


class BatchrunError(Exception):
    """Base of every error that batchrun raises on purpose; the message is written for the user."""

    exit_code: int = 1


class JobError(BatchrunError):
    """The job file, a command line option or the input is wrong; nothing was sent."""

    exit_code = 2


class RunStopped(BatchrunError):
    """The run was stopped on purpose; everything paid for is saved and the run can be resumed."""

    exit_code = 4

    def __init__(self, stop: Stop) -> None:
        nothing = stop.end is RunEnd.NOTHING_SUCCEEDED
        lead = "no request succeeded; the last error" if nothing else "stopped"
        reason = (
            stop.reason if nothing else f"{stop.reason.removesuffix('.')}. All answers are saved"
        )
        super().__init__(f"{lead}: {reason}")
        self.stop = stop


class CheckpointError(BatchrunError):
    """The checkpoint cannot be used, or another process is using it."""

    exit_code = 5


class CheckpointFull(CheckpointError):
    """The checkpoint cannot be written for want of room, or by a fault of the disk."""


class RecordsDamaged(CheckpointError):
    """Some of what was paid for does not match the checksums that were written with it."""

    def __init__(self, message: str, damage: Damage) -> None:
        super().__init__(message)
        self.damage = damage


class OutputError(BatchrunError):
    """The outputs could not be written; the results are safe in the checkpoint."""

    exit_code = 6


class Interrupted(BatchrunError):
    """A signal ended the run early; everything that arrived is saved."""

    def __init__(self, signum: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        # What a shell reports for a process that died of this signal: 130, 143 or 129.
        self.exit_code = 128 + signum


def keyboard_interrupt(message: str) -> KeyboardInterrupt:
    """Return what Ctrl-C raises in a call that has no report to return `Interrupted` in.

    `except Exception` around such calls in a loop must not begin the next one, and only a
    KeyboardInterrupt itself, not a class derived from it, ends Python as the signal would.
    """
    error = KeyboardInterrupt(message)
    # IPython shows these lines in place of a traceback, which would say nothing more.
    setattr(error, "_render_traceback_", lambda: [f"KeyboardInterrupt: {message}"])  # noqa: B010
    return error


class RenderError(BatchrunError):
    """One item cannot become a request. It turns into an errored result with this reason."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class ProviderFault:
    """What is known about one failed HTTP attempt.

    Attributes:
        error_type: the provider's own word (`rate_limit_error`, `invalid_api_key` …) or, when no
            usable answer arrived, ours: `connection_error`, `timeout`, `invalid_response`.
        message: the provider's message or a description of what happened.
        http_status: None when no status line arrived.
        request_id: the provider's id of this exchange, from a header or the error body.
        retry_after_s: seconds that the provider asked to wait, already clamped to what is sane.
        should_retry: the provider's explicit `x-should-retry`, when it sent one.
        maybe_billed: True when the request may have been processed although no answer arrived.
        limits: what the limit headers said, when there were any.
        model: as it answered, when the failed answer named it.
        usage: what the failed answer said that it used; of a stream that broke off, the output may
            have been more.
        billing: what the failed answer said about its price.
    """

    error_type: str
    message: str
    http_status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None
    maybe_billed: bool = False
    limits: LimitState | None = None
    model: str | None = None
    usage: Usage | None = None
    billing: Billing | None = None


class ProviderError(BatchrunError):
    """One HTTP attempt failed; `fault` says how."""

    def __init__(self, fault: ProviderFault) -> None:
        super().__init__(f"{fault.error_type}: {fault.message}")
        self.fault = fault


DAMAGE_REMEDY = (
    "keep the outputs as they are. Restore checkpoint.db from a backup, or run: batchrun run JOB "
    "--retry-errored. It restores what follows from the rest, and sends the other damaged rows again "
    "(and they are billed again)"
)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is wrong in a file.

    Attributes:
        problem: what it is.
        row: the first row that has it, by its `custom_id`; None when it is no single row's.
        others: how many further rows have it.
    """

    problem: str
    row: str | None = None
    others: int = 0


class Record(StrEnum):
    """What a checkpoint keeps, each with a checksum."""

    ANSWER = "answer"
    STATUS = "status"  # of an answer
    ATTEMPT = "attempt"  # its tokens, and what the provider called it
    TURN = "turn"  # of a conversation with tools
    ROW = "row"  # of the input: its id, and its request
    REQUEST = "request"  # what was asked


# Which records follow from which others, and so need not be paid for again.
FOLLOWS_FROM = {
    Record.STATUS: "the stored attempts have what it follows from",
    Record.ROW: "the input has the right copy",
    Record.REQUEST: "the job and its input have what it follows from",
}


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that does not match the checksum that was written with it.

    Attributes:
        record: what it is.
        request_id: of its request, None where a row has none.
        number: of its attempt; of a row where it stands in the input, from 1.
        custom_id: of its row, as far as that is known.
    """

    record: Record
    request_id: int | None
    number: int
    custom_id: str | None

    def __str__(self) -> str:
        which = str(self.record)
        if self.record in {Record.ATTEMPT, Record.TURN}:
            which = f"{self.record} {self.number}"
        elif self.record is Record.ROW:
            which = f"row (number {self.number} in the input)"
        problem = f"the stored {which} is damaged: it does not match its checksum"
        source = FOLLOWS_FROM.get(self.record)
        return f"{problem}; {source}" if source else problem


@dataclass(frozen=True, slots=True)
class Damage:
    """How many records of a checkpoint are damaged, and some of them."""

    count: int
    first: tuple[DamagedRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an answer that arrived is not accepted.

    Attributes:
        error_type: of the errored row, or of the attempt that is followed by another.
        message: for the user.
        most_retries: how often to ask again for this reason; None as often as `[retry]` allows.
    """

    error_type: str
    message: str
    most_retries: int | None = None


_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))


_STEERING = (*range(32), *range(127, 160), 0x2028, 0x2029, *_DIRECTIONS)


_ON_A_LINE = dict.fromkeys(_STEERING, "�")


_IN_TEXT = {code: mark for code, mark in _ON_A_LINE.items() if chr(code) not in "\n\t"}


_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")


_IN_JSON = {code: f"\\u{code:04x}" for code in _IN_TEXT}


def printable(text: str) -> str:
    """Return text on one line, without characters that steer a terminal."""
    return " ".join(text.split()).translate(_ON_A_LINE)


def harmless(text: str) -> str:
    """Return text as it stands, without characters that steer a terminal."""
    return text.translate(_IN_TEXT)


def harmless_but_coloured(text: str) -> str:
    """Return text as `harmless` does, but with its colours."""
    # What is split by a group has the group at the odd places.
    parts = enumerate(_COLOURS.split(text))
    return "".join(part if n % 2 else harmless(part) for n, part in parts)


def harmless_json(text: str) -> str:
    """Return JSON of the same value in which characters that steer a terminal are escaped."""
    return text.translate(_IN_JSON)


def sentences(first: str, second: str) -> str:
    """Join what somebody else said and what follows from it, with the punctuation of one text."""
    if first.endswith((".", "!", "?", "…")):
        return f"{first} {second[:1].upper()}{second[1:]}"
    return f"{first}; {second}"
