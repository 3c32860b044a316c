"""`complete`: takes a DataFrame and returns it with the answers as new columns."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint, formats, output
from batchrun.errors import CheckpointError, Interrupted, JobError, keyboard_interrupt
from batchrun.job import Job
from batchrun.run import run_job
from batchrun.run.preparation import RunOptions
from batchrun.simulator import SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from batchrun.errors import BatchrunError


DIRECTORY = ".batchrun"
MAX_TOKENS = 1024
INPUT = "input-{digest}.parquet"
LATENCY_MS = 20.0


def complete(
    frame: pl.DataFrame | pl.LazyFrame,
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
    simulate: bool = False,
    retry_errored: bool = False,
    quiet: bool = False,
    **request: Any,  # noqa: ANN401 - any key of [request]
) -> pl.DataFrame:
    """Send every row to a model, and return the rows with its answers as new columns.

    Each answer is stored in a checkpoint under `directory`. Another call, also with more rows, other rows
    or another prompt, sends only requests without a stored answer. It works in a notebook, where an event
    loop is already running.

    Args:
        frame: the rows; its columns are the variables of the templates.
        prompt: template of the user turn, such as `"Translate: {{ text }}"`.
        model: name of the model; may be a template.
        messages: turns with `role` and `content` templates, instead of a prompt.
        id: a column with unique values; without it, `custom_id` is the row number.
        directory: of the checkpoint; created if it does not exist.
        prefix: put before those of our column names that the frame already has.
        limits: keys of `[limits]`, such as `{"max_cost_usd": 5.0}`, which counts all costs in this
            directory.
        retry: keys of `[retry]`.
        price: keys of `[price]`.
        score: keys of `[score]`; adds the columns `score` and `predicted`.
        unnest: add a column for each property of `json_schema`.
        simulate: use the simulator (no key, no cost). Its answers are stored separately.
        retry_errored: also retry rows that failed permanently.
        quiet: show no progress.
        request: any key of `[request]`: `format`, `system`, `max_tokens` (1024 by default),
            `temperature`, `json_schema`, `base_url`, `api_key_env` and so on.

    Returns:
        All rows in order with all their columns, then `custom_id`, `status`, `response`, tokens,
        `cost_usd` and the others of `results.parquet`. A row that failed has the status `errored`.

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
    rows = _collected(frame)
    folder = Path(directory).expanduser().absolute()
    given = {"prompt": prompt, "messages": messages and [dict(turn) for turn in messages]}
    wire_format = formats.FORMATS.get(request.get("format", formats.DEFAULT))
    if "max_tokens" in request or (wire_format and wire_format.capabilities.needs_max_tokens):
        request = {"max_tokens": MAX_TOKENS, **request}
    path = _stored(rows, folder)
    document = {
        "name": folder.name.strip(".") or "batchrun",
        "input": {"path": str(path), **({} if id is None else {"id": id})},
        "request": _without_nones({**given, "model": model, **request}),
        "output": {"dir": str(folder), "prefix": prefix, "unnest": unnest},
        **_without_nones({"limits": limits, "retry": retry, "price": price, "score": score}),
    }
    job = Job.from_document(document, Path.cwd(), origin="complete()")
    report = run_job(
        job,
        RunOptions(
            simulate=SimulatorConfig(latency_ms=LATENCY_MS) if simulate else None,
            retry_errored=retry_errored,
            quiet=quiet,
            yes=True,  # another prompt is what a notebook is for, and the answers to this one stay
        ),
    )
    if report.error is not None:
        raise _raised(report.error)
    found = report.results.collect()
    _tidy(folder, path)
    return rows.hstack(found.select(found.columns[rows.width :]))


def _raised(error: BatchrunError) -> BaseException:
    """Return KeyboardInterrupt for Ctrl-C, as other Python functions raise it; any other error unchanged."""
    if isinstance(error, Interrupted) and error.signum == signal.SIGINT:
        return keyboard_interrupt(str(error))
    return error


def _without_nones(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: dict(value) if hasattr(value, "keys") else value
        for key, value in table.items()
        if value is not None
    }


def _collected(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    kind = type(frame)
    if kind.__module__.split(".")[0] != "polars" or kind.__name__ not in {"DataFrame", "LazyFrame"}:
        raise JobError(
            f"complete() takes a polars DataFrame, not {kind.__module__}.{kind.__qualname__}; make "
            "one of it, such as polars.DataFrame(frame)"
        )
    return frame.lazy().collect()


def _stored(rows: pl.DataFrame, folder: Path) -> Path:
    """Keep the rows where the run finds them; the same rows are the same file.

    Raises:
        JobError: when a column has no type that a Parquet file knows, or the folder is the user's.
        CheckpointError: when the folder cannot be written.
    """
    checkpoint.check_directory(folder)
    content = output.parquet_bytes(rows)
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = folder / INPUT.format(digest=digest)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be used: {error}") from None
    return path


def _tidy(folder: Path, kept: Path) -> None:
    """Remove the rows of earlier calls, unless another call is just working on them."""
    try:
        with checkpoint.DirectoryLock(folder):
            for path in folder.glob(INPUT.format(digest="[0-9a-f]" * 16)):
                if path != kept:
                    path.unlink(missing_ok=True)
    except (CheckpointError, OSError):
        return
