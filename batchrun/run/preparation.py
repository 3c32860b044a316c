"""Checks everything before the first request is sent: input, templates, key, directory."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchrun import __version__, checkpoint, dispatch, output
from batchrun.errors import JobError
from batchrun.limits import MOST
from batchrun.render import Renderer
from batchrun.run.job_scores import check_reduce, evaluation_of, our_columns
from batchrun.run.judge_runs import AnswerTable
from batchrun.run.model_checks import check_price
from batchrun.run.precision import check_stop_at
from batchrun.run.run_directories import run_directory
from batchrun.run.signatures import plan_signature
from batchrun.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.client import Credentials
    from batchrun.dispatch import Review
    from batchrun.dispatch.toolbox import Toolbox
    from batchrun.job import Job
    from batchrun.run.judging import Judge
    from batchrun.run.pairwise import PairJudge, PairTable
    from batchrun.run.run_options import RunOptions
    from batchrun.run.scoring import Evaluation


# Open files beside the connections; on a small system as few as can be.
SPARE_FILES, FEWEST_FILES = 128, 48


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose input, templates and key have been checked; nothing has been sent.

    `most_in_flight` follows from its `concurrency` and the limit on open files. `judges` are the plans of
    the job's judges. The plan of a judge has a `judge`, the source of the run whose answers it judges, and,
    once these are known, the table of `answers`.
    """

    job: Job
    source: Source
    renderer: Renderer
    total: int
    credentials: Credentials
    directory: Path
    review: Review
    tools: Toolbox | None = None
    evaluation: Evaluation | None = None
    most_in_flight: int = MOST
    judges: tuple[Prepared, ...] = ()
    judge: Judge | None = None
    answers: AnswerTable | PairTable | None = None

    @property
    def table(self) -> Source | AnswerTable | PairTable:
        """The table that the requests are rendered from."""
        return self.answers or self.source

    @property
    def signature(self) -> str:
        """Changes when rows may have to be matched to requests again."""
        signature = plan_signature(self.job, self.source)
        return signature if self.answers is None else f"{signature}:{self.answers.stamp}"

    @property
    def mark(self) -> str | None:
        """Identifies the whole plan: as long as it is the same, each row has the same request.

        None if requests also depend on other files, such as images or documents.
        """
        if self.job.request.images or self.job.request.documents:
            return None
        # With the version, because another one may render the same job differently.
        return f"{__version__}:{self.signature}:{self.total}"


def prepare(job: Job, options: RunOptions, like: Prepared | None = None) -> Prepared:
    """Check everything that can be checked before the first request.

    Args:
        job: what to run.
        options: how to run it.
        like: a plan that was already checked; if it has the same input, that is not read again.

    Raises:
        JobError: when something is wrong.
    """
    # The cells of a matrix have the same input: its ids are checked and its rows counted only once.
    known = like if like is not None and like.job.input == job.input else None
    source = Source(job.input) if known is None else known.source
    renderer = Renderer(job, source.columns)
    renderer.check_columns()
    output.result_names(source.columns, job.output.prefix, job.output.unnest, our_columns(job))
    if options.dispatcher is dispatch.BATCH:
        dispatch.check_batch(job)
    check_stop_at(job, options)
    if options.rows is None:  # of some rows nothing is scored
        check_reduce(job)
    is_simulated = options.simulator is not None
    credentials = _credentials(job, is_simulated=is_simulated)
    check_price(job)
    most_in_flight = allow_open_files(job)
    evaluation = _evaluation(job, source, options)
    if known is None:
        source.check_ids()
    total = source.count() if known is None else known.total
    output.check_outputs(job.output, source.schema, our_columns(job), total)
    plan = Prepared(
        job=job,
        source=source,
        renderer=renderer,
        total=total,
        credentials=credentials,
        directory=run_directory(job, options),
        review=dispatch.review_of(job),
        tools=dispatch.toolbox_of(job),
        evaluation=evaluation,
        most_in_flight=most_in_flight,
    )
    judges = [] if evaluation is None or options.rows is not None else evaluation.judges
    return replace(plan, judges=tuple(judging_plan(plan, judge, options) for judge in judges))


def judging_plan(plan: Prepared, judge: Judge, options: RunOptions) -> Prepared:
    """Check as much of a judge as possible before there are answers.

    Raises:
        JobError: when something is wrong.
    """
    job = judge.job
    check_price(job)
    return Prepared(
        job=job,
        source=plan.source,
        renderer=judge.renderer,
        total=0,
        credentials=_credentials(job, is_simulated=options.simulator is not None),
        directory=plan.directory / judge.folder,
        review=dispatch.review_of(job),
        most_in_flight=plan.most_in_flight,
        judge=judge,
    )


def over_answers(plan: Prepared, store: checkpoint.Checkpoint) -> Prepared:
    """Return the plan of a judge over the present answers of a run.

    Args:
        plan: one of the `judges` of a plan.
        store: the checkpoint of the run.
    """
    if plan.judge is None:
        raise ValueError("the plan is not that of a judge")
    answers = AnswerTable(plan.judge, plan.source, store)
    return replace(plan, answers=answers, total=answers.count)


def plan_of_pairs(
    judge: PairJudge, table: PairTable, source: Source, directory: Path, options: RunOptions
) -> Prepared:
    """Return the plan of a judge over pairs of answers.

    Raises:
        JobError: when something is wrong.
    """
    job = judge.job
    check_price(job)
    checkpoint.check_directory(directory)
    return Prepared(
        job=job,
        source=source,
        renderer=judge.renderer,
        total=table.count,
        credentials=_credentials(job, is_simulated=options.simulator is not None),
        directory=directory,
        review=dispatch.review_of(job),
        most_in_flight=allow_open_files(job),
        answers=table,
    )


def _credentials(job: Job, *, is_simulated: bool) -> Credentials:
    from batchrun.client import Credentials  # noqa: PLC0415 - slow to load

    # A simulated run needs no key, so a missing variable is not an error.
    return Credentials() if is_simulated else Credentials.of(job.request, job.base)


def _evaluation(job: Job, source: Source, options: RunOptions) -> Evaluation | None:
    evaluation = evaluation_of(job, source)
    # A run of some rows writes no outputs, and so scores nothing.
    if evaluation is not None and options.rows is None:
        evaluation.load()
    return evaluation


def allow_open_files(job: Job) -> int:
    """Raise this process's limit on open files to the number that the connections need.

    That is twice the concurrency, because with the simulator both ends of each connection are here.

    Returns:
        The maximum number of requests in flight.

    Raises:
        JobError: when the system does not allow that many.
    """
    wanted = job.limits.concurrency
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 2 * max(wanted or 0, MOST) + SPARE_FILES
    most = most_requests(hard)
    if most < 1 or (wanted is not None and wanted > most):
        needed = 2 * (wanted or 1) + SPARE_FILES
        lower = f"set [limits] concurrency = {most} or raise" if most > 0 else "raise"
        raise JobError(
            f"[limits] concurrency: {wanted or 'auto'} needs {needed} open files, and this system "
            f"allows {hard} to a process; {lower} the limit, for example: ulimit -n {needed}"
        )
    # Many systems start processes with a low soft limit, which any process may raise.
    needed = min(hard, 2 * (wanted or MOST) + SPARE_FILES)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    return min(most, wanted or MOST)


def most_requests(files: int) -> int:
    """Return the maximum number of requests in flight with this limit on open files."""
    spare = SPARE_FILES if files >= 4 * SPARE_FILES else max(FEWEST_FILES, files // 4)
    return (files - spare) // 2
