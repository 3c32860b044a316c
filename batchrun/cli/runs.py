"""Commands for the directory of a run, and `simulate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import batchrun
from batchrun.cli import options
from batchrun.cli.console import fail, say, terminal_width, wants_color
from batchrun.cli.options import (
    DIRECTORY,
    FAIL_UNDER,
    JSON,
    QUIET,
    ComparedPath,
    checked_score,
    completing,
    run_options,
)
from batchrun.errors import harmless, harmless_but_coloured, harmless_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

# A date, or a date and a time.
MOMENTS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")


@click.command()
@DIRECTORY
@JSON
def status(directory: Path, *, as_json: bool) -> None:
    """Show the progress of a run.

    Also works while the run is in progress. For a matrix, shows every cell.

    \b
    Examples:
      batchrun status runs/triage
      batchrun status runs/triage --json
    """
    text = batchrun.status(directory, as_json=as_json, colour=wants_color(sys.stdout))
    click.echo(harmless_json(text) if as_json else harmless_but_coloured(text))


@click.command()
@DIRECTORY
@QUIET
def cancel(directory: Path, *, quiet: bool) -> int:
    """Cancel the open batches of a run.

    Waits until they have ended, and collects the answers that are ready. Rows without an answer stay pending. The provider bills only answers.

    \b
    Examples:
      batchrun cancel runs/triage
    """
    found = batchrun.cancel(directory, batchrun.RunOptions(quiet=quiet))
    for each in found:
        click.echo(harmless(each.text()))
        if each.report is not None and each.report.error is not None:
            fail(each.report.error)
    return max(each.exit_code for each in found)


@click.command()
@DIRECTORY
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results to this file instead: .parquet, .csv, .jsonl, .arrow, .xlsx, or .eval (a log for inspect_ai).",
)
@click.option(
    "--finetune",
    "shape",
    metavar="[FORMAT]",
    is_flag=False,
    flag_value="",
    help="With --to: write only the rows that passed, as fine-tuning data (.jsonl) in this format. Default: the format of the job.",
)
@click.option(
    "--last",
    is_flag=True,
    help="With --to: write only rows that got their result in the last execution.",
)
@click.option(
    "--since",
    type=click.DateTime([*MOMENTS, *(f"{form}%z" for form in MOMENTS[1:])]),
    metavar="TIME",
    help="With --to: write only rows that got their result at TIME or later, such as 2026-11-28, 2026-11-28T09:30 or 2026-11-28T09:30:00+00:00.",
)
def export(
    directory: Path, to: Path | None, shape: str | None, since: datetime | None, *, last: bool
) -> None:
    """Write the output files of a run again.

    Sends nothing. Runs the [score] function of the job only if some answers are not scored yet. For a matrix, writes the files of each cell.

    \b
    Examples:
      batchrun export runs/triage
      batchrun export runs/triage --to triage.csv
      batchrun export runs/triage --last --to new.csv
      batchrun export runs/triage --to triage.eval
      batchrun export runs/triage --to training.jsonl --finetune
    """
    if last and since is not None:
        raise click.UsageError("choose --last or --since")
    # Without a time zone, it is the local time.
    chosen = batchrun.Since(since and since.astimezone()) if last or since is not None else None
    if shape is None:
        exported = batchrun.export(directory, to, chosen)
        for note in exported.notes:
            say(note)
        click.echo("\n".join(map(str, exported.paths)))
        return
    if to is None or chosen is not None:
        raise click.UsageError("--finetune needs --to, without --last and --since")
    done = batchrun.export_fine_tuning(directory, to, shape or None)
    click.echo(done.path)
    say(done.note)


@click.command()
@DIRECTORY
@FAIL_UNDER
def report(directory: Path, fail_under: float | None) -> int:
    """Write report.html with charts and tables of a run.

    Writes a single file into DIRECTORY that needs no network access. For a matrix, writes a report of each cell and a page that compares them. Runs the [score] function of the job only if some answers are not scored yet.

    \b
    Examples:
      batchrun report runs/triage
    """
    click.echo(batchrun.write_report(directory))
    return checked_score(0, batchrun.run_scores(directory), fail_under)


@click.command()
@DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(options.jobs),
    help="Use [score] of this job file, and save it with the run.",
)
@FAIL_UNDER
@JSON
def score(directory: Path, job: Path | None, fail_under: float | None, *, as_json: bool) -> int:
    """Score the answers of a run again.

    Sends nothing. Writes the output files and summary.json again. The [score] function of the job, if any, runs with your permissions. For a matrix, scores each cell.

    \b
    Examples:
      batchrun score runs/triage
      batchrun score runs/triage --job jobs/triage.toml
      batchrun score runs/triage --fail-under 0.8
    """
    scores = batchrun.score_runs(directory, job)
    click.echo(batchrun.score_text(scores, as_json=as_json))
    return checked_score(0, {run.absolute().name: of for run, of in scores.items()}, fail_under)


@click.command()
@DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(options.jobs),
    help="Use [price], and [request] provider if set, of this job file.",
)
@JSON
def recost(directory: Path, job: Path | None, *, as_json: bool) -> None:
    """Recalculate the costs of a run from its tokens.

    Sends nothing. Uses the installed price list, or [price] of the job. Keeps costs that the provider reported.
    Writes the output files and summary.json again.

    \b
    Examples:
      batchrun recost runs/triage
      batchrun recost runs/triage --job jobs/triage.toml
    """
    found = batchrun.recost(directory, job)
    text = batchrun.recost_text(found, as_json=as_json)
    click.echo(harmless_json(text) if as_json else text)
    for note in batchrun.recost_notes(found, directory):
        say(note)


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=ComparedPath(),
    metavar="DIRECTORY...",
    shell_complete=completing(options.run_paths),
)
@JSON
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write an HTML page with the rows on which the runs disagree.",
)
@click.option(
    "--judge",
    "job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(options.jobs),
    metavar="JOB",
    help="Let [score.judge] of this job file say which of two answers is better. Sends requests.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --judge: directory of the verdicts. Default: beside the first run.",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="With --judge: use the built-in simulator (no API key, no cost).",
)
@QUIET
@click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Don't ask for confirmation when paid verdicts would no longer be used.",
)
def compare(
    directories: tuple[Path, ...],
    html: Path | None,
    job: Path | None,
    output_dir: Path | None,
    *,
    as_json: bool,
    **judging: Any,  # noqa: ANN401 - click passes options by name
) -> int:
    """Compare runs.

    Compares score, agreement, cost and latency with the first run. For a matrix, compares all of its cells.

    For a folder of runs, ranks them by their scores: one ranking for each table.

    With --judge, a model compares the answers to each row in pairs, in both orders. Run the same command again to resume.

    \b
    Examples:
      batchrun compare runs/triage runs/other
      batchrun compare runs/triage runs/other --json
      batchrun compare runs/triage runs/other --html comparison.html
      batchrun compare runs/triage runs/other --judge jobs/triage.toml
      batchrun compare runs --html leaderboard.html
    """
    folders = [path for path in directories if batchrun.is_folder_of_runs(path)]
    if folders:
        if len(directories) > 1 or job is not None:
            raise click.UsageError(
                f"{folders[0]} is a folder of runs: name it alone, without --judge"
            )
        return _rank(folders[0], html, as_json=as_json)
    runs = batchrun.compare(directories)
    judged = None
    if job is not None:
        loaded = batchrun.load_job(job)
        judged = batchrun.judge_pairs(directories, loaded, run_options(judging), output_dir)
        if judged.note is not None:
            say(judged.note)
    elif output_dir is not None or judging["simulate"]:
        raise click.UsageError("--output-dir and --simulate need --judge")
    if html is not None:
        batchrun.write_comparison(runs, html)
        say(f"wrote {html}")
    if as_json:
        click.echo(batchrun.comparison_json(runs, judged))
    else:
        click.echo(batchrun.comparison_text(runs, judged, width=terminal_width()))
    if judged is not None and judged.error is not None:
        fail(str(judged.error))
    return 0 if judged is None else judged.exit_code


def _rank(folder: Path, html: Path | None, *, as_json: bool) -> int:
    board = batchrun.leaderboard(folder)
    if html is not None:
        batchrun.write_leaderboard(board, html)
        say(f"wrote {html}")
    if as_json:
        click.echo(batchrun.leaderboard_json(board))
    else:
        click.echo(batchrun.leaderboard_text(board, width=terminal_width()))
    return 0


@click.command()
@DIRECTORY
@JSON
def verify(directory: Path, *, as_json: bool) -> int:
    """Check a run and its outputs for damage.

    Compares the checkpoint with the input and the output files. Changes nothing and runs no Python file of the job. Exits with status 5 if problems are found.

    \b
    Examples:
      batchrun verify runs/triage
      batchrun verify runs/triage --json
    """
    verdict = batchrun.verify(directory)
    click.echo(harmless_json(verdict.json()) if as_json else harmless(verdict.text()))
    return verdict.exit_code


def _share(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(
        name, type=click.FloatRange(0, 1), default=0.0, metavar="SHARE", help=help_text
    )


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Port. Default: any free port.",
)
@click.option(
    "--rpm",
    "requests_per_minute",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit on requests per minute.",
)
@click.option(
    "--tpm",
    "tokens_per_minute",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit on tokens per minute.",
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(min=0),
    default=50.0,
    show_default=True,
    metavar="MS",
    help="Time until a response, in milliseconds.",
)
@_share("--error-rate", "Share of 5xx responses.")
@_share("--rate-limit-rate", "Share of 429 responses.")
@_share("--stream-error-rate", "Share of broken streams.")
@_share("--invalid-json-rate", "Share of structured answers that do not satisfy their schema.")
@click.option(
    "--batch-seconds",
    "batch_s",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Time that a batch takes, in seconds.",
)
@_share("--batch-expiry-rate", "Share of batches that expire before they are finished.")
@_share("--lost-create-rate", "Share of batch creations that succeed without a response.")
@_share("--torn-download-rate", "Share of batch result downloads that are cut off.")
@click.option(
    "--enqueued-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit on tokens in a model's open batches.",
)
@click.option(
    "--limit-headers/--no-limit-headers",
    default=True,
    help="Send rate-limit headers (default), or none.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Seed for the answers and faults.",
)
@click.option("--api-key", metavar="KEY", help="Require this API key.")
def simulate(port: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Serve the simulator on this machine.

    Serves both API formats and their batch endpoints on 127.0.0.1. Prints the base URL and runs until interrupted.

    \b
    Examples:
      batchrun simulate --port 8123
      batchrun simulate --port 8123 --rpm 600 --error-rate 0.05
    """
    batchrun.serve_simulator(batchrun.SimulatorConfig(**options), port, announce=click.echo)
