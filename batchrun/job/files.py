"""Files on this machine: which of them are the user's, and whether two paths are the same one."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError
from batchrun.job.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# What a run writes is for its owner alone, whoever else may read the directory.
PRIVATE_FILE = 0o600

_NAMED = (
    ("request", "prompt_file"),
    ("request", "system_file"),
    ("request", "documents"),
    ("request", "image_dir"),
    ("matrix", "prompt_file"),
    ("matrix", "system_file"),
    ("matrix", "image_dir"),
    ("tools", "module"),
    ("score", "function"),
)


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file or folder of the user's that a run must leave as it is.

    Attributes:
        path: where it is.
        role: what it is to the job, such as `[input] path`.
    """

    path: Path
    role: str

    def __str__(self) -> str:
        return f"{self.path} ({self.role})"


def user_files(
    document: Mapping[str, Any], base: Path, job_file: Path | None = None
) -> tuple[UserFile, ...]:
    """Return the job file and the files that it names, as far as these can be paths at all.

    The input's are not among them: a glob has to be looked up.
    """
    named = [
        UserFile(path, f"[{section}] {key}")
        for section, key in _NAMED
        for table in _tables(document.get(section))
        for path in _paths(table.get(key), base)
    ]
    own = [] if job_file is None else [UserFile(job_file, "the job file")]
    return (*own, *named)


def is_same_file(one: Path, other: Path) -> bool:
    """Say whether two paths lead to one file: by way of links, hard links or another spelling."""
    return not {*_identities(one)}.isdisjoint(_identities(other))


class Protected:
    """The user's files of a job, which nothing may be written to.

    Args:
        files: there may be many thousands of them.
    """

    def __init__(self, files: Iterable[UserFile]) -> None:
        self._by_identity = {key: file for file in files for key in _identities(file.path)}

    def refuse_overwriting(self, path: Path, key: str, way_out: str) -> None:
        """See that a file which is going to be written is none of them, under whatever name.

        Args:
            path: what is going to be written.
            key: what says so, such as `[output] files`.
            way_out: what to do instead.

        Raises:
            JobError: when it is one of them.
        """
        for identity in _identities(path):
            if (file := self._by_identity.get(identity)) is not None:
                raise JobError(f"{key}: {path} would overwrite {file}; {way_out}")

    def refuse_moving(self, directory: Path, key: str, way_out: str) -> None:
        """See that none of them lies in a directory, at any depth.

        Raises:
            JobError: when one does.
        """
        home = Path(os.path.realpath(directory))
        for identity, file in self._by_identity.items():
            if isinstance(identity, str) and Path(identity).is_relative_to(home):
                raise JobError(f"{key}: {directory} would be moved, and with it {file}; {way_out}")


def _identities(path: Path) -> list[object]:
    """Return what two paths to one file have in common: where links end, and the inode."""
    found: list[object] = [os.path.realpath(path)]
    with suppress(OSError, ValueError):
        facts = path.stat()
        found.append((facts.st_dev, facts.st_ino))
    return found


def flush_directory(directory: Path) -> None:
    """Make sure that the names in a directory survive a power failure."""
    with suppress(OSError):  # not every file system can, and the names are there all the same
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tables(section: object) -> list[dict[str, Any]]:
    sections = section if isinstance(section, list) else [section]
    return [table for table in sections if isinstance(table, dict)]


def _paths(value: object, base: Path) -> Iterator[Path]:
    """Yield the files that a key names: one or several; of `file.py:function` the file."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text:
            name, colon, _ = text.rpartition(":")
            with suppress(ValueError):
                yield absolute(base, name if colon and name.endswith(".py") else text)


__all__ = [
    "PRIVATE_FILE",
    "Protected",
    "UserFile",
    "flush_directory",
    "is_same_file",
    "user_files",
]
