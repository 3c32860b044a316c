"""The text of a drafted job file: TOML with comments, whatever columns are called."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.draft.detection import is_plain
from batchrun.errors import printable
from batchrun.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.draft.detection import Choice, Column


MOST_LISTED = 30
MOST_LETTERS = 40
LABEL_TOKENS, TEXT_TOKENS = 20, 500


@dataclass(frozen=True, slots=True)
class Heading:
    """What the file says about itself: its name, its table as it names it, the table's rows."""

    name: str
    table: str
    rows: int


def job_text(
    heading: Heading,
    columns: Sequence[Column],
    choice: Choice,
    *,
    wire_format: str,
    model: str,
    prefix: str,
) -> str:
    """Return the job file."""
    parts = (
        _head(heading, columns),
        _input(heading, choice),
        _request(choice, wire_format, model),
        _score(choice),
        _limits(),
        _output(prefix),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(heading: Heading, columns: Sequence[Column]) -> list[str]:
    file = shlex.quote(heading.name)
    noun = "row" if heading.rows == 1 else "rows"
    width = max(len(_cut(column.name)) for column in columns[:MOST_LISTED])
    listed = [
        f"#   {_cut(column.name).ljust(width)}  {_kind(column)}{_example(column)}"
        for column in columns[:MOST_LISTED]
    ]
    more = len(columns) - MOST_LISTED
    return [
        "# Written by `batchrun init`. Edit what you need; docs/job.md describes all keys.",
        "#",
        f"#   batchrun preview {printable(file)}          print requests without sending them",
        f"#   batchrun run {printable(file)} --simulate   run with the simulator (no API key, no cost)",
        f"#   batchrun run {printable(file)}              run, or resume",
        "#",
        f"# The table has {heading.rows:,} {noun} and these columns:",
        *listed,
        *([f"#   and {more:,} more"] if more > 0 else []),
        "",
    ]


def _kind(column: Column) -> str:
    """Return the type without what is inside of it."""
    return printable(column.kind.partition("(")[0]).lower()


def _example(column: Column) -> str:
    value = next((v for v in column.values if v not in (None, "")), None)
    return "" if value is None else f", such as {_cut(str(value)[:200])}"


def _cut(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= MOST_LETTERS else f"{plain[:MOST_LETTERS]}…"


def _input(heading: Heading, choice: Choice) -> list[str]:
    if choice.id is None:
        identity = "# id = …  column with a unique value in every row; default: the row number"
    else:
        identity = f"id = {toml_string(choice.id)} # becomes custom_id in the results"
    return [
        "[input]",
        f"path = {toml_string(heading.table)} # relative to the folder of this file",
        identity,
        "# limit = 100 # process only the first 100 rows",
        "",
    ]


def _request(choice: Choice, wire_format: str, model: str) -> list[str]:
    formats_known = " or ".join(f'"{name}" ({each.title})' for name, each in FORMATS.items())
    return [
        "[request]",
        f"format = {toml_string(wire_format)} # {formats_known}",
        f"model = {toml_string(model)}",
        *_system(choice),
        *_prompt(choice),
        f"max_tokens = {LABEL_TOKENS if choice.labels else TEXT_TOKENS} # maximum length of an answer",
        "# temperature = 0.0",
        "",
    ]


def _system(choice: Choice) -> list[str]:
    if choice.labels:
        names = ", ".join(label.replace("{", "(").replace("}", ")") for label in choice.labels)
        return ["system = " + toml_text(f"Answer with exactly one of these labels: {names}.")]
    if choice.is_number:
        task = "Work it out step by step. End with a line of its own: #### and the number alone."
        return ["system = " + toml_text(task)]
    return ['# system = "What the model should do with each row."']


def _prompt(choice: Choice) -> list[str]:
    keys = ", ".join(toml_string(name) for name in choice.from_columns)
    own = [f"from_columns = [{keys}] # columns that set request keys for their row"] if keys else []
    if choice.messages is not None:
        return [
            f"messages_column = {toml_string(choice.messages)} # column with conversations",
            *own,
        ]
    lines = [
        "# A Jinja2 template: {{ column }} inserts the value of a column.",
        f"prompt = {toml_text(_template(choice.prompt))}",
    ]
    return [*lines, *own]


def _template(columns: Sequence[Column]) -> str:
    if len(columns) == 1:
        return expression(columns[0].name)
    return "\n\n".join(_titled(column) for column in columns)


def _titled(column: Column) -> str:
    words = printable(column.name).replace("_", " ").strip()
    shown = expression(column.name, may_be_null=column.has_nulls)
    if len(words) > MOST_LETTERS or set(words) & set("{}%#"):
        return shown
    return f"{words[:1].upper()}{words[1:]}: {shown}"


def expression(name: str, *, may_be_null: bool = False) -> str:
    """Return the template that shows a column, whatever its name is."""
    place = name if is_plain(name) else f"row[{_jinja_string(name)}]"
    return f'{{{{ "" if {place} is none else {place} }}}}' if may_be_null else f"{{{{ {place} }}}}"


def _jinja_string(text: str) -> str:
    return '"' + "".join(_jinja_character(letter) for letter in text) + '"'


def _jinja_character(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def _score(choice: Choice) -> list[str]:
    if choice.label is None:
        return [
            "# [score] # if a column has the right answers: see docs/evaluating.md",
            '# expected = "{{ label }}"',
            '# match = "casefold"',
            "",
        ]
    lines = [
        "[score] # compares the answers with this column, which the prompt omits",
        f"expected = {toml_text(expression(choice.label.name))}",
    ]
    if choice.labels:
        names = ", ".join(toml_string(label) for label in choice.labels)
        lines += ['match = "choice"', f"choices = [{names}]"]
    elif choice.is_number:
        lines += ['match = "number"', r"answer = '####\s*([^\n]+)' # finds the answer in the text"]
    else:
        lines += ['match = "casefold" # or exact, contains, regex, number, json, choice']
    return [*lines, ""]


def _limits() -> list[str]:
    return [
        "[limits] # concurrency and rates adapt to the provider",
        "# max_cost_usd = 5.0 # hard limit on the cost",
        "",
    ]


def _output(prefix: str) -> list[str]:
    own = [
        f"prefix = {toml_string(prefix)} # the table has columns with the names of result columns"
    ]
    return [
        "[output] # default directory: runs/, beside this file or beside the folder jobs",
        'files = ["results.parquet", "results.csv"]',
        *(own if prefix else []),
    ]


def toml_string(text: str) -> str:
    """Return a TOML string on one line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in quoted)


def toml_text(text: str) -> str:
    """Return a TOML string of several lines where that reads better."""
    if "\n" not in text or "'''" in text or not text.replace("\n", "").isprintable():
        is_literal = '"' in text and "'" not in text and text.isprintable()
        return f"'{text}'" if is_literal else toml_string(text)
    return f"'''\n{text}'''"
