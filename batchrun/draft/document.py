"""Write the text of a job file: TOML with comments, for any names of columns."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.draft.detection import is_plain
from batchrun.errors import printable
from batchrun.formats import FORMATS
from batchrun.formats.providers import blanks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.draft.detection import Choice, TableColumn
    from batchrun.draft.table_shape import TableShape
    from batchrun.formats.providers import ProviderPreset


MOST_LISTED = 30
MOST_LETTERS = 40
LABEL_TOKENS, TEXT_TOKENS = 20, 500
JOB_FILE = """\
# Written by `batchrun init`. Edit what you need; docs/job.md describes all keys.
#
#   batchrun preview {file}          print requests without sending them
#   batchrun run {file} --simulate   run with the simulator (no API key, no cost)
#   batchrun run {file}              run, or resume
#
# The table has {rows} and these columns:
{columns}

[input]
path = {table} # relative to the folder of this file
{reading}{id}
# limit = 100 # process only the first 100 rows

[request]
{server}format = {wire_format} # {formats}
model = {model}
{system}
{prompt}
max_tokens = {max_tokens} # maximum length of an answer
# temperature = 0.0

{score}

[limits] # concurrency and rates adapt to the provider
# max_cost_usd = 5.0 # hard limit on the cost

[output] # default directory: runs/, beside this file or beside the folder jobs
files = ["results.parquet", "results.csv"]
{prefix}"""
NO_SCORE = """\
# [score] # if a column has the right answers: see docs/evaluating.md
# expected = "{{ label }}"
# match = "casefold\""""


@dataclass(frozen=True, slots=True)
class Heading:
    """The job file's name, and the table: its path in that file, its rows, and how to read it."""

    name: str
    table: str
    rows: int
    reading: Mapping[str, str] = field(default_factory=dict)


def job_text(
    heading: Heading,
    columns: Sequence[TableColumn],
    choice: Choice,
    *,
    wire_format: str,
    model: str,
    prefix: str,
    provider: ProviderPreset | None = None,
) -> str:
    """Return the text of the job file. Without a provider it has no address: the format's default applies."""
    comment = "the table has columns with the names of result columns"
    return JOB_FILE.format(
        file=printable(shlex.quote(heading.name)),
        rows=f"{heading.rows:,} {'row' if heading.rows == 1 else 'rows'}",
        columns="\n".join(_listed(columns)),
        table=toml_string(heading.table),
        reading="".join(
            f"{key} = {toml_string(value)}\n" for key, value in heading.reading.items()
        ),
        id=f"id = {toml_string(choice.id)} # becomes custom_id in the results"
        if choice.id is not None
        else "# id = …  column with a unique value in every row; default: the row number",
        server="".join(f"{line}\n" for line in _server(provider, wire_format)),
        wire_format=toml_string(wire_format),
        formats=" or ".join(f'"{each.name}" ({each.title})' for each in FORMATS.values()),
        model=toml_string(model),
        system=_system(choice),
        prompt="\n".join(_prompt(choice)),
        max_tokens=_max_tokens(choice),
        score="\n".join(_score(choice)),
        prefix=(f"prefix = {toml_string(prefix)} # {comment}\n" if prefix else "")
        + (
            "unnest = true # a column for each field\n"
            if choice.shape and choice.shape.fields
            else ""
        ),
    )


def _server(provider: ProviderPreset | None, wire_format: str) -> Iterator[str]:
    if provider is None:
        return
    yield f"provider = {toml_string(provider.id)} # {provider.title}"
    address = provider.addresses[wire_format]
    missing = blanks(address)
    note = f" # replace {' and '.join(missing)}" if missing else ""
    yield f"base_url = {toml_string(address)}{note}"
    variable = "environment variable with the API key" if provider.key_env else "sends no key"
    if provider.key_command:
        words = ", ".join(map(toml_string, provider.key_command))
        yield f"api_key_command = [{words}] # prints the API key; runs with your permissions"
    else:
        yield f"api_key_env = {toml_string(provider.key_env)} # {variable}"
    if provider.auth is not None:
        yield f"auth = {toml_string(provider.auth)} # how the key is sent"


def _listed(columns: Sequence[TableColumn]) -> Iterator[str]:
    shown = columns[:MOST_LISTED]
    width = max(len(_cut(column.name)) for column in shown)
    for column in shown:
        kind = printable(column.kind.partition("(")[0]).lower()
        value = next((v for v in column.values if v not in (None, "")), None)
        example = "" if value is None else f", such as {_cut(str(value)[:200])}"
        yield f"#   {_cut(column.name).ljust(width)}  {kind}{example}"
    if len(columns) > len(shown):
        yield f"#   and {len(columns) - len(shown):,} more"


def _cut(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= MOST_LETTERS else f"{plain[:MOST_LETTERS]}…"


def _max_tokens(choice: Choice) -> int:
    if choice.shape is not None:
        return choice.shape.max_tokens
    return LABEL_TOKENS if choice.labels else TEXT_TOKENS


def _system(choice: Choice) -> str:
    if choice.shape is not None and choice.shape.system is not None:
        return f"system = {toml_text(choice.shape.system)}"
    if choice.labels:
        names = ", ".join(label.replace("{", "(").replace("}", ")") for label in choice.labels)
        return f"system = {toml_text(f'Answer with exactly one of these labels: {names}.')}"
    if choice.is_number:
        task = "Work it out step by step. Then write the number alone on a last line, after ####."
        return f"system = {toml_text(task)}"
    return '# system = "What the model should do with each row."'


def _prompt(choice: Choice) -> Iterator[str]:
    if choice.messages is not None:
        yield f"messages_column = {toml_string(choice.messages)} # column with conversations"
    else:
        yield "# A Jinja2 template: {{ column }} inserts the value of a column."
        template = template_of(choice.prompt) if choice.shape is None else choice.shape.template
        yield f"prompt = {toml_text(template)}"
    if choice.shape is not None and choice.shape.fields:
        yield from _answer_schema(choice.shape.fields)
    if choice.from_columns:
        keys = ", ".join(map(toml_string, choice.from_columns))
        yield f"from_columns = [{keys}] # columns that set request keys for their row"


def _answer_schema(fields: Sequence[str]) -> Iterator[str]:
    """Yield the schema of an answer with these fields; each can be missing."""
    properties = ", ".join(
        f'{toml_string(name)} = {{ type = ["string", "null"] }}' for name in fields
    )
    names = ", ".join(map(toml_string, fields))
    yield (
        f'json_schema = {{ type = "object", properties = {{ {properties} }}, required = [{names}], '
        "additionalProperties = false }"
    )


def template_of(columns: Sequence[TableColumn]) -> str:
    """Return a prompt with these columns."""
    if len(columns) == 1:
        return expression(columns[0].name)
    return "\n\n".join(map(_titled, columns))


def _titled(column: TableColumn) -> str:
    words = printable(column.name).replace("_", " ").strip()
    shown = expression(column.name, may_be_null=column.has_nulls)
    if len(words) > MOST_LETTERS or set(words) & set("{}%#"):
        return shown
    return f"{words[:1].upper()}{words[1:]}: {shown}"


def expression(name: str, *, may_be_null: bool = False) -> str:
    """Return the template that inserts a column with any name."""
    value = name if is_plain(name) else f"row[{_jinja_string(name)}]"
    return f'{{{{ "" if {value} is none else {value} }}}}' if may_be_null else f"{{{{ {value} }}}}"


def _jinja_string(text: str) -> str:
    return '"' + "".join(map(_jinja_character, text)) + '"'


def _jinja_character(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def _score(choice: Choice) -> Iterator[str]:
    if choice.shape is not None:
        yield from _shape_score(choice.shape)
        return
    if choice.label is None:
        yield NO_SCORE
        return
    yield "[score] # compares the answers with this column, which the prompt omits"
    yield f"expected = {toml_text(expression(choice.label.name))}"
    if choice.labels:
        yield 'match = "choice"'
        yield f"choices = [{', '.join(map(toml_string, choice.labels))}]"
    elif choice.is_number:
        yield 'match = "number"'
        yield r"answer = '####\s*([^\n]+)' # finds the answer in the text"
    else:
        yield 'match = "casefold" # or exact, contains, regex, number, json, choice'


def _shape_score(shape: TableShape) -> Iterator[str]:
    if shape.expected is None:
        yield NO_SCORE
        return
    yield "[score] # compares the answers with this"
    yield f"expected = {toml_text(shape.expected)}"
    yield f"match = {toml_string(shape.match or 'casefold')}"
    if shape.choices:
        yield f"choices = [{', '.join(map(toml_string, shape.choices))}]"
    if shape.answer is not None:
        yield f"answer = '{shape.answer}' # finds the answer in the text"


def toml_string(text: str) -> str:
    """Return a TOML string on one line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in quoted)


def toml_text(text: str) -> str:
    """Return a TOML string, on several lines if that is more readable."""
    if "\n" not in text or "'''" in text or not text.replace("\n", "").isprintable():
        is_literal = '"' in text and "'" not in text and text.isprintable()
        return f"'{text}'" if is_literal else toml_string(text)
    return f"'''\n{text}'''"
