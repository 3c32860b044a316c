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

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

    from batchrun.findings import Damage
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
