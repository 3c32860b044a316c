"""Tables without a recognizable task: uses the user's instruction, a guess, or an error that asks for one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.draft.detection import (
    LONG_TEXT,
    PROMPT_NAMES,
    can_be_in_template,
    has_id_name,
    is_number_text,
    labels_of,
    prompt_columns,
)
from batchrun.draft.document import expression, template_of
from batchrun.draft.table_shape import LABEL_TOKENS, TEXT_TOKENS, TableShape
from batchrun.errors import JobError, quoted
from batchrun.job.reader import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.draft.detection import TableColumn
    from batchrun.draft.table_shape import DraftOptions
    from batchrun.source import Source

Columns = dict[str, "TableColumn"]

# Columns whose texts are requests to a model.
ASKING = {"prompt", "question", "instruction", "query", "input", "messages", "problem"}
SUMMARY = "Summarise the text in one sentence."
DESCRIPTION = "Describe this in one sentence."
MOST_FACTS = 8
# Two letters, or a text with a letter and no digit.
_WORD = re.compile(r"[^\W\d_]{2,}|\A\D*[^\W\d_]\D*\Z")
_ADDRESS = re.compile(r"\A\s*[a-z][a-z0-9+.-]*://\S+\s*\Z", re.IGNORECASE)
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
_LANGUAGE_NAMES = {name.lower(): name for name in _LANGUAGES.values()}


def prompt_of(
    columns: Sequence[TableColumn], label: TableColumn | None, *others: TableColumn | None
) -> tuple[TableColumn, ...]:
    """Return the columns to show to the model, without the right answers."""
    left_out = {id(label), *map(id, others)}
    rest = [column for column in columns if column.is_plain and id(column) not in left_out]
    if not rest:
        raise JobError("no column can be used in a prompt; add one with text")
    return prompt_columns(rest)


def instructed(columns: Sequence[TableColumn], source: Source, options: DraftOptions) -> TableShape:
    """Return the shape for the user's instruction; columns with short values are all shown."""
    label = None if options.label is None else next(c for c in columns if c.name == options.label)
    others = [column for column in columns if column is not label]
    texts = _shown(others) or prompt_of(columns, label)
    labels = options.labels or (() if label is None else labels_of(label, source.table))
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system=options.instruction,
        label=options.label,
        expected=None if label is None else expression(label.name),
        match=None if label is None else "choice" if labels else "casefold",
        choices=labels,
        max_tokens=LABEL_TOKENS if labels else TEXT_TOKENS,
    )


def guessed(
    columns: Sequence[TableColumn], source: Source, options: DraftOptions
) -> TableShape | None:
    """Return a job for texts without any instruction; None if the texts are requests themselves.

    Raises:
        JobError: if there is no text for a sensible request.
    """
    if {column.name.lower() for column in columns} & ASKING:
        return None
    worded = [column for column in columns if _has_words(column)]
    found = listed([column.name for column in columns])
    if options.ask is not None and (instruction := options.ask(found).strip()):
        return instructed(columns, source, replace(options, instruction=instruction))
    shown = _shown(columns)
    if not worded or not shown:
        if not any(column.is_plain for column in columns):
            return None  # there is nothing to ask about
        raise JobError(
            f"{source.table}: found {found}, and no text that says what to do with each row. Add one: "
            'batchrun init … --instruction "What the model should do with each row."'
        )
    system = SUMMARY if any(map(_is_long, shown)) else DESCRIPTION
    return TableShape(
        columns=tuple(column.name for column in shown),
        template=template_of(shown),
        system=system,
        note=no_instruction(shown, system),
    )


def _shown(columns: Sequence[TableColumn]) -> tuple[TableColumn, ...]:
    """Return the text columns, or all columns if all are short; ids only if there is nothing else."""
    names = {column.name for column in columns}
    usable = [c for c in columns if c.is_plain and can_be_in_template(c.name, names)]
    texts = [c for c in usable if _has_words(c) and (_is_long(c) or c.name.lower() in PROMPT_NAMES)]
    if texts:
        return prompt_columns(texts)
    facts = [c for c in usable if not has_id_name(c.name)] or usable
    return tuple(facts[:MOST_FACTS])


def no_instruction(columns: Sequence[TableColumn], system: str) -> str:
    """Return a note about a draft whose task is a guess."""
    return (
        f"found {listed([column.name for column in columns])}, but no instruction; the job "
        f'file uses "{system}" Edit system there, or use --instruction or --task'
    )


def _is_long(column: TableColumn) -> bool:
    return column.is_text and column.mean_length >= LONG_TEXT and _has_words(column)


def _has_words(column: TableColumn) -> bool:
    """Return whether most values are words, not addresses, numbers or dates."""
    worded = [text for text in column.texts if _WORD.search(text) and not _ADDRESS.match(text)]
    return column.is_text and 2 * len(worded) > len(column.texts)


def translation(named: Columns) -> TableShape | None:
    """Return the shape of two columns named after languages: the second is the translation of the first."""
    languages = {
        column: language
        for name, column in named.items()
        if (language := _LANGUAGES.get(name) or _LANGUAGE_NAMES.get(name)) and column.texts
    }
    if len(languages) != 2:
        return None
    (source, first), (target, second) = languages.items()
    return TableShape(
        columns=(source.name,),
        template=expression(source.name),
        system=f"Translate the text from {first} to {second}. Answer with the translation alone.",
        label=target.name,
        expected=expression(target.name),
        match="similarity",
    )


def check_header(columns: Sequence[TableColumn], table: str) -> None:
    """Check that a CSV file has names of columns.

    Raises:
        JobError: when its first line looks like a row.
    """
    if not table.lower().endswith(_CSV):
        return
    known = {*PROMPT_NAMES, *ASKING}
    repeated = [
        column.name
        for column in columns
        if column.name in column.texts and column.name.lower() not in known
    ]
    if repeated or all(is_number_text(column.name) for column in columns):
        names = listed([column.name for column in columns])
        why = (
            f"{quoted(repeated[0])} is also a value of its column"
            if repeated
            else "all are numbers"
        )
        raise JobError(
            f"{table}: the first line looks like a row, not like the names of the columns ({names}: {why}); "
            "add a line with names at the top"
        )
