"""HTML pages from templates: each is one file that loads nothing and runs only its own script.

Jinja2 escapes every value. Only the style, the script and the policy are marked as safe.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from batchrun import __version__
from batchrun.report import charts
from batchrun.report.charts import pixels
from batchrun.report.formatting import UNFIT, compact, counted, dollars, latency, seconds, usd, when

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Tile:
    """A number with its name and small print."""

    label: str
    value: str
    note: str = ""


def html_page(template: str, **view: object) -> str:
    """Return a page.

    Args:
        template: name of a file in this folder.
        view: values for the template. Every page needs `title`, `subtitle`, `tiles`,
            `is_simulated`, `notes` for its footer, and `written_us`, in microseconds since 1970 UTC.
    """
    style, script = _asset("page.css"), _asset("page.js") + _asset("rows.js")
    view |= {"style": style, "script": script, "policy": _policy(style, script)}
    return UNFIT.sub("�", _environment().get_template(template).render(view))


def cut(value: str, longest: int) -> str:
    """Return a text, cut to `longest` characters."""
    return value if len(value) <= longest else f"{value[:longest]}…"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = (compact, counted, dollars, latency, pixels, seconds, usd, when)
    environment.filters |= {function.__name__: function for function in named}
    environment.filters |= {"cut": cut, "number": "{:,}".format, "percent": "{:.1%}".format}
    sizes = ("HEIGHT", "HISTOGRAM_WIDTH", "LEFT", "TOP", "BOTTOM", "MARGIN")
    environment.globals |= {name: getattr(charts, name) for name in sizes}
    environment.globals["version"] = __version__
    return environment


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows only this style and script, by their hashes."""
    sources = (("style-src", style), ("script-src", script))
    allowed = "; ".join(f"{kind} 'sha256-{_digest(source)}'" for kind, source in sources)
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
