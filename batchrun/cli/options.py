"""Arguments and options of several commands, and their shell completion."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import batchrun
from batchrun.cli.console import ask, fail
from batchrun.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchrun.evaluation import ScoreTotals
    from batchrun.run.run_options import RunOptions


JOB_SUFFIX = ".toml"
# Those of `source`, which takes too long to import for a completion.
TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".xlsx"),
)
CHECKPOINT = "checkpoint.db"
LARGEST_FOLDER = 2_000


def jobs(incomplete: str) -> list[str]:
    """Return the job files, tables and folders whose paths start with `incomplete`."""
    return _files_with(incomplete, (JOB_SUFFIX, *TABLE_SUFFIXES))


def tables(incomplete: str) -> list[str]:
    """Return the tables and folders whose paths start with `incomplete`."""
    return _files_with(incomplete, TABLE_SUFFIXES)


def runs(incomplete: str) -> list[str]:
    """Return the run directories whose paths start with `incomplete`."""
    found = (path for path, is_folder in _entries(incomplete) if is_folder)
    return [path for path in found if (Path(path) / CHECKPOINT).is_file()]


def run_paths(incomplete: str) -> list[str]:
    """Return the run directories and the job files whose paths start with `incomplete`."""
    return [*runs(incomplete), *_files_with(incomplete, (JOB_SUFFIX,))]


def models(incomplete: str) -> list[str]:
    """Return the names of models that start with `incomplete`, of those with a known price."""
    from batchrun.pricing import known_models  # noqa: PLC0415 - too slow for every command

    return known_models(incomplete)


def keys(incomplete: str) -> list[str]:
    """Return the keys of a job file that start with `incomplete`, with the equals sign.

    Keys without a section are offered only after the first letter: otherwise there are too many.
    """
    from batchrun.job import known_keys, short_keys  # noqa: PLC0415 - as above

    for key in ("request.model=", "model="):
        if incomplete.startswith(key):
            return [f"{key}{name}" for name in models(incomplete.removeprefix(key))]
    known = known_keys()
    found = [*known, *(short_keys(known) if incomplete else ())]
    return [f"{key}=" for key in found if key.startswith(incomplete)]


def _files_with(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    found = list(_entries(incomplete))
    wanted = [p for p, folder in found if not folder and p.removesuffix(".gz").endswith(suffixes)]
    folders = [f"{path}/" for path, is_folder in found if is_folder]
    return sorted([*wanted, *folders]) if wanted else []


def _entries(incomplete: str) -> Iterator[tuple[str, bool]]:
    """Yield the paths that start with `incomplete`, and whether each is a folder."""
    folder, start = os.path.split(incomplete)
    with suppress(OSError):
        for entry in sorted(os.scandir(folder or "."), key=lambda e: e.name)[:LARGEST_FOLDER]:
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not is_hidden:
                # `Path` would remove a leading `./`.
                yield os.path.join(folder, entry.name), entry.is_dir()  # noqa: PTH118


def completing(find: Callable[[str], list[str]]) -> Any:  # noqa: ANN401 - click's callback
    """Complete with the results of `find`, or with files if there are none."""

    def complete(_context: Any, _parameter: Any, incomplete: str) -> list[Any]:  # noqa: ANN401
        return list(find(incomplete)) or [CompletionItem(incomplete, type="file")]

    return complete


JOB = click.argument(
    "job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(jobs),
)


class RunPath(click.Path):
    """A run directory, or a job file that was run; the error names runs nearby."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, exists=True)

    def convert(  # noqa: D102 - click's
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401
        simulated = Path(f"{value}.simulated")
        if not Path(value).exists() and simulated.is_dir():
            self.fail(f"there is no run in {value}, only a simulated one: {simulated}", param, ctx)
        path = Path(str(super().convert(value, param, ctx)))
        return path if (path / CHECKPOINT).is_file() else batchrun.run_of(path)


class ComparedPath(RunPath):
    """Like `RunPath`, or a folder of runs."""

    def convert(  # noqa: D102 - click's
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401
        path = Path(value)
        if path.is_dir() and batchrun.is_folder_of_runs(path):
            return path
        return super().convert(value, param, ctx)


class FormatChoice(click.Choice[str]):
    """The names of the wire formats, which are loaded when a command needs them."""

    case_sensitive = True

    def __init__(self) -> None:
        """Leave `choices` to the property."""

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        from batchrun.formats import FORMATS  # noqa: PLC0415 - too slow for every `--help`

        return tuple(FORMATS)


class WorkerCount(click.ParamType[int | str]):
    """A number of processes, or `auto`."""

    name = "N|auto"

    def convert(  # noqa: D102 - click's
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | str:
        if value == "auto":
            return "auto"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(
                f'{quoted(value)} is neither a number of processes (1 or more) nor "auto"',
                param,
                ctx,
            )
        return int(value)


DIRECTORY = click.argument("directory", type=RunPath(), shell_complete=completing(run_paths))


def request_options(command: Any) -> Any:  # noqa: ANN401 - click's decorators
    """Add the options that change a job."""
    options = (
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="MODEL",
            shell_complete=completing(models),
            help="Model to use. Repeat to compare several models (a matrix).",
        ),
        click.option("--format", "wire_format", type=FormatChoice(), help="API format."),
        click.option("--base-url", metavar="URL", help="API base URL, without /v1."),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            help="Process only the first N rows.",
            metavar="N",
        ),
        click.option(
            "--date",
            metavar="YYYY-MM-DD",
            help="Date to use for {{ today }} in the job file. Default: today.",
        ),
        click.option(
            "--output-dir",
            type=click.Path(path_type=Path),
            help="Run directory. Default: [output] dir of the job file.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            shell_complete=completing(keys),
            help="Set a key of the job file, such as request.temperature=0.2. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    # No score is below nan: a pipeline would never fail.
    if value is not None and not isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


FAIL_UNDER = click.option(
    "--fail-under",
    type=float,
    callback=_finite,
    metavar="SCORE",
    help="Exit with status 8 if the mean score is lower, such as 0.8.",
)


def checked_score(
    exit_code: int, scores: Mapping[str, ScoreTotals | None], least: float | None
) -> int:
    """Return the exit code of a command with `--fail-under`; print the scores that are too low."""
    problem = None if least is None else batchrun.below_threshold(scores, least)
    if problem is not None:
        fail(problem)
    return batchrun.code_with_threshold(exit_code, problem)


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print no progress.")
YES = click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Don't ask for confirmation when paid answers would no longer be used.",
)
CONCURRENCY = click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Maximum number of concurrent requests.",
    metavar="N",
)


def run_options(options: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run."""
    if options.get("no_wait") and not options.get("batch"):
        raise click.UsageError("--no-wait needs --batch")
    modes = batchrun.BatchMode
    simulate = batchrun.SimulatorConfig(latency_ms=50) if options["simulate"] else None
    return batchrun.RunOptions(
        simulate=simulate,
        new=options.get("new", False),
        retry_errored=options.get("retry_errored", False),
        log_file=options.get("log_file"),
        quiet=options["quiet"],
        yes=options["yes"],
        workers=options.get("workers"),
        dispatcher=batchrun.BATCH if options.get("batch") else batchrun.LIVE,
        batches=modes.ONE_PASS if options.get("no_wait") else modes.WAIT,
        on=options.get("on"),
        ask=ask if sys.stdin is not None and sys.stdin.isatty() else None,
    )


def overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed keys of the job; paths are relative to the current directory."""
    models = options["models"]
    found = dict(batchrun.parse_setting(setting) for setting in options["settings"])
    direct = {
        "request.model": models[0] if len(models) == 1 else None,
        "matrix.model": list(models) if len(models) > 1 else None,
        "request.format": options["wire_format"],
        "request.base_url": options["base_url"],
        "date": options["date"],
        "input.limit": options["limit"],
        "limits.concurrency": options.get("concurrency"),
        "output.dir": str(options["output_dir"].absolute()) if options["output_dir"] else None,
    }
    return found | {key: value for key, value in direct.items() if value is not None}
