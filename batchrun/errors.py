"""What can go wrong: the exception tree, and what ends a run.

BatchrunError
├── JobError              exit 2   the job file, an option or the input is wrong; nothing was sent
├── RunStopped            exit 4   stopped on purpose: credentials, quota, too many errors
├── CheckpointError       exit 5   the checkpoint is unusable or locked by another process
│   ├── CheckpointFull             … the disk is full or failed, which may pass
│   └── RecordsDamaged             … paid records do not match their checksums
├── OutputError           exit 6   outputs could not be written; the results are safe
├── BatchesOut            exit 7   batches are being worked on; the same command collects them
├── Interrupted           exit 128 + signal number; resumable
├── RenderError           never ends a run: the item becomes an errored result
└── ProviderError         does not end a run: one failed attempt, judged by `dispatch.judgement`
    ├── BatchNotCreated            … the vendor refused to create a batch
    ├── BatchInDoubt               … a batch may exist although no answer said so
    └── NoBatchEndpoint            … the server has no batches
"""

from __future__ import annotations

import copyreg
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal

    from batchrun.records import Billing, LimitState, Usage


class RunEnd(StrEnum):
    """What ended an execution of a run; `Stop.reason` says why."""

    UNFINISHED = "unfinished"  # it is still running, or its process died
    FINISHED = "finished"  # every row has its result
    PRECISE = "precise"  # the score is as precise as `stop_at` says
    SAMPLED = "sampled"  # only some rows were to be sent; no outputs were written
    INTERRUPTED = "interrupted"  # by a signal
    REFUSED = "refused"  # the provider accepts neither key, model nor address
    EXHAUSTED = "exhausted"  # the account's credit, quota or spend limit is used up
    REJECTED = "rejected"  # every request was rejected for the same reason
    EXPIRED = "expired"  # rows of a batch expired, and `[batch] then` is "stop"
    BATCHES_OUT = "batches_out"  # batches are being worked on, and it was not to wait for them
    UNAVAILABLE = "unavailable"  # no answers for longer than a row may wait, or no way to connect
    NOTHING_SUCCEEDED = "nothing_succeeded"  # requests were sent, and none of them succeeded
    MAX_ERRORS = "max_errors"  # too many rows failed
    MAX_COST = "max_cost_usd"  # the next request could cost more than is left, or than it may
    COST_ABOVE_BOUND = (
        "cost_above_bound"  # an answer cost more than it could: the cap cannot be kept
    )
    FAILED = "failed"  # the input, the checkpoint or the disk failed

    @classmethod
    def _missing_(cls, _value: object) -> RunEnd:
        """Return UNFINISHED for a word that only a damaged checkpoint can have."""
        return cls.UNFINISHED


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run stops before every row has its result."""

    end: RunEnd
    reason: str


class BatchrunError(Exception):
    """Base of every error that batchrun raises on purpose; the message is written for the user."""

    exit_code: int = 1

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in place of a traceback: the message says what to do."""
        return [f"{type(self).__name__}: {self}"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process have the error: Python would call `__init__` with the message alone."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class JobError(BatchrunError):
    """The job file, a command line option or the input is wrong; nothing was sent."""

    exit_code = 2


class RunStopped(BatchrunError):
    """The run was stopped on purpose; everything paid for is saved and the run can be resumed."""

    exit_code = 4

    def __init__(self, stop: Stop, *, is_judge: bool = False) -> None:
        nothing = stop.end is RunEnd.NOTHING_SUCCEEDED
        request = "request to the judge" if is_judge else "request"
        lead = f"no {request} succeeded; the last error" if nothing else "stopped"
        reason = (
            stop.reason if nothing else f"{stop.reason.removesuffix('.')}. All answers are saved"
        )
        super().__init__(f"{lead}: {reason}")
        self.stop = stop
        self.is_judge = is_judge


class CheckpointError(BatchrunError):
    """The checkpoint cannot be used, or another process is using it."""

    exit_code = 5


class CheckpointFull(CheckpointError):
    """The checkpoint cannot be written: the disk is full or failed."""


class RecordsDamaged(CheckpointError):
    """Paid records of the checkpoint do not match the checksums that were written with them."""

    def __init__(self, message: str, damage: Damage) -> None:
        super().__init__(message)
        self.damage = damage


class OutputError(BatchrunError):
    """The outputs could not be written; the results are safe in the checkpoint."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows that are in no batch yet, because the provider or the cost limit allows no more now."""

    rows: int
    reason: str


class BatchesOut(BatchrunError):
    """Batches are being worked on; running the same command again collects their answers.

    Attributes:
        held: rows that were not submitted; None for none.
        unchecked: why the provider could not be asked about the batches; None if it was asked.
    """

    exit_code = 7

    def __init__(
        self, message: str, held: HeldRows | None = None, unchecked: str | None = None
    ) -> None:
        super().__init__(message)
        self.held = held
        self.unchecked = unchecked


class Interrupted(BatchrunError):
    """A signal ended the run early; everything that arrived is saved."""

    def __init__(self, signum: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        # What a shell reports for a process that died of this signal: 130, 143 or 129.
        self.exit_code = 128 + signum


def keyboard_interrupt(message: str) -> KeyboardInterrupt:
    """Return what a call without a report raises after Ctrl-C, in place of `Interrupted`.

    A loop with `except Exception` around such calls must not continue with the next one. Python
    exits as if by the signal only for KeyboardInterrupt itself, not for a subclass.
    """
    error = KeyboardInterrupt(message)
    # IPython prints these lines in place of a traceback, which would not add anything.
    shown = [f"KeyboardInterrupt: {message}"]
    setattr(error, "_render_traceback_", shown.copy)  # noqa: B010 - can be pickled
    return error


class RenderError(BatchrunError):
    """An item cannot be rendered into a request. It gets an errored result with this reason."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class ProviderFault:
    """What is known about one failed HTTP attempt.

    Attributes:
        error_type: the provider's (`rate_limit_error`, `invalid_api_key` …) or, if no usable answer
            arrived, ours: `connection_error`, `timeout`, `invalid_response`; and `certificate_error`,
            `tls_error`, `unknown_host` for connections that cannot be made.
        message: the provider's message or a description of what happened.
        http_status: None when no status line arrived.
        request_id: the provider's id of this exchange, from a header or the error body.
        retry_after_s: seconds that the provider asked to wait, at most one day.
        should_retry: the provider's explicit `x-should-retry`, when it sent one.
        maybe_billed: True when the request may have been processed although no answer arrived.
        limits: the limit headers, if there were any.
        model: the model that the failed answer named.
        usage: tokens of the failed answer; of a broken stream, the output may have been more.
        billing: what the failed answer says about its price.
        address: the URL without its query, if it is not the one of single requests.
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
    address: str | None = None


class ProviderError(BatchrunError):
    """One HTTP attempt failed; `fault` says how."""

    def __init__(self, fault: ProviderFault) -> None:
        super().__init__(f"{fault.error_type}: {fault.message}")
        self.fault = fault


class BatchNotCreated(ProviderError):
    """A batch certainly does not exist: the vendor refused to create it, or was not reached."""


class BatchInDoubt(ProviderError):
    """A batch may exist: the request to create it was sent, and no usable answer arrived."""


class NoBatchEndpoint(ProviderError):
    """The server has no batch endpoint."""


DAMAGE_REMEDY = (
    "keep the outputs as they are. Restore checkpoint.db from a backup, or run: batchrun run JOB "
    "--retry-errored. It restores what can be derived from other records or from the outputs, and sends the other "
    "damaged rows again (they are billed again)"
)


@dataclass(frozen=True, slots=True)
class Flaw:
    """A problem in a file.

    Attributes:
        problem: the problem.
        row: the `custom_id` of the first row that has it; None if it does not belong to one row.
        others: number of further rows that have it.
    """

    problem: str
    row: str | None = None
    others: int = 0


class Record(StrEnum):
    """The kinds of records in a checkpoint, each with a checksum."""

    ANSWER = "answer"
    STATUS = "status"  # of an answer
    ATTEMPT = "attempt"  # its tokens, and the provider's ids
    START = "start"  # of an attempt: when, and in which execution
    TURN = "turn"  # of a conversation with tools
    ROW = "row"  # of the input: its id, and its request
    REQUEST = "request"  # what was asked
    COST = "cost"  # of an attempt
    PRICE = "price"  # that an execution used
    BATCH = "batch"  # its stage, and its ids at the provider
    EXECUTION = "execution"  # its start, its end, and who answered
    RUN = "run"  # its job, and what is known of its plan


# Records that can be computed from others, and need not be paid for again.
FOLLOWS_FROM = {
    Record.STATUS: "it can be restored from the stored attempts",
    Record.ROW: "it can be restored from the input",
    Record.REQUEST: "it can be restored from the job and its input",
    Record.COST: "it can be calculated again from the stored tokens",
    Record.PRICE: "it can be looked up again",
    Record.BATCH: "it can be looked up again at the provider",
    Record.START: "no answer depends on it",
    Record.EXECUTION: "no answer depends on it",
    Record.RUN: "it can be restored from the job and its input, except a price given to recost",
}


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that does not match the checksum that was written with it.

    Attributes:
        record: its kind.
        request_id: number of its request; None for a row without one.
        number: number of its attempt, input row, batch or execution, from 1.
        custom_id: of its row, if known.
    """

    record: Record
    request_id: int | None
    number: int
    custom_id: str | None

    def __str__(self) -> str:
        which = str(self.record)
        if self.record is Record.COST:
            which = f"cost of attempt {self.number}"
        elif self.record is Record.START:
            which = f"start of attempt {self.number}"
        elif self.record is Record.RUN:
            which = "description of the run"
        elif self.record in {
            Record.ATTEMPT,
            Record.TURN,
            Record.PRICE,
            Record.BATCH,
            Record.EXECUTION,
        }:
            which = f"{self.record} {self.number}"
        elif self.record is Record.ROW:
            which = f"row (number {self.number} in the input)"
        problem = f"the stored {which} is damaged: it does not match its checksum"
        source = FOLLOWS_FROM.get(self.record)
        return f"{problem}; {source}" if source else problem

    @property
    def where(self) -> str:
        """The start of a message: it names the row, if there is one."""
        return "" if self.custom_id is None else f"row {short(self.custom_id)}: "


@dataclass(frozen=True, slots=True)
class Damage:
    """The number of damaged records of a checkpoint, and some of them."""

    count: int
    first: tuple[DamagedRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an answer that arrived is not accepted.

    Attributes:
        error_type: of the errored row, or of the attempt that is retried.
        message: for the user.
        most_retries: maximum number of retries for this reason; None for the one of `[retry]`.
    """

    error_type: str
    message: str
    most_retries: int | None = None


# Characters that change the direction of text, and characters that control a terminal.
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029, *_DIRECTIONS)


_ON_A_LINE = dict.fromkeys(_CONTROLS, "�")
_IN_TEXT = {code: mark for code, mark in _ON_A_LINE.items() if chr(code) not in "\n\t"}
_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_IN_JSON = {code: f"\\u{code:04x}" for code in _IN_TEXT}


def printable(text: str) -> str:
    """Return text on one line, without characters that control a terminal."""
    return " ".join(text.split()).translate(_ON_A_LINE)


def short(text: str, most: int = 80) -> str:
    """Return printable text for a message, truncated to `most` characters."""
    return truncated(printable(text), most)


def quoted(value: object, most: int = 80) -> str:
    """Return a value of the user for a message: as Python writes it, truncated to `most` characters."""
    return truncated(repr(value), most)


def truncated(text: str, most: int = 80) -> str:
    """Return text with at most `most` characters, for a message."""
    return text if len(text) <= most else text[: most - 1] + "…"


def harmless(text: str) -> str:
    """Return text with its line breaks, without characters that control a terminal."""
    return text.translate(_IN_TEXT)


def harmless_but_coloured(text: str) -> str:
    """Return text without characters that control a terminal, except colours."""
    # re.split returns the matches of a group at the odd positions.
    parts = enumerate(_COLOURS.split(text))
    return "".join(part if n % 2 else harmless(part) for n, part in parts)


def harmless_json(text: str) -> str:
    """Return the JSON with characters that control a terminal escaped; its value is the same."""
    return text.translate(_IN_JSON)


def sentences(first: str, second: str) -> str:
    """Join two sentences: with a semicolon if the first has no punctuation at its end."""
    if first.endswith((".", "!", "?", "…")):
        return f"{first} {second[:1].upper()}{second[1:]}"
    return f"{first}; {second}"
