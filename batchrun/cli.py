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
from click.shell_completion import CompletionItem

import batchrun
from batchrun import completion
from batchrun.errors import BatchrunError, OutputError
from batchrun.terminal import harmless, harmless_but_coloured, harmless_json, wants_color

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date
    from typing import TextIO

    from batchrun.conclusion import RunReport
    from batchrun.matrix import MatrixReport
    from batchrun.prepare import RunOptions
    from batchrun.records import FormatName

INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141


def _completing(find: Callable[[str], list[str]]) -> Any:  # noqa: ANN401 - click's callback
    """Offer what `find` returns; otherwise the shell completes files as it does for others."""

    def complete(_context: Any, _parameter: Any, incomplete: str) -> list[Any]:  # noqa: ANN401
        return list(find(incomplete)) or [CompletionItem(incomplete, type="file")]

    return complete


_JOB = click.argument(
    "job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=_completing(completion.jobs),
)
_DIRECTORY = click.argument(
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    shell_complete=_completing(completion.runs),
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
    except SystemExit as leaving:
        # Click's own ways to leave: what a shell wanted completed is told, or the reader has gone.
        return BROKEN_PIPE_EXIT_CODE if leaving.code == 1 else 0
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

    \b
    Examples:
      batchrun init tickets.csv
      batchrun run tickets.toml --simulate
    """  # noqa: D301 - click knows \\b as the sign for a block to leave as it is


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
            "--date",
            metavar="YYYY-MM-DD",
            help="The day that {{ today }} in the job file stands for. Default: today.",
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
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append what happens to this file, as JSON lines.",
)
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
    """  # noqa: D301 - as above
    loaded = batchrun.load_job(job, _overrides(options))
    run_all = batchrun.run_matrix if loaded.cells else batchrun.run_job
    done = run_all(loaded, _run_options(options))
    _conclude(done, loaded.date, quiet=options["quiet"])
    return done.exit_code


@cli.command()
@_JOB
@_request_options
@click.option("-n", "count", type=click.IntRange(min=1), default=3, show_default=True)
def preview(job: Path, count: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Print the first HTTP requests of JOB as JSON lines; send nothing.

    \b
    Examples:
      batchrun preview jobs/triage.toml -n 1
      batchrun preview prompts.csv --model MODEL --format chat
    """  # noqa: D301 - as above
    loaded = batchrun.load_job(job, _overrides(options))
    for line in batchrun.preview(loaded, count):
        click.echo(harmless_json(line))
    if (hint := batchrun.model_hint(loaded)) is not None:
        _say(hint)


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
    """Show how far the run or the matrix in DIRECTORY is, running or not.

    \b
    Examples:
      batchrun status runs/triage
      batchrun status runs/triage --json
    """  # noqa: D301 - as above
    text = batchrun.status(directory, as_json=as_json, colour=wants_color(sys.stdout))
    click.echo(harmless_json(text) if as_json else harmless_but_coloured(text))


@cli.command()
@_DIRECTORY
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only this .parquet, .csv, .jsonl.",
)
def export(directory: Path, to: Path | None) -> None:
    """Write the outputs of the run in DIRECTORY again; send nothing.

    \b
    Examples:
      batchrun export runs/triage
      batchrun export runs/triage --to triage.csv
    """  # noqa: D301 - as above
    for path in batchrun.export(directory, to):
        click.echo(path)


@cli.command()
@_DIRECTORY
def report(directory: Path) -> None:
    """Write report.html into DIRECTORY: the run in charts and tables, in one file.

    It needs no network, and is searched, printed and sent like any other file.

    \b
    Examples:
      batchrun report runs/triage
    """  # noqa: D301 - as above
    click.echo(batchrun.write_report(directory))


@cli.command()
@_DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=_completing(completion.jobs),
    help="Take [score] from this job file, and keep it with the run.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def score(directory: Path, job: Path | None, *, as_json: bool) -> None:
    """Score the answers of the run in DIRECTORY again; send nothing.

    Writes the outputs and summary.json again.

    \b
    Examples:
      batchrun score runs/triage
      batchrun score runs/triage --job jobs/triage.toml
    """  # noqa: D301 - as above
    click.echo(batchrun.score_text(batchrun.score(directory, job), as_json=as_json))


@cli.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIRECTORY DIRECTORY...",
    shell_complete=_completing(completion.runs),
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(directories: tuple[Path, ...], *, as_json: bool) -> None:
    """Put runs side by side: score, agreement, cost, latency; each against the first.

    The directory of a matrix stands for the runs of its cells.

    \b
    Examples:
      batchrun compare runs/triage runs/other
      batchrun compare runs/triage runs/other --json
    """  # noqa: D301 - as above
    runs = batchrun.compare(directories)
    click.echo(batchrun.comparison_json(runs) if as_json else batchrun.comparison_text(runs))


@cli.command()
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(directory: Path, *, as_json: bool) -> int:
    """Check the checkpoint and the outputs in DIRECTORY against each other; change nothing.

    Leaves with 5 when something is wrong.

    \b
    Examples:
      batchrun verify runs/triage
      batchrun verify runs/triage --json
    """  # noqa: D301 - as above
    verdict = batchrun.verify(directory)
    click.echo(harmless_json(verdict.json()) if as_json else harmless(verdict.text()))
    return verdict.exit_code


@cli.command()
@click.argument("table", type=click.Path(), shell_complete=_completing(completion.tables))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The job file to write; by default named like the table, in the current directory.",
)
@click.option("--model", help="Model to ask.")
@click.option(
    "--format",
    "wire_format",
    type=click.Choice(["messages", "chat"]),
    default="messages",
    show_default=True,
    help="Wire format.",
)
def init(table: str, output: Path | None, model: str | None, wire_format: FormatName) -> None:
    """Write a first job file for TABLE, never over another one.

    It proposes the id, a prompt and, where a column holds right answers, how to score. What it
    writes can be run as it is.

    \b
    Examples:
      batchrun init tickets.csv
      batchrun init data/reviews.parquet -o jobs/reviews.toml --format chat
    """  # noqa: D301 - as above
    draft = batchrun.init_job(table, output, model=model, wire_format=wire_format)
    click.echo(draft.path)
    shown = ", ".join(draft.prompt) or "the conversations"
    _say(f"{draft.rows:,} rows; id: {draft.id or 'the row number'}; prompt from: {shown}")
    _say(f"look at the first requests: {shlex.join(['batchrun', 'preview', str(draft.path)])}")


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
@click.option("--limit-headers/--no-limit-headers", default=True, help="Tell the limits.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--api-key", help="The only key that is accepted.")
def simulate(port: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Serve both formats on loopback; print the base URL; run until interrupted.

    \b
    Examples:
      batchrun simulate --port 8123
      batchrun simulate --port 8123 --rpm 600 --error-rate 0.05
    """  # noqa: D301 - as above
    config = batchrun.SimulatorConfig(
        requests_per_minute=options["rpm"],
        tokens_per_minute=options["tpm"],
        latency_ms=options["latency_ms"],
        error_rate=options["error_rate"],
        rate_limit_rate=options["rate_limit_rate"],
        stream_error_rate=options["stream_error_rate"],
        invalid_json_rate=options["invalid_json_rate"],
        limit_headers=options["limit_headers"],
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
        log_file=options.get("log_file"),
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
        "date": options["date"],
        "input.limit": options["limit"],
        "limits.concurrency": options["concurrency"],
        "output.dir": str(options["output_dir"].absolute()) if options["output_dir"] else None,
    }
    return found | {key: value for key, value in direct.items() if value is not None}


def _conclude(report: RunReport | MatrixReport, day: date | None, *, quiet: bool) -> None:
    if not quiet:
        _echo(harmless_but_coloured(report.summary_text(colour=wants_color(sys.stderr))))
    for problem in report.problems:
        _fail(problem)
    if report.is_resumable:
        # --new would start over instead of resuming.
        again = [argument for argument in sys.argv[1:] if argument != "--new"]
        if day is not None and not any(argument.startswith("--date") for argument in again):
            again += ["--date", day.isoformat()]  # tomorrow the command would begin another run
        _say(f"to resume, run it again: {shlex.join(['batchrun', *again])}")


def _ask(question: str) -> bool:
    return click.confirm(harmless(question), err=True)


def _fail(error: BatchrunError | str) -> None:
    label = "error: "
    if wants_color(sys.stderr):
        label = click.style(label, fg="red", bold=True)
    _echo(label + harmless(str(error)))


def _say(message: str) -> None:
    _echo(harmless(message))


def _echo(text: str) -> None:
    # Somebody who closed the terminal or the pipe does not change how the run went.
    with suppress(OSError):
        click.echo(text, err=True, color=wants_color(sys.stderr))
