"""What was found to be wrong with something: with a file, or with an answer."""

from __future__ import annotations

from dataclasses import dataclass


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
