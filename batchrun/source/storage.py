"""Tables in a cloud: fetched once by polars into a copy that the run works on.

So a table that changes meanwhile cannot mix rows of two states, and every later pass is local. For
Parquet and CSV, `where` and `limit` go along, and less is fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.job import is_remote
from batchrun.source.inputs import SEPARATORS, TABLE_SUFFIXES, FileStamp, kind_of
from batchrun.source.readers import CSV_OPTIONS, Where, check_header, plain_name

if TYPE_CHECKING:
    from batchrun.job import InputConfig


PART_ROWS = 50_000
_RETRIES = {"max_retries": 3}


class Fetched:
    """A copy of a remote table, which is removed when nobody holds this any more.

    Args:
        config: the input.

    Attributes:
        config: the input as it is to be read: the copy, and what was not done while fetching it.
        stamp: changes when what was fetched does.

    Raises:
        JobError: when it cannot be fetched.
    """

    def __init__(self, config: InputConfig) -> None:
        kind = _kind(config.path)
        folder = _temporary_folder(config.path)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            if kind == ".jsonl":
                copy = _lines(config, folder / "input.jsonl")
                self.config = replace(config, path=str(copy))
            else:
                copy = _table(config, kind, folder / "input.parquet")
                self.config = replace(config, path=str(copy), where=None, limit=None)
        except (PolarsError, PanicException, OSError, ValueError, TypeError) as error:
            raise JobError(_unreachable(config.path, error)) from error
        self.stamp = FileStamp(config.path, copy.stat().st_size, _digest(copy))


def fetched(config: InputConfig) -> Fetched | None:
    """Fetch an input that is not on this machine; None for one that is.

    Raises:
        JobError: when it cannot be fetched.
    """
    return Fetched(config) if is_remote(config.path) else None


def _temporary_folder(address: str) -> Path:
    """Make a folder for the copy of a table.

    Raises:
        JobError: when there is no place for it.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="batchrun-"))
    except OSError as error:
        raise JobError(
            f"[input] path: {address} cannot be copied to this machine: {error.strerror}; name a "
            "folder that can be written in the environment variable TMPDIR"
        ) from None


def _kind(url: str) -> str:
    kind = kind_of(url)
    if kind is None:
        raise JobError(
            f"{url}: unsupported file type; supported types: {', '.join(TABLE_SUFFIXES)}, "
            "text formats also with .gz"
        )
    return kind


def _options(config: InputConfig) -> dict[str, Any]:
    return {"storage_options": {**_RETRIES, **config.storage_options}}


def _table(config: InputConfig, kind: str, copy: Path) -> Path:
    options = _options(config)
    if kind == ".parquet":
        lazy = pl.scan_parquet(config.path, **options)
    else:
        lazy = pl.scan_csv(config.path, separator=SEPARATORS[kind], **CSV_OPTIONS, **options)
        # What names the columns of a file that is here would make polars look for it here.
        lazy = lazy.rename(plain_name)
    schema = lazy.collect_schema()
    if kind != ".parquet":
        check_header(config.path, schema)
    if config.where is not None:
        lazy = lazy.filter(Where(config.where, schema, config.path).condition)
    if config.limit is not None:
        lazy = lazy.head(config.limit)
    lazy.sink_parquet(copy, maintain_order=True)
    return copy


def _lines(config: InputConfig, copy: Path) -> Path:
    """Fetch JSON Lines as they are spelt."""
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
        return f"{url}: there is nothing at this address"
    reason = str(error).strip().splitlines()[0].removeprefix("object-store error: ")
    # The store adds how it was reached, and the path once more.
    reason = reason.partition(" (path:")[0]
    hint = "check the address and your network"
    if any(word in reason for word in ("401", "403", "credential", "token", "Unauthorized")):
        hint = "check the credentials in the environment, and the region"
    if isinstance(error, ValueError | TypeError):
        return f"{url}: [input] storage_options: {reason}"
    if isinstance(error, PolarsError) and "object-store" not in str(error):
        return f"{url}: cannot be read as a table: {reason}"
    return (
        f"{url}: cannot be fetched: {reason[:400]}; {hint}. docs/job.md tells where they come from"
    )
