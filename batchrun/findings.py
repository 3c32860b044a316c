"""What was found to be wrong with something: with a file, or with an answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
