"""What was found to be wrong with something: with a file, or with an answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DAMAGE_REMEDY = (
    "keep the outputs as they are. Restore checkpoint.db from a backup, or have these rows asked (and "
    "billed) again with: batchrun run JOB --retry-errored"
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
    """What a checkpoint keeps of what was paid for."""

    ANSWER = "answer"
    ATTEMPT = "attempt"  # its tokens, and what the provider called it
    TURN = "turn"  # of a conversation with tools


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that does not match the checksum that was written with it.

    Attributes:
        record: what it is.
        request_id: of its request.
        number: of its attempt.
        custom_id: of its row, as far as that is known.
    """

    record: Record
    request_id: int
    number: int
    custom_id: str | None

    def __str__(self) -> str:
        which = self.record if self.record is Record.ANSWER else f"{self.record} {self.number}"
        return f"the stored {which} is damaged: it does not match its checksum"


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
