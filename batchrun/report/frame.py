"""What all pages share: one file that needs no network and is not allowed any, its head and its foot."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import __version__
from batchrun.report.markup import Markup, joined, tag
from batchrun.report.text import when

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = Path(__file__).parent


def document(title: str, *sections: Markup | None) -> str:
    """Return the whole document with these sections below each other."""
    style, script = _asset("page.css"), _asset("page.js")
    head = joined(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", f"{title} · batchrun"),
        tag("style", Markup(style)),
    )
    body = tag("main", *sections)
    whole = joined(
        Markup('<!doctype html>\n<html lang="en">'),
        tag("head", head),
        tag("body", body, tag("div", id="tip", hidden=""), tag("script", Markup(script))),
        Markup("</html>\n"),
    )
    return str(whole)


def header(
    title: str, line: Sequence[str], state: Markup | None = None, *, is_simulated: bool
) -> Markup:
    """The title, a line below it whose empty parts are left out, and what must not be overlooked."""
    simulated = tag("span", "simulated answers", cls="pill warn") if is_simulated else None
    return tag(
        "header",
        tag(
            "div",
            tag("h1", title),
            tag("p", " · ".join(part for part in line if part), cls="quiet"),
        ),
        tag("div", simulated, state, cls="pills"),
    )


def footer(notes: Sequence[str], written_us: int) -> Markup:
    """What the reader should know, and when this was written."""
    made = f"batchrun {__version__} · written {when(written_us)}"
    return tag("footer", *(tag("p", note) for note in notes), tag("p", made))


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere; of scripts and styles only our own, known by their hashes."""
    sources = (("style-src", style), ("script-src", script))
    allowed = "; ".join(f"{kind} 'sha256-{_digest(text)}'" for kind, text in sources)
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
