"""The preferences of a judge, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.evaluation.intervals import holm
from batchrun.evaluation.preferences import pair_results, position_facts, strengths
from batchrun.records import PICO_PER_USD
from batchrun.report.formatting import counted, dollars, in_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.evaluation.preferences import PairResult, PreferenceCounts, Strength
    from batchrun.pricing.totals import RunTotals


def preference_facts(
    names: Sequence[str], model: str, counts: PreferenceCounts, totals: RunTotals
) -> dict[str, Any]:
    """Return the verdicts of a judge on pairs of answers: shares from 0 to 1, money in USD.

    `names` are those of the runs, in order.
    """
    cost = totals.known_cost
    return {
        "judge": model,
        "pairs": [_pair(result, p, names) for result, p in _corrected(counts, len(names))],
        "position": position_facts(counts),
        "bradley_terry": [
            {"run": names[one.run], "log_odds": one.log_odds, "ci95": one.ci95}
            for one in strengths(counts, len(names))
        ],
        "same_text": counts.same_text,
        "missing": counts.unjudged.missing,
        "failed": counts.unjudged.failed,
        "unreadable": counts.unjudged.unreadable,
        "attempts": totals.attempts,
        "possibly_double_billed": totals.maybe_billed,
        "cost_usd": None if cost is None else cost / PICO_PER_USD,
    }


def _corrected(counts: PreferenceCounts, runs: int) -> list[tuple[PairResult, float | None]]:
    """Return the results of the pairs with p-values corrected for the number of pairs."""
    results = pair_results(counts, runs)
    return list(zip(results, holm([result.p for result in results]), strict=True))


def _pair(result: PairResult, corrected: float | None, names: Sequence[str]) -> dict[str, Any]:
    return {
        "first": names[result.first],
        "second": names[result.second],
        "rows": result.rows,
        "wins": result.wins,
        "losses": result.losses,
        "ties": result.ties,
        "win_rate": result.win_rate,
        "ci95": result.ci95,
        "p_value": result.p,
        "p_corrected": corrected,
        "test": "sign",
    }


def preference_lines(
    names: Sequence[str], model: str, counts: PreferenceCounts, totals: RunTotals
) -> list[str]:
    """Return lines about the verdicts for people."""
    results = _corrected(counts, len(names))
    lines = [f"judge {model}: which answer is better?", ""]
    lines += in_columns([_HEADS, *(_cells(result, p, names) for result, p in results)])
    if len(names) > 2:
        lines.append("p: sign test, corrected for the number of pairs (Holm)")
        lines += ["", *_strengths(strengths(counts, len(names)), names)]
    cost = totals.known_cost
    sent = f"{counted(totals.attempts, 'request')}, {'unknown cost' if cost is None else dollars(cost)}"
    return [*lines, "", *_position(counts), sent, *_missing(counts)]


_HEADS = ("first / second", "rows", "wins", "losses", "ties", "win rate", "95 % CI", "p")


def _cells(result: PairResult, p: float | None, names: Sequence[str]) -> list[str]:
    rate, bounds = result.win_rate, result.ci95
    known = rate is not None and bounds is not None and p is not None
    return [
        f"{names[result.first]} / {names[result.second]}",
        *(f"{n:,}" for n in (result.rows, result.wins, result.losses, result.ties)),
        f"{rate * 100:.1f} %" if rate is not None and known else "unknown",
        f"{bounds[0] * 100:.1f} to {bounds[1] * 100:.1f}" if bounds is not None else "",
        f"{p:.3g}" if p is not None else "",
    ]


def _strengths(found: Sequence[Strength], names: Sequence[str]) -> list[str]:
    """Return the strengths, the highest first; the log odds are those of a win over the first run."""
    ordered = sorted(found, key=lambda one: -one.log_odds)
    cells = [
        [names[one.run], f"{one.log_odds:+.2f}", f"{one.ci95[0]:+.2f} to {one.ci95[1]:+.2f}"]
        for one in ordered
    ]
    return in_columns([["Bradley-Terry", "log odds", "95 % CI"], *cells]) if cells else []


def _position(counts: PreferenceCounts) -> list[str]:
    facts = position_facts(counts)
    first, bounds, agree = facts["first_preferred"], facts["ci95"], facts["both_orders_agree"]
    lines = []
    if first is not None:
        lines.append(
            f"position: the answer shown first was preferred in {first * 100:.1f} % of the verdicts that "
            f"prefer one (95 % CI {bounds[0] * 100:.1f} to {bounds[1] * 100:.1f})"
        )
    if agree is not None:
        lines.append(f"both orders agree in {agree * 100:.1f} % of pairs; the others are ties")
    if counts.same_text:
        lines.append(
            f"{counted(counts.same_text, 'pair')} with the same text, ties without a request"
        )
    return lines


def _missing(counts: PreferenceCounts) -> list[str]:
    kinds = {
        "missing": counts.unjudged.missing,
        "unreadable": counts.unjudged.unreadable,
        "failed": counts.unjudged.failed,
    }
    missing = ", ".join(f"{count:,} {name}" for name, count in kinds.items() if count)
    return [f"verdicts without a result: {missing}; their pairs are left out"] if missing else []
