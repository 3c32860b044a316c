"""The section `[output]` of a job file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted
from batchrun.job.configs import DEFAULT_FILES, PARTITION_ROWS, OutputConfig
from batchrun.job.overrides import with_dates
from batchrun.job.paths import absolute, project_of
from batchrun.job.reader import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from batchrun.job.reader import Section
    from batchrun.records import AnswerSchema


OUTPUT_SUFFIXES = (".parquet", ".csv", ".jsonl", ".arrow", ".xlsx")


def read_output(
    section: Section, base: Path, name: str, day: date | None, answer: AnswerSchema | None
) -> OutputConfig:
    """Read the section and add its problems. Relative paths start from `base`."""
    files = section.strings("files")
    if files is None:
        files = DEFAULT_FILES
    section.check("files", partial(_check_files, files), None)
    directory = section.get("dir", str)
    place = directory or str(project_of(base) / "runs" / name)
    return OutputConfig(
        dir=section.check("dir", partial(_run_directory, base, place, day), base),
        files=files,
        prefix=section.text("prefix"),
        unnest=read_unnest(section, answer),
        escape_formulas=section.get("escape_formulas", bool) or False,
        partition_by=section.check("partition_by", partial(_partition_by, section, files), ()),
        partition_rows=section.number("partition_rows", int, PARTITION_ROWS),
    )


def _run_directory(base: Path, given: str, day: date | None) -> Path:
    place = with_dates(given, day)
    path = absolute(base, place)
    if not place.isprintable():
        raise ValueError(f"{quoted(place)} contains characters that cannot be printed")
    return path


def _partition_by(section: Section, files: Sequence[str]) -> tuple[str, ...]:
    columns = section.strings("partition_by") or ()
    if len(set(columns)) != len(columns):
        raise ValueError(f"contains a column twice: {listed(columns)}")
    if columns and not any(file.endswith(".parquet") for file in files):
        raise ValueError("needs a file ending in .parquet in [output] files")
    return tuple(columns)


def _check_files(files: Sequence[str]) -> None:
    if not files:
        raise ValueError("is empty; remove it to write results.parquet")
    for file in files:
        plain = Path(file).name == file and file.isprintable()
        if not plain or Path(file).suffix not in OUTPUT_SUFFIXES:
            raise ValueError(
                f"{quoted(file)} must be a plain file name ending in {', '.join(OUTPUT_SUFFIXES)}"
            )
        if file.casefold() == "usage.parquet":
            raise ValueError("usage.parquet is reserved for the usage table; choose another name")
    if len({file.casefold() for file in files}) != len(files):
        raise ValueError(f"contains a file twice: {listed(files)}")


def read_unnest(section: Section, answer: AnswerSchema | None) -> Mapping[str, Any]:
    """Return the properties of the answer's schema that become columns, by name."""
    if not section.get("unnest", bool):
        return {}
    schema = (answer.schema if answer else None) or {}
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        section.problem("unnest", "needs a [request] json_schema with properties")
        return {}
    definitions = {
        f"#/{key}/{name}": one
        for key in ("$defs", "definitions")
        for name, one in (schema.get(key) or {}).items()
    }
    return {name: _defined(one, definitions) for name, one in properties.items()}


def _defined(schema: Any, definitions: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the schema that a property refers to, directly or as one of several."""
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema and isinstance(schema["anyOf"], list):
        return {**schema, "anyOf": [_defined(one, definitions) for one in schema["anyOf"]]}
    if "items" in schema:
        return {**schema, "items": _defined(schema["items"], definitions)}
    return definitions.get(str(schema.get("$ref")), schema)
