"""One string of the job file as a template: Jinja2, sandboxed and strict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes

from batchrun.errors import JobError, RenderError, quoted, short
from batchrun.formats.parameters import is_template
from batchrun.job.reader import did_you_mean, listed
from batchrun.render.bounds import MAX_TEXT, reset_budget
from batchrun.render.sandbox import ENVIRONMENT, PARSER, NullValueError, guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jinja2 import Template


# The whole row as a mapping, for columns whose names are not identifiers: {{ row["unit price"] }}.
ROW = "row"

_BARE_NAME = re.compile(r"\A\s*\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}\s*\Z")

# Errors that compiling or evaluating any expression over any value can raise.
_TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError is one
    SyntaxError,
    TypeError,
    ValueError,
)
# Types of cells that `%` writes as Jinja does.
_PLAIN = frozenset({str, int, float})


class Text:
    """A string of the job file: constant, a bare `{{ column }}`, or a template.

    Args:
        key: its key in the job file, for messages.
        source: the string.
        section: section of the job file, for messages.

    Raises:
        JobError: if it is not a valid template.
    """

    def __init__(self, key: str, source: str, section: str = "request") -> None:
        self.key = key
        self._section = section
        self._constant = None if is_template(source) else source
        bare = _BARE_NAME.match(source)
        self._bare = bare.group(1) if bare else None
        self.names: frozenset[str] = frozenset()
        self.row_names: frozenset[str] = frozenset()
        self.guarded: frozenset[str] = frozenset()
        self._template: Template | None = None
        # Of a template that only inserts columns: its text with places, and the columns.
        self._pattern = ""
        self._inserted: tuple[str, ...] = ()
        if self._constant is None:
            self._compile(source)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same for every row."""
        return self._constant is not None

    def text(self, values: Mapping[str, Any]) -> str:
        """Return the text for one row.

        Raises:
            RenderError: when a name is undefined, a value is null, or an expression fails.
        """
        if self._template is None:
            return cast("str", self._constant)
        text = self._filled(values)
        if text is None:
            text = self._rendered(self._template, values)
        if len(text) > MAX_TEXT:
            raise RenderError(
                "text_too_long",
                f"{self.key}: the text has {len(text):,} characters; at most {MAX_TEXT:,} are sent",
            )
        return text

    def _filled(self, values: Mapping[str, Any]) -> str | None:
        """Return the text of a template that only inserts columns; None if Jinja has to render it."""
        cells = [values.get(name) for name in self._inserted]
        if not cells or not _PLAIN.issuperset(map(type, cells)):
            return None
        if self._pattern == "%s" and type(cells[0]) is str:
            return cells[0]
        # More than this is refused before it is put together.
        size = sum([len(cell) for cell in cells if type(cell) is str])
        try:
            return self._pattern % tuple(cells) if size <= MAX_TEXT else None
        except ValueError:  # an integer with thousands of digits
            return None

    def _rendered(self, template: Template, values: Mapping[str, Any]) -> str:
        reset_budget()
        try:
            return template.render(values)
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
        names = sorted(self.names | self.row_names)
        nulls = [name for name in names if name in values and values[name] is None]
        where = f"the column {quoted(nulls[0])} is null" if nulls else "a value is null"
        return (
            f"{self.key}: {where} where text is needed; guard it with {{% if … %}} or "
            'with default("…", true)'
        )

    def _compile(self, source: str) -> None:
        try:
            tree = PARSER.parse(source)
            self.names = frozenset(meta.find_undeclared_variables(tree))
            self.row_names = _row_names(tree) if ROW in self.names else frozenset()
            self.guarded = _guarded_names(tree)
            self._pattern, self._inserted = _insertions(tree)
            self._template = ENVIRONMENT.from_string(guard(tree))
            # Jinja gives a chain of dicts, and would go through it again for every row.
            self._template.globals = dict(self._template.globals)
        except _TEMPLATE_ERRORS as error:
            where = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
            reason = f"{short(str(error).splitlines()[0], 300) if str(error) else type(error).__name__}{where}"
            place = f"[{self._section}] {self.key}"
            raise JobError(f"{place}: not a valid template: {reason}") from None

    def try_once(self, columns: Iterable[str]) -> None:
        """Render a template that depends on no column: if it fails now, it fails for every row.

        Raises:
            JobError: says why it fails.
        """
        if not self.names.isdisjoint({*columns, ROW}):
            return
        try:
            self.text({})
        except RenderError as error:
            raise JobError(f"[{self._section}] {error}") from None


class Structure:
    """A value of the job file, such as `extra_body`, whose strings are templates.

    Args:
        key: its key in the job file, for messages.
        value: a JSON value.
        section: section of the job file, for messages.

    Raises:
        JobError: if a string is not a valid template.
    """

    def __init__(self, key: str, value: object, section: str = "request") -> None:
        self.texts: list[Text] = []
        self._value = self._read(key, value, section)

    def _read(self, key: str, value: object, section: str) -> object:
        if isinstance(value, dict):
            return {name: self._read(f"{key}.{name}", v, section) for name, v in value.items()}
        if isinstance(value, list):
            return [self._read(key, item, section) for item in value]
        if not is_template(value):
            return value
        self.texts.append(Text(key, str(value), section))
        return self.texts[-1]

    def value(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Return the value for a row; a bare `{{ column }}` keeps the type of the column.

        Raises:
            RenderError: when a value is null where text is needed, or an expression fails.
        """
        return _filled(self._value, values) if self.texts else self._value


def _filled(value: object, values: Mapping[str, Any]) -> object:
    if isinstance(value, Text):
        return value.value(values)
    if isinstance(value, dict):
        return {name: _filled(inner, values) for name, inner in value.items()}
    return [_filled(item, values) for item in value] if isinstance(value, list) else value


def _insertions(tree: nodes.Template) -> tuple[str, tuple[str, ...]]:
    """Return a template that only inserts columns as a `%` pattern with its columns; None for others."""
    outputs = [node for node in tree.body if isinstance(node, nodes.Output)]
    parts = [part for output in outputs for part in output.nodes]
    inserted = tuple(part.name for part in parts if isinstance(part, nodes.Name))
    texts = sum(isinstance(part, nodes.TemplateData) for part in parts)
    if len(outputs) < len(tree.body) or len(inserted) + texts < len(parts):
        return "", ()
    pattern = (
        part.data.replace("%", "%%") if isinstance(part, nodes.TemplateData) else "%s"
        for part in parts
    )
    return "".join(pattern), inserted


def _row_names(tree: nodes.Template) -> frozenset[str]:
    """Return the columns that the template looks up in the row: `row["…"]`."""
    lookups = tree.find_all((nodes.Getitem, nodes.Getattr))
    return frozenset(name for lookup in lookups if (name := _name_of(lookup)) is not None)


def _guarded_names(tree: nodes.Template) -> frozenset[str]:
    """Return the names that the template handles if they are missing: `x is defined`, `x | default(…)`."""
    tests = (
        node.node for node in tree.find_all(nodes.Test) if node.name in {"defined", "undefined"}
    )
    filters = (node.node for node in tree.find_all(nodes.Filter) if node.name in {"default", "d"})
    return frozenset(name for node in (*tests, *filters) if (name := _name_of(node)) is not None)


def _name_of(node: nodes.Node | None) -> str | None:
    """Return the variable or column that an expression names; None for other expressions."""
    if isinstance(node, nodes.Name):
        return node.name
    if not isinstance(node, nodes.Getitem | nodes.Getattr) or _name_of(node.node) != ROW:
        return None
    if isinstance(node, nodes.Getattr):
        return None if hasattr(dict, node.attr) else node.attr  # row.items() and the like
    key = node.arg.value if isinstance(node.arg, nodes.Const) else None
    return key if isinstance(key, str) else None


class Expression:
    """One template of the job file.

    Args:
        section: section of the job file, such as `score`.
        key: its key in the section.
        source: the template.
        columns: the input's columns.

    Raises:
        JobError: if it is not a template, or needs a column that the input does not have.
    """

    def __init__(self, section: str, key: str, source: str, columns: Sequence[str]) -> None:
        self._text = Text(key, source, section)
        text = self._text
        self._whole_row = ROW not in columns and ROW in text.names
        wanted = text.names if ROW in columns else text.names | text.row_names
        for name in sorted(wanted - text.guarded - {*columns, ROW, *ENVIRONMENT.globals}):
            raise JobError(
                f"[{section}] {key}: the input has no column {quoted(name)}{did_you_mean(name, columns)}"
                f"; it has {listed(columns)}"
            )
        text.try_once(columns)
        every = self._whole_row
        self.columns = tuple(c for c in columns if every or c in text.names)

    def value(self, row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a column's own type
        """Return the value for a row; a bare `{{ column }}` keeps its type.

        Raises:
            RenderError: when a value is null where text is needed, or an expression fails.
        """
        return self._text.value({**row, ROW: row} if self._whole_row else row)
