"""The confusion matrix for a page: expected labels, and all other answers combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.evaluation.scores import NONE, OTHER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class ShownConfusion:
    """A confusion matrix.

    Attributes:
        labels: labels of the matrix rows, the most frequent first.
        columns: the same labels, then others combined and no label, if there are such answers.
        cells: number of rows by matrix row and column.
        others: answers that are not expected labels, the most frequent first.
    """

    labels: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[int]]
    others: Sequence[str]


def shown_confusion(confusion: Mapping[str, Any]) -> ShownConfusion:
    """Return the matrix for a page, from the form in summary.json.

    Answers that are not expected labels are combined, because they could make the matrix very wide.
    """
    names, matrix = list(confusion["labels"]), confusion["matrix"]
    expected = [n for n, counts in enumerate(matrix) if any(counts)]
    kept = [n for n in expected if names[n] not in {OTHER, NONE}][:MOST_LABELS]
    none = names.index(NONE) if NONE in names else None
    folded = [n for n in range(len(names)) if n not in kept and n != none]
    groups = [*([n] for n in kept), folded, [] if none is None else [none]]
    titles = [*(names[n] for n in kept), OTHER, NONE]
    rows = groups[: len(kept) + 1]
    cells = [[sum(matrix[i][j] for i in row for j in column) for column in groups] for row in rows]
    places = [n for n in range(len(titles)) if n < len(kept) or any(counts[n] for counts in cells)]
    shown = [[counts[n] for n in places] for counts in cells]
    if not any(shown[-1]):
        shown.pop()
    said = [n for n in folded if names[n] != OTHER and n not in expected]
    said.sort(key=lambda n: -sum(counts[n] for counts in matrix))
    return ShownConfusion(
        labels=titles[: len(shown)],
        columns=[titles[n] for n in places],
        cells=shown,
        others=[names[n] for n in said],
    )
