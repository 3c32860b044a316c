"""Templates: an `Item` becomes a neutral `Request`, its wire bytes and its fingerprint.

Templates are Jinja2, sandboxed and strict: an undefined name or a null where text is needed makes
that one item an error. A template that no row can satisfy is a `JobError` before anything is sent.
Cells are data: a cell that looks like a template is never evaluated.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import orjson
from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchrun.errors import JobError, RenderError
from batchrun.formats import encode, fingerprint
from batchrun.formats.parameters import coerce
from batchrun.records import Message, Parameters, RenderedItem, Request
from batchrun.sections import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jinja2 import Template

    from batchrun.job import Job, RequestConfig
    from batchrun.records import Item

# The whole row as a mapping, for columns whose names are no identifiers: {{ row["unit price"] }}.
ROW = "row"

_BARE_NAME = re.compile(r"\A\s*\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}\s*\Z")
_EXPRESSION = re.compile(r"\{[{%#]")

# What evaluating a stranger's expression over a stranger's value can raise.
_TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class NullValueError(ValueError):
    """A null reached a place where text is needed."""


def _refuse_null(value: object) -> object:
    if value is None:
        raise NullValueError("a null value where text is needed")
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    autoescape=False,
    keep_trailing_newline=True,
    finalize=_refuse_null,
    cache_size=0,
)


class Text:
    """A string of the job file: constant, a bare `{{ column }}`, or a template.

    Args:
        key: where it stands in the job file, for messages.
        source: the string.

    Raises:
        JobError: when it is no valid template.
    """

    def __init__(self, key: str, source: str) -> None:
        self.key = key
        self._constant = source if not _EXPRESSION.search(source) else None
        bare = _BARE_NAME.match(source)
        self._bare = bare.group(1) if bare else None
        self.names: frozenset[str] = frozenset()
        self.guarded: frozenset[str] = frozenset()
        self._template: Template | None = None
        if self._constant is None:
            self._compile(source)

    @property
    def is_constant(self) -> bool:
        """Whether the string is the same for every row."""
        return self._constant is not None

    def text(self, values: Mapping[str, Any]) -> str:
        """Return the text for one row.

        Raises:
            RenderError: when a name is undefined, a value is null, or an expression fails.
        """
        if self._template is None:
            return cast("str", self._constant)
        try:
            return self._template.render(values)
        except NullValueError:
            raise RenderError("null_value", self._null_message(values)) from None
        except _TEMPLATE_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise RenderError("template_error", f"{self.key}: {reason}") from None

    def value(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a column's own type
        """Return the typed value of a bare `{{ column }}`, otherwise the text."""
        if self._bare is not None and self._bare in values:
            return values[self._bare]
        return self.text(values)

    def _null_message(self, values: Mapping[str, Any]) -> str:
        nulls = sorted(name for name in self.names if name in values and values[name] is None)
        where = f"the column {nulls[0]!r} is null" if nulls else "a value is null"
        return f"{self.key}: {where} where text is needed; guard it with {{% if … %}} or default()"

    def _compile(self, source: str) -> None:
        try:
            tree = _ENVIRONMENT.parse(source)
            self.names = frozenset(meta.find_undeclared_variables(tree))
            self._template = _ENVIRONMENT.from_string(source)
        except TemplateError as error:
            line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
            raise JobError(f"[request] {self.key}: not a valid template: {error}{line}") from None
        self.guarded = _guarded_names(tree)


def _guarded_names(tree: nodes.Template) -> frozenset[str]:
    """Names whose absence the template provides for: `x is defined`, `x | default(…)`."""
    tests = (
        node.node for node in tree.find_all(nodes.Test) if node.name in {"defined", "undefined"}
    )
    filters = (node.node for node in tree.find_all(nodes.Filter) if node.name in {"default", "d"})
    return frozenset(node.name for node in (*tests, *filters) if isinstance(node, nodes.Name))


class Renderer:
    """Turns items into requests for one job.

    Args:
        job: what to ask.
        columns: the input's columns, to check the templates against.

    Raises:
        JobError: when a template is invalid or needs a column that no row has.
    """

    def __init__(self, job: Job, columns: Sequence[str]) -> None:
        self._config = job.request
        config = self._config
        self._model = Text("model", config.model)
        self._system = None if config.system is None else Text("system", config.system)
        self._turns = [
            (role, Text(_turn_key(n, config), text))
            for n, (role, text) in enumerate(config.turns, 1)
        ]
        self._templated = {
            name: Text(name, value)
            for name, value in config.parameters.items()
            if isinstance(value, str) and _EXPRESSION.search(value)
        }
        self._fixed = Parameters(
            **{k: v for k, v in config.parameters.items() if k not in self._templated}
        )
        self.columns = self._needed_columns(columns)
        self._whole_row = ROW not in columns and any(ROW in text.names for text in self._texts())

    def render(self, items: Iterable[Item]) -> list[RenderedItem]:
        """Turn items into requests; an item that cannot be rendered carries the reason."""
        return [self._render_one(item) for item in items]

    def _render_one(self, item: Item) -> RenderedItem:
        try:
            request = self._request(item.values)
            wire = encode(request)
        except RenderError as error:
            return RenderedItem(
                item.ordinal, item.custom_id, error_type=error.error_type, error_message=str(error)
            )
        except (orjson.JSONEncodeError, RecursionError) as error:
            return RenderedItem(
                item.ordinal,
                item.custom_id,
                error_type="invalid_text",
                error_message=f"the request cannot be written as JSON: {error}",
            )
        return RenderedItem(item.ordinal, item.custom_id, request, wire, fingerprint(request, wire))

    def _request(self, row: Mapping[str, Any]) -> Request:
        config = self._config
        values = {**row, ROW: row} if self._whole_row else row
        system, messages = self._conversation(values)
        model = self._override("model", row) or self._model.text(values)
        if not model.strip():
            raise RenderError("empty_model", "model: is empty for this row")
        return Request(
            format=config.format,
            base_url=config.base_url,
            model=str(model),
            messages=messages,
            system=system,
            parameters=self._parameters(row, values),
            extra_body=config.extra_body,
            extra_headers=config.extra_headers,
            api_version=config.api_version,
        )

    def _conversation(self, values: Mapping[str, Any]) -> tuple[str | None, tuple[Message, ...]]:
        system = self._override("system", values)
        if system is None and self._system is not None:
            system = self._system.text(values)
        if self._config.messages_column is not None:
            turns = _read_messages(self._config.messages_column, values)
        else:
            turns = [(role, text.text(values)) for role, text in self._turns]
        return _split_system(str(system) if system is not None else None, turns)

    def _parameters(self, row: Mapping[str, Any], values: Mapping[str, Any]) -> Parameters:
        found = {name: text.value(values) for name, text in self._templated.items()}
        for name in self._config.from_columns:
            override = self._override(name, row)
            if override is not None and name not in {"model", "system"}:
                found[name] = override
        if not found:
            return self._fixed
        checked = {}
        for name, value in found.items():
            try:
                checked[name] = None if value is None else coerce(name, value, self._config.format)
            except ValueError as error:
                raise RenderError("invalid_parameter", f"{name}: {error}") from None
        parameters = replace(self._fixed, **checked)
        if self._config.format == "messages" and parameters.max_tokens is None:
            raise RenderError("invalid_parameter", "max_tokens: is required by the messages format")
        return parameters

    def _override(self, key: str, row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a cell
        """The cell that takes a key's place in this row; an empty one does not."""
        if key not in self._config.from_columns:
            return None
        cell = row[key]
        return None if cell == "" else cell

    def _texts(self) -> list[Text]:
        system = [] if self._system is None else [self._system]
        turns = [text for _, text in self._turns]
        return [self._model, *system, *turns, *self._templated.values()]

    def _needed_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that rendering reads, in the input's order."""
        names: set[str] = set(self._config.from_columns)
        for text in self._texts():
            known = {*columns, ROW, *_ENVIRONMENT.globals}
            for name in sorted(text.names - text.guarded - known):
                raise JobError(_unknown_column(f"[request] {text.key}", name, columns))
            names |= text.names
        if self._config.messages_column is not None:
            names.add(self._config.messages_column)
        for name in sorted({*self._config.from_columns, self._config.messages_column or ""} - {""}):
            if name not in columns:
                key = "from_columns" if name in self._config.from_columns else "messages_column"
                raise JobError(_unknown_column(f"[request] {key}", name, columns))
        if ROW in names and ROW not in columns:
            return tuple(columns)
        return tuple(column for column in columns if column in names)


def _unknown_column(where: str, name: str, columns: Sequence[str]) -> str:
    hint = did_you_mean(name, columns)
    return f"{where}: the input has no column {name!r}{hint}; it has {', '.join(columns)}"


def _turn_key(number: int, config: RequestConfig) -> str:
    single = len(config.turns) == 1 and config.turns[0][0] == "user"
    return "prompt" if single else f"messages, turn {number}"


def _read_messages(column: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Read a conversation from a cell: JSON text, or a list of structs from Parquet.

    Raises:
        RenderError: when it is no list of turns with role and content.
    """
    cell = values[column]
    if isinstance(cell, str | bytes):
        try:
            cell = orjson.loads(cell)
        except orjson.JSONDecodeError as error:
            raise RenderError("invalid_messages", f"{column}: is not JSON: {error}") from None
    if not isinstance(cell, list) or not cell:
        raise RenderError(
            "invalid_messages", f"{column}: must be a list of messages, not {cell!r:.80}"
        )
    return [_read_turn(column, number, turn) for number, turn in enumerate(cell, 1)]


def _read_turn(column: str, number: int, turn: object) -> tuple[str, Any]:
    where = f"{column}, message {number}"
    if not isinstance(turn, dict):
        raise RenderError("invalid_messages", f"{where}: must be an object, not {turn!r:.80}")
    role, content = turn.get("role"), turn.get("content")
    if role not in {"system", "user", "assistant"}:
        raise RenderError(
            "invalid_messages", f"{where}: role must be system, user or assistant, not {role!r:.80}"
        )
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    if not isinstance(content, str) and not (blocks and content):
        raise RenderError(
            "invalid_messages", f"{where}: content must be text or blocks, not {content!r:.80}"
        )
    return str(role), content


def _split_system(
    system: str | None, turns: Sequence[tuple[str, Any]]
) -> tuple[str | None, tuple[Message, ...]]:
    """Move system turns out of the conversation; both formats then put them where they belong."""
    parts = [] if system is None else [system]
    messages: list[Message] = []
    for role, content in turns:
        if role == "system":
            parts.append(_plain_text(content))
            continue
        if isinstance(content, str) and not content.strip():
            raise RenderError("empty_prompt", f"the {role} message is empty")
        messages.append(Message(cast("Any", role), content))
    if not messages:
        raise RenderError("empty_prompt", "the conversation has no user message")
    return "\n\n".join(parts) if parts else None, tuple(messages)


def _plain_text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks]
    if not all(isinstance(text, str) for text in texts):
        raise RenderError("invalid_messages", "a system message can hold text only")
    return "".join(cast("list[str]", texts))
