"""Copy remote tables to this machine, with polars.

A run reads its input several times. With a copy, these passes are local, and a table that changes
during the run cannot mix rows of two states. From Parquet and Arrow files, only the rows that `where` and
`limit` select are copied.
"""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.source.copies import TemporaryFolder
from batchrun.source.inputs import TEXT_KINDS, FileStamp, kind_of, unsupported
from batchrun.source.where import Where

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.job import InputConfig


PART_ROWS = 50_000
_RETRIES = {"max_retries": 3}


class RemoteCopy:
    """A copy of a remote table; it is deleted with this object.

    Args:
        config: the input.

    Attributes:
        config: the input with the copy as its path, without the conditions already applied.
        stamp: identifies the copied content.

    Raises:
        JobError: when the table cannot be copied.
    """

    def __init__(self, config: InputConfig) -> None:
        kind = kind_of(config.path)
        if kind is None:
            raise unsupported(config.path)
        if kind == ".xlsx":
            raise JobError(f"{config.path}: download this file, and name the copy in [input] path")
        folder = TemporaryFolder(config.path)
        weakref.finalize(self, folder.remove)
        try:
            if kind in TEXT_KINDS:
                copy = _copy_text(config, folder.file(f"input{kind}"))
                self.config = replace(config, path=str(copy), storage_options={})
            else:
                copy = _copy_table(config, kind, folder.file("input.parquet"))
                self.config = replace(config, path=str(copy), where=None, limit=None)
        except (PolarsError, PanicException, OSError, ValueError, TypeError) as error:
            raise JobError(_unreachable(config.path, error)) from error
        self.stamp = FileStamp(config.path, copy.stat().st_size, _digest(copy))


def _options(config: InputConfig) -> dict[str, Any]:
    return {"storage_options": {**_RETRIES, **config.storage_options}}


def _copy_table(config: InputConfig, kind: str, copy: Path) -> Path:
    scan = pl.scan_parquet if kind == ".parquet" else pl.scan_ipc
    lazy = scan(config.path, **_options(config))
    if config.where is not None:
        lazy = lazy.filter(Where(config.where, lazy.collect_schema(), config.path).condition)
    if config.limit is not None:
        lazy = lazy.head(config.limit)
    lazy.sink_parquet(copy, maintain_order=True)
    return copy


def _copy_text(config: InputConfig, copy: Path) -> Path:
    """Copy a text unchanged."""
    lazy = pl.scan_lines(config.path, **_options(config))
    with copy.open("wb") as file:
        for frame in lazy.collect_batches(maintain_order=True, lazy=True, chunk_size=PART_ROWS):
            file.writelines(f"{line}\n".encode() for line in frame.to_series())
    return copy


def _digest(path: Path) -> int:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    return int.from_bytes(found.digest(), "big")


def _unreachable(url: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) or "expanded paths were empty" in str(error):
        return f"{url}: no file at this address"
    reason = str(error).strip().splitlines()[0].removeprefix("object-store error: ")
    # The rest repeats the path.
    reason = reason.partition(" (path:")[0]
    hint = "check the address and your network"
    if any(word in reason for word in ("401", "403", "credential", "token", "Unauthorized")):
        hint = "check the credentials in the environment, and the region"
    if isinstance(error, ValueError | TypeError):
        return f"{url}: [input] storage_options: {reason}"
    if isinstance(error, PolarsError) and "object-store" not in str(error):
        return f"{url}: cannot be read as a table: {reason}"
    return f"{url}: cannot be read: {reason[:400]}; {hint}; see docs/job.md"
