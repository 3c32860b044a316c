"""What a check of a run directory finds: the word for it that all stages share."""

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
