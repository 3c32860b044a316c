"""The Jinja2 environment of templates: strict about nulls, sandboxed, with bounded work.

Operators, calls, filters, tests, loops and literals of a template all pay from the budget of the row
(`bounds`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from batchrun.render import bounds
from batchrun.render.bounds import pay, weigh

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jinja2.runtime import Context

# Jinja's filters for text, which turn a null into "None".
_TEXT_FILTERS = frozenset(
    [
        "capitalize",
        "center",
        "e",
        "escape",
        "forceescape",
        "indent",
        "lower",
        "replace",
        "string",
        "striptags",
        "title",
        "trim",
        "truncate",
        "upper",
        "urlencode",
        "urlize",
        "wordcount",
        "wordwrap",
    ]
)
_FILE_READERS: tuple[type[nodes.Node], ...] = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
)
# Python's own attributes, which would let a template leave the sandbox.
_INTERNAL = re.compile(r"__(?!index_level_)\w+__\Z")  # pandas writes columns __index_level_0__
_INFINITE = (float("inf"), float("-inf"))
# Filters of the guards below.
_LOOP, _WEIGHED, _CONCAT = "loop over", "weighed", "concatenated"


class NullValueError(ValueError):
    """A value is null where text is needed."""


def _refuse_null(value: object) -> None:
    if value is None:
        raise NullValueError("a null value where text is needed")


@pass_context  # which also keeps Jinja from calling it when a template is compiled
def _printable(_: Context, value: object) -> object:
    """Return the value of an expression if it can be printed; the `repr` of an object cannot."""
    if isinstance(value, str):
        pay(len(value))
        return value
    _refuse_null(value)
    if isinstance(value, Undefined):
        return value  # raises its own error when it becomes text
    if isinstance(value, bytes):
        pay(len(value))
        return value.decode()
    if isinstance(value, Iterator):
        raise TypeError("the value of an expression is a sequence; add | join(…) or | list")
    if callable(value):
        raise TypeError("the value of an expression is a function; call it with ()")
    pay(weigh(value))
    return value


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that pays for its work, and refuses null in place of text.

    `join` also refuses null in the list that it joins.
    """
    position = 1 if hasattr(function, "jinja_pass_arg") else 0
    cost = bounds.FILTERS.get(name)
    needs_text, joins = name in {*_TEXT_FILTERS, "join"}, name == "join"

    @wraps(function)
    def bounded(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - a filter's own
        before, value, after = args[:position], args[position], args[position + 1 :]
        if needs_text:
            _refuse_null(value)
        if joins:
            value = list(value)
            for item in value:
                _refuse_null(item)
        _pay_for((value, *after), options, cost)
        return _paid(function(*before, value, *after, **options))

    return bounded


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test that pays for reading its arguments."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def bounded(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - a test's own
        _pay_for(args[position:], options, None)
        return function(*args, **options)

    return bounded


def _pay_for(
    args: Sequence[Any], options: Mapping[str, Any], cost: Callable[..., int] | None
) -> None:
    weight = bounds.STEP
    for arg in (*args, *options.values()) if options else args:
        weight += weigh(arg)
    pay(weight)
    if cost is not None:
        pay(cost(*args, **options))


def _listed(value: Any) -> Any:  # noqa: ANN401 - any argument
    """Convert an iterator to a list, whose size is known."""
    return list(bounds.metered(value)) if isinstance(value, Iterator) else value


def _paid(result: Any) -> Any:  # noqa: ANN401 - what was made
    if isinstance(result, str):
        pay(len(result))
        return result
    if isinstance(result, Iterator):
        return bounds.metered(result)
    if not isinstance(result, Namespace):
        pay(weigh(result))
    return result


def _concatenated(parts: Iterable[Any]) -> str:
    """`a ~ b`: refuses null, which Jinja would write as "None"."""
    texts = list(parts)
    for part in texts:
        _refuse_null(part)
    pay(sum(weigh(part) for part in texts))
    return "".join(str(part) for part in texts)


class _Formatter(SandboxedFormatter):
    """`str.format` with bounded widths."""

    def format_field(self, value: Any, format_spec: str) -> Any:  # noqa: ANN401 - as its parent's
        bounds.check_spec(format_spec)
        pay(bounds.STEP + weigh(value))
        text = super().format_field(value, format_spec)
        pay(len(text))
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose operators and calls pay for their work."""

    intercepted_binops = frozenset(bounds.OPERATORS)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        pay(bounds.STEP + bounds.OPERATORS[operator](left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if isinstance(function, LoopContext):
            args = tuple(bounds.metered(arg) for arg in args)
        pay(bounds.CALL)
        # Macros accept namespaces, and what they write is paid for as it is written.
        if not isinstance(function, Macro):
            cost = self._cost(function)
            if cost is not None:  # of an iterator, the size is unknown
                args = tuple(_listed(arg) for arg in args)
            _pay_for(args, options, cost)
        return _paid(super().call(context, function, *args, **options))

    def _cost(self, function: Any) -> Callable[..., int] | None:  # noqa: ANN401 - any callable
        """Return the cost function of a method of a text or number.

        Raises:
            SecurityError: if the method is not allowed.
        """
        value = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(value, int) and name not in bounds.INTEGER_METHODS:
            raise SecurityError(f"the method {name} of a number cannot be used in a template")
        if not isinstance(value, str | bytes):
            return None
        if name in bounds.REFUSED_METHODS:
            raise SecurityError(f"the method {name} of a text cannot be used in a template")
        cost = bounds.TEXT_METHODS.get(name)
        return None if cost is None else partial(cost, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401
        if super().wrap_str_format(value) is None:
            return None
        text: str = value.__self__

        def formatted(*args: Any, **named: Any) -> str:  # noqa: ANN401 - what the text mentions
            if value.__name__ == "format_map":
                return _Formatter(self).vformat(text, (), args[0])
            return _Formatter(self).vformat(text, args, named)

        return formatted


class _Guards(NodeTransformer):
    """Inserts guards where Jinja has no hook: `~`, loops, literals, comparisons, slices."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Expr:
        # Text in a loop is written many times; as an expression it passes `_printable`.
        return nodes.Const(node.data, lineno=node.lineno) if self._loops else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _guarded(_CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        node.iter = _guarded(_LOOP, cast("nodes.Expr", node.iter))
        return node

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"
        is_constant = all(isinstance(item, nodes.Const) for item in node.items)
        return node if is_target or is_constant else _guarded(_WEIGHED, node)

    visit_Tuple = visit_Dict = visit_List

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _unless_constant(node.expr)
        for operand in node.ops:
            operand.expr = _unless_constant(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _guarded(_WEIGHED, node)
        node.arg = _unless_constant(node.arg)
        return node


def _unless_constant(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _guarded(_WEIGHED, node)


def _guarded(name: str, node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def guard(tree: nodes.Template) -> nodes.Template:
    """Return a parsed template with guards.

    Raises:
        TemplateError: if it uses something that is not allowed in templates.
    """
    if any(tree.find(kind) is not None for kind in _FILE_READERS):
        raise TemplateError("a template cannot read other files")
    for name in _attributes(tree):
        if _INTERNAL.match(name):
            raise TemplateError(f"a template cannot access Python internals: {name}")
    if any(const.value in _INFINITE for const in tree.find_all(nodes.Const)):
        # Jinja would look for a variable of the name "inf".
        raise TemplateError("a number is too large")
    guarded: nodes.Template = _Guards().visit(tree)
    guarded.set_environment(ENVIRONMENT)
    return guarded


def _attributes(tree: nodes.Template) -> Iterator[str]:
    """Yield the attributes that a template accesses by name: `x.name`, `x | attr("name")`."""
    yield from (node.attr for node in tree.find_all(nodes.Getattr))
    for node in tree.find_all(nodes.Filter):
        if node.name == "attr":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, nodes.Const))


def _new_environment() -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=_printable,
        # Do not evaluate constants at compile time: errors belong to a row.
        optimized=False,
        cache_size=0,
    )
    # Random requests would differ when a run is resumed, and be paid for again.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters = {
        name: _filter(name, function) for name, function in environment.filters.items()
    }
    tests = cast("dict[str, Callable[..., Any]]", environment.tests)
    environment.tests.update({name: _test(function) for name, function in tests.items()})
    environment.filters |= {_LOOP: bounds.metered, _WEIGHED: _paid, _CONCAT: _concatenated}
    return environment


ENVIRONMENT = _new_environment()
# For parsing: a column can have the name of one of Jinja's functions.
PARSER = ENVIRONMENT.overlay()
PARSER.globals = {}
