"""docs/job.md has every key that the code reads, with its default, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from batchrun import job
from batchrun.formats.parameters import PARAMETERS
from batchrun.job import reader
from batchrun.job.reader import Section
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "job.md").read_text(encoding="utf-8")
MINIMAL: dict[str, Any] = {
    "input": {"path": "x.csv"},
    "request": {"model": "m", "prompt": "p", "max_tokens": 9},
    "score": {"expected": "x"},
}
# Read before the sections are: their content takes the place of `prompt` and `system`.
TEXT_FILES = {"prompt_file", "system_file"}
# Tables, each with a page or a part of its own, and not keys of the top level's table.
TOP_LEVEL = {"name", "date"}


def documented() -> dict[str, dict[str, str]]:
    """The defaults by key, by section; the top level is the section without a name."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    in_table = False
    for line in PAGE.splitlines():
        if (heading := re.match(r"## (?:`\[(\w+)\]`)?", line)) is not None:
            section = heading.group(1) or "-"
        if not line.startswith("|"):
            in_table = False
        elif line.startswith("| key | default |"):
            in_table = True
        elif in_table and not line.startswith("|---"):
            keys, default, *_ = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for key in re.findall(r"`(\w+)`", keys):
                assert key not in found.setdefault(section, {}), f"{key} stands there twice"
                found[section][key] = default
    return found


@pytest.fixture(scope="module")
def read() -> dict[str, set[str]]:
    """The keys that are asked for when a job is loaded, by section."""
    asked: dict[str, set[str]] = {}
    whole = Section.finish

    def finish(section: Section, homes: Any) -> None:
        asked[section.name] = set(section.known)
        whole(section, homes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.Section, "finish", finish)
        job.Job.from_document(MINIMAL, Path("/jobs"))
    return asked


def test_every_key_that_is_read_is_documented_and_no_other(read: dict[str, set[str]]) -> None:
    keys = {section: set(found) for section, found in documented().items()}
    wanted = {section: found for section, found in read.items() if section}
    wanted["request"] |= TEXT_FILES
    wanted[""] = TOP_LEVEL
    assert keys == wanted
    assert read[""] - set(wanted) <= TOP_LEVEL | {"matrix", "cell"}


def spelt(value: object) -> str:
    """A default as the page spells it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return str(value) if isinstance(value, int) else f"{value:g}"


@pytest.mark.parametrize("section", ["input", "limits", "retry", "output", "tools", "score"])
def test_defaults_are_those_of_the_code(section: str) -> None:
    config = {
        "input": job.InputConfig,
        "limits": job.LimitsConfig,
        "retry": job.RetryConfig,
        "output": job.OutputConfig,
        "tools": job.ToolsConfig,
        "score": job.ScoreConfig,
    }[section]
    shown = documented()[section]
    checked = 0
    for field in dataclasses.fields(config):
        if field.name not in shown:
            continue
        default = shown[field.name]
        if isinstance(field.default, str | int | float | tuple) and field.default != ():
            assert default == spelt(field.default), field.name
            checked += 1
        elif field.default is None and field.name != "concurrency":
            # No value of its own: words say what happens then.
            assert not re.fullmatch(r"`?[\d\"\[].*", default), f"{field.name}: {default}"
            checked += 1
    assert checked or section == "input"


def test_defaults_of_requests() -> None:
    request = job.Job.from_document(MINIMAL, Path("/jobs")).request
    shown = documented()["request"]
    for name in ("format", "dedupe", "samples"):
        assert shown[name] == spelt(getattr(request, name)), name
    assert (request.stream, shown["stream"]) == (None, '`"auto"`')
    assert request.api_key_env in shown["api_key_env"]
    for name in PARAMETERS:
        assert not re.fullmatch(r"`?[\d\"\[].*", shown[name]), name
    assert (job.LimitsConfig().concurrency, documented()["limits"]["concurrency"]) == (
        None,
        '`"auto"`',
    )
