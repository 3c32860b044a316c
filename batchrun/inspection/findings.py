"""The findings of `batchrun verify`, and the checks of a partitioned run as a whole."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import output, report
from batchrun.errors import BatchrunError, CheckpointError, Flaw, quoted, short
from batchrun.run.partitioned_run import stored_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


USAGE = "usage.parquet"
SUMMARY = "summary.json"
# Values of the summary that grow while nothing changes.
_AGE_OF_BATCH = re.compile(r"batches\.\d+\.age_s")
# The errors that impossible values cause.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in a run directory: the file, the row, and the remedy.

    `others` counts further rows with the same problem.
    """

    file: str
    row: str | None
    problem: str
    others: int
    remedy: str

    def __str__(self) -> str:
        row = f"row {short(self.row)}: " if self.row is not None else ""
        others = f" (and {self.others:,} more)" if self.others else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.file}: {row}{self.problem}{others}{remedy}"


@dataclass
class Findings:
    """The findings so far."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def wrong(self, file: str, flaws: Iterable[Flaw], remedy: str = "") -> bool:
        """Add the flaws of a file; return whether there were any."""
        new = [Finding(file, flaw.row, flaw.problem, flaw.others, remedy) for flaw in flaws]
        self.findings += new
        return bool(new)

    def check(self, file: str, flaws: Iterable[Flaw], remedy: str) -> None:
        """Add the flaws of a file, and note that it was checked."""
        with self.as_note(file):
            self.wrong(file, flaws, remedy)
            self.checked.append(file)

    @contextmanager
    def as_note(self, what: str) -> Iterator[None]:
        """Add a note about an error that prevents a check.

        Raises:
            CheckpointError: it ends the checking.
        """
        try:
            yield
        except CheckpointError:
            raise
        except BatchrunError as error:
            self.notes.append(f"{what}: {error}")
        except _NONSENSE as error:
            if not self.findings:
                raise  # nothing in the checkpoint explains it: a mistake of ours
            self.notes.append(f"{what}, because of the problems above ({quoted(error)})")


def check_whole(directory: Path, found: Findings) -> None:
    """Compare the outputs of a partitioned run with the contents of its parts.

    Raises:
        BatchrunError: if the comparison is not possible.
    """
    run = stored_run(directory)
    run.check_alike()
    remedy = f"write it again from the parts with: batchrun export {directory}"
    results = {name: run.results(Path(name).suffix) for name in run.job.output.files}
    for name, contents in {**results, USAGE: run.usage()}.items():
        if _is_there(directory / name, found, remedy):
            found.check(name, output.differences(directory / name, contents), remedy)
    if _is_there(directory / SUMMARY, found, remedy):
        score = run.score()
        wanted = report.summary_json(run.totals(), score)
        flaws = summary_flaws(directory / SUMMARY, wanted, is_scored=score is not None)
        found.check(SUMMARY, flaws, remedy)


def _is_there(path: Path, found: Findings, remedy: str) -> bool:
    if not path.exists():
        found.wrong(path.name, [Flaw("is not there")], remedy)
    return path.exists()


def summary_flaws(path: Path, content: str, *, is_scored: bool) -> Iterator[Flaw]:
    """Compare a summary with its expected content; without scores, those in the file are not checked."""
    wanted = _leaves(orjson.loads(content))
    try:
        has = _leaves(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        yield Flaw(f"cannot be read: {error}")
        return
    for name in sorted(wanted.keys() | has.keys()):
        is_unknown = not is_scored and name.startswith("score.")
        is_age = _AGE_OF_BATCH.fullmatch(name) is not None
        if has.get(name) != wanted.get(name) and not (is_unknown or is_age):
            is_now, should = (quoted(each.get(name), 60) for each in (has, wanted))
            yield Flaw(f"{name} is {is_now}, and the checkpoint gives {should}")


def _leaves(value: object, path: str = "") -> Mapping[str, object]:
    """Return the scalar values of a JSON object by their paths, such as `counts.total`."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    pairs: Iterable[tuple[Any, Any]] = (
        value.items() if isinstance(value, dict) else enumerate(value)
    )
    found: dict[str, object] = {}
    for key, part in pairs:
        found |= _leaves(part, f"{path}.{key}" if path else str(key))
    return found
