"""Sampled rows as the page of a run shows them: prompt and answer, searchable."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.records import Status, unusual_endings
from batchrun.report.text import latency, usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.history import SampledRow

_TONES: dict[str, str] = {Status.ERRORED: "bad", Status.PENDING: "warn"}


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the input with what came of it.

    Attributes:
        kinds: what the buttons above the rows select it by, separated by spaces.
        tone: the colour class of its status.
        ending: how its answer ended, if that was unusual.
        details: tokens, cost, latency and number of attempts, as far as they are known.
    """

    row: SampledRow
    kinds: str
    tone: str
    ending: str | None
    details: tuple[str, ...]


def row_views(samples: Sequence[SampledRow]) -> list[RowView]:
    """Return what is shown of each row."""
    return [_view(row) for row in samples]


def row_kinds(samples: Sequence[SampledRow]) -> list[str]:
    """Return the kinds of rows that there are buttons for."""
    unusual = unusual_endings(Counter(row.ending for row in samples if row.ending))
    wrong = ["wrong"] if any(row.score is not None for row in samples) else []
    return ["all", "succeeded", "errored", *wrong, *unusual]


def _view(row: SampledRow) -> RowView:
    wrong = "wrong" if row.score is not None and row.score < 1 else None
    ending = next(iter(unusual_endings({row.ending: 1} if row.ending else {})), None)
    return RowView(
        row=row,
        kinds=" ".join(filter(None, (row.status, wrong, row.ending))),
        tone=_TONES.get(row.status, "good"),
        ending=ending,
        details=tuple(_details(row)),
    )


def _details(row: SampledRow) -> Iterator[str]:
    if row.input_tokens:
        yield f"{row.input_tokens:,} → {row.output_tokens or 0:,} tokens"
    if row.cost is not None:
        yield usd(row.cost)
    if row.latency_s is not None:
        yield latency(row.latency_s)
    if row.attempts and row.attempts > 1:
        yield f"{row.attempts} attempts"
