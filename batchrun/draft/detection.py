"""Find the columns of a table to use as id, in the prompt, and as right answers."""

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

    from batchrun.draft.table_shape import TableShape


SAMPLE_ROWS = 500
LONG_TEXT = 24  # mean number of characters: longer than a word or a date
MOST_PROMPT_COLUMNS = 3
MOST_LABELS = 150
LONGEST_ID = 64

_ID_NAME = re.compile(r"(?:\A|_)(?:id|uuid|guid|key|sku|isbn|doi|number|no)\Z", re.IGNORECASE)
PROMPT_NAMES = (
    *("prompt", "question", "instruction", "input", "text", "subject", "title", "body", "content"),
    *("message", "description", "review", "comment", "query", "abstract", "sentence", "document"),
)
_LABEL_NAMES = (
    *("label", "expected", "expected_answer", "correct_answer", "answer", "gold", "gold_label"),
    *("target", "ground_truth", "truth", "solution", "label_text"),
)
# Labels in a table of texts and labels; in a table with more columns, one of its facts.
_CLASS_NAMES = ("category", "class", "intent", "sentiment", "emotion", "topic")
_NUMBER = re.compile(r"\A\s*[-+−$]?\d[\d,.]*(?:/\d+)?\s*%?\s*\Z")
# A column can be a variable of a template unless Jinja or batchrun gives its name a meaning.
PLAIN_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
RESERVED = {
    *(
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
    ),
    *("for", "loop", "self", "super", "caller", "varargs", "kwargs", "range", "dict", "namespace"),
    *("cycler", "joiner"),
}
# A table with one of these columns needs no job file: the column is the request.
PROMPT_COLUMN, MESSAGES_COLUMN = "prompt", "messages"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column and its values in the first rows.

    Attributes:
        name: its name in the table.
        kind: its polars type.
        values: values of the first rows; empty for binary columns, which are not read.
    """

    name: str
    kind: str
    values: tuple[Any, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The values that are non-empty text."""
        return [value for value in self.values if isinstance(value, str) and value.strip()]

    @property
    def is_text(self) -> bool:
        """Whether all values are text or missing, and some are not empty."""
        return bool(self.texts) and all(isinstance(v, str | None) for v in self.values)

    @property
    def is_plain(self) -> bool:
        """Whether the values can be part of a prompt: text, numbers, dates."""
        return any(value not in (None, "") for value in self.values) and not any(
            isinstance(value, bytes | list | dict) for value in self.values
        )

    @property
    def has_nulls(self) -> bool:
        """Whether a value is missing."""
        return any(value is None for value in self.values)

    @property
    def mean_length(self) -> float:
        """The mean length of the texts in characters."""
        return sum(map(len, self.texts)) / max(1, len(self.texts))

    @property
    def could_be_id(self) -> bool:
        """Whether the values are short and unique."""
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
    """The columns that a job file uses.

    Attributes:
        id: the column that identifies a row; None for the row number.
        prompt: the columns in the prompt; empty with `messages`.
        messages: the column with conversations, if any.
        from_columns: columns with the names of request keys.
        label: the column with the right answers, if any.
        labels: its distinct values, if they are few and repeated.
        is_number: whether the right answers are numbers.
        shape: the shape of the table, if it is a known one.
    """

    id: str | None
    prompt: tuple[TableColumn, ...]
    messages: str | None = None
    from_columns: tuple[str, ...] = ()
    label: TableColumn | None = None
    labels: tuple[str, ...] = ()
    is_number: bool = False
    shape: TableShape | None = None

    @property
    def label_name(self) -> str | None:
        """The name of the label column."""
        return None if self.label is None else self.label.name


def read_columns(source: Source) -> list[TableColumn]:
    """Return the columns of the table with the values of its first rows."""
    kinds = {name: str(kind) for name, kind in source.schema.items()}
    readable = [name for name, kind in kinds.items() if kind != "Binary"]
    rows: list[Any] = next(source.items(readable, SAMPLE_ROWS), [])
    return [
        TableColumn(
            name, kind, tuple(item.values[name] for item in rows) if name in readable else ()
        )
        for name, kind in kinds.items()
    ]


def choose(columns: Sequence[TableColumn], path: str) -> Choice:
    """Choose the columns to use.

    Args:
        columns: the columns with the values of the first rows.
        path: the table; all rows are read to check ids and labels.

    Raises:
        JobError: when no column can be used in a prompt.
    """
    names = {column.name for column in columns}
    id_column = id_column_of(columns, path)
    if MESSAGES_COLUMN in names:
        return Choice(id_column, (), messages=MESSAGES_COLUMN, from_columns=_request_keys(names))
    if PROMPT_COLUMN in names:
        prompt = tuple(column for column in columns if column.name == PROMPT_COLUMN)
        return Choice(id_column, prompt, from_columns=_request_keys(names))
    label = label_column(columns)
    usable = [c for c in columns if c.is_plain and can_be_in_template(c.name, names)]
    rest = [c for c in usable if c.name != id_column and c is not label]
    if not rest and len(usable) == 1:
        id_column, label, rest = None, None, usable  # a table with one column
    if not rest:
        raise JobError(
            f"{path}: no column can be used in a prompt; the columns are "
            f"{listed(f'{column.name} ({column.kind})' for column in columns)}. Add a column with "
            "text, or write a job file yourself: see docs/job.md"
        )
    labels = () if label is None else labels_of(label, path)
    is_number = label is not None and not labels and are_numbers(label.values)
    return Choice(id_column, prompt_columns(rest), label=label, labels=labels, is_number=is_number)


def _request_keys(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in ROW_KEYS if name in names)


def has_id_name(name: str) -> bool:
    """Return whether a column has the name of an id."""
    return _ID_NAME.search(name) is not None


def can_be_in_template(name: str, names: set[str]) -> bool:
    """Return whether a template can use a column; a column named `row` hides `row[...]`."""
    return is_plain(name) or "row" not in names


def is_plain(name: str) -> bool:
    """Return whether a column is a variable of a template (other names need `row[...]`)."""
    return bool(PLAIN_NAME.match(name)) and name not in RESERVED


def id_column_of(columns: Sequence[TableColumn], path: str) -> str | None:
    """Return the first column with the name of an id, or else the first column, if it is unique."""
    named = [column for column in columns if has_id_name(column.name)]
    first = [column for column in columns[:1] if not _is_long(column)]
    for column in [*named, *first]:
        if column.could_be_id and _is_unique(column.name, path):
            return column.name
    return None


def _is_unique(name: str, path: str) -> bool:
    try:
        Source(InputConfig(path, id=name)).check_ids()
    except JobError:
        return False
    return True


def _is_long(column: TableColumn) -> bool:
    return column.mean_length >= LONG_TEXT or column.name.lower() in PROMPT_NAMES


def label_column(columns: Sequence[TableColumn]) -> TableColumn | None:
    """Return the column with the name of right answers, if any."""
    by_name = {column.name.lower(): column for column in columns if column.is_plain}
    facts = [column for column in columns if not column.could_be_id or _is_long(column)]
    names = (*_LABEL_NAMES, *_CLASS_NAMES) if len(facts) <= 2 else _LABEL_NAMES
    return next((by_name[name] for name in names if name in by_name), None)


def labels_of(column: TableColumn, path: str) -> tuple[str, ...]:
    """Return the distinct labels of all rows if they are few and repeated, else none."""
    if not column.is_text or len(set(column.texts)) > MOST_LABELS or are_numbers(column.texts):
        return ()
    found: dict[str, int] = {}
    for items in Source(InputConfig(path)).items([column.name], SAMPLE_ROWS):
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


def is_number_text(text: str) -> bool:
    """Return whether a text is a number."""
    return _NUMBER.match(text) is not None


def are_numbers(values: Iterable[Any]) -> bool:
    """Return whether there are values, and all of them are numbers."""
    known = [value for value in values if value not in (None, "")]
    return bool(known) and all(
        (isinstance(v, int | float) and not isinstance(v, bool)) or _NUMBER.match(str(v))
        for v in known
    )


def prompt_columns(columns: Sequence[TableColumn]) -> tuple[TableColumn, ...]:
    """Return the columns with the longest texts, in the order of the table."""
    texts = [column for column in columns if column.is_text]
    long = [column for column in texts if _is_long(column)]
    if not long:
        long = sorted(texts, key=lambda column: -column.mean_length)[:1]
    chosen = sorted(long or columns, key=lambda column: -column.mean_length)
    kept = {column.name for column in chosen[:MOST_PROMPT_COLUMNS]}
    return tuple(column for column in columns if column.name in kept)
