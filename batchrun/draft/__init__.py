"""`batchrun init`: write a job file for a table.

Chooses columns (`detection`), writes the text (`document`) and renders the first rows with it. Never
overwrites a file.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun import formats
from batchrun.checkpoint import result_kinds
from batchrun.draft.detection import Choice, choose, id_column_of, read_columns
from batchrun.draft.document import Heading, job_text
from batchrun.draft.guesses import check_header
from batchrun.draft.shapes import shape_of, unused_labels
from batchrun.draft.table_shape import DraftOptions, TableShape
from batchrun.errors import JobError, quoted
from batchrun.evaluation import score_columns
from batchrun.formats.providers import PRESETS, blanks, meant_provider
from batchrun.job import InputConfig, Job, apply_overrides, is_remote, table_input
from batchrun.job.reader import listed
from batchrun.output import result_names
from batchrun.render import Renderer
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.draft.detection import TableColumn
    from batchrun.formats.providers import ProviderPreset
    from batchrun.records import FormatName

PREFIXES = ("", "batchrun_", "llm_", "answer_to_")
TRIED_ROWS = 3
# What `init` passes on to the job file.
READING = ("separator", "quote", "escape", "encoding", "sheet")


@dataclass(frozen=True, slots=True)
class Draft:
    """A job file that was written.

    Attributes:
        path: the job file.
        rows: rows of the table.
        id: the column that identifies a row; None for the row number.
        prompt: the columns in the prompt; empty for a column with conversations.
        label: the column with the right answers, if any.
        missing: the words in the address that the user must replace.
        notes: what was assumed or not found, for the user.
    """

    path: Path
    rows: int
    id: str | None
    prompt: tuple[str, ...]
    label: str | None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def init_job(
    table: str,
    to: Path | None = None,
    *,
    model: str | None = None,
    wire_format: FormatName | None = None,
    provider: str | None = None,
    options: DraftOptions | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Draft:
    """Write a job file for a table. Never overwrites a file.

    Args:
        table: a table, or a glob of several.
        to: the job file; default: `<table>.toml` in the current directory.
        model: the model; default: a small model of the provider, or of the vendor of the format.
        wire_format: `messages` or `chat`; default: the usual one of the provider, or `messages`.
        provider: an id of the table of providers, whose settings are written to the file.
        options: the task or instruction, and the column and names of labels; default: found from the table.
        settings: keys of `[input]` that say how to read the table, such as `input.encoding`.

    Raises:
        JobError: when one of these is wrong, when the table cannot be read, has no rows or no column for a prompt, or the file
            exists.
    """
    preset = None if provider is None else _preset(provider, wire_format)
    wire_format = wire_format or (formats.DEFAULT if preset is None else preset.format)
    path = to or Path(f"{_plain_name(table)}.toml")
    _refuse_existing(path)
    place = table if is_remote(table) else str(Path(table).absolute())
    reading = _reading(settings or {})
    source = Source(_input(place, reading))
    rows = source.count()
    if not rows:
        raise JobError(f"{table}: has no rows; add some first, so that its columns can be examined")
    columns = read_columns(source)
    options = options or DraftOptions()
    if options == DraftOptions(ask=options.ask):
        check_header(columns, table)
    shape = shape_of(columns, source, options)
    choice = choose(columns, source.table) if shape is None else _chosen(shape, columns, source)
    heading = Heading(path.name, _written_path(place, path), rows, reading)
    text = job_text(
        heading,
        columns,
        choice,
        wire_format=wire_format,
        model=model or (preset or formats.of(wire_format)).example_model,
        prefix=_prefix(columns, choice),
        provider=preset,
    )
    _try_out(text, path, source)
    _write_new(path, text)
    return Draft(
        path,
        rows,
        choice.id,
        tuple(c.name for c in choice.prompt),
        choice.label_name,
        () if preset is None else blanks(preset.addresses[wire_format]),
        (*source.notes, *_notes(columns, choice)),
    )


def _reading(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `[input]` that say how to read the table.

    Raises:
        JobError: when there are others.
    """
    document = apply_overrides({}, settings)
    reading: dict[str, Any] = document.get("input", {})
    others = [name for name in settings if name.rpartition(".")[2] not in READING]
    if others or document.keys() - {"input"}:
        raise JobError(
            f"--set {listed(others or settings)}: init takes only the keys that say how to read the "
            f"table: {', '.join(f'input.{key}' for key in READING)}; write others into the job file"
        )
    return reading


def _input(place: str, reading: Mapping[str, Any]) -> InputConfig:
    if not reading:
        return InputConfig(place)
    dotted = {f"input.{key}": value for key, value in reading.items()}
    return replace(table_input(Path(place), dotted), path=place)


def _chosen(shape: TableShape, columns: list[TableColumn], source: Source) -> Choice:
    by_name = {column.name: column for column in columns}
    return Choice(
        id=id_column_of(columns, source.table),
        prompt=tuple(by_name[name] for name in shape.columns),
        label=None if shape.label is None else by_name[shape.label],
        labels=shape.choices,
        shape=shape,
    )


def _notes(columns: list[TableColumn], choice: Choice) -> list[str]:
    """Return what the user should know about the choice of columns."""
    found = [choice.shape.note] if choice.shape is not None and choice.shape.note else []
    used = {choice.id, choice.label_name, choice.messages, *choice.from_columns}
    used |= {column.name for column in choice.prompt}
    others = unused_labels(columns, {name for name in used if name is not None})
    if choice.label is None and others:
        found.append(
            f"not used, and could have labels: {listed(others)}; if one has the right answers, add "
            "--label COLUMN"
        )
    return found


def _preset(provider: str, wire_format: FormatName | None) -> ProviderPreset:
    preset = PRESETS.get(provider)
    if preset is None:
        meant = meant_provider(provider)
        hint = f' (did you mean "{meant}"?)' if meant else f"; known are {', '.join(PRESETS)}"
        raise JobError(f"--provider {quoted(provider)}: is not a known provider{hint}")
    if wire_format is not None and wire_format not in preset.addresses:
        raise JobError(
            f"--provider {provider}: no address of {preset.title} is known for the {wire_format} "
            f"format; use --format {preset.format}"
        )
    return preset


def _plain_name(table: str) -> str:
    stem = Path(table).name.split(".")[0]
    return re.sub(r"[^\w-]+", "_", stem).strip("_") or "job"


def _refuse_existing(path: Path) -> None:
    if path.suffix != ".toml":
        raise JobError(f"--output {path}: the name of a job file must end in .toml")
    if os.path.lexists(path):
        raise JobError(f"{path}: already exists; choose another name with --output")


def _written_path(place: str, job_file: Path) -> str:
    """Return the path of the table relative to the job file."""
    if is_remote(place):
        return place
    text = os.path.relpath(place, job_file.absolute().parent)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise JobError(
            f"{quoted(place)}: rename it; a job file cannot contain a name that is not UTF-8"
        ) from None
    return Path(text).as_posix()


def _prefix(columns: list[TableColumn], choice: Choice) -> str:
    """Return a prefix with which no result column has the name of a column of the table."""
    names = [column.name for column in columns]
    results = [
        *result_kinds(),
        *(column.name for column in score_columns(("",) if choice.label is not None else ())),
    ]
    for prefix in PREFIXES:
        try:
            result_names(names, prefix, (), results)
        except JobError:
            continue
        return prefix
    raise JobError(
        "the table has columns with the names of result columns, also with the prefixes "
        f"{', '.join(PREFIXES[1:])}; rename them"
    )


def _try_out(text: str, path: Path, source: Source) -> None:
    """Load the job and render the first rows, like `preview`.

    Raises:
        JobError: when that fails.
    """
    document = {"name": path.stem, **tomllib.loads(text)}
    # What the user must fill in is not tried out.
    document["request"].pop("base_url", None)
    document["request"].pop("provider", None)
    job = Job.from_document(document, path.absolute().parent, origin=str(path))
    renderer = Renderer(job, source.columns)
    chunk = next(source.items(renderer.columns, TRIED_ROWS))
    renderer.render(islice(chunk, TRIED_ROWS))


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _refuse_existing(path)
    except OSError as error:
        raise JobError(f"{path}: cannot be written ({error.strerror})") from None


__all__ = ["Draft", "DraftOptions", "init_job"]
