"""Commands for a job file or a table: init, preview, estimate, run."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import batchrun
from batchrun.cli import options
from batchrun.cli.console import echo, fail, say, wants_color
from batchrun.cli.options import (
    CONCURRENCY,
    FAIL_UNDER,
    JOB,
    JSON,
    QUIET,
    YES,
    FormatChoice,
    WorkerCount,
    checked_score,
    completing,
    overrides,
    request_options,
    run_options,
)
from batchrun.errors import harmless_but_coloured, harmless_json

BATCHES_OUT = 7

if TYPE_CHECKING:
    from datetime import date

    from batchrun.records import FormatName
    from batchrun.run.conclusion import RunReport
    from batchrun.run.matrix import MatrixReport


@click.command()
@JOB
@request_options
@CONCURRENCY
@click.option("--simulate", is_flag=True, help="Use the built-in simulator (no API key, no cost).")
@click.option(
    "--batch",
    is_flag=True,
    help="Use the provider's batch endpoint (about half the price; answers within a day).",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="With --batch: collect finished batches, submit the rest, and exit (code 7) without waiting.",
)
@click.option("--new", is_flag=True, help="Start over; the previous run is kept as DIR.1.")
@click.option("--retry-errored", is_flag=True, help="Also retry rows that failed permanently.")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append events to this file as JSON lines.",
)
@click.option(
    "--workers",
    type=WorkerCount(),
    help="Send the requests from N processes on this machine; auto chooses N.",
)
@click.option(
    "--on",
    metavar="ray[:ADDRESS]",
    help="Send the requests from the nodes of a Ray cluster. Default: one worker per node; set their number with --workers.",
)
@FAIL_UNDER
@click.option("--quiet", "-q", is_flag=True, help="Print no progress and no summary.")
@YES
def run(job: Path, **options: Any) -> int:  # noqa: ANN401 - click passes options by name
    """Run JOB, or resume it.

    Run the same command again to resume.

    JOB is a job file (TOML), or a table with a "prompt" or "messages" column. Python files that the job names ([tools] module, [score] function) run with your permissions.

    \b
    Examples:
      batchrun run jobs/triage.toml
      batchrun run prompts.csv --model MODEL --format chat --set max_tokens=500
      batchrun run jobs/triage.toml --model MODEL --model OTHER
      batchrun run jobs/triage.toml --batch --no-wait
    """
    loaded = batchrun.load_job(job, overrides(options))
    if options["fail_under"] is not None and not loaded.scores:
        raise click.UsageError("--fail-under needs a [score] in the job file")
    run_all = batchrun.run_matrix if loaded.cells else batchrun.run_job
    done = run_all(loaded, run_options(options))
    _print_result(done, loaded.date, quiet=options["quiet"])
    return checked_score(done.exit_code, done.scores, options["fail_under"])


@click.command()
@JOB
@request_options
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of requests.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def preview(job: Path, *, count: int, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Print the first requests of JOB without sending them.

    On a terminal, the requests are laid out for reading. Otherwise, and with --json, prints one JSON line per request, as it would be sent. Runs no Python file of the job.

    \b
    Examples:
      batchrun preview jobs/triage.toml -n 1
      batchrun preview prompts.csv --model MODEL --format chat
    """
    loaded = batchrun.load_job(job, overrides(options))
    if as_json or not sys.stdout.isatty():
        for line in batchrun.preview(loaded, count):
            click.echo(harmless_json(line))
    else:
        width = shutil.get_terminal_size().columns
        for text in batchrun.preview_text(loaded, count, width=width):
            click.echo(text)
    for note in batchrun.input_notes(loaded.input):
        say(note)
    for hint in batchrun.request_hints(loaded):
        say(hint)


@click.command()
@JOB
@request_options
@CONCURRENCY
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N requests for a better estimate; the run reuses their answers.",
)
@click.option("--simulate", is_flag=True, help="Estimate a simulated run (no API key, no cost).")
@JSON
@QUIET
@YES
def estimate(job: Path, *, sample: int | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Estimate requests, tokens, cost and duration of a run of JOB.

    Sends nothing without --sample. Requests already answered in the run directory are not counted.

    \b
    Examples:
      batchrun estimate jobs/triage.toml
      batchrun estimate jobs/triage.toml --sample 20
    """
    loaded = batchrun.load_job(job, overrides(options))
    found = batchrun.estimate(loaded, run_options(options), sample=sample or 0)
    for note in batchrun.input_notes(loaded.input):
        say(note)
    text = batchrun.estimate_json(found) if as_json else batchrun.estimate_text(found)
    click.echo(harmless_json(text) if as_json else text)


@click.command()
@click.argument("table", type=click.Path(), shell_complete=completing(options.tables))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Job file to write. Default: TABLE.toml in the current directory.",
)
@click.option("--model", metavar="MODEL", help="Model to use.")
@click.option(
    "--format",
    "wire_format",
    type=FormatChoice(),
    help="API format. Default: that of the provider, or messages.",
)
@click.option(
    "--provider",
    metavar="NAME",
    help="Provider, such as openai or groq: writes its address, key variable and header.",
)
@click.option(
    "--task",
    type=click.Choice(["classify", "extract", "generate", "qa", "judge"]),
    help="Kind of task. Default: detected from the columns.",
)
@click.option(
    "--instruction",
    metavar="TEXT",
    help="What the model should do with each row. On a terminal, init asks if it finds nothing.",
)
@click.option("--label", metavar="COLUMN", help="Column with the expected answers.")
@click.option(
    "--labels",
    metavar="A,B,…",
    help="Labels to choose from. For numbered classes, list them in the order of the numbers.",
)
@click.option("--fields", metavar="A,B,…", help="Fields to extract.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="How to read the table, such as input.encoding=cp1252 or input.quote=''. Repeatable.",
)
def init(
    table: str,
    output: Path | None,
    model: str | None,
    wire_format: FormatName | None,
    provider: str | None,
    *,
    settings: tuple[str, ...],
    **asked: str | None,
) -> None:
    """Write a job file for TABLE.

    Chooses an id column, a prompt and, if a column has the expected answers, a score. The job can be run without changes. Never overwrites a file.

    \b
    Examples:
      batchrun init tickets.csv
      batchrun init data/reviews.parquet -o jobs/reviews.toml --provider openai
    """
    draft = batchrun.init_job(
        table,
        output,
        model=model,
        wire_format=wire_format,
        provider=provider,
        options=_draft_options(**asked),
        settings=dict(batchrun.parse_setting(setting) for setting in settings),
    )
    click.echo(draft.path)
    shown = ", ".join(draft.prompt) or "the conversations"
    say(f"{draft.rows:,} rows; id: {draft.id or 'the row number'}; prompt from: {shown}")
    for note in draft.notes:
        say(note)
    if draft.missing:
        say(f"replace {' and '.join(draft.missing)} in base_url before you run the job")
    say(f"to print the first requests: {shlex.join(['batchrun', 'preview', str(draft.path)])}")


def _draft_options(
    task: str | None,
    instruction: str | None,
    label: str | None,
    labels: str | None,
    fields: str | None,
) -> batchrun.DraftOptions:
    def split(text: str | None) -> tuple[str, ...]:
        return tuple(part.strip() for part in (text or "").split(",") if part.strip())

    if task is not None and instruction is not None:
        raise click.UsageError("--instruction cannot be combined with --task")
    is_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    ask = _ask_instruction if is_terminal else None
    return batchrun.DraftOptions(task, label, split(labels), split(fields), instruction, ask)


def _ask_instruction(found: str) -> str:
    say(f"found {found}, but no instruction for the rows")
    text = "What should the model do with each row? (press Enter to let init guess)"
    return str(click.prompt(text, default="", show_default=False, err=True))


def _print_result(report: RunReport | MatrixReport, day: date | None, *, quiet: bool) -> None:
    if not quiet:
        echo(harmless_but_coloured(report.summary_text(colour=wants_color(sys.stderr))))
        for note in report.notes:
            say(note)
    if report.exit_code == BATCHES_OUT:
        # Nothing is wrong: the message says when to come back.
        for problem in () if quiet else report.problems:
            say(problem)
        return
    for problem in report.problems:
        fail(problem)
    if quiet and not report.problems and report.shortfall is not None:
        fail(report.shortfall)
    if report.is_resumable:
        # --new would start over instead of resuming.
        again = [argument for argument in sys.argv[1:] if argument != "--new"]
        if day is not None and not any(argument.startswith("--date") for argument in again):
            again += [
                "--date",
                day.isoformat(),
            ]  # without it, the command starts another run tomorrow
        say(f"to resume, run again: {shlex.join(['batchrun', *again])}")
