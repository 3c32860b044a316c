"""Judges of a job: the requests about each answer, and how verdicts become scores.

A judge is a separate run over the answers of a run, with its own checkpoint in a folder of the run directory.
A verdict belongs to a request: it is found by the fingerprint of the request, which contains the answer. So no
verdict is ever used for another answer, and nothing is asked twice.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any

from batchrun import checkpoint
from batchrun.errors import RenderError
from batchrun.evaluation import RowScore
from batchrun.evaluation.agreement import JudgeTotals
from batchrun.evaluation.reducers import majority_of, reduced
from batchrun.evaluation.scorer import is_missing
from batchrun.evaluation.scores import AnswerScore, CannotScore, VerdictState
from batchrun.evaluation.verdicts import (
    CUT_VERDICT,
    UNREADABLE_VERDICT,
    UnreadableVerdict,
    Verdict,
    VerdictReader,
)
from batchrun.records import Item
from batchrun.render import Expression, Renderer
from batchrun.run.judge_runs import check_verdicts, judge_folder, judge_job

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Checkpoint, StoredVerdict
    from batchrun.job import Job, JudgeConfig, ScoreConfig
    from batchrun.records import RenderedItem
    from batchrun.run.answered_rows import AnsweredRow


# What the templates of a judge may use beside the columns of the row.
RESPONSE, EXPECTED, PROMPT = "response", "expected", "rendered_prompt"
# Looked up with one statement; SQLite limits the number of its values.
MOST_FINGERPRINTS = 5_000


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """A request to a judge without a verdict, and why."""

    state: VerdictState
    reason: str


class VerdictLookup:
    """Finds the verdicts of a judge in its checkpoint.

    Args:
        config: the judge.
        samples: number of verdicts for each answer.
        section: section of the job file, for messages.
    """

    def __init__(self, config: JudgeConfig, samples: int, section: str) -> None:
        self.reader = VerdictReader(config)
        self._samples = samples
        self._section = section

    def find(self, folder: Path, asked: Sequence[RenderedItem]) -> dict[bytes, list[StoredVerdict]]:
        """Return the verdicts that are stored in the folder of a judge, by fingerprint of the request."""
        wanted = {each.fingerprint: None for each in asked if each.fingerprint is not None}
        if not wanted or not checkpoint.holds_run(folder):
            return {}
        found: dict[bytes, list[StoredVerdict]] = {}
        with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
            rest = iter(wanted)
            while part := list(islice(rest, MOST_FINGERPRINTS)):
                found |= checkpoint.stored_verdicts(store, part)
        return found

    def verdicts(
        self, asked: RenderedItem, found: Mapping[bytes, Sequence[StoredVerdict]]
    ) -> list[Verdict | NoVerdict]:
        """Return the verdicts on one answer, or the reasons why they are missing."""
        if asked.fingerprint is None:
            return [NoVerdict(VerdictState.FAILED, f"[{self._section}] {asked.error_message}")]
        stored = found.get(asked.fingerprint, ())[: self._samples]
        missing = NoVerdict(VerdictState.MISSING, "not judged yet; run the job to judge it")
        return [*map(self._verdict, stored), *([missing] * (self._samples - len(stored)))]

    def _verdict(self, stored: StoredVerdict) -> Verdict | NoVerdict:
        if stored.text is None:
            is_read = stored.error_type not in {UNREADABLE_VERDICT, CUT_VERDICT}
            state = VerdictState.FAILED if is_read else VerdictState.UNREADABLE
            return NoVerdict(state, f"{stored.error_message}")
        try:
            return self.reader.read(stored.text)
        except UnreadableVerdict as problem:  # the choices have changed since
            return NoVerdict(VerdictState.UNREADABLE, f"the verdict cannot be read: {problem}")


class Judge:
    """Scores by the verdicts of a model.

    Args:
        config: a scorer of the job, which has a judge.
        job: the job whose answers are judged.
        columns: the input's columns.

    Attributes:
        config: the scorer.
        columns: the columns that its templates need.
        folder: name of its folder in the run directory.
        job: the job of the judge.
        renderer: renders the requests of the judge.

    Raises:
        JobError: when a template or a pattern is wrong, or a column is missing.
    """

    runs_code = False

    def __init__(self, config: ScoreConfig, job: Job, columns: Sequence[str]) -> None:
        judge = _required(config.judge)
        self.config = config
        self.folder = judge_folder(config.name)
        self.job = judge_job(job, judge, self.folder)
        section = f"score.{config.name}.judge" if config.name else "score.judge"
        self._lookup = VerdictLookup(judge, self.job.request.samples, section)
        # The answer and the expected answer take the place of columns with these names.
        ours = [RESPONSE, PROMPT, *([EXPECTED] if config.expected is not None else [])]
        every = tuple(dict.fromkeys((*columns, *ours)))
        self.renderer = Renderer(self.job, every, section)
        self._expected = expression_of("score", "expected", config.expected, columns)
        self._human = expression_of(section, "human", judge.human, columns)
        wants_prompt = PROMPT in self.renderer.columns and PROMPT not in columns
        self._prompts = Renderer(job, columns) if wants_prompt else None
        self.columns = self._needed(columns)
        self._pass_at = _pass_at(config, judge)

    def load(self) -> None:
        """Do nothing: there is nothing to import."""

    def _needed(self, columns: Sequence[str]) -> tuple[str, ...]:
        names = set(self.renderer.columns)
        for part in (self._expected, self._human, self._prompts):
            names |= set(() if part is None else part.columns)
        return tuple(column for column in columns if column in names)

    def items(self, row: AnsweredRow) -> list[Item]:
        """Return the items of a judge for the answers of a row; their ordinals are not set yet.

        Empty if its prompt compares them with an expected answer that the row does not have.
        """
        item, texts = row.item, row.texts
        values = {**item.values, **self._values(item)}
        if EXPECTED in self.renderer.columns and is_missing(values.get(EXPECTED)):
            return []
        return [
            Item(
                0,
                item.custom_id if len(texts) == 1 else f"{item.custom_id}#{number}",
                {**values, RESPONSE: text},
            )
            for number, text in enumerate(texts, 1)
        ]

    def _values(self, item: Item) -> dict[str, Any]:
        """Return the prompt of the row and its expected answer; None if they cannot be rendered."""
        found: dict[str, Any] = {}
        if self._expected is not None:
            found[EXPECTED] = value_of(self._expected, item)
        if self._prompts is not None:
            found[PROMPT] = prompt_of(self._prompts, item)
        return found

    def score(self, rows: Sequence[AnsweredRow], directory: Path) -> Sequence[RowScore]:
        """Score rows by the verdicts that are in the judge's checkpoint."""
        asked = [self.renderer.render(self.items(row)) for row in rows]
        every = [each for of_row in asked for each in of_row]
        found = self._lookup.find(directory / self.folder, every)
        scores = [
            self._row_score(row, [self._lookup.verdicts(each, found) for each in of_row])
            for row, of_row in zip(rows, asked, strict=True)
        ]
        persons = [self._person(row.item) for row in rows]
        return [replace(score, expected=said) for score, said in zip(scores, persons, strict=True)]

    def _row_score(
        self, row: AnsweredRow, judged: Sequence[Sequence[Verdict | NoVerdict]]
    ) -> RowScore:
        ordinal = row.item.ordinal
        if not judged:
            problem = "expected is empty for this row, so it was not judged"
            return RowScore(ordinal, answers=len(row.texts), problem=problem)
        return _row_score(ordinal, judged, self.config.reduce, self._pass_at)

    def check_intact(self, directory: Path) -> None:
        """Check that the stored verdicts are unchanged.

        Raises:
            RecordsDamaged: if one has changed.
        """
        check_verdicts(directory / self.folder)

    def totals(self, store: Checkpoint) -> JudgeTotals:
        """Add up the work of the judge.

        Args:
            store: the checkpoint of the run whose rows are scored.
        """
        found = JudgeTotals(
            self.job.request.model, **checkpoint.judged_rows(store, self.config.name)
        )
        order = _order(found.verdicts, self.config.judge)
        found = replace(found, order=order, has_human=self._human is not None)
        folder = store.path.parent / self.folder
        if not checkpoint.holds_run(folder):
            return found
        with closing(checkpoint.Checkpoint(folder, writable=False)) as own:
            done = checkpoint.totals(own)
        return replace(
            found,
            attempts=done.attempts,
            maybe_billed=done.maybe_billed,
            input_tokens=done.usage.input_tokens,
            output_tokens=done.usage.output_tokens,
            cost=done.known_cost,
        )

    def _person(self, item: Item) -> str | None:
        """Return the verdict of a person in the spelling of the judge's verdicts."""
        said = None if self._human is None else value_of(self._human, item)
        if said is None or not str(said).strip():
            return None
        try:
            return self._lookup.reader.verdict(said).label
        except UnreadableVerdict:
            return None


def _required(judge: JudgeConfig | None) -> JudgeConfig:
    if judge is None:
        raise ValueError("the scorer has no judge")
    return judge


def _order(verdicts: Iterable[tuple[str, str]], config: JudgeConfig | None) -> tuple[str, ...]:
    """Return all verdicts of a scale from the lowest, including those that were not given."""
    if config is None or config.scale is None:
        return ()
    low, high = config.scale
    if config.is_whole:
        return tuple(f"{number:g}" for number in range(int(low), int(high) + 1))
    said = {label for pair in verdicts for label in pair}
    return tuple(sorted(said, key=float))


def expression_of(
    section: str, key: str, source: str | None, columns: Sequence[str]
) -> Expression | None:
    """Return a key of the job file as an expression; None if it is not set.

    Raises:
        JobError: if it is not a template, or needs a column that does not exist.
    """
    return None if source is None else Expression(section, key, source, columns)


def prompt_of(renderer: Renderer, item: Item) -> str | None:
    """Return the prompt of a row as one text; None if it cannot be rendered."""
    try:
        return renderer.prompt_text(item.values)
    except RenderError:
        return None


def value_of(expression: Expression, item: Item) -> Any:  # noqa: ANN401 - a column's own type
    """Return the value for a row; None if it cannot be rendered."""
    try:
        return expression.value(item.values)
    except RenderError:
        return None


def _pass_at(config: ScoreConfig, judge: JudgeConfig) -> float | None:
    """Return the score with which an answer passes; None if it is not defined, as for a scale from 1 to 5."""
    worths = judge.scale or tuple(judge.choices.values())
    is_share = all(0 <= worth <= 1 for worth in worths)
    return config.pass_at if config.pass_at is not None else (1.0 if is_share else None)


def _row_score(
    ordinal: int,
    judged: Sequence[Sequence[Verdict | NoVerdict]],
    reduce: str,
    pass_at: float | None,
) -> RowScore:
    """Return the score of a row from the verdicts on each of its answers.

    Each answer gets the mean of its verdicts, and `reduce` combines the scores of the answers. A row has no
    score as long as a verdict is missing, or if no verdict on one of its answers can be read.
    """
    every = [verdict for of_answer in judged for verdict in of_answer]
    read = [[v for v in of_answer if isinstance(v, Verdict)] for of_answer in judged]
    problems = [verdict for verdict in every if isinstance(verdict, NoVerdict)]
    missing = [problem for problem in problems if problem.state is VerdictState.MISSING]
    if missing or not all(read):
        problem = (missing or problems)[0]
        return RowScore(ordinal, answers=len(judged), problem=problem.reason, state=problem.state)
    said = [_answer_score(of_answer) for of_answer in read]
    winner = majority_of(said)
    try:
        score = reduced(reduce, said, winner, pass_at)
    except CannotScore as reason:
        return RowScore(ordinal, answers=len(judged), problem=str(reason))
    passed = None if pass_at is None else [each.score >= pass_at for each in said]
    reasons = (v.reason for of_answer in read for v in of_answer if v.label == winner.predicted)
    return RowScore(
        ordinal,
        score=score,
        predicted=winner.predicted,
        answers=len(judged),
        correct=None if passed is None else sum(passed),
        majority=None if pass_at is None else float(winner.score >= pass_at),
        reason=next(reasons, None),
        consistency=_consistency(read),
    )


def _answer_score(verdicts: Sequence[Verdict]) -> AnswerScore:
    """Return the mean of the verdicts on an answer, and the most frequent one."""
    label = Counter(verdict.label for verdict in verdicts).most_common(1)[0][0]
    return AnswerScore(sum(verdict.score for verdict in verdicts) / len(verdicts), label)


def _consistency(read: Sequence[Sequence[Verdict]]) -> float | None:
    """Return the share of equal pairs among all pairs of verdicts on the same answer."""
    pairs = [
        one.label == other.label for of_answer in read for one, other in combinations(of_answer, 2)
    ]
    return sum(pairs) / len(pairs) if pairs else None
