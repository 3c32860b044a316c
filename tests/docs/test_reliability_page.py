"""docs/reliability.md promises nothing that no test shows: each row names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
SECTIONS = (
    *("Crash", "Interrupts", "Storage", "Your files", "Server", "Input", "Changes between runs"),
    "Security",
)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CELL = re.compile(r"(?<!\\)\|")


def tables() -> dict[str, list[list[str]]]:
    """The rows below the head of each section's table, cell by cell."""
    found: dict[str, list[list[str]]] = {}
    for part in PAGE.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        rows = [line for line in lines if line.startswith("|")]
        found[title] = [[cell.strip() for cell in CELL.split(row)[1:-1]] for row in rows[2:]]
    return found


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_section_is_there_in_order() -> None:
    assert tuple(title for title in tables() if title in SECTIONS) == SECTIONS


@pytest.mark.parametrize("title", SECTIONS)
def test_every_row_names_a_test_that_exists(title: str) -> None:
    rows = tables()[title]
    assert rows
    for row in rows:
        assert len(row) == 4, row
        assert all(row), row
        named = NAMED.findall(row[3])
        assert named, f"no test is named in: {row}"
        for file, name in named:
            assert name.startswith("test_"), name
            assert name in functions(file), f"{file}::{name}"


def test_no_fault_is_listed_twice() -> None:
    faults = [row[0] for rows in tables().values() for row in rows]
    assert len(faults) == len(set(faults))
