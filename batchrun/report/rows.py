"""The panel of sampled rows: prompt and answer, to be searched; held to a size."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batchrun.records import Status, unusual_endings
from batchrun.report.markup import Markup, escaped, joined, tag
from batchrun.report.panels import panel
from batchrun.report.scales import duration, usd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchrun.history import SampledRow

# Of the report's megabyte.
MOST_BYTES = 600_000
LONGEST_TEXT = 4_000
SHORTEST_TEXT = 50
LONGEST_ID = 80
LONGEST_LABEL = 60


def rows_panel(samples: Sequence[SampledRow], total: int) -> Markup | None:
    """Show rows with their prompts and answers, as much of them as there is room for."""
    if not samples:
        return None
    scored = any(row.score is not None for row in samples)
    body = fitted(lambda longest: _body(samples, longest, scored=scored))
    names = [
        "Row",
        tag("span", "Status", cls="unseen"),
        "Prompt",
        "Answer",
        *(["Score"] if scored else []),
        "Details",
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    part = f"{len(samples):,} of {total:,}, with more errors, wrong answers and unusual endings than chance gives"
    note = f"all {total:,}" if len(samples) >= total else part
    content = tag("table", tag("thead", head), tag("tbody", body, id="rows"), cls="rows")
    unusual = unusual_endings(Counter(row.ending for row in samples if row.ending))
    kinds = ("all", "succeeded", "errored", *(["wrong"] if scored else []), *unusual)
    found = controls("Search prompts, answers, ids …", kinds)
    return panel("Rows", found, tag("div", content, cls="scroll"), note=note, wide=True)


def fitted(body: Callable[[int], Markup]) -> Markup:
    """Return rows with texts that are as long as there is room for, given their longest length."""
    longest = LONGEST_TEXT
    made = body(longest)
    while len(made.encode()) > MOST_BYTES and longest > SHORTEST_TEXT:
        longest //= 2
        made = body(longest)
    return made


def controls(wording: str, kinds: Sequence[str]) -> Markup:
    """What searches the rows in the element `rows`, and shows those of a kind in their `data-kind`."""
    choices = [
        tag("button", kind, type="button", data_kind=kind, aria_pressed=str(kind == "all").lower())
        for kind in kinds
    ]
    search = Markup(
        f'<input id="search" type="search" placeholder="{escaped(wording)}" '
        'aria-label="Search the rows" autocomplete="off" spellcheck="false">'
    )
    picked = tag("div", *choices, cls="choices") if len(choices) > 1 else None
    found = tag("span", "", id="found", cls="quiet", role="status")
    return tag("div", search, picked, found, cls="controls")


def _body(samples: Sequence[SampledRow], longest: int, *, scored: bool) -> Markup:
    return joined(*(_row(row, longest, scored=scored) for row in samples))


def _row(row: SampledRow, longest: int, *, scored: bool) -> Markup:
    wrong = row.score is not None and row.score < 1
    errored = row.status == Status.ERRORED
    tone = "bad" if errored else "warn" if row.status == Status.PENDING else "good"
    answer = tag("div", cut(row.error or "", longest), cls="text bad-text") if errored else None
    said = tag("div", cut(row.response, longest), cls="text") if row.response else None
    return tag(
        "tr",
        tag(
            "td",
            tag("button", cut(row.custom_id, LONGEST_ID), type="button", aria_expanded="false"),
            cls="id",
        ),
        tag("td", tag("span", tag("span", row.status, cls="unseen"), cls=f"dot {tone}")),
        tag("td", tag("div", cut(row.prompt or "", longest), cls="text")),
        tag("td", answer, said),
        tag("td", _score(row), cls="small") if scored else None,
        tag("td", _facts(row), cls="small quiet"),
        data_kind=" ".join(filter(None, (row.status, "wrong" if wrong else None, row.ending))),
    )


def _score(row: SampledRow) -> Markup:
    if row.score is None:
        return Markup("–")
    expected = None if row.expected is None else f"expected {cut(row.expected, LONGEST_LABEL)}"
    tone = "good-text" if row.score >= 1 else "bad-text"
    note = tag("div", expected, cls="quiet") if expected and row.score < 1 else None
    return joined(tag("span", f"{row.score:g}", cls=tone), note)


def _facts(row: SampledRow) -> Markup:
    ending = next(iter(unusual_endings({row.ending: 1} if row.ending else {})), None)
    facts = [
        tag("span", ending, cls="warn-text") if ending else None,
        f"{row.input_tokens:,} → {row.output_tokens or 0:,} tokens" if row.input_tokens else None,
        usd(row.cost) if row.cost is not None else None,
        duration(row.latency_s) if row.latency_s is not None else None,
        f"{row.attempts} attempts" if row.attempts and row.attempts > 1 else None,
    ]
    return joined(*(tag("div", fact) for fact in facts if fact))


def cut(text: str, longest: int) -> str:
    """Return a text, or so much of its beginning."""
    return text if len(text) <= longest else f"{text[:longest]}…"
