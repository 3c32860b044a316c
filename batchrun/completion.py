"""What a shell offers to complete: job files, tables, run directories.

Only names are looked at, so that the answer comes at once. Where nothing is wanted, the shell's own
completion of files takes over, which knows its way through folders.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB_SUFFIX = ".toml"
# As `source` reads them; it takes longer to load than a shell should wait.
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
CHECKPOINT = "checkpoint.db"
LARGEST_FOLDER = 2_000


def jobs(incomplete: str) -> list[str]:
    """Return the job files and tables whose paths begin so, and the folders beside them."""
    return _offered(incomplete, (JOB_SUFFIX, *TABLE_SUFFIXES))


def tables(incomplete: str) -> list[str]:
    """Return the tables whose paths begin so, and the folders beside them."""
    return _offered(incomplete, TABLE_SUFFIXES)


def runs(incomplete: str) -> list[str]:
    """Return the run directories whose paths begin so."""
    found = (path for path, is_folder in _beginning_with(incomplete) if is_folder)
    return [path for path in found if (Path(path) / CHECKPOINT).is_file()]


def _offered(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    found = list(_beginning_with(incomplete))
    wanted = [p for p, folder in found if not folder and p.removesuffix(".gz").endswith(suffixes)]
    folders = [f"{path}/" for path, is_folder in found if is_folder]
    return sorted([*wanted, *folders]) if wanted else []


def _beginning_with(incomplete: str) -> Iterator[tuple[str, bool]]:
    """Yield the paths that begin with what has been typed, and whether each is a folder."""
    folder, start = os.path.split(incomplete)
    with suppress(OSError):
        for entry in sorted(os.scandir(folder or "."), key=lambda e: e.name)[:LARGEST_FOLDER]:
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not is_hidden:
                # `./` stays as it was typed.
                yield os.path.join(folder, entry.name), entry.is_dir()  # noqa: PTH118
