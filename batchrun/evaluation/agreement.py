"""How reliable a judge is: its agreement with people, and its consistency. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class JudgeTotals:
    """The work of a judge for a scorer, in all executions.

    Attributes:
        model: the requested model.
        missing: rows that it has not judged yet.
        failed: rows without a verdict because a request failed.
        unreadable: rows without a verdict because none could be read.
        consistency: mean share of equal pairs among the verdicts on the same answer; None if each
            answer has one verdict.
        verdicts: (the person's verdict, the judge's) → rows.
        order: the verdicts of a scale, from the lowest; empty if they have no order.
        attempts: number of HTTP exchanges.
        maybe_billed: those of them that may have been billed without an answer.
        input_tokens: tokens of all attempts; None if no answer reported them. Likewise `output_tokens`.
        cost: cost of all attempts in pico-dollars; None if no price is known.
        has_human: whether the table has verdicts of people.
    """

    model: str
    missing: int = 0
    failed: int = 0
    unreadable: int = 0
    consistency: float | None = None
    verdicts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    attempts: int = 0
    maybe_billed: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: int | None = 0
    has_human: bool = False

    @property
    def without_verdict(self) -> int:
        """Rows that succeeded and have no verdict."""
        return self.missing + self.failed + self.unreadable

    @property
    def compared(self) -> int:
        """Rows with verdicts of a person and of the judge."""
        return sum(self.verdicts.values())

    @property
    def agreed(self) -> int:
        """Rows whose verdicts of a person and of the judge are the same."""
        return sum(rows for (one, other), rows in self.verdicts.items() if one == other)


def cohen_kappa(verdicts: Mapping[tuple[str, str], int], order: Sequence[str] = ()) -> float | None:
    """Return Cohen's kappa: agreement beyond chance, 1 when all agree.

    None if there are no rows, or if both raters gave only one and the same verdict.

    Args:
        verdicts: (verdict of one rater, verdict of the other) → rows.
        order: verdicts of a scale, from the lowest. Then disagreement is weighted by the square of
            the distance (quadratic weights); without an order, all disagreement has the same weight.
    """
    rows = sum(verdicts.values())
    labels = order or sorted({label for pair in verdicts for label in pair})
    place = {label: number for number, label in enumerate(labels)}

    def weight(one: str, other: str) -> float:
        return (place[one] - place[other]) ** 2 if order else float(one != other)

    first = {label: sum(n for (one, _), n in verdicts.items() if one == label) for label in labels}
    second = {label: sum(n for (_, two), n in verdicts.items() if two == label) for label in labels}
    seen = sum(n * weight(one, other) for (one, other), n in verdicts.items())
    by_chance = sum(
        first[one] * second[other] * weight(one, other) for one in labels for other in labels
    )
    return 1 - rows * seen / by_chance if by_chance else None


def judge_facts(totals: JudgeTotals, bounds: Sequence[float] | None) -> dict[str, Any]:
    """Return `score.judge` of `summary.json`; `bounds` is the interval of the agreement."""
    return {
        "model": totals.model,
        "missing": totals.missing,
        "failed": totals.failed,
        "unreadable": totals.unreadable,
        "consistency": totals.consistency,
        "agreement": _agreement(totals, bounds),
        "attempts": totals.attempts,
        "possibly_double_billed": totals.maybe_billed,
        "tokens": {"input": totals.input_tokens, "output": totals.output_tokens},
        "cost_usd": None if totals.cost is None else totals.cost / 10**12,
    }


def _agreement(totals: JudgeTotals, bounds: Sequence[float] | None) -> dict[str, Any] | None:
    if not totals.compared:
        return None
    return {
        "rows": totals.compared,
        "agreed": totals.agreed,
        "accuracy": totals.agreed / totals.compared,
        "ci95": bounds,
        "kappa": cohen_kappa(totals.verdicts, totals.order),
        "kappa_weights": "quadratic" if totals.order else None,
    }


def judge_lines(totals: JudgeTotals, bounds: Sequence[float] | None) -> list[str]:
    """Return sentences about a judge."""
    cost = "unknown cost" if totals.cost is None else f"${totals.cost / 10**12:,.6f}"
    requests = f"{totals.attempts:,} request{'' if totals.attempts == 1 else 's'}"
    lines = [f"judge {totals.model}: {requests}, {cost} in addition"]
    counts = {"missing": totals.missing, "unreadable": totals.unreadable, "failed": totals.failed}
    if without := ", ".join(f"{count:,} {name}" for name, count in counts.items() if count):
        lines.append(f"rows without a verdict: {without}")
    if totals.consistency is not None:
        lines.append(
            f"verdicts on the same answer agree in {totals.consistency * 100:.1f} % of pairs"
        )
    if totals.compared and bounds is not None:
        kappa = cohen_kappa(totals.verdicts, totals.order)
        kind = "weighted kappa" if totals.order else "kappa"
        lines.append(
            f"agrees with people in {totals.agreed:,} of {totals.compared:,} rows "
            f"(95 % CI {bounds[0] * 100:.1f} to {bounds[1] * 100:.1f} %), "
            f"{kind} {'undefined' if kappa is None else f'{kappa:.3f}'}"
        )
    if totals.has_human and not totals.compared:
        lines.append("agreement with people: no judged row has a verdict of the judge in human")
    return lines
