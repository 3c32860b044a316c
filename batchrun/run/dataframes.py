"""`complete`: a DataFrame in, the same DataFrame with answers beside it out."""

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
    """Ask a model about every row, and return the rows with what it answered beside them.

    Every answer is kept in a checkpoint under `directory` before it counts. Calling this again,
    also with more rows, other rows or another prompt in between, sends only what has no answer
    there. It works in a notebook, where an event loop is running already.

    Args:
        frame: the rows; its columns are the variables of the templates.
        prompt: template of the user turn, such as `"Translate: {{ text }}"`.
        model: whom to ask; may be a template, too.
        messages: turns with `role` and `content` templates, in place of a prompt.
        id: a column with another value in every row; without it, `custom_id` is the row number.
        directory: where the checkpoint is; made when it is not there.
        prefix: put before our column names that the frame has already.
        limits: keys of `[limits]`, such as `{"max_cost_usd": 5.0}`, which counts everything that
            was ever paid for in this directory.
        retry: keys of `[retry]`.
        price: keys of `[price]`.
        score: keys of `[score]`; adds the columns `score` and `predicted`.
        unnest: make columns of the properties of `json_schema`.
        simulate: answer with a simulator: no key, no cost. Its answers are kept apart.
        retry_errored: send rows again that failed for good.
        quiet: no progress.
        request: any key of `[request]`: `format`, `system`, `max_tokens` (1024 by default),
            `temperature`, `json_schema`, `base_url`, `api_key_env` and so on.

    Returns:
        All rows in order with all their columns, then `custom_id`, `status`, `response`, tokens,
        `cost_usd` and the others of `results.parquet`. A row that failed has the status `errored`.

    Raises:
        JobError: when something is wrong with what was asked; nothing was sent.
        RunStopped: when the run was stopped by a refused key, a quota or a limit, or when no row that
            was sent succeeded. As with the following, what was answered is kept: calling this again goes on.
        CheckpointError: when the directory cannot be used, or another run uses it right now.
        OutputError: when the results cannot be written.
        KeyboardInterrupt: after Ctrl-C or a notebook's stop button: requests in flight may finish (a
            second one cancels them), and what was answered is kept.
        Interrupted: when another signal ended it.
    """
    rows = _collected(frame)
    folder = Path(directory).expanduser().absolute()
    given = {"prompt": prompt, "messages": messages and [dict(turn) for turn in messages]}
    wire_format = formats.FORMATS.get(request.get("format", formats.DEFAULT))
    if "max_tokens" in request or (wire_format and wire_format.capabilities.needs_max_tokens):
        request = {"max_tokens": MAX_TOKENS, **request}
    place = _stored(rows, folder)
    document = {
        "name": folder.name.strip(".") or "batchrun",
        "input": {"path": str(place), **({} if id is None else {"id": id})},
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
    _tidy(folder, place)
    return rows.hstack(found.select(found.columns[rows.width :]))


def _raised(error: BatchrunError) -> BaseException:
    """Return what Ctrl-C raises in any other Python function; another error as it is."""
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
