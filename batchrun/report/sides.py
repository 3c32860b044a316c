"""The page of a comparison: runs side by side, each against the first, and rows they differ on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.records import Status
from batchrun.report.charts import share, whiskers
from batchrun.report.compared import names_of, notes_on, pair_cells, run_cells
from batchrun.report.frame import document, footer, header
from batchrun.report.markup import Markup, joined, tag
from batchrun.report.panels import panel, table, tile
from batchrun.report.rows import LONGEST_ID, LONGEST_LABEL, controls, cut, fitted
from batchrun.report.scales import compact, usd
from batchrun.report.text import counted
from batchrun.scoring import interval, mean_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.history import Differing, DifferingRow, SideAnswer
    from batchrun.report.compared import ComparedRun
    from batchrun.scoring import Pairs

TONES = 6


@dataclass(frozen=True, slots=True)
class SideSubject:
    """What the page is about, beside its runs.

    Attributes:
        title: of the page.
        is_simulated: whether some answers are the simulator's.
        links: where the pages of runs are, by their directories.
        written_us: when it was made.
    """

    title: str
    is_simulated: bool
    links: Mapping[Path, str]
    written_us: int


def side_page(runs: Sequence[ComparedRun], differing: Differing, subject: SideSubject) -> str:
    """Return the whole document."""
    names = names_of(runs)
    models = list(dict.fromkeys(run.model for run in runs))
    line = [*models[:3], "…" if len(models) > 3 else ""]
    return document(
        subject.title,
        header(subject.title, line, is_simulated=subject.is_simulated),
        _tiles(runs, differing, names),
        _runs(runs, names, subject.links),
        _pairs(runs, names),
        _rows(runs, differing, names),
        footer(notes_on(runs, names), subject.written_us),
    )


def _has_scores(runs: Sequence[ComparedRun]) -> bool:
    return any(run.has_scores for run in runs)


def _tiles(runs: Sequence[ComparedRun], differing: Differing, names: Mapping[Path, str]) -> Markup:
    counts = {run.totals.total for run in runs}
    rows = counts.pop() if len(counts) == 1 else sum(run.totals.total for run in runs)
    missing = sum(run.totals.total - run.totals.succeeded for run in runs)
    costs = [run.totals.cost.total for run in runs]
    unpriced = sum(run.cost is None for run in runs)
    where = "in all runs together" if counts else "in each run"
    found = [
        tile("Runs", f"{len(runs):,}", f"{missing:,} rows not answered" if missing else ""),
        tile("Rows", f"{rows:,}", where if len(runs) > 1 else ""),
        tile(
            "Cost",
            usd(sum(costs)) if sum(costs) or not unpriced else "unknown",
            f"and what {counted(unpriced, 'run')} cost" if sum(costs) and unpriced else "",
        ),
        *_best(runs, names),
    ]
    if len(runs) > 1:
        found.append(
            tile("Rows that differ", f"{differing.count:,}", "from the first run's answer")
        )
    return tag("div", *found, cls="tiles")


def _best(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> Iterator[Markup]:
    """The best score and the lowest cost, with whose they are."""
    scored = [(mean, run) for run in runs if (mean := mean_score(run.score)) is not None]
    if scored:
        most, best = max(scored, key=lambda pair: pair[0])
        more = sum(mean == most for mean, _ in scored) - 1
        told = run_cells(best, names)[4]
        yield tile("Best score", told, names[best.directory] + _and(more))
    priced = [(run.cost, run) for run in runs if run.cost is not None]
    if priced and len(runs) > 1:
        least, cheapest = min(priced, key=lambda pair: pair[0])
        more = sum(cost == least for cost, _ in priced) - 1
        amount = usd(cheapest.totals.cost.total)
        yield tile("Lowest cost", amount, names[cheapest.directory] + _and(more))


def _and(more: int) -> str:
    return f" and {more:,} more" if more else ""


def _runs(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], links: Mapping[Path, str]
) -> Markup:
    """Every run with its numbers; bars are of the largest."""
    scored = _has_scores(runs)
    dearest = max((run.cost or 0.0 for run in runs), default=0.0) or 1.0
    head = ["Run", "Rows", "OK", *(["Score", "95 % interval", ""] if scored else [])]
    head += ["Cost", "", *(["Per correct"] if scored else []), "Latency p50", "p90", "Tokens"]
    sides = "<>>" + (">>-" if scored else "") + ">-" + (">" if scored else "") + ">>>"
    whole = _scale(runs)
    rows = []
    for n, run in enumerate(runs):
        _, _, total, ok, score, bounds, cost, per_correct, p50, p90 = run_cells(run, names)
        tone = f"s{n % TONES + 1}"
        usage = run.totals.usage
        rows.append(
            [
                _name(run, names, links),
                *(total, ok),
                *((score, bounds, _score_bar(run, whole, tone)) if scored else ()),
                *(cost, share((run.cost or 0.0) / dearest, tone)),
                *((per_correct,) if scored else ()),
                *(p50, p90),
                f"{compact(usage.input_tokens or 0)} → {compact(usage.output_tokens or 0)}",
            ]
        )
    return panel("Runs", table(head, rows, sides), note="Tokens: input → output", wide=True)


def _name(run: ComparedRun, names: Mapping[Path, str], links: Mapping[Path, str]) -> Markup:
    name, link = names[run.directory], links.get(run.directory)
    shown = tag("a", name, href=link) if link is not None else tag("span", name)
    model = tag("div", run.model, cls="quiet small") if run.model not in name else None
    return tag("div", shown, model, cls="run-name")


def _scale(runs: Sequence[ComparedRun]) -> float:
    """The score that a whole bar stands for."""
    if all(run.score.is_binary for run in runs):
        return 1.0
    bounds = [interval(run.score) for run in runs]
    highest = [mean_score(run.score) or 0.0 for run in runs]
    return max(*highest, *(high for _, high in filter(None, bounds)), 0.0) or 1.0


def _score_bar(run: ComparedRun, whole: float, tone: str) -> Markup | None:
    mean, bounds = mean_score(run.score), interval(run.score)
    if mean is None:
        return None
    around = None if bounds is None else (bounds[0] / whole, bounds[1] / whole)
    return whiskers(mean / whole, around, tone)


def _pairs(runs: Sequence[ComparedRun], names: Mapping[Path, str]) -> Markup | None:
    """Every other run against the first."""
    pairs = [(run, run.pairs) for run in runs if run.pairs is not None]
    if not pairs:
        return None
    head, sides = ["Run", "Rows in both", "Same text"], "<>>"
    scored = any(found.scored for _, found in pairs)
    if scored:
        head += ["Same answer", "Difference", "95 % interval", "p", "Test"]
        sides += ">>>><"
    rows = []
    for run, found in pairs:
        cells = pair_cells(run, found, names)
        rows.append([*cells, _test(found)] if scored else cells[:3])
    title = f"Against {names[runs[0].directory]}"
    unit = " in percentage points" if all(found.is_binary for _, found in pairs) else ""
    note = f"Difference{unit}: run minus the first, over the rows that both have"
    return panel(title, table(head, rows, sides), note=note if scored else None, wide=True)


def _test(pairs: Pairs) -> str:
    if not pairs.scored:
        return ""
    if pairs.is_binary:
        return "McNemar, exact"
    return "normal approximation" if pairs.differences is None else "paired bootstrap"


def _rows(
    runs: Sequence[ComparedRun], differing: Differing, names: Mapping[Path, str]
) -> Markup | None:
    """Rows on which runs disagree, with the answers side by side."""
    if not differing.rows:
        return None
    called = [names[run.directory] for run in runs]
    expected = any(row.expected is not None for row in differing.rows)
    scored = _has_scores(runs)
    body = fitted(
        lambda longest: joined(
            *(_row(row, called, longest, expected=expected) for row in differing.rows)
        )
    )
    heads = ["Row", *(["Expected"] if expected else []), *called]
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    kinds = ("all", "better", "worse") if scored else ("all",)
    content = tag("table", tag("thead", head), tag("tbody", body, id="rows"), cls="rows sides")
    return panel(
        "Rows on which runs disagree",
        controls("Search answers, ids …", kinds),
        tag("div", content, cls="scroll"),
        note=_part(differing, scored=scored),
        wide=True,
    )


def _part(differing: Differing, *, scored: bool) -> str:
    shown = len(differing.rows)
    part = "all" if shown == differing.count else f"{shown:,} of"
    first = ", preferring those with other scores" if scored and shown < differing.count else ""
    kinds = "; better, worse: than the first" if scored else ""
    return f"{part} {differing.count:,} with another answer than the first's{first}{kinds}"


def _row(row: DifferingRow, called: Sequence[str], longest: int, *, expected: bool) -> Markup:
    button = tag("button", cut(row.custom_id, LONGEST_ID), type="button", aria_expanded="false")
    right = tag("td", tag("div", cut(row.expected or "", longest), cls="text"), data_run="expected")
    answers = zip(called, row.answers, strict=True)
    return tag(
        "tr",
        tag("td", button, cls="id"),
        right if expected else None,
        *(_answer(name, answer, longest) for name, answer in answers),
        data_kind=_kind(row),
    )


def _kind(row: DifferingRow) -> str:
    first, *others = (None if answer is None else answer.score for answer in row.answers)
    if first is None:
        return ""
    known = [score for score in others if score is not None]
    better, worse = any(s > first for s in known), any(s < first for s in known)
    return " ".join(word for word, holds in (("better", better), ("worse", worse)) if holds)


def _answer(name: str, answer: SideAnswer | None, longest: int) -> Markup:
    if answer is None:
        return tag("td", "–", cls="text-cell", data_run=name)
    tone = "text bad-text" if answer.status == Status.ERRORED else "text"
    said = answer.text if answer.text or answer.status == Status.SUCCEEDED else answer.status
    return tag(
        "td",
        _verdict(answer),
        tag("div", cut(said, longest), cls=tone),
        cls="text-cell",
        data_run=name,
    )


def _verdict(answer: SideAnswer) -> Markup | None:
    """The score, and what was taken for the answer where the text says more."""
    if answer.score is None:
        return None
    tone = "good-text" if answer.score >= 1 else "bad-text"
    value = tag("span", f"{answer.score:g}", cls=tone)
    if answer.predicted is None or answer.predicted == answer.text.strip():
        return tag("div", value, cls="small verdict")
    return tag("div", value, f" {cut(answer.predicted, LONGEST_LABEL)}", cls="small")
