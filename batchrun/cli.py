"""The command line: options in, exit codes out, no logic.

Progress and messages go to stderr, data to stdout. The library behind each command is loaded when
the command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import batchrun
from batchrun.errors import BatchrunError, OutputError
from batchrun.terminal import harmless, harmless_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from batchrun.conclusion import RunReport
    from batchrun.matrix import MatrixReport
    from batchrun.prepare import RunOptions

INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141

_JOB = click.argument("job", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_DIRECTORY = click.argument(
    "directory", type=click.Path(path_type=Path, exists=True, file_okay=False)
)


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        code = _run_command()
    except OSError as error:
        code = _stdout_failed(error)
    except KeyboardInterrupt:
        _say("interrupted; what was answered is saved")
        _leave_at_once(INTERRUPTED_EXIT_CODE)
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritten(stream)
    sys.exit(code)


def _run_command() -> int:
    try:
        return cli.main(prog_name="batchrun", standalone_mode=False) or 0
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:
        return BROKEN_PIPE_EXIT_CODE  # click's own, and only, way to leave: the reader has gone
    except BatchrunError as error:
        _fail(error)
        return error.exit_code


def _stdout_failed(error: OSError) -> int:
    """Answer for a stdout that cannot be written, which is the one file without a name here."""
    if error.filename is not None:
        raise error
    _fail(OutputError(f"standard output could not be written: {error}"))
    return OutputError.exit_code


def _give_up_unwritten(stream: TextIO | None) -> None:
    """Let what a stream cannot write not fail again, with a code of its own, as Python ends."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave_at_once(code: int) -> NoReturn:
    """Leave without waiting for threads: one may be reading a large input."""
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritten(stream)
    os._exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batchrun.__version__, prog_name="batchrun")
def cli() -> None:
    """Send every row of a table to an LLM, once.

    A run that is interrupted is resumed by running it again; what was answered is never paid for
    twice.
    """


def _request_options(command: Any) -> Any:  # noqa: ANN401 - click's decorators
    """The options that change a job, shared by `run` and `preview`."""
    options = (
        click.option(
            "--model", "models", multiple=True, help="Model to ask; several are a matrix."
        ),
        click.option(
            "--format", "wire_format", type=click.Choice(["messages", "chat"]), help="Wire format."
        ),
        click.option("--base-url", help="Where the API is, up to /v1."),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many rows."),
        click.option(
            "--concurrency", type=click.IntRange(min=1), help="Most requests in flight at a time."
        ),
        click.option(
            "--output-dir", type=click.Path(path_type=Path), help="Run directory of this run."
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any key of the job file, such as request.temperature=0.2. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@_JOB
@_request_options
@click.option("--simulate", is_flag=True, help="Answer by a simulator: no key, no cost.")
@click.option("--new", is_flag=True, help="Start over; an earlier run is kept beside this one.")
@click.option("--retry-errored", is_flag=True, help="Also try rows again that failed for good.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary.")
@click.option(
    "--yes", "-y", is_flag=True, help="Go on without asking when paid answers are left behind."
)
def run(job: Path, **options: Any) -> int:  # noqa: ANN401 - click passes options by name
    """Run JOB, or resume it: running again is how one resumes.

    JOB is a job file (TOML), or a table with a "prompt" or "messages" column.

    \b
    Examples:
      batchrun run jobs/triage.toml
      batchrun run prompts.csv --model MODEL --format chat --set max_tokens=500
    """  # noqa: D301 - click knows \\b as the sign for a block to leave as it is
    loaded = batchrun.load_job(job, _overrides(options))
    run_all = batchrun.run_matrix if loaded.cells else batchrun.run_job
    report = run_all(loaded, _run_options(options))
    _conclude(report, quiet=options["quiet"])
    return report.exit_code


@cli.command()
@_JOB
@_request_options
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True)
def preview(job: Path, count: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Print the first HTTP requests of JOB as JSON lines; send nothing."""
    for line in batchrun.preview(batchrun.load_job(job, _overrides(options)), count):
        click.echo(harmless_json(line))


@cli.command()
@_JOB
@_request_options
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N requests first to know better; the run uses their answers.",
)
@click.option("--simulate", is_flag=True, help="Of the run that a simulator answers.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.option(
    "--yes", "-y", is_flag=True, help="Go on without asking when paid answers are left behind."
)
def estimate(job: Path, *, sample: int | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Say what a run of JOB would send, cost and take; send nothing, or N requests.

    What the run directory has already is not counted: the estimate is of what is still to be sent.

    \b
    Examples:
      batchrun estimate jobs/triage.toml
      batchrun estimate jobs/triage.toml --sample 20
    """  # noqa: D301 - as above
    loaded = batchrun.load_job(job, _overrides(options))
    found = batchrun.estimate(loaded, _run_options(options), sample=sample or 0)
    text = batchrun.estimate_json(found) if as_json else batchrun.estimate_text(found)
    click.echo(harmless_json(text) if as_json else text)


@cli.command()
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(directory: Path, *, as_json: bool) -> None:
    """Show how far the run or the matrix in DIRECTORY is, running or not."""
    text = batchrun.status(directory, as_json=as_json)
    click.echo(harmless_json(text) if as_json else harmless(text))


@cli.command()
@_DIRECTORY
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only this .parquet, .csv, .jsonl.",
)
def export(directory: Path, to: Path | None) -> None:
    """Write the outputs of the run in DIRECTORY again; send nothing."""
    for path in batchrun.export(directory, to):
        click.echo(path)


@cli.command()
@_DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take [score] from this job file, and keep it with the run.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def score(directory: Path, job: Path | None, *, as_json: bool) -> None:
    """Score the answers of the run in DIRECTORY again; send nothing.

    Writes the outputs and summary.json again.
    """
    click.echo(batchrun.score_text(batchrun.score(directory, job), as_json=as_json))


@cli.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIRECTORY DIRECTORY...",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(directories: tuple[Path, ...], *, as_json: bool) -> None:
    """Put runs side by side: score, agreement, cost, latency; each against the first.

    The directory of a matrix stands for the runs of its cells.
    """
    runs = batchrun.compare(directories)
    click.echo(batchrun.comparison_json(runs) if as_json else batchrun.comparison_text(runs))


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens per minute.")
@click.option("--latency-ms", type=click.FloatRange(min=0), default=50.0, show_default=True)
@click.option(
    "--error-rate", type=click.FloatRange(0, 1), default=0.0, help="Share of 5xx answers."
)
@click.option("--rate-limit-rate", type=click.FloatRange(0, 1), default=0.0, help="Share of 429s.")
@click.option(
    "--stream-error-rate", type=click.FloatRange(0, 1), default=0.0, help="Share of broken streams."
)
@click.option(
    "--invalid-json-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of structured answers that do not satisfy their schema.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--api-key", help="The only key that is accepted.")
def simulate(port: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Serve both formats on loopback; print the base URL; run until interrupted."""
    config = batchrun.SimulatorConfig(
        requests_per_minute=options["rpm"],
        tokens_per_minute=options["tpm"],
        latency_ms=options["latency_ms"],
        error_rate=options["error_rate"],
        rate_limit_rate=options["rate_limit_rate"],
        stream_error_rate=options["stream_error_rate"],
        invalid_json_rate=options["invalid_json_rate"],
        seed=options["seed"],
        api_key=options["api_key"],
    )
    batchrun.serve_simulator(config, port, announce=click.echo)


def _run_options(options: Mapping[str, Any]) -> RunOptions:
    simulate = batchrun.SimulatorConfig(latency_ms=50) if options["simulate"] else None
    return batchrun.RunOptions(
        simulate=simulate,
        new=options.get("new", False),
        retry_errored=options.get("retry_errored", False),
        quiet=options["quiet"],
        yes=options["yes"],
        ask=_ask if sys.stdin is not None and sys.stdin.isatty() else None,
    )


def _overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn options into dotted keys; paths given here start at the current directory."""
    models = options["models"]
    found = dict(batchrun.parse_setting(setting) for setting in options["settings"])
    direct = {
        "request.model": models[0] if len(models) == 1 else None,
        "matrix.model": list(models) if len(models) > 1 else None,
        "request.format": options["wire_format"],
        "request.base_url": options["base_url"],
        "input.limit": options["limit"],
        "limits.concurrency": options["concurrency"],
        "output.dir": str(options["output_dir"].absolute()) if options["output_dir"] else None,
    }
    return found | {key: value for key, value in direct.items() if value is not None}


def _conclude(report: RunReport | MatrixReport, *, quiet: bool) -> None:
    if not quiet:
        _say(report.summary_text())
    for problem in report.problems:
        _fail(problem)
    if report.is_resumable:
        # --new would start over instead of resuming.
        again = [argument for argument in sys.argv[1:] if argument != "--new"]
        _say(f"to resume, run it again: {shlex.join(['batchrun', *again])}")


def _ask(question: str) -> bool:
    return click.confirm(harmless(question), err=True)


def _fail(error: BatchrunError | str) -> None:
    _echo(click.style("error: ", fg="red", bold=True) + harmless(str(error)))


def _say(message: str) -> None:
    _echo(harmless(message))


def _echo(text: str) -> None:
    # Somebody who closed the terminal or the pipe does not change how the run went.
    with suppress(OSError):
        click.echo(text, err=True)
