"""The Jinja2 environment of templates: strict about nulls, closed to Python, bounded in work.

What an expression of a template does goes through here: its operators, calls, filters, tests, loops
and the literals that build lists. Each pays out of the row's budget (`bounds`).
"""

from __future__ import annotations

import types
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
# Python's own attributes, by which a template would climb out of its values.
_INTERNALS = frozenset(
    name
    for kind in (
        type,
        types.BuiltinFunctionType,
        types.CodeType,
        types.FrameType,
        types.FunctionType,
        types.GeneratorType,
        types.MethodType,
        types.ModuleType,
    )
    for name in (*dir(kind), "__builtins__")
    if name.startswith("__")
)
_INFINITE = (float("inf"), float("-inf"))
# Filters of the guards below; their names cannot be written in a template.
_LOOP, _WEIGHED, _CONCAT = "loop over", "weighed", "concatenated"


class NullValueError(ValueError):
    """A null reached a place where text is needed."""


def _refuse_null(value: object) -> None:
    if value is None:
        raise NullValueError("a null value where text is needed")


@pass_context  # which also keeps Jinja from calling it when a template is compiled
def _printable(_: Context, value: object) -> object:
    """Return what an expression may leave in a text: never Python's name for an object."""
    if isinstance(value, str):
        pay(len(value))
        return value
    _refuse_null(value)
    if isinstance(value, Undefined):
        return value  # it explains itself when it becomes text
    if isinstance(value, bytes):
        pay(len(value))
        return value.decode()
    if isinstance(value, Iterator):
        raise TypeError("an expression ends in a sequence; add | join(…) or | list")
    if callable(value):
        raise TypeError("an expression ends in a function; call it with ()")
    pay(weigh(value))
    return value


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that pays for itself, and refuses a null in place of its text.

    `join` also refuses one in the list that it joins.
    """
    position = 1 if hasattr(function, "jinja_pass_arg") else 0
    estimate = bounds.FILTERS.get(name)
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
        _pay_for((value, *after), options, estimate)
        return _paid(function(*before, value, *after, **options))

    return bounded


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test that pays for looking at its arguments."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def bounded(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - a test's own
        _pay_for(args[position:], options, None)
        return function(*args, **options)

    return bounded


def _pay_for(
    args: Sequence[Any], options: Mapping[str, Any], estimate: Callable[..., int] | None
) -> None:
    cost = bounds.STEP
    for arg in (*args, *options.values()) if options else args:
        cost += weigh(arg)
    pay(cost)
    if estimate is not None:
        pay(estimate(*args, **options))


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
    """`a ~ b`: refuses a null, which Jinja would spell "None"."""
    texts = list(parts)
    for part in texts:
        _refuse_null(part)
    pay(sum(weigh(part) for part in texts))
    return "".join(str(part) for part in texts)


class _Formatter(SandboxedFormatter):
    """`str.format`, with widths that a prompt can need."""

    def format_field(self, value: Any, format_spec: str) -> Any:  # noqa: ANN401 - as its parent's
        bounds.check_spec(format_spec)
        pay(bounds.STEP + weigh(value))
        text = super().format_field(value, format_spec)
        pay(len(text))
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose operators and calls pay for what they make."""

    intercepted_binops = frozenset(bounds.OPERATORS)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        pay(bounds.STEP + bounds.OPERATORS[operator](left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if isinstance(function, LoopContext):
            args = tuple(bounds.counted(arg) for arg in args)
        pay(bounds.CALL)
        # Macros take anything, namespaces among it, and what they write is paid for as it is made.
        if not isinstance(function, Macro):
            _pay_for(args, options, self._estimate(function))
        return _paid(super().call(context, function, *args, **options))

    def _estimate(self, function: Any) -> Callable[..., int] | None:  # noqa: ANN401 - any callable
        """Return what to pay beforehand for a method of a text or number.

        Raises:
            SecurityError: when it has no place in a template.
        """
        value = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(value, int) and name not in bounds.INTEGER_METHODS:
            raise SecurityError(f"a number's {name}() cannot be used in a template")
        if not isinstance(value, str | bytes):
            return None
        if name in bounds.REFUSED_METHODS:
            raise SecurityError(f"a text's {name}() cannot be used in a template")
        estimate = bounds.TEXT_METHODS.get(name)
        return None if estimate is None else partial(estimate, value)

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
    """Puts guards where Jinja has no place to step in: `~`, loops, literals, comparisons, slices."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Expr:
        # Text in a loop is written many times: as an expression it passes `_printable`.
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

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return node if _is_constant(node.items) else _guarded(_WEIGHED, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return node if node.ctx != "load" or _is_constant(node.items) else _guarded(_WEIGHED, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _guarded(_WEIGHED, node)

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


def _is_constant(items: Iterable[nodes.Node]) -> bool:
    return all(isinstance(item, nodes.Const) for item in items)


def _unless_constant(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _guarded(_WEIGHED, node)


def _guarded(name: str, node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def guard(tree: nodes.Template) -> nodes.Template:
    """Return a parsed template with guards in it.

    Raises:
        TemplateError: when it asks for what no template may have.
    """
    if any(tree.find(kind) is not None for kind in _FILE_READERS):
        raise TemplateError("a template cannot read other files")
    for name in _attributes(tree):
        if name in _INTERNALS:
            raise TemplateError(f"a template cannot look into Python: {name}")
    if any(const.value in _INFINITE for const in tree.find_all(nodes.Const)):
        # Jinja would look for a variable of the name "inf".
        raise TemplateError("a number is too large")
    guarded: nodes.Template = _Guards().visit(tree)
    guarded.set_environment(ENVIRONMENT)
    return guarded


def _attributes(tree: nodes.Template) -> Iterator[str]:
    """The attributes that a template asks for by name: `x.name`, `x | attr("name")`."""
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
        # Nothing is worked out when a template is compiled: there is no row yet to be errored.
        optimized=False,
        cache_size=0,
    )
    # Chance would change the requests from one execution to the next: a resumed run would pay again.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters = {
        name: _filter(name, function) for name, function in environment.filters.items()
    }
    tests = cast("dict[str, Callable[..., Any]]", environment.tests)
    environment.tests.update({name: _test(function) for name, function in tests.items()})
    environment.filters |= {_LOOP: bounds.counted, _WEIGHED: _paid, _CONCAT: _concatenated}
    return environment


ENVIRONMENT = _new_environment()
# For parsing: to Jinja a column named like one of its functions would be no column.
PARSER = ENVIRONMENT.overlay()
PARSER.globals = {}
