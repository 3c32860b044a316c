"""A batch as its vendor describes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BatchState(StrEnum):
    """The state of a batch at the vendor."""

    VALIDATING = "validating"  # its requests are being checked; nothing is billed yet
    RUNNING = "running"  # its requests are being answered
    CANCELING = "canceling"  # canceled, but requests that had begun are still being answered
    ENDED = "ended"  # every request has an answer, or the reason why it has none
    EXPIRED = "expired"  # its time is over; what was answered can be collected
    CANCELED = "canceled"  # canceled; what was answered can be collected
    FAILED = "failed"  # it was refused as a whole; nothing was answered or billed

    @property
    def is_final(self) -> bool:
        """Whether the state cannot change any more, so that the results can be collected."""
        return self not in {self.VALIDATING, self.RUNNING, self.CANCELING}


@dataclass(frozen=True, slots=True)
class BatchProblem:
    """Why a vendor refused a whole batch.

    Attributes:
        code: the vendor's code, such as `token_limit_exceeded`.
        message: for people.
        line: the line of the uploaded file that is wrong, from 1.
    """

    code: str
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBatch:
    """A batch as the vendor describes it. Times are microseconds since 1970 UTC.

    Attributes:
        id: the vendor's id.
        state: its state.
        rows: number of its requests; None while the vendor does not know it.
        done: number of requests that were answered so far. Claude counts them at the end only.
        failed: number of requests that failed.
        created_us: when it was created.
        expires_us: when the vendor gives up on the remaining requests.
        ended_us: when it reached its final state.
        results_expire_us: when the vendor deletes the results, if it says so.
        tag: the tag that it was created with, if the vendor stores one.
        input_file: the id of the uploaded file.
        result_files: where its answers are: URLs or the ids of files.
        problem: why it failed as a whole.
    """

    id: str
    state: BatchState
    rows: int | None = None
    done: int | None = None
    failed: int | None = None
    created_us: int | None = None
    expires_us: int | None = None
    ended_us: int | None = None
    results_expire_us: int | None = None
    tag: str | None = None
    input_file: str | None = None
    result_files: tuple[str, ...] = ()
    problem: BatchProblem | None = None
