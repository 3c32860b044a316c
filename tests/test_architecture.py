"""The rules that keep the package readable: where things live, what they are called, how large they are."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "batchrun"
# Folders whose names are loaded when they are first used: a command waits for nothing that it does not need.
LAZY = (
    *("checkpoint", "dispatch", "evaluation", "formats", "inspection", "job", "limits", "output"),
    *("pricing", "report", "run", "simulator", "source", "workers"),
)
# Third-party library → the folders or files of batchrun/ that may import it.
HOMES = {
    "aiolimiter": ("limits/",),
    "click": ("cli/",),
    "fastexcel": ("source/copies.py", "output/workbooks.py"),
    "genai_prices": ("pricing/",),
    "h11": ("simulator/",),
    "httpx": ("client/",),
    "jinja2": ("render/", "report/"),
    "jsonschema_rs": ("dispatch/review.py", "simulator/"),
    "lazy_loader": ("__init__.py", *(f"{name}/__init__.py" for name in LAZY), "pricing/"),
    "msgspec": ("records.py", "workers/protocol.py"),
    "pandas": ("output/table_types.py",),
    "polars": ("source/", "output/"),
    "pyarrow": ("output/table_types.py",),
    "pyreqwest": ("client/",),
    "ray": ("workers/ray_cluster.py",),
    "re2": ("evaluation/",),
    "rapidfuzz": ("evaluation/",),
    "sqlite3": ("checkpoint/",),
    "sqlite_utils": ("checkpoint/",),
    "tqdm": ("run/progress.py",),
    "xlsxwriter": ("output/workbooks.py",),
}
# These set attributes of objects of other libraries, which are made to be set: the precision of decimals, the
# nodes and globals of Jinja, a budget for each thread, the format of tqdm's bar, the deadline of anyio's scope.
SET_FOREIGN_ATTRIBUTES = (
    "evaluation/numbers.py",
    "render/",
    "report/html.py",
    "run/progress.py",
    "workers/owner.py",
)
LOOSE = {"__init__.py", "__init__.pyi", "__main__.py", "errors.py", "records.py", "py.typed"}
MOST_FOLDERS = 20
MOST_LINES = 500
MOST_ARGUMENTS = 6
# Only these may know the wire formats by name: the formats, and what answers in them.
KNOW_THE_FORMATS = ("formats/", "simulator/")
FORMAT_NAMES = {"messages", "chat"}
# Methods of text that compare it with their argument.
COMPARING_METHODS = {"startswith", "endswith", "removeprefix", "removesuffix", "count", "__eq__"}
# A text that names a format: as the value of the key `format`, or with the words that explain it.
NAMED_FORMAT = re.compile(
    r'format = "?(messages|chat)\b|"(messages|chat)" \(|\b(messages|chat) format\b'
)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of what a file imports at run time."""
    tree = parsed(path)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_loader.load":
            yield ast.literal_eval(node.args[0]).partition(".")[0]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_home_alone(library: str) -> None:
    users = [in_package(path) for path in modules() if library in imported(path)]
    assert users, f"nothing imports {library}: remove it here and in pyproject.toml"
    assert [user for user in users if not user.startswith(HOMES[library])] == []


def test_nothing_lies_loose_in_the_package() -> None:
    entries = [entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]
    assert {entry.name for entry in entries if entry.is_file()} == LOOSE
    folders = [entry for entry in entries if any(entry.glob("*.py"))]
    assert len(folders) <= MOST_FOLDERS
    for folder in folders:
        purpose = ast.get_docstring(parsed(folder / "__init__.py"))
        assert purpose, f"{folder.name}/__init__.py says in one sentence what the folder is for"


def test_the_tests_mirror_the_package() -> None:
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert tested - folders - {"__pycache__"} <= {"docs", "support"}
    assert folders <= tested


@pytest.mark.parametrize("folder", LAZY)
def test_what_a_folder_offers_has_the_name_of_no_other_module(folder: str) -> None:
    """Importing a module sets its name in the folder, where a function of another module would be hidden."""
    offered = parsed(PACKAGE / folder / "__init__.pyi")
    names = {
        alias.name: node.module
        for node in ast.walk(offered)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules_there = {path.stem for path in (PACKAGE / folder).glob("*.py")}
    assert {n: m for n, m in names.items() if n in modules_there and n != m} == {}


def test_no_module_name_is_used_twice() -> None:
    names = defaultdict(list)
    for path in modules():
        if not path.stem.startswith("__"):
            names[path.stem].append(in_package(path))
    assert {name: paths for name, paths in names.items() if len(paths) > 1} == {}


def test_no_class_name_is_used_twice() -> None:
    names = defaultdict(list)
    for path in modules():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                names[node.name].append(in_package(path))
    assert {name: paths for name, paths in names.items() if len(paths) > 1} == {}


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {
        in_package(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_values_in_messages_are_shortened_by_one_function() -> None:
    """`{value!r}` would print a value however long it is; `quoted` of `errors.py` shortens it."""
    found = [
        f"{in_package(path)}:{node.lineno}"
        for path in modules()
        if "simulator" not in path.parts
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
    ]
    assert found == []


def distinguishes_formats(node: ast.AST) -> bool:
    """Whether code depends on the name of a format: it compares one, lists both, or names one in a message.

    `"messages" in columns` is about a column of that name.
    """
    if isinstance(node, ast.Compare):
        asks_for_a_column = isinstance(node.left, ast.Constant) and isinstance(node.ops[0], ast.In)
        return not asks_for_a_column and bool(FORMAT_NAMES & constants(node))
    if isinstance(node, ast.MatchValue):
        return bool(FORMAT_NAMES & constants(node))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in COMPARING_METHODS and bool(FORMAT_NAMES & constants(node))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return NAMED_FORMAT.search(node.value) is not None
    return (
        isinstance(node, ast.Dict | ast.Tuple | ast.List | ast.Set | ast.Subscript)
        and constants(node) >= FORMAT_NAMES
    )


def code(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a file, without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            continue
        if not isinstance(node, ast.Expr):
            yield node
            yield from (
                each
                for each in ast.iter_child_nodes(node)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


def constants(node: ast.AST) -> set[object]:
    return {
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }


def test_nothing_outside_the_formats_depends_on_the_name_of_a_format() -> None:
    found = [
        f"{in_package(path)}:{node.lineno}"
        for path in modules()
        if not in_package(path).startswith(KNOW_THE_FORMATS)
        for node in code(parsed(path))
        if distinguishes_formats(node) and isinstance(node, ast.expr | ast.pattern)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ('name == "chat"', True),
        ('"messages" != name', True),
        ('name in ("messages", "chat")', True),
        ('{"messages": 1, "chat": 2}', True),
        ('match name:\n    case "chat": pass', True),
        ('Literal["messages", "chat"]', True),
        ('name.startswith("chat")', True),
        ('name.removeprefix(("messages", "x"))', True),
        ('name in ("messages", "toy")', True),
        ("""'use format = "messages"'""", True),
        ("""f'{key}: "chat" (like {title})'""", True),
        ("""'a table with a "prompt" or "messages" column'""", False),
        ('section.get("messages")', False),
        ('"messages" in columns', False),
        ('{"messages": []}', False),
    ],
)
def test_what_depends_on_the_name_of_a_format(code: str, is_found: bool) -> None:
    assert any(distinguishes_formats(node) for node in ast.walk(ast.parse(code))) == is_found


def test_no_constructor_takes_more_than_six_arguments() -> None:
    found = [
        f"{in_package(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef)
        and node.name == "__init__"
        and len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
        > MOST_ARGUMENTS
    ]
    assert found == []


def test_attributes_are_set_by_their_object_alone() -> None:
    found = [
        f"{in_package(path)}:{target.lineno} {ast.unparse(target)}"
        for path in modules()
        if not in_package(path).startswith(SET_FOREIGN_ATTRIBUTES)
        for function in ast.walk(parsed(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for target in set_from_outside(function)
    ]
    assert found == []


def set_from_outside(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.Attribute]:
    """Yield the attributes that a function sets of others than `self`, `cls` and what it made itself."""
    made = {"self", "cls"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(function):
        if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in made):
            yield node


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("cutter.most_tokens = 3", True),
        ("self.lease.is_closed = True", True),
        ("tally.sent += 1", True),
        ("one, lease.permit = permit, None", True),
        ("self.sent += 1", False),
        ("found = Found()\n    found.end = 3", False),
        ("self.by_name[name] = lease.permit", False),
    ],
)
def test_what_is_set_from_outside(code: str, is_found: bool) -> None:
    (function,) = ast.parse(f"def function(self):\n    {code}").body
    assert isinstance(function, ast.FunctionDef)
    assert bool(list(set_from_outside(function))) == is_found


def test_test_modules_import_no_test_modules() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and ".test_" in f".{node.module}"
    ]
    assert found == []
