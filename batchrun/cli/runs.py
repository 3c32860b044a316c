"""Commands over the directory of a run: how far it is, what it gave, how good and how whole that is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import batchrun
from batchrun import completion
from batchrun.cli.options import DIRECTORY, completing
from batchrun.terminal import harmless, harmless_but_coloured, harmless_json, wants_color


@click.command()
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(directory: Path, *, as_json: bool) -> None:
    """Show how far the run in DIRECTORY is.

    Running or not; of a matrix, every cell.

    \b
    Examples:
      batchrun status runs/triage
      batchrun status runs/triage --json
    """  # noqa: D301 - as above
    text = batchrun.status(directory, as_json=as_json, colour=wants_color(sys.stdout))
    click.echo(harmless_json(text) if as_json else harmless_but_coloured(text))


@click.command()
@DIRECTORY
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only this .parquet, .csv, .jsonl.",
)
def export(directory: Path, to: Path | None) -> None:
    """Write the outputs of a run again.

    Sends nothing. Runs the [score] function of the job only for answers that it has not scored yet.

    \b
    Examples:
      batchrun export runs/triage
      batchrun export runs/triage --to triage.csv
    """  # noqa: D301 - as above
    for path in batchrun.export(directory, to):
        click.echo(path)


@click.command()
@DIRECTORY
def report(directory: Path) -> None:
    """Write report.html, a run in charts and tables.

    One file in DIRECTORY. It needs no network, and is searched, printed and sent like any other file. In the directory of a matrix, it puts the cells side by side and links to one for each. Runs the [score] function of the job only for answers that it has not scored yet.

    \b
    Examples:
      batchrun report runs/triage
    """  # noqa: D301 - as above
    click.echo(batchrun.write_report(directory))


@click.command()
@DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(completion.jobs),
    help="Take [score] from this job file, and keep it with the run.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def score(directory: Path, job: Path | None, *, as_json: bool) -> None:
    """Score the answers of a run again.

    Sends nothing. Writes the outputs and summary.json again. Runs the [score] function of the job, if it has one, with your rights.

    \b
    Examples:
      batchrun score runs/triage
      batchrun score runs/triage --job jobs/triage.toml
    """  # noqa: D301 - as above
    click.echo(batchrun.score_text(batchrun.score(directory, job), as_json=as_json))


@click.command()
@DIRECTORY
@click.option(
    "--job",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    shell_complete=completing(completion.jobs),
    help="Take [price], and [request] provider if set, from this job file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recost(directory: Path, job: Path | None, *, as_json: bool) -> None:
    """Count the costs of a run again from its tokens.

    Sends nothing. Uses today's price list, or [price] of the job. Costs that the provider stated stay.
    Writes the outputs and summary.json again.

    \b
    Examples:
      batchrun recost runs/triage
      batchrun recost runs/triage --job jobs/triage.toml
    """  # noqa: D301 - as above
    text = batchrun.recost_text(batchrun.recost(directory, job), as_json=as_json)
    click.echo(harmless_json(text) if as_json else text)


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIRECTORY DIRECTORY...",
    shell_complete=completing(completion.runs),
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page of it, too, with rows on which runs disagree.",
)
def compare(directories: tuple[Path, ...], html: Path | None, *, as_json: bool) -> None:
    """Put runs side by side.

    Score, agreement, cost and latency, each against the first. The directory of a matrix stands for the runs of its cells.

    \b
    Examples:
      batchrun compare runs/triage runs/other
      batchrun compare runs/triage runs/other --json
      batchrun compare runs/triage runs/other --html comparison.html
    """  # noqa: D301 - as above
    runs = batchrun.compare(directories)
    if html is not None:
        batchrun.write_comparison(runs, html)
    click.echo(batchrun.comparison_json(runs) if as_json else batchrun.comparison_text(runs))


@click.command()
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(directory: Path, *, as_json: bool) -> int:
    """Check a run and its outputs for damage.

    The checkpoint and the outputs in DIRECTORY against each other; changes nothing and runs no Python file of the job. Leaves with 5 when something is wrong.

    \b
    Examples:
      batchrun verify runs/triage
      batchrun verify runs/triage --json
    """  # noqa: D301 - as above
    verdict = batchrun.verify(directory)
    click.echo(harmless_json(verdict.json()) if as_json else harmless(verdict.text()))
    return verdict.exit_code
