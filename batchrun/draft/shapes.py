"""Common shapes of tables, and the tasks that the user can name: the prompt and the expected answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchrun.draft.detection import (
    MOST_LABELS,
    PROMPT_NAMES,
    are_numbers,
    label_column,
    labels_of,
)
from batchrun.draft.document import expression, template_of
from batchrun.draft.guesses import (
    ASKING,
    SUMMARY,
    guessed,
    instructed,
    no_instruction,
    prompt_of,
    translation,
)
from batchrun.draft.table_shape import LABEL_TOKENS, DraftOptions, TableShape
from batchrun.errors import JobError, quoted, short
from batchrun.job.reader import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.draft.detection import TableColumn
    from batchrun.draft.guesses import Columns
    from batchrun.source import Source

_LETTERS = "ABCDEFGHIJ"
_QUESTION = ("question", "query", "problem", "prompt", "instruction", "input")
_ANSWER = ("response", "answer", "output", "completion", "prediction", "generation")
_REFERENCE = ("reference", "expected", "gold", "ground_truth", "target", "correct_answer")
_NUMBER_ANSWER = r"####\s*([^\n]+)"
_STEPS = "Work it out step by step. Then write the number alone on a last line, after ####."
_LETTER = "Answer with the letter of the right choice, and nothing else."


def shape_of(
    columns: Sequence[TableColumn], source: Source, options: DraftOptions
) -> TableShape | None:
    """Return the shape of a table, None if it has no known one.

    Raises:
        JobError: if columns for the task are missing; says what to add.
    """
    _check_options(columns, options)
    if options.instruction is not None:
        return instructed(columns, source, options)
    if options.task is not None:
        return _of_task(options.task)(columns, source, options)
    if options.fields:
        return _extract(columns, source, options)
    named = {column.name.lower(): column for column in columns}
    if options.label is None and not options.labels:
        shapes = (
            known(named) for known in (_conversation, _reading, _choice, _worked, translation)
        )
        found = next((shape for shape in shapes if shape is not None), None)
        if found is not None or _has_requests(named):
            return found
        _check_choices(named, source.table)
    return _of_labels(columns, source, options)


def _of_labels(
    columns: Sequence[TableColumn], source: Source, options: DraftOptions
) -> TableShape | None:
    label = _label(columns, options)
    if options.labels or (label is not None and _class_numbers(label)):
        return _classify(columns, source, options)
    if label is not None and options.label is not None:
        return _with_label(columns, source, label)
    if label is not None and are_numbers(label.values):
        _check_asked(columns, label, source.table)
    return guessed(columns, source, options) if label is None else None


def _check_choices(named: Columns, table: str) -> None:
    """Refuse choices that are text: CSV files have lists as text of JSON, Python or numpy.

    Raises:
        JobError: when the choices of a question are such texts.
    """
    column = named.get("choices") or named.get("options")
    if column is None or _first(named, _QUESTION) is None or not column.texts:
        return
    if all(text.lstrip().startswith(("[", "{")) for text in column.texts):
        raise JobError(
            f"{table}: column {short(column.name)} has lists as text, such as {quoted(column.texts[0], 60)}, whose "
            "choices cannot be numbered. Save the table as JSON Lines or Parquet, with real lists, or "
            "with a column for each choice: A, B, C, D"
        )


def _check_asked(columns: Sequence[TableColumn], label: TableColumn, table: str) -> None:
    """Check that numbers are answers to a question in a column, not classes or ratings.

    Raises:
        JobError: if no column asks a question.
    """
    if {column.name.lower() for column in columns} & ASKING:
        return
    raise JobError(
        f"{table}: column {short(label.name)} has numbers, and no column has a question. If they are "
        "classes, list their names in order, starting with 0: --labels negative,positive. Otherwise "
        'add --instruction "What the model should do with each row."'
    )


def _has_requests(named: Columns) -> bool:
    return not named.keys().isdisjoint({"messages", "prompt"})


def _check_options(columns: Sequence[TableColumn], options: DraftOptions) -> None:
    names = [column.name for column in columns]
    if options.label is not None and options.label not in names:
        hint = did_you_mean(options.label, names)
        raise JobError(
            f"--label {short(options.label)}: is not a column{hint}; the columns are {listed(names)}"
        )


def _of_task(task: str) -> Callable[[Sequence[TableColumn], Source, DraftOptions], TableShape]:
    tasks: Mapping[str, Callable[[Sequence[TableColumn], Source, DraftOptions], TableShape]] = {
        "classify": _classify,
        "extract": _extract,
        "generate": _generate,
        "qa": _qa,
        "judge": _judge,
    }
    return tasks[task]


def _first(named: Columns, names: Sequence[str]) -> TableColumn | None:
    return next((named[name] for name in names if name in named and named[name].is_plain), None)


# Known shapes


def _conversation(named: Columns) -> TableShape | None:
    """Return the shape of conversations that end with the expected answer: (system,) user, assistant."""
    column = named.get("messages")
    if column is None or any(not isinstance(value, list) for value in column.values):
        return None
    roles = {tuple(_role(turn) for turn in value) for value in column.values}
    if roles not in ({("user", "assistant")}, {("system", "user", "assistant")}):
        return None
    last = len(next(iter(roles))) - 1
    value = expression(column.name).strip("{} ")
    return TableShape(
        columns=(column.name,),
        template=f"{{{{ {value}[{last - 1}].content }}}}",
        system=f"{{{{ {value}[0].content }}}}" if last == 2 else None,
        label=column.name,
        expected=f"{{{{ {value}[{last}].content }}}}",
        match="casefold",
        note="the last turn of each conversation is the expected answer; it is not sent",
    )


def _role(turn: object) -> object:
    return turn.get("role") if isinstance(turn, dict) else None


def _reading(named: Columns) -> TableShape | None:
    """Return the shape of SQuAD: a context, a question, and answers with their texts."""
    context, question, answers = (named.get(name) for name in ("context", "question", "answers"))
    if context is None or question is None or answers is None:
        return None
    if not all(isinstance(value, dict) and "text" in value for value in answers.values):
        return None
    value = expression(answers.name).strip("{} ")
    is_open = any(not value["text"] for value in answers.values)
    otherwise = 'If the context has no answer, write "unanswerable". ' if is_open else ""
    some = f"{value}.text[0]"
    return TableShape(
        columns=(context.name, question.name),
        template=template_of([context, question]),
        system=f"Answer from the context, with its words and as briefly as possible. {otherwise}".strip(),
        label=answers.name,
        expected=f'{{{{ {some} if {value}.text else "unanswerable" }}}}'
        if is_open
        else f"{{{{ {some} }}}}",
        match="contains",
        max_tokens=100,
    )


def _choice(named: Columns) -> TableShape | None:
    """Return the shape of a question with choices, and the right one as letter, number or text."""
    question = _first(named, _QUESTION)
    answer = _first(
        named, ("answer", "answerkey", "answer_key", "label", "correct", "cop", "target")
    )
    listing = _listing(named)
    if question is None or answer is None or listing is None:
        return None
    names, choices = listing
    expected = _right_letter(answer)
    if expected is None:
        return None
    return TableShape(
        columns=(question.name, *names),
        template=f"{expression(question.name)}\n\n{choices}",
        system=_LETTER,
        label=answer.name,
        expected=expected,
        match="choice",
        max_tokens=LABEL_TOKENS,
    )


def _listing(named: Columns) -> tuple[tuple[str, ...], str] | None:
    """Return the columns with the choices, and a template that lists them by letter."""
    column = named.get("choices") or named.get("options")
    if column is not None and column.values:
        value = expression(column.name).strip("{} ")
        if all(isinstance(each, list) for each in column.values):
            return (column.name,), _loop(value)
        if all(isinstance(each, dict) and "text" in each for each in column.values):
            return (column.name,), _loop(f"{value}.text")
    for names in _LETTERED:
        if all(name in named for name in names):
            found = [named[name] for name in (*names, *_further(names, named))]
            lines = (
                f"{letter}. {expression(each.name)}"
                for letter, each in zip(_LETTERS, found, strict=False)
            )
            return tuple(each.name for each in found), "\n".join(lines)
    return None


_LETTERED = (("a", "b", "c"), ("option_a", "option_b"), ("opa", "opb"), ("choice_a", "choice_b"))


def _further(names: tuple[str, ...], named: Columns) -> list[str]:
    stem = names[0][:-1]
    return [
        name for letter in _LETTERS.lower()[len(names) :] if (name := f"{stem}{letter}") in named
    ]


def _loop(value: str) -> str:
    return (
        f"{{% for choice in {value} %}}"
        f'{{{{ "{_LETTERS}"[loop.index0] }}}}. {{{{ choice }}}}\n{{% endfor %}}'
    )


def _right_letter(answer: TableColumn) -> str | None:
    """Return the template of the right letter; None if the answers are neither letters nor numbers."""
    values = [str(value).strip() for value in answer.values if value not in (None, "")]
    if values and all(len(value) == 1 and value.upper() in _LETTERS for value in values):
        return expression(answer.name)
    if not values or not all(value.isdecimal() and len(value) < 3 for value in values):
        return None
    inner = expression(answer.name).strip("{} ")
    first = "" if "0" in values else " - 1"
    return f'{{{{ "{_LETTERS}"[{inner} | int{first}] }}}}'


def _worked(named: Columns) -> TableShape | None:
    """Return the shape of GSM8K: a question, and a worked answer that ends with the number after ####."""
    question, answer = _first(named, _QUESTION), _first(named, ("answer", "solution"))
    if question is None or answer is None or not answer.texts:
        return None
    if not all("####" in text for text in answer.texts):
        return None
    inner = expression(answer.name).strip("{} ")
    return TableShape(
        columns=(question.name,),
        template=expression(question.name),
        system=_STEPS,
        label=answer.name,
        expected=f'{{{{ {inner}.split("####")[-1].strip() }}}}',
        match="number",
        answer=_NUMBER_ANSWER,
    )


# Labels


def _label(columns: Sequence[TableColumn], options: DraftOptions) -> TableColumn | None:
    if options.label is not None:
        return next(column for column in columns if column.name == options.label)
    return label_column(columns)


def _class_numbers(column: TableColumn) -> bool:
    """Return whether the values are numbers of classes: few, small and repeated."""
    values = [str(value) for value in column.values if value not in (None, "")]
    kinds = {value for value in values if value.isdecimal()}
    few = 1 < len(kinds) <= MOST_LABELS and len(values) >= 2 * len(kinds)
    # From 0 on without large gaps; otherwise they are quantities.
    return few and len(values) == sum(value.isdecimal() for value in values) and _is_range(kinds)


def _are_places(column: TableColumn, names: Sequence[str]) -> bool:
    """Return whether all values are numbers of these classes, counted from 0."""
    values = [str(value) for value in column.values if value not in (None, "")]
    return bool(values) and all(v.isdecimal() and int(v) < len(names) for v in values)


def _is_range(kinds: set[str]) -> bool:
    numbers = sorted(map(int, kinds))
    return numbers[0] == 0 and numbers[-1] < 2 * len(numbers)


def _classify(columns: Sequence[TableColumn], source: Source, options: DraftOptions) -> TableShape:
    label = _label(columns, options)
    names, expected = options.labels, None
    if label is not None:
        expected = expression(label.name)
        if _class_numbers(label) or _are_places(label, names):
            names = names or source.class_names(label.name)
            names = _required_names(names, label)
            inner = expected.strip("{} ")
            expected = f"{{{{ {json.dumps(list(names), ensure_ascii=False)}[{inner} | int] }}}}"
        names = names or labels_of(label, source.table)
    if not names:
        raise JobError(
            f"{source.table}: no column with labels was found; name it with --label COLUMN, or name "
            "the labels: --labels positive,negative"
        )
    texts = prompt_of(columns, label)
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system=f"Answer with exactly one of these labels: {', '.join(names)}.",
        label=None if label is None else label.name,
        expected=expected,
        match=None if expected is None else "choice",
        choices=names,
        max_tokens=LABEL_TOKENS,
    )


def _required_names(names: tuple[str, ...], label: TableColumn) -> tuple[str, ...]:
    most = max(int(str(value)) for value in label.values if value not in (None, ""))
    if len(names) > most:
        return names
    raise JobError(
        f'the column "{short(label.name)}" has class numbers from 0 to {most}, and the table does not say '
        "what they mean; name the classes in order: --labels NAME0,NAME1,…"
    )


def _with_label(columns: Sequence[TableColumn], source: Source, label: TableColumn) -> TableShape:
    if labels_of(label, source.table):
        return _classify(columns, source, DraftOptions(label=label.name))
    return _qa(columns, source, DraftOptions(label=label.name))


# Tasks


def _extract(columns: Sequence[TableColumn], _source: Source, options: DraftOptions) -> TableShape:
    if not options.fields:
        raise JobError("--task extract: name what to find: --fields name,date,amount")
    texts = prompt_of(columns, None)
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system=f"Find these fields in the text: {', '.join(options.fields)}. Use null for what is not there.",
        fields=options.fields,
    )


def _generate(
    columns: Sequence[TableColumn], _source: Source, _options: DraftOptions
) -> TableShape:
    texts = prompt_of(columns, label_column(columns))
    is_asked = any(column.name.lower() in ASKING for column in texts)
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system=None if is_asked else SUMMARY,
        max_tokens=1_000,
        note=None if is_asked else no_instruction(texts, SUMMARY),
    )


def _qa(columns: Sequence[TableColumn], _source: Source, options: DraftOptions) -> TableShape:
    named = {column.name.lower(): column for column in columns}
    for known in (_reading, _choice, _worked):
        if options.label is None and (found := known(named)) is not None:
            return found
    label = _label(columns, options)
    texts = prompt_of(columns, label)
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system="Answer as briefly as possible.",
        label=None if label is None else label.name,
        expected=None if label is None else expression(label.name),
        match=None if label is None else "casefold",
    )


def _judge(columns: Sequence[TableColumn], source: Source, _options: DraftOptions) -> TableShape:
    named = {column.name.lower(): column for column in columns}
    answer, question = _first(named, _ANSWER), _first(named, _QUESTION)
    reference = _first(named, _REFERENCE)
    if answer is None:
        raise JobError(
            f"{source.table}: --task judge: no column with answers was found; name it one of "
            f"{', '.join(_ANSWER)}"
        )
    texts = [each for each in (question, reference, answer) if each is not None]
    return TableShape(
        columns=tuple(column.name for column in texts),
        template=template_of(texts),
        system="Judge the answer. Answer with exactly one of these words: correct, incorrect.",
        choices=("correct", "incorrect"),
        max_tokens=LABEL_TOKENS,
    )


def unused_labels(columns: Sequence[TableColumn], used: set[str]) -> list[str]:
    """Return the unused columns with few, repeated, short texts."""
    return [
        column.name
        for column in columns
        if column.name not in used
        and column.name.lower() not in PROMPT_NAMES
        and column.is_text
        and 1 < len(set(column.texts)) <= MOST_LABELS
        and len(column.texts) >= 2 * len(set(column.texts))
    ]
