"""`batchrun preview`: the first requests as they would be sent, for programs and for people."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import printable, short
from batchrun.job import is_remote
from batchrun.render import Renderer
from batchrun.run.job_scores import evaluation_of
from batchrun.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrun.job import InputConfig, Job
    from batchrun.records import RenderedItem

MASK = "***"
_SECRET_WORDS = ("auth", "key", "token", "secret", "cookie", "password")
# Of one text: the rest of a longer one is left out, and said.
MOST_LINES = 40
NARROWEST, WIDEST = 40, 100
# Headers that every request has.
_USUAL_HEADERS = {"content-type", "accept", "user-agent"}


def preview(job: Job, count: int) -> Iterator[str]:
    """Yield the first HTTP requests as JSON lines, with secrets masked; for a matrix, those of each cell.

    Raises:
        JobError: when the input or a template is wrong.
    """
    for facts in _first_requests(job, count):
        yield orjson.dumps(facts).decode()


def preview_text(job: Job, count: int, *, width: int) -> Iterator[str]:
    """Yield the same requests laid out for people, one text for each.

    Args:
        job: what to show.
        count: number of requests; for a matrix, of each cell.
        width: width of the terminal, in columns.

    Raises:
        JobError: when the input or a template is wrong.
    """
    width = max(NARROWEST, min(WIDEST, width))
    for facts in _first_requests(job, count):
        yield "\n".join(_lines(facts, width))


def _first_requests(job: Job, count: int) -> Iterator[dict[str, Any]]:
    for cell in job.cells or (job,):
        source = Source(_first_rows(cell.input, count))
        renderer = Renderer(cell, source.columns)
        renderer.check_columns()
        evaluation_of(cell, source)  # checks the templates and columns of the scores
        source.check_ids()
        items = (item for chunk in source.items(renderer.columns, count) for item in chunk)
        for item in chain.from_iterable(renderer.chunks(islice(items, count))):
            label = {} if cell.cell is None else {"cell": cell.cell.name}
            yield label | _described(cell, item)


def _first_rows(config: InputConfig, count: int) -> InputConfig:
    """Return an input limited to the rows that are shown, if it would have to be copied from elsewhere."""
    if not is_remote(config.path):
        return config
    return replace(config, limit=min(count, config.limit or count))


def _described(job: Job, item: RenderedItem) -> dict[str, Any]:
    if item.wire is None:
        return {
            "custom_id": item.custom_id,
            "error_type": item.error_type,
            "error_message": item.error_message,
        }
    headers = dict(item.wire.headers)
    if job.request.key_source:
        headers.update([job.request.wire_format.key_header(MASK, job.request.auth)])
    masked = {
        name: _masked(name, value) if name in dict(job.request.extra_headers) else value
        for name, value in headers.items()
    } | {name: MASK for name, _ in job.request.secret_headers}
    return {
        "custom_id": item.custom_id,
        "method": "POST",
        "url": item.wire.url,
        "headers": masked,
        "body": orjson.loads(item.wire.body),
    }


def _masked(name: str, value: str) -> str:
    return MASK if any(word in name for word in _SECRET_WORDS) else value


def _lines(facts: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield the lines of one request: its address, its keys, and its turns as text."""
    cell = f" · {printable(facts['cell'])}" if "cell" in facts else ""
    yield f"── {short(str(facts['custom_id']))}{cell} ──"
    if "body" not in facts:
        message = f"no request: {facts['error_type']}: {facts['error_message']}"
        yield from textwrap.wrap(printable(message), width, subsequent_indent="  ")
        return
    yield f"{facts['method']} {printable(facts['url'])}"
    for name, value in facts["headers"].items():
        if name not in _USUAL_HEADERS:
            yield f"{printable(name)}: {printable(value)}"
    yield from _keys(facts["body"], width)
    yield ""


def _keys(body: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield the short keys of a body, one on each line, then the long ones; the turns come last."""
    others = dict(body)
    turns = others.pop("messages", None)
    short = {key: text for key, value in others.items() if len(text := _json(value)) <= width - 20}
    for key, text in short.items():
        yield f"{printable(key)} = {printable(text)}"
    for key, value in others.items():
        if key not in short:
            yield from _block(key, value, width)
    for turn in turns if isinstance(turns, list) else []:
        yield from _turn(turn, width)


def _turn(turn: Any, width: int) -> Iterator[str]:  # noqa: ANN401 - any JSON
    role = turn.get("role") if isinstance(turn, dict) else None
    if not isinstance(role, str) or set(turn) != {"role", "content"}:
        yield from _block("message", turn, width)
        return
    yield from _block(role, turn["content"], width)


def _block(title: str, value: Any, width: int) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Yield a title, and a text or JSON below it, indented and wrapped."""
    yield f"{printable(title)}:"
    lines = [
        line
        for paragraph in _text(value).splitlines()
        for line in textwrap.wrap(printable(paragraph), width - 2) or [""]
    ]
    yield from (f"  {line}".rstrip() for line in lines[:MOST_LINES])
    if len(lines) > MOST_LINES:
        yield f"  … {len(lines) - MOST_LINES:,} more lines (--json prints all)"


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a content as text: unchanged if it is text, otherwise as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(_is_text_part(part) for part in value):
        return "\n".join(part["text"] for part in value)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text"


def _json(value: Any) -> str:  # noqa: ANN401 - any JSON
    return orjson.dumps(value).decode()
