"""The panels of the report about scores: labels, and which were taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.report.charts import share
from batchrun.report.markup import Markup, joined, tag
from batchrun.report.panels import panel, table
from batchrun.scoring import score_facts, score_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.scoring import ScoreTotals

MOST_LABELS = 20
SHADES = 8


def score_panels(score: ScoreTotals) -> Iterator[Markup]:
    """What the answers are worth."""
    facts = score_facts(score)
    several = facts["samples"]
    told = [line for line in score_lines(score) if "  " not in line and "pass@" not in line]
    notes = tag("ul", *(tag("li", line) for line in told), cls="plain")
    passes = None if several is None else _passes(several)
    if not facts["labels"]:
        yield panel("Score", notes, passes)
        return
    yield panel("Score", notes, passes, _labels(facts))
    yield panel(
        "Confusion matrix", _confusion(facts["confusion"]), note="Rows: expected. Columns: answered"
    )


def _passes(several: dict[str, Any]) -> Markup:
    """How good several answers to a row are together."""
    shares = {"majority vote": several["majority_accuracy"]}
    shares |= {f"pass@{k}": part for k, part in several["pass_at"].items()}
    rows = [(name, f"{part:.1%}", share(part, "s2")) for name, part in shares.items()]
    return table((f"Of {several['most']} samples", "Rows", ""), rows, "<>-")


def _labels(facts: dict[str, Any]) -> Markup:
    rows = [
        (
            one["label"],
            f"{one['support']:,}",
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            f"{one['f1']:.3f}",
            share(one["f1"]),
        )
        for one in facts["labels"][:MOST_LABELS]
    ]
    return table(("Label", "Rows", "Precision", "Recall", "F1", ""), rows, "<>>>>-")


def _confusion(confusion: dict[str, Any]) -> Markup:
    """A table whose cells are the darker the larger their share of their row is."""
    labels, cells = confusion["labels"][:MOST_LABELS], confusion["matrix"]
    head = tag("tr", tag("th"), *(tag("th", tag("span", label), scope="col") for label in labels))
    rows = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            *(
                _cell(count, sum(cells[i]), is_right=i == j, said=labels[j], expected=label)
                for j, count in enumerate(cells[i][: len(labels)])
            ),
        )
        for i, label in enumerate(labels)
    ]
    more = len(confusion["labels"]) - len(labels)
    note = tag("p", f"and {more} more labels", cls="quiet") if more > 0 else None
    matrix = tag("table", tag("thead", head), tag("tbody", *rows), cls="matrix")
    return joined(tag("div", matrix, cls="scroll"), note)


def _cell(count: int, total: int, *, is_right: bool, said: str, expected: str) -> Markup:
    part = count / total if total else 0.0
    shade = round(part * SHADES) or (1 if count else 0)
    tip = f"expected {expected}\nanswered {said}\n{count:,} rows, {part:.1%} of the expected"
    tone = "right" if is_right else "wrong"
    return tag("td", f"{count:,}" if count else "", cls=f"{tone} q{shade}", data_tip=tip)
