"""A judge over pairs of answers of several runs: its requests, and the sums of its verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from batchrun import checkpoint
from batchrun.errors import JobError
from batchrun.evaluation.scores import VerdictState
from batchrun.evaluation.verdicts import Verdict
from batchrun.job.judge import CONNECTION, OWN_KEYS, read_judge
from batchrun.job.paths import judge_tables
from batchrun.job.texts import TEXT_SOURCES
from batchrun.records import Item, changed
from batchrun.render import Renderer
from batchrun.run.judge_runs import judge_job
from batchrun.run.judging import (
    EXPECTED,
    PROMPT,
    NoVerdict,
    VerdictLookup,
    expression_of,
    prompt_of,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.checkpoint import Checkpoint, StoredVerdict
    from batchrun.evaluation.preferences import Pair, PreferenceCounts
    from batchrun.job import Job, JudgeConfig, ScoreConfig
    from batchrun.records import RenderedItem
    from batchrun.source import Source


RESPONSE_A, RESPONSE_B = "response_a", "response_b"
CHUNK_ROWS = 500
SECTION = "score.judge"


@dataclass(frozen=True, slots=True)
class AskedPair:
    """One order of a pair of answers to a row.

    Attributes:
        pair: the two runs.
        is_swapped: the answer of the second run is shown first.
        item: the item of the judge's run.
    """

    pair: Pair
    is_swapped: bool
    item: Item


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """A row with the answers of the runs; None if a run has none."""

    item: Item
    texts: tuple[str | None, ...]

    def pairs(self) -> Iterator[tuple[Pair, str, str]]:
        """Yield the pairs of runs that both answered, with their answers."""
        for one, other in combinations(range(len(self.texts)), 2):
            first, second = self.texts[one], self.texts[other]
            if first is not None and second is not None:
                yield (one, other), first, second


def pairwise_config(job: Job) -> tuple[ScoreConfig, str | None]:
    """Return the judge of a job for pairs of answers, and a note about it.

    If the judge's prompt does not show two answers, the rubric `preference` is used with its model.

    Raises:
        JobError: if the job has no judge, or its verdicts are not those of a comparison.
    """
    judged = [config for config in job.scores if config.judge is not None]
    if not judged:
        raise JobError(f'{job.name}: has no [score.judge]; add one, such as rubric = "preference"')
    config, judge = judged[0], judged[0].judge
    if judge is None or not _shows_pairs(judge):
        judge = _by_preference(job)
        note = (
            "the prompt of [score.judge] does not show response_a and response_b; using the built-in "
            "rubric preference"
        )
    else:
        note = None
    if judge.scale is not None or not all(0 <= score <= 1 for score in judge.choices.values()):
        raise JobError(
            "[score.judge] choices: to compare answers, give each verdict a score from 0 (response_b "
            "is better) to 1 (response_a is better), such as { A = 1.0, tie = 0.5, B = 0.0 }"
        )
    return replace(config, judge=judge), note


def _shows_pairs(judge: JudgeConfig) -> bool:
    turns = () if judge.request is None else judge.request.turns
    return all(any(name in text for _, text in turns) for name in (RESPONSE_A, RESPONSE_B))


def _by_preference(job: Job) -> JudgeConfig:
    given = judge_tables(job.document)[0]
    own = {*OWN_KEYS, *TEXT_SOURCES, "system"} - set(CONNECTION)
    kept = {key: value for key, value in given.items() if key not in own}
    asked = {**kept, "rubric": "preference"}
    config, problems = read_judge(asked, job.document.get("request", {}), job.base, SECTION)
    if problems:
        raise JobError("\n".join(problems))
    return config


class PairJudge:
    """Judges pairs of answers.

    Args:
        config: the scorer of the judge, as `pairwise_config` returned it.
        job: the job of the judge.
        asked: the job of the first run, whose rows are compared.
        columns: the columns of its input.

    Raises:
        JobError: when a template is wrong, or a column is missing.
    """

    def __init__(self, config: ScoreConfig, job: Job, asked: Job, columns: Sequence[str]) -> None:
        if config.judge is None:
            raise ValueError("the scorer has no judge")
        self.job = judge_job(job, config.judge, "pairs")
        ours = [RESPONSE_A, RESPONSE_B, PROMPT, *([EXPECTED] if config.expected else [])]
        every = tuple(dict.fromkeys((*columns, *ours)))
        self.renderer = Renderer(self.job, every, SECTION)
        self._lookup = VerdictLookup(config.judge, self.job.request.samples, SECTION)
        self._expected = expression_of("score", "expected", config.expected, columns)
        wants_prompt = PROMPT in self.renderer.columns and PROMPT not in columns
        self._prompts = Renderer(asked, columns) if wants_prompt else None
        names = set(self.renderer.columns)
        for part in (self._expected, self._prompts):
            names |= set(() if part is None else part.columns)
        self.columns = tuple(column for column in columns if column in names)

    def asked(self, row: ComparedRow) -> list[AskedPair]:
        """Return the requests to the judge about a row: each pair of different answers in both orders."""
        values = dict(row.item.values)
        if self._expected is not None:
            values[EXPECTED] = value_of(self._expected, row.item)
        if self._prompts is not None:
            values[PROMPT] = prompt_of(self._prompts, row.item)
        found = []
        for pair, first, second in row.pairs():
            if first == second:
                continue
            for is_swapped, shown in enumerate(((first, second), (second, first))):
                texts = dict(zip((RESPONSE_A, RESPONSE_B), shown, strict=True))
                name = f"{row.item.custom_id}#{pair[is_swapped] + 1}-{pair[1 - is_swapped] + 1}"
                found.append(AskedPair(pair, bool(is_swapped), Item(0, name, {**values, **texts})))
        return found

    def count(self, rows: Sequence[ComparedRow], folder: Path, counts: PreferenceCounts) -> None:
        """Add the verdicts on rows that are stored in the judge's checkpoint."""
        asked = [self.asked(row) for row in rows]
        rendered = {
            id(pair): self.renderer.render([pair.item])[0] for of_row in asked for pair in of_row
        }
        found = self._lookup.find(folder, list(rendered.values()))
        for row, of_row in zip(rows, asked, strict=True):
            scores = {
                (pair.pair, pair.is_swapped): self._score(rendered[id(pair)], found, counts)
                for pair in of_row
            }
            outcome = tuple(_outcomes(row, scores, counts))
            if outcome:
                counts.outcomes[outcome] += 1

    def _score(
        self,
        asked: RenderedItem,
        found: Mapping[bytes, Sequence[StoredVerdict]],
        counts: PreferenceCounts,
    ) -> float | None:
        """Return the mean verdict on one order of a pair; None without one."""
        every = self._lookup.verdicts(asked, found)
        read = [verdict for verdict in every if isinstance(verdict, Verdict)]
        states = [verdict.state for verdict in every if isinstance(verdict, NoVerdict)]
        counts.unjudged.add(states)
        for verdict in read:
            counts.positions.add(verdict.score)
        if not read or VerdictState.MISSING in states:
            return None
        return sum(verdict.score for verdict in read) / len(read)


def _outcomes(
    row: ComparedRow, scores: Mapping[tuple[Pair, bool], float | None], counts: PreferenceCounts
) -> Iterator[tuple[Pair, float]]:
    for pair, first, second in row.pairs():
        if first == second:
            counts.add_same_text()
            yield pair, 0.5
            continue
        one, other = scores[pair, False], scores[pair, True]
        if one is not None and other is not None:
            yield pair, counts.add_pair(one, other)


class PairTable:
    """The pairs of answers of several runs as the table of a judge.

    Args:
        judge: renders the requests.
        source: the input of the first run.
        stores: the checkpoints of the runs.

    Attributes:
        count: number of pairs, each counted in both orders.
        stamp: changes when the answers change.
    """

    def __init__(self, judge: PairJudge, source: Source, stores: Sequence[Checkpoint]) -> None:
        self._judge = judge
        self._source = source
        self._stores = stores
        self.stamp = ":".join(checkpoint.answers_to_judge(store).stamp for store in stores)
        self.count = sum(
            2
            for rows in self.rows()
            for row in rows
            for _, one, other in row.pairs()
            if one != other
        )

    def rows(self) -> Iterator[list[ComparedRow]]:
        """Yield the rows to which at least two runs have an answer."""
        for items in self._source.items(self._judge.columns, CHUNK_ROWS):
            ids = [item.custom_id for item in items]
            answers = [checkpoint.answers_by_id(store, ids) for store in self._stores]
            rows = [
                ComparedRow(item, tuple(each.get(item.custom_id) for each in answers))
                for item in items
            ]
            yield [row for row in rows if any(True for _ in row.pairs())]

    def items(self, _columns: Sequence[str], chunk_rows: int) -> Iterator[list[Item]]:
        """Yield the items of the judge, numbered from 0, in chunks of at most `chunk_rows`."""
        number = 0
        for rows in self.rows():
            every = [pair.item for row in rows for pair in self._judge.asked(row)]
            for start in range(0, len(every), chunk_rows):
                chunk = every[start : start + chunk_rows]
                yield [changed(each, ordinal=number + n) for n, each in enumerate(chunk)]
                number += len(chunk)
