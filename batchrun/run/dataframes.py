"""`complete`: returns a table with the answers of a model as new columns."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batchrun import checkpoint, formats, output
from batchrun.errors import CheckpointError, Interrupted, JobError, keyboard_interrupt, quoted
from batchrun.job import Job
from batchrun.output import given_table
from batchrun.run.run_options import RunOptions
from batchrun.run.running import run_job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.errors import BatchrunError
    from batchrun.simulator import SimulatorConfig


# Any kind of table that `given_table` knows.
Table = TypeVar("Table")

DIRECTORY = ".batchrun"
MAX_TOKENS = 1024
INPUT = "input-{digest}.parquet"


def complete(
    frame: Table,
    *,
    prompt: str | None = None,
    model: str,
    messages: Sequence[Mapping[str, str]] | None = None,
    id: str | None = None,  # noqa: A002 - the job file's word
    directory: str | Path = DIRECTORY,
    prefix: str = "",
    limits: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
    price: Mapping[str, Any] | None = None,
    score: Mapping[str, Any] | None = None,
    unnest: bool = False,
    simulate: SimulatorConfig | bool = False,
    retry_errored: bool = False,
    quiet: bool = False,
    **request: Any,  # noqa: ANN401 - any key of [request]
) -> Table:
    """Send every row to a model, and return the rows with its answers as new columns.

    Each answer is stored in a checkpoint under `directory`. Another call, also with more rows, other rows
    or another prompt, sends only requests without a stored answer. It works in a notebook, where an event
    loop is already running.

    Args:
        frame: the rows; its columns are the variables of the templates. A DataFrame or LazyFrame of
            polars, a DataFrame of pandas, a Table of pyarrow, or a list of dicts.
        prompt: template of the user turn, such as `"Translate: {{ text }}"`.
        model: name of the model; may be a template.
        messages: turns with `role` and `content` templates, instead of a prompt.
        id: a column with unique values; without it, `custom_id` is the row number.
        directory: directory of the checkpoint; created if it does not exist.
        prefix: added to those of our column names that the frame already has.
        limits: keys of `[limits]`, such as `{"max_cost_usd": 5.0}`, which counts all costs in this
            directory.
        retry: keys of `[retry]`.
        price: keys of `[price]`.
        score: keys of `[score]`; adds the columns `score` and `predicted`.
        unnest: add a column for each property of `json_schema`.
        simulate: use the simulator (no key, no cost): True, or a `SimulatorConfig`. Its answers are
            stored separately.
        retry_errored: also retry rows that failed permanently.
        quiet: show no progress.
        request: any key of `[request]`: `format`, `system`, `max_tokens` (1024 by default),
            `temperature`, `json_schema`, `base_url`, `api_key_env` and so on.

    Returns:
        The same kind of table: all rows in order with all their columns, then `custom_id`, `status`,
        `response`, tokens, `cost_usd` and the others of `results.parquet`. A row that failed has the
        status `errored`. For a LazyFrame, its rows and the answers are read from files when they are
        needed; they are never all in memory.

    Raises:
        JobError: when an argument or the frame is wrong; nothing was sent.
        RunStopped: when a refused key, a quota or a limit stopped the run, or when no row that was sent
            succeeded. As with the errors below, all answers are saved: call it again to continue.
        CheckpointError: when the directory cannot be used, or another run is using it.
        OutputError: when the results cannot be written.
        KeyboardInterrupt: after Ctrl-C or a notebook's stop button. Requests in flight are finished; a
            second interrupt cancels them.
        Interrupted: when another signal ended it.
    """
    if isinstance(frame, list) and not frame:
        return frame  # without a row there are no columns to check
    call = prepared(
        frame,
        prompt=prompt,
        model=model,
        messages=messages,
        id=id,
        directory=directory,
        prefix=prefix,
        limits=limits,
        retry=retry,
        price=price,
        score=score,
        unnest=unnest,
        simulate=simulate,
        retry_errored=retry_errored,
        quiet=quiet,
        **request,
    )
    report = run_job(call.job, call.options)
    if report.error is not None:
        raise raised(report.error)
    answered: Table = call.table.answered(report.results, call.kept(report.directory))
    call.tidy()
    return answered


@dataclass(frozen=True, slots=True)
class TableCall:
    """A call with a table of a Python program, as a job.

    Attributes:
        table: the table that was passed.
        stored: the file with its rows.
    """

    table: output.GivenTable
    job: Job
    options: RunOptions
    stored: Path

    def kept(self, directory: Path) -> Path:
        """Return the path for the answers to this call, for tables that are read later."""
        document = json.dumps(self.job.document, sort_keys=True, default=str)
        digest = hashlib.blake2b(document.encode(), digest_size=8).hexdigest()
        return directory / f"answered-{digest}.parquet"

    def tidy(self) -> None:
        """Remove the stored rows of earlier calls, unless another call is working on them."""
        folder = self.stored.parent
        try:
            with checkpoint.DirectoryLock(folder):
                for path in folder.glob(INPUT.format(digest="[0-9a-f]" * 16)):
                    if path != self.stored:
                        path.unlink(missing_ok=True)
        except (CheckpointError, OSError):
            return


def prepared(
    frame: object,
    *,
    id: str | None = None,  # noqa: A002 - the job file's word
    directory: str | Path = DIRECTORY,
    prefix: str = "",
    limits: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
    price: Mapping[str, Any] | None = None,
    score: Mapping[str, Any] | None = None,
    unnest: bool = False,
    simulate: SimulatorConfig | bool = False,
    retry_errored: bool = False,
    quiet: bool = False,
    origin: str = "complete()",
    **request: Any,  # noqa: ANN401 - any key of [request]
) -> TableCall:
    """Return the job and the options of a call; the rows are stored in its directory.

    The arguments are those of `complete`; `origin` is the name of the call in messages.

    Raises:
        JobError: when an argument or the table is wrong.
        CheckpointError: when the directory cannot be used.
    """
    table = given_table(frame)
    if not isinstance(directory, str | os.PathLike):
        raise JobError(f"{origin}: directory must be a path, not {quoted(directory)}")
    folder = Path(directory).expanduser().absolute()
    path = _stored(table, folder)
    sections = {"limits": limits, "retry": retry, "price": price, "score": score}
    for name, keys in sections.items():
        if keys is not None and not hasattr(keys, "keys"):
            raise JobError(
                f"{origin}: {name} must be a dict of keys of [{name}], not {quoted(keys)}"
            )
    document = {
        **{name: _without_nones(keys) for name, keys in sections.items() if keys is not None},
        "name": folder.name.strip(".") or "batchrun",
        "input": _without_nones({"path": str(path), "id": id}),
        "request": _with_max_tokens(_without_nones(request)),
        "output": {"dir": str(folder), "prefix": prefix, "unnest": unnest},
    }
    options = RunOptions(
        simulate=simulate,
        retry_errored=retry_errored,
        quiet=quiet,
        # In a notebook another prompt is usual, and the answers to the earlier one stay.
        yes=True,
    )
    job = Job.from_document(document, Path.cwd(), origin=origin)
    return TableCall(table, job, options, path)


def _with_max_tokens(request: dict[str, Any]) -> dict[str, Any]:
    wire_format = formats.FORMATS.get(request.get("format", formats.DEFAULT))
    if "max_tokens" in request or (wire_format and wire_format.capabilities.needs_max_tokens):
        return {"max_tokens": MAX_TOKENS, **request}
    return request


def raised(error: BatchrunError) -> BaseException:
    """Return KeyboardInterrupt for Ctrl-C, as in other Python functions; return any other error unchanged."""
    if isinstance(error, Interrupted) and error.signum == signal.SIGINT:
        return keyboard_interrupt(str(error))
    return error


def _without_nones(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in table.items() if value is not None}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a job file
    """Convert mappings to dicts, also within a list."""
    if hasattr(value, "keys"):
        return dict(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _stored(table: output.GivenTable, folder: Path) -> Path:
    """Store the rows in a file for the run; the same rows always have the same file.

    Raises:
        JobError: if a column has a type that Parquet does not have, or the folder has other files.
        CheckpointError: when the folder cannot be written.
    """
    checkpoint.check_directory(folder)
    partial = folder / f"input-{os.getpid()}-{threading.get_ident()}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            path = folder / INPUT.format(digest=table.store(partial))
            # An existing file with the same rows is kept: a new one would count as a changed input.
            if not (path.is_file() and filecmp.cmp(partial, path, shallow=False)):
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be used: {error}") from None
    return path
