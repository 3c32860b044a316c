"""The directories of runs, and checks that no file of the user is overwritten."""

from __future__ import annotations

import shlex
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import checkpoint, output, source
from batchrun.errors import CheckpointError, JobError
from batchrun.job.paths import SIMULATED_SUFFIX, ProtectedFiles, is_same_file
from batchrun.job.reader import listed
from batchrun.report.formatting import counted
from batchrun.run.events import is_log

if TYPE_CHECKING:
    from batchrun.formats.sent_batches import SentBatch
    from batchrun.job import Job
    from batchrun.run.run_options import RunOptions


def check_written_paths(job: Job, options: RunOptions) -> None:
    """Check that no run of a job writes to a file or directory of the user.

    Raises:
        JobError: names the file, its key in the job, and how to continue.
    """
    protected = ProtectedFiles([*source.input_files(job.input), *job.files])
    jobs = (job, *job.cells)
    for each in jobs:
        _check_run_directory(each, options, protected)
    if (log := options.log_file) is None:
        return
    protected.refuse_overwriting(log, "--log-file", "name another file")
    for path in (run_directory(each, options) / name for each in jobs for name in _written(each)):
        if is_same_file(log, path):
            raise JobError(f"--log-file {log}: the run itself writes this file; name another one")


def _check_run_directory(job: Job, options: RunOptions, protected: ProtectedFiles) -> None:
    directory = run_directory(job, options)
    checkpoint.check_directory(directory, besides=options.log_file)
    other = "name another directory with [output] dir or --output-dir"
    if options.new:
        protected.refuse_moving(directory, "--new", other)
        _refuse_moving_others(directory, job, options)
        _refuse_leaving_batches(directory, options)
    for name in _written(job):
        key = "[output] files" if name in job.output.files else "[output] dir"
        for path in (directory / name, directory / f".{name}.partial"):
            protected.refuse_overwriting(path, key, other)
            if path.is_dir():  # a dataset, which is replaced as a whole
                protected.refuse_moving(path, key, other)
    for name in job.output.files:
        output.refuse_foreign_results(directory / name, "[output] files", in_run_directory=True)


def _refuse_moving_others(directory: Path, job: Job, options: RunOptions) -> None:
    """Check that `--new` moves only files that a run wrote.

    Raises:
        JobError: names the other files in the run directory.
    """
    others = [
        str(path.relative_to(directory))
        for path in checkpoint.other_files(directory, job.output.files)
        if not (path.is_file() and is_log(path))
    ]
    if others:
        raise JobError(
            f"--new: {directory} contains files that are not from a run ({listed(others)}), and they would be "
            "moved with the run. Move them to another place first, or name another directory with "
            "--output-dir"
        )


def _refuse_leaving_batches(directory: Path, options: RunOptions) -> None:
    """Check that `--new` leaves no batches at the provider, unless the user agrees.

    Raises:
        JobError: says how many there are, and what to do.
    """
    if options.yes or options.simulator is not None:
        return
    runs = [path.parent for path in directory.rglob(checkpoint.FILE_NAME)]
    out = [batch for run in runs for batch in _open_batches(run)]
    if out:
        rows = sum(batch.out for batch in out)
        batches = f"{len(out):,} {'batch' if len(out) == 1 else 'batches'}"
        raise JobError(
            f"--new: {batches} with {counted(rows, 'row')} of the previous run in {directory} "
            f"{'is' if len(out) == 1 else 'are'} still at the provider and will be billed. To "
            "collect the answers, run again without --new; to cancel: batchrun cancel "
            f"{shlex.quote(str(directory))}; to start over anyway, add --yes"
        )


def _open_batches(directory: Path) -> list[SentBatch]:
    """Return the open batches of a run; none if its checkpoint cannot be read."""
    if not (directory / checkpoint.FILE_NAME).is_file():
        return []
    with (
        suppress(CheckpointError),
        closing(checkpoint.Checkpoint(directory, writable=False)) as store,
    ):
        return checkpoint.batches(store, open_only=True)
    return []


def _written(job: Job) -> tuple[str, ...]:
    """Return the names of the files that a run may write to its directory."""
    return (*job.output.files, *checkpoint.FILES)


def run_directory(job: Job, options: RunOptions) -> Path:
    """Return the run directory; simulated answers have a separate one.

    Raises:
        JobError: when it is the root of the file system.
    """
    directory = kept_apart(job.output.dir, job, options)
    return directory if job.cell is None else directory / job.cell.name


def kept_apart(directory: Path, job: Job, options: RunOptions) -> Path:
    """Return the absolute path of `directory`, or of a separate one for simulated answers.

    The separate one is next to `directory`, or inside it if that contains the job file or the current
    folder: `dir = "."` must not write to the parent folder.

    Raises:
        JobError: when it is the root of the file system.
    """
    directory = directory.resolve()
    if directory == directory.parent:
        raise JobError(
            f"[output] dir: {directory} cannot be a run directory; name another directory"
        )
    if options.simulator is None:
        return directory
    is_around = any(path.is_relative_to(directory) for path in _working_folders(job))
    name = (job.name if is_around else directory.name) + SIMULATED_SUFFIX
    return directory / name if is_around else directory.with_name(name)


def _working_folders(job: Job) -> list[Path]:
    """Return the folder of the job file and the current folder, if they exist."""
    places = [job.base.resolve()]
    with suppress(OSError):  # it may have been removed
        places.append(Path.cwd())
    return places
