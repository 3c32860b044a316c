"""Records of a draft: what the user asks for, and the shape of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Task = Literal["classify", "extract", "generate", "qa", "judge"]
TASKS: tuple[str, ...] = get_args(Task)
LABEL_TOKENS, TEXT_TOKENS = 20, 500


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """The user's statements about a table.

    Attributes:
        task: one of `TASKS`.
        label: the column with the right answers.
        labels: the names of the labels.
        fields: the facts to find in each row.
        instruction: what the model should do with each row.
        ask: asks the user for an instruction, given what was found; returns empty text for none.
    """

    task: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    instruction: str | None = None
    ask: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class TableShape:
    """The content of the job file for a table of a known shape.

    Attributes:
        columns: the columns in the prompt.
        template: template of the prompt.
        system: the instruction.
        label: the column with the right answers.
        expected: the template of the right answer; None without a score.
        match: how to compare.
        choices: the labels of `match = "choice"`; empty for letters.
        answer: the pattern that finds the answer.
        max_tokens: maximum length of an answer.
        fields: the properties of the JSON answer.
        note: what was assumed, for the user.
    """

    columns: tuple[str, ...]
    template: str
    system: str | None = None
    label: str | None = None
    expected: str | None = None
    match: str | None = None
    choices: tuple[str, ...] = ()
    answer: str | None = None
    max_tokens: int = TEXT_TOKENS
    fields: tuple[str, ...] = ()
    note: str | None = None
