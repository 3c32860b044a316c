"""Templates: an `Item` becomes a neutral `Request`, its wire bytes and its fingerprint.

Templates are Jinja2, sandboxed and strict: an undefined name or a null where text is needed makes
that one item an error. A template that no row can satisfy is a `JobError` before anything is sent.
Cells are data: a cell that looks like a template is never evaluated.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from batchrun.errors import JobError, RenderError, quoted, short
from batchrun.formats.conflicts import Combination
from batchrun.formats.parameters import coerce, is_template
from batchrun.formats.tool_calls import with_cache_mark
from batchrun.job.reader import did_you_mean, listed
from batchrun.records import Parameters, RenderedItem, Request, changed
from batchrun.render.attachments import read_documents, read_images
from batchrun.render.image_sizes import image_size
from batchrun.render.pattern import NoPatternError, RequestPattern
from batchrun.render.prompt import arranged, conversation_text, read_messages, text_turns
from batchrun.render.sandbox import ENVIRONMENT
from batchrun.render.template import ROW, Expression, Structure, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchrun.formats.model_rules import ModelRules
    from batchrun.job import Job, RequestConfig
    from batchrun.records import Attachment, Item, Message
    from batchrun.render.prompt import System, Turn


# Maximum rows of a chunk of requests, and bytes of their bodies after which it ends.
CHUNK_ROWS = 512
CHUNK_BYTES = 8 * 1024 * 1024
# What other tools take for a placeholder.
_SINGLE_BRACES = re.compile(r"(?<!\{)\{ *(\w+) *\}(?!\})")
# Answers that may be longer outlive the time limits of proxies unless they are streamed; the
# official Claude SDK refuses to ask for them in one piece.
LONGEST_WHOLE_ANSWER = 21_333
# Models whose rules are kept: a column may name another one in each row.
MOST_MODELS = 100


class ItemTable(Protocol):
    """The input table."""

    def items(self, columns: Sequence[str], chunk_rows: int) -> Iterator[list[Item]]:
        """Yield the rows in order with these columns, in chunks of at most `chunk_rows`."""


class Renderer:
    """Renders items into requests for one job.

    Args:
        job: the job.
        columns: the input's columns, to check the templates against.
        section: section of the job file, for messages.

    Raises:
        JobError: if a template is invalid or needs a column that the input does not have.
    """

    def __init__(self, job: Job, columns: Sequence[str], section: str = "request") -> None:
        self._config = config = job.request
        self._format = config.wire_format
        self._rules = lru_cache(MOST_MODELS)(config.rules)
        self._section = section
        text_of = partial(Text, section=section)
        self._model = text_of("model", config.model)
        self._system = [text_of("system", text) for text, _ in config.system]
        self._turns = [
            (role, text_of(_turn_key(n, config), text))
            for n, (role, text) in enumerate(config.turns, 1)
        ]
        self._templated = {
            name: text_of(name, value)
            for name, value in config.parameters.items()
            if is_template(value)
        }
        # The combination of fixed values was checked when the job was read.
        self._is_fixed = not (self._templated or config.from_columns or is_template(config.model))
        self._extra_body = Structure("extra_body", config.extra_body, section)
        self._extra_headers = Structure("extra_headers", dict(config.extra_headers), section)
        self._images = [text_of("images", image) for image in config.images]
        self._documents = [text_of("documents", document) for document in config.documents]
        self._fixed = Parameters(
            **{k: v for k, v in config.parameters.items() if k not in self._templated}
        )
        self.columns = self._needed_columns(columns)
        self._known = tuple(columns)
        self._whole_row = ROW not in columns and any(ROW in text.names for text in self._texts())
        self._provider = config.provider_name
        self._pattern = self._common_pattern()

    def _common_pattern(self) -> RequestPattern | None:
        """Return the pattern of all requests, if they differ only in texts of the conversation."""
        config = self._config
        others = [*self._extra_body.texts, *self._extra_headers.texts]
        others += [*self._images, *self._documents]
        if others or not self._is_fixed or config.messages_column is not None:
            return None
        every = [*self._system, *(text for _, text in self._turns)]
        first_turn = len(self._system)

        def build(texts: Sequence[str]) -> Request:
            given = iter(texts)
            filled = [text.text({}) if text.is_constant else next(given) for text in every]
            system = self._system_prompt(filled[:first_turn])
            turns = self._spoken(filled[first_turn:])
            return self._asking(arranged(self._format, system, turns), {}, {})

        try:
            return RequestPattern(
                self._format, [text for text in every if not text.is_constant], build
            )
        except (NoPatternError, RenderError, orjson.JSONEncodeError):
            return None

    def _values(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the variables for the templates of a row."""
        return {**row, ROW: row} if self._whole_row else row

    def check_columns(self) -> None:
        """Check that requests depend on a column: otherwise all rows would have the same request.

        Raises:
            JobError: if they do not, unless several samples of one request are asked for.
        """
        columns = self._known
        if self.columns or not columns:
            return
        key = "prompt" if len(self._turns) == 1 else "messages"
        uses = f"[request] {key}: uses no column, so every row would get the same request"
        example = next((name for name in columns if name.isidentifier()), "column")
        texts = [text for _, text in self._config.turns]
        texts += [text for text, _ in self._config.system]
        for text in texts:
            for name in _SINGLE_BRACES.findall(text):
                if name in columns:
                    raise JobError(
                        f"{uses}; {{{short(name)}}} is plain text: write {{{{ {short(name)} }}}} with two braces"
                    )
        if self._config.samples == 1:
            raise JobError(
                f"{uses}; insert a column with two braces, such as {{{{ {short(example)} }}}}. The columns "
                f"are {listed(columns)}. To ask the same several times, use [request] samples"
            )

    def render(self, items: Iterable[Item]) -> list[RenderedItem]:
        """Render a few items; an item that cannot be rendered has the reason."""
        return [self._render_one(item) for item in items]

    def chunks(self, items: Iterable[Item], samples: int = 1) -> Iterator[list[RenderedItem]]:
        """Render items into requests, a bounded number of rows and bytes at a time.

        Each row appears `samples` times, in consecutive items of one chunk.
        """
        chunk: list[RenderedItem] = []
        size = 0
        for item in items:
            rendered = self._render_one(item)
            size += 0 if rendered.wire is None else len(rendered.wire.body)
            chunk += _sampled(rendered, samples)
            if size >= CHUNK_BYTES or len(chunk) >= CHUNK_ROWS:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def read(
        self, table: ItemTable, samples: int = 1, more: Sequence[str] = ()
    ) -> Iterator[list[Item]]:
        """Yield the rows of a table with the columns that the templates need, in bounded chunks.

        `more` are additional columns to read.
        """
        columns = tuple(dict.fromkeys((*more, *self.columns)))
        return table.items(columns, max(1, CHUNK_ROWS // samples))

    def table_chunks(self, table: ItemTable, samples: int = 1) -> Iterator[list[RenderedItem]]:
        """Render all rows of a table into requests; see `chunks`."""
        for items in self.read(table, samples):
            yield from self.chunks(items, samples)

    def text_turns(self, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
        """Return the (role, text) turns of a row's request, the system prompt first.

        None if it has more than text, such as images, documents or the results of tools.

        Raises:
            RenderError: when the row cannot be rendered.
        """
        values = self._values(values)
        if self._images or self._documents:
            return None
        return text_turns(*self._conversation(values))

    def prompt_text(self, values: Mapping[str, Any]) -> str:
        """Return the texts of a row's request as one text: the system prompt, then the turns.

        Raises:
            RenderError: when the row cannot be rendered.
        """
        values = self._values(values)
        return conversation_text(*self._conversation(values))

    def turns_text(self, values: Mapping[str, Any]) -> str:
        """Return the texts of the turns of a row's request, without the system prompt.

        Raises:
            RenderError: when the row cannot be rendered.
        """
        values = self._values(values)
        return conversation_text(None, self._conversation(values)[1])

    def _render_one(self, item: Item) -> RenderedItem:
        if self._pattern is not None:
            found = self._pattern.rendered(item, self._values(item.values))
            if found is not None:
                return found
        try:
            request = self._request(item.values)
            wire = self._format.encode(request)
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
        digest = self._format.fingerprint(request, wire)
        return RenderedItem(item.ordinal, item.custom_id, _without_data(request), wire, digest)

    def _request(self, row: Mapping[str, Any]) -> Request:
        values = self._values(row)
        return self._asking(self._conversation(values), row, values)

    def _asking(
        self,
        conversation: tuple[System | None, tuple[Message, ...]],
        row: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> Request:
        """Return the request of a row with this conversation."""
        config = self._config
        system, messages = conversation
        model = self._text_override("model", row) or self._model.text(values)
        if not model.strip():
            raise RenderError("empty_model", "model: is empty for this row")
        is_prefilled = bool(messages) and messages[-1].role == "assistant"
        rules, parameters = self._accepted(model, self._parameters(row, values), is_prefilled)
        return Request(
            format=config.format,
            base_url=config.base_url,
            provider=self._provider,
            model=model,
            messages=messages,
            system=system,
            parameters=parameters,
            extra_body=self._extra_body.value(values),
            extra_headers=self._headers(values),
            api_version=config.api_version,
            stream=_streams(config, parameters),
            tools=config.tools,
            tool_choice=config.tool_choice,
            parallel_tool_calls=config.parallel_tool_calls,
            cache_ttl=config.cache_ttl,
            attachments=self._attachments(values),
            answer=config.answer,
            max_tokens_key=config.max_tokens_key or rules.max_tokens_key or "max_tokens",
        )

    def _headers(self, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        if not self._extra_headers.texts:
            return self._config.extra_headers
        headers = {name: str(value) for name, value in self._extra_headers.value(values).items()}
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                message = f"extra_headers.{name}: must be one line of printable ASCII text"
                raise RenderError("invalid_parameter", message)
        return tuple(headers.items())

    def _conversation(self, values: Mapping[str, Any]) -> tuple[System | None, tuple[Message, ...]]:
        system: System | None = self._text_override("system", values)
        if not system:
            system = self._system_prompt([text.text(values) for text in self._system])
        if self._config.messages_column is not None:
            turns = read_messages(self._config.messages_column, values)
        else:
            turns = self._spoken([text.text(values) for _, text in self._turns])
        return arranged(self._format, system, turns)

    def _spoken(self, texts: Sequence[str]) -> list[Turn]:
        """Return the turns with these texts."""
        pairs = zip(self._turns, texts, strict=True)
        turns: list[Turn] = [{"role": role, "content": text} for (role, _), text in pairs]
        for number, ttl in self._config.cached_turns:
            turns[number] = with_cache_mark(turns[number], ttl)
        return turns

    def _system_prompt(self, texts: Sequence[str]) -> System | None:
        marks = [marks for _, marks in self._config.system]
        if len(texts) == 1 and not marks[0]:
            return texts[0]
        blocks = zip(texts, marks, strict=True)
        return tuple({"type": "text", "text": text, **mark} for text, mark in blocks) or None

    def _attachments(self, values: Mapping[str, Any]) -> tuple[Attachment, ...]:
        config = self._config
        found: list[Attachment] = []
        for image in self._images:
            found += read_images(image.value(values), config.image_dir or Path())
        for document in self._documents:
            found += read_documents(
                document.value(values),
                config.document_dir or Path(),
                addresses=config.takes_document_urls,
            )
        return tuple(found)

    def _parameters(self, row: Mapping[str, Any], values: Mapping[str, Any]) -> Parameters:
        found = {name: text.value(values) for name, text in self._templated.items()}
        for name in self._config.from_columns:
            override = self._override(name, row)
            if override is not None and name not in {"model", "system"}:
                found[name] = override
        if not found:
            return self._fixed
        checked = {name: self._checked(name, value) for name, value in found.items()}
        parameters = replace(self._fixed, **checked)
        if self._format.capabilities.needs_max_tokens and parameters.max_tokens is None:
            message = f"max_tokens: is required by the {self._format.name} format"
            raise RenderError("invalid_parameter", message)
        return parameters

    def _accepted(
        self, model: str, parameters: Parameters, is_prefilled: bool
    ) -> tuple[ModelRules, Parameters]:
        """Return the rules of a model, and the parameters without those that it refuses."""
        rules = self._rules(model, parameters.effort)
        refused = {name: None for name in rules.refused if getattr(parameters, name) is not None}
        sent = replace(parameters, **refused) if refused else parameters
        if not self._is_fixed or is_prefilled != self._config.is_prefilled:
            self._check_combination(model, sent, is_prefilled)
        return rules, sent

    def _check_combination(self, model: str, parameters: Parameters, is_prefilled: bool) -> None:
        asked = Combination(model, parameters, self._config.forces_tool, is_prefilled)
        if (conflict := self._format.conflict(asked)) is not None:
            raise RenderError("invalid_parameter", ": ".join(conflict))

    def _checked(self, name: str, value: object) -> Any:  # noqa: ANN401 - a parameter
        """Return a parameter's value for a row; None for an empty or null cell."""
        if _is_empty(value):
            return None
        try:
            return coerce(name, value, self._format)
        except ValueError as error:
            raise RenderError("invalid_parameter", f"{name}: {error}") from None

    def _override(self, key: str, row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a cell
        """Return the cell that replaces a key in this row, unless it is empty."""
        if key not in self._config.from_columns or _is_empty(row[key]):
            return None
        return row[key]

    def _text_override(self, key: str, row: Mapping[str, Any]) -> str | None:
        cell = self._override(key, row)
        if cell is None or isinstance(cell, str):
            return cell
        raise RenderError("invalid_parameter", f"{key}: must be text, not {quoted(cell)}")

    def _texts(self) -> list[Text]:
        turns = [text for _, text in self._turns]
        extra = [*self._extra_body.texts, *self._extra_headers.texts]
        return [
            self._model,
            *self._system,
            *turns,
            *self._images,
            *self._documents,
            *self._templated.values(),
            *extra,
        ]

    def _needed_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that rendering reads, in the input's order."""
        names: set[str] = set()
        for text in self._texts():
            known = {*columns, ROW, *ENVIRONMENT.globals}
            wanted = text.names if ROW in columns else text.names | text.row_names
            for name in sorted(wanted - text.guarded - known):
                raise JobError(_unknown_column(f"[{self._section}] {text.key}", name, columns))
            text.try_once(columns)
            names |= text.names
        wanted_columns = {*self._config.from_columns}
        if self._config.messages_column is not None:
            wanted_columns.add(self._config.messages_column)
        for name in sorted(wanted_columns.difference(columns)):
            key = "from_columns" if name in self._config.from_columns else "messages_column"
            raise JobError(_unknown_column(f"[{self._section}] {key}", name, columns))
        names |= wanted_columns
        if ROW in names and ROW not in columns:
            return tuple(columns)
        return tuple(column for column in columns if column in names)


def _sampled(row: RenderedItem, samples: int) -> Iterable[RenderedItem]:
    """Return a rendered row `samples` times, in consecutive items."""
    if samples == 1:
        return (row,)
    return [changed(row, ordinal=row.ordinal * samples + number) for number in range(samples)]


def _without_data(request: Request) -> Request:
    """Return a request without the base64 of its attachments, which is also in its body."""
    if not request.attachments:
        return request
    slim = (_measured(one) if one.size else one for one in request.attachments)
    return changed(request, attachments=tuple(slim))


def _measured(one: Attachment) -> Attachment:
    is_image = one.data is not None and not one.is_document
    return replace(one, data=None, pixels=image_size(one.data or "") if is_image else None)


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _unknown_column(where: str, name: str, columns: Sequence[str]) -> str:
    hint = did_you_mean(name, columns)
    return f"{where}: the input has no column {quoted(name)}{hint}; it has {listed(columns)}"


def _streams(config: RequestConfig, parameters: Parameters) -> bool:
    if config.stream is not None:
        return config.stream
    return (parameters.max_tokens or 0) > LONGEST_WHOLE_ANSWER


def _turn_key(number: int, config: RequestConfig) -> str:
    single = len(config.turns) == 1 and config.turns[0][0] == "user"
    return "prompt" if single else f"messages, turn {number}"


__all__ = ["Expression", "Renderer"]
