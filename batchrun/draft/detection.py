"""Looking at a table's columns: which could name a row, make a prompt, hold the right answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError
from batchrun.job import InputConfig
from batchrun.job.reader import listed
from batchrun.job.request import ROW_KEYS
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


LOOKED_AT_ROWS = 500
LONG_TEXT = 24  # characters on average: more than a word or a date
MOST_PROMPT_COLUMNS = 3
MOST_LABELS = 30
LONGEST_ID = 64

_ID_NAME = re.compile(r"(?:\A|_)(?:id|uuid|guid|key|sku|isbn|doi|number|no)\Z", re.IGNORECASE)
_PROMPT_NAMES = (
    *("prompt", "question", "instruction", "input", "text", "subject", "title", "body", "content"),
    *("message", "description", "review", "comment", "query", "abstract", "sentence", "document"),
)
_LABEL_NAMES = (
    *("label", "expected", "expected_answer", "correct_answer", "answer", "gold", "gold_label"),
    *("target", "ground_truth", "truth", "solution"),
)
_NUMBER = re.compile(r"\A\s*[-+−$]?\d[\d,.]*(?:/\d+)?\s*%?\s*\Z")
# A bare name in a template: no keyword of Jinja's, no name that it or batchrun gives a meaning.
PLAIN_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
RESERVED = frozenset(
    [
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "for",
        "loop",
        "self",
        "super",
        "caller",
        "varargs",
        "kwargs",
        "range",
        "dict",
        "namespace",
        "cycler",
        "joiner",
    ]
)


@dataclass(frozen=True, slots=True)
class Column:
    """What the first rows of a column look like.

    Attributes:
        name: as in the table.
        kind: its type, as polars calls it.
        values: of the first rows; empty for bytes, which are not looked at.
    """

    name: str
    kind: str
    values: tuple[Any, ...] = ()

    @property
    def texts(self) -> list[str]:
        """Its values that are text and not empty."""
        return [value for value in self.values if isinstance(value, str) and value.strip()]

    @property
    def is_text(self) -> bool:
        """Whether all of its values are text, and some are not empty."""
        return bool(self.texts) and all(isinstance(v, str | None) for v in self.values)

    @property
    def is_plain(self) -> bool:
        """Whether it can be written into a sentence: text, a number, a date."""
        return any(value not in (None, "") for value in self.values) and not any(
            isinstance(value, bytes | list | dict) for value in self.values
        )

    @property
    def has_nulls(self) -> bool:
        """Whether a value is missing among those that were looked at."""
        return any(value is None for value in self.values)

    @property
    def mean_length(self) -> float:
        """Of its texts, in characters."""
        return sum(map(len, self.texts)) / max(1, len(self.texts))

    @property
    def could_be_id(self) -> bool:
        """Whether its values are short and differ, as far as they were looked at."""
        texts = [str(value) for value in self.values]
        whole = all(
            isinstance(value, str | int) and not isinstance(value, bool) for value in self.values
        )
        return (
            whole
            and len(set(texts)) == len(texts)
            and all(text.strip() and len(text) <= LONGEST_ID and "\n" not in text for text in texts)
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What a draft makes of a table.

    Attributes:
        id: the column that identifies a row; None for the row number.
        prompt: the columns to show to the model; empty with `messages`.
        messages: the column that holds whole conversations, if there is one.
        from_columns: columns that are named like request keys.
        label: the column with the right answers, if there seems to be one.
        labels: all that stands in it, when these are few.
        is_number: whether the right answers are numbers.
    """

    id: str | None
    prompt: tuple[Column, ...]
    messages: str | None = None
    from_columns: tuple[str, ...] = ()
    label: Column | None = None
    labels: tuple[str, ...] = ()
    is_number: bool = False

    @property
    def label_name(self) -> str | None:
        """The name of the label column."""
        return None if self.label is None else self.label.name


def look_at(source: Source) -> list[Column]:
    """Return the table's columns with the values of its first rows."""
    kinds = {name: str(kind) for name, kind in source.schema.items()}
    readable = [name for name, kind in kinds.items() if kind != "Binary"]
    rows: list[Any] = next(source.items(readable, LOOKED_AT_ROWS), [])
    return [
        Column(name, kind, tuple(item.values[name] for item in rows) if name in readable else ())
        for name, kind in kinds.items()
    ]


def choose(columns: Sequence[Column], path: str) -> Choice:
    """Say what each column is good for.

    Args:
        columns: as they were looked at.
        path: of the table, which is read to its end for what has to hold in every row.

    Raises:
        JobError: when there is nothing to make a prompt of.
    """
    names = {column.name for column in columns}
    id_column = _id_column(columns, path)
    if "messages" in names:
        return Choice(id_column, (), messages="messages", from_columns=_request_keys(names))
    if "prompt" in names:
        prompt = tuple(column for column in columns if column.name == "prompt")
        return Choice(id_column, prompt, from_columns=_request_keys(names))
    label = _label_column(columns)
    usable = [c for c in columns if c.is_plain and _can_be_written(c.name, names)]
    rest = [c for c in usable if c.name != id_column and c is not label]
    if not rest and len(usable) == 1:
        id_column, label, rest = None, None, usable  # a list of words is a table, too
    if not rest:
        raise JobError(
            f"{path}: has no column that a prompt could be made of; it has "
            f"{listed(f'{column.name} ({column.kind})' for column in columns)}. Add one with text, "
            "or write a job file by hand: docs/job.md has all keys"
        )
    labels = () if label is None else _labels(label, path)
    is_number = label is not None and not labels and _are_numbers(label.values)
    return Choice(id_column, _prompt_columns(rest), label=label, labels=labels, is_number=is_number)


def _request_keys(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in ROW_KEYS if name in names)


def _can_be_written(name: str, names: set[str]) -> bool:
    """A column named `row` hides the row itself, by which odd names are reached."""
    return is_plain(name) or "row" not in names


def is_plain(name: str) -> bool:
    """Whether a column is a variable of its own in a template."""
    return bool(PLAIN_NAME.match(name)) and name not in RESERVED


def _id_column(columns: Sequence[Column], path: str) -> str | None:
    """Return the first column that is named like an id, or comes first, and is one in all rows."""
    named = [column for column in columns if _ID_NAME.search(column.name)]
    first = [column for column in columns[:1] if not _is_long(column)]
    for column in dict.fromkeys([*named, *first]):
        if column.could_be_id and _is_unique(column.name, path):
            return column.name
    return None


def _is_unique(name: str, path: str) -> bool:
    try:
        Source(InputConfig(path, id=name)).check_ids()
    except JobError:
        return False
    return True


def _is_long(column: Column) -> bool:
    return column.mean_length >= LONG_TEXT or column.name.lower() in _PROMPT_NAMES


def _label_column(columns: Sequence[Column]) -> Column | None:
    by_name = {column.name.lower(): column for column in columns if column.is_plain}
    return next((by_name[name] for name in _LABEL_NAMES if name in by_name), None)


def _labels(column: Column, path: str) -> tuple[str, ...]:
    """Return the labels in all rows, when they are few and stand there again and again."""
    if not column.is_text or len(set(column.texts)) > MOST_LABELS or _are_numbers(column.texts):
        return ()
    found: dict[str, int] = {}
    for items in Source(InputConfig(path)).items([column.name], LOOKED_AT_ROWS):
        for item in items:
            label = str(item.values[column.name] or "").strip()
            found[label] = found.get(label, 0) + 1
        if len(found) > MOST_LABELS + 1:
            return ()
    found.pop("", None)
    folded = {label.casefold() for label in found}
    repeated = sum(found.values()) >= 2 * len(found)
    is_plain_text = all(label.isprintable() and len(label) <= LONGEST_ID for label in found)
    return tuple(found) if len(folded) == len(found) > 1 and repeated and is_plain_text else ()


def _are_numbers(values: Iterable[Any]) -> bool:
    known = [value for value in values if value not in (None, "")]
    return bool(known) and all(
        (isinstance(v, int | float) and not isinstance(v, bool)) or _NUMBER.match(str(v))
        for v in known
    )


def _prompt_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns that say most, in the order of the table."""
    texts = [column for column in columns if column.is_text]
    telling = [column for column in texts if _is_long(column)]
    if not telling:
        telling = sorted(texts, key=lambda column: -column.mean_length)[:1]
    chosen = sorted(telling or columns, key=lambda column: -column.mean_length)
    kept = {column.name for column in chosen[:MOST_PROMPT_COLUMNS]}
    return tuple(column for column in columns if column.name in kept)
