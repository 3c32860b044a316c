"""A notebook of the common calls, in a real Jupyter kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.kernel import Kernel, is_available, running_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if not is_available() and os.environ.get("CI") != "true":
    pytest.skip("needs ipykernel and jupyter_client (make test)", allow_module_level=True)

SETTINGS = """
import batchrun
how = {"prompt": "Say {{ text }}", "model": "claude-haiku-4-5-20251001", "max_tokens": 20, "simulate": True}
texts = [f"text {n}" for n in range(12)]
"""
# The code of each cell, and what it shows.
CELLS = {
    "polars": (
        """
import polars
found = batchrun.complete(polars.DataFrame({"text": texts}), directory="polars", **how)
type(found).__module__.split(".")[0], found.height, found["status"].unique().to_list()
""",
        "('polars', 12, ['succeeded'])",
    ),
    "pandas": (
        """
import pandas
frame = pandas.DataFrame({"text": texts}, index=range(100, 112))
found = batchrun.complete(frame, directory="pandas", **how)
type(found).__module__.split(".")[0], len(found), list(found.index)[:2], set(found["status"])
""",
        "('pandas', 12, [100, 101], {'succeeded'})",
    ),
    "pyarrow": (
        """
import pyarrow
found = batchrun.complete(pyarrow.table({"text": texts}), directory="pyarrow", **how)
type(found).__module__.split(".")[0], found.num_rows, set(found["status"].to_pylist())
""",
        "('pyarrow', 12, {'succeeded'})",
    ),
    "extract": (
        """
schema = {"type": "object", "properties": {"is_urgent": {"type": "boolean"}}, "required": ["is_urgent"]}
rows = [{"text": text} for text in texts]
found = batchrun.extract(rows, schema=schema, directory="extract", **how)
len(found), {type(row["is_urgent"]).__name__ for row in found}
""",
        "(12, {'bool'})",
    ),
    "classify": (
        """
found = batchrun.classify(rows, labels=["good", "bad"], directory="classify", **how)
len(found), {row["label"] for row in found} <= {"good", "bad"}
""",
        "(12, True)",
    ),
    "stream": (
        """
seen = []
async for row in batchrun.stream(rows, directory="stream", **how):
    seen.append(row["text"])
    if len(seen) == 3:
        break
rest = [row["text"] async for row in batchrun.stream(rows, directory="other", **how)]
len(seen), sorted(rest) == sorted(texts)
""",
        "(3, True)",
    ),
    "report": (
        """
job = batchrun.Job.load("job.toml")
batchrun.run_job(job, batchrun.RunOptions(simulate=batchrun.SimulatorConfig()))
""",
        "<table>",
    ),
}
JOB = """
[input]
path = "rows.csv"
[request]
model = "claude-haiku-4-5-20251001"
prompt = "Say {{ text }}"
max_tokens = 20
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for the whole notebook."""
    folder: Path = tmp_path_factory.mktemp("notebook")
    (folder / "job.toml").write_text(JOB)
    (folder / "rows.csv").write_text("text\na\nb\n")
    with running_kernel(folder) as kernel:
        assert kernel.run(SETTINGS).error == ""
        yield kernel


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_shows_its_result(kernel: Kernel, name: str) -> None:
    code, shown = CELLS[name]
    cell = kernel.run(code)
    assert cell.error == ""
    assert "Traceback" not in cell.printed
    assert shown in cell.values[0] + cell.pages[0]
