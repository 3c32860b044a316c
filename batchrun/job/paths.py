"""Paths in a job file, the files that a job may read, and the Python files that it names."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchrun.errors import JobError, quoted
from batchrun.job.reader import as_text, read_small_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

# Ends the names of run directories with simulated answers.
SIMULATED_SUFFIX = ".simulated"


# Keys of `[request]` whose files are sent away.
_SENT = ("prompt_file", "system_file", "image_dir", "document_dir")
JOBS_FOLDER = "jobs"
_REMOTE = re.compile(r"(?:s3a?|gs|gcs|az|azure|adl|abfss?|hf|https?)://", re.IGNORECASE)
# File systems refuse longer names of files and folders.
LONGEST_NAME = 255
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def absolute(base: Path, text: str) -> Path:
    """Return a path of the job file as an absolute one.

    Raises:
        ValueError: if the path is impossible.
    """
    if "\0" in text:
        raise ValueError("contains a null character")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
        raise ValueError(f"{quoted(text)} has a name of more than {LONGEST_NAME} bytes; shorten it")
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{quoted(text)} starts with an unknown user name") from None


def is_remote(path: str) -> bool:
    """Return whether a path is an address that polars fetches from."""
    return _REMOTE.match(path) is not None


def check_remote(address: str) -> str:
    """Return an address if it may be fetched from.

    Raises:
        ValueError: says why it may not.
    """
    parts = urlsplit(address)
    if parts.query or parts.username is not None or parts.fragment:
        # It is kept with the run, and printed.
        raise ValueError(
            "must not contain a password, a query or a fragment; set credentials in the environment"
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("http is allowed for this machine only; use https")
    return address


def project_of(base: Path) -> Path:
    """Return the folder of the job's project: for jobs/x.toml, the folder that contains `jobs`."""
    return base.parent if base.name == JOBS_FOLDER else base


def files_outside_project(
    document: Mapping[str, Any], base: Path, allowed: Mapping[str, Any]
) -> list[str]:
    """Return a problem for each file outside of its project that a job file would send.

    Args:
        document: the job file as parsed.
        base: its folder.
        allowed: values from the command line, by dotted key; these may name any file.
    """
    sections = [("request", document.get("request")), ("matrix", document.get("matrix"))]
    sections += [("score.judge", judge) for judge in judge_tables(document)]
    return [
        f"[{section}] {key}: {quoted(value, 200)} is outside of {project_of(base)}; for security, a job "
        "file can only send files from that folder. Move the file there, or allow it with "
        f"--set {'score.judge' if section == 'score.judge' else 'request'}.{key}=…"
        for section, table in sections
        for key in _SENT
        if not _ways_to_allow(section, key) & allowed.keys()
        for value in _paths(table, key)
        if _is_outside(base, value)
    ]


def _ways_to_allow(section: str, key: str) -> set[str]:
    """Return the dotted keys with which the command line may name a file for a key."""
    if section == "score.judge":
        return {f"{section}.{key}"}
    return {key, f"request.{key}", f"matrix.{key}"}


def judge_tables(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables `[score.judge]` of a job as parsed."""
    scores = _tables(document.get("score"))
    return [table for score in scores for table in _tables(score.get("judge"))]


def _paths(section: object, key: str) -> list[str]:
    """Return the paths that a key names: one, or in a matrix several."""
    given = section.get(key) if isinstance(section, dict) else None
    values = given if isinstance(given, list) else [given]
    return [value for value in values if isinstance(value, str)]


def _is_outside(base: Path, text: str) -> bool:
    try:
        path = absolute(base, text).resolve()
        return not path.is_relative_to(project_of(base).resolve())
    except (OSError, ValueError, RuntimeError):
        return False  # not a valid path, which is an error where it is used


def read_beside(base: Path, file: str) -> str:
    """Read a text that a job file names.

    Raises:
        ValueError: names the file and the reason why it cannot be read.
    """
    try:
        return as_text(read_small_file(absolute(base, file)))
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"{file} {error}") from None


# Only the owner can read the files of a run, even if others can read the directory.
PRIVATE_FILE = 0o600

_NAMED = (
    ("request", "prompt_file"),
    ("request", "system_file"),
    ("request", "documents"),
    ("request", "image_dir"),
    ("request", "document_dir"),
    ("matrix", "prompt_file"),
    ("matrix", "system_file"),
    ("matrix", "image_dir"),
    ("matrix", "document_dir"),
    ("tools", "module"),
    ("score", "function"),
)


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file or folder of the user that a run must not change.

    Attributes:
        path: its path.
        role: its role in the job, such as `[input] path`.
    """

    path: Path
    role: str

    def __str__(self) -> str:
        return f"{self.path} ({self.role})"


def user_files(
    document: Mapping[str, Any], base: Path, job_file: Path | None = None
) -> tuple[UserFile, ...]:
    """Return the job file and the files that it names, if their paths are valid.

    The files of the input are not included, because a glob must be expanded first.
    """
    named = [
        UserFile(path, f"[{section}] {key}")
        for section, key in _NAMED
        for table in _tables(document.get(section))
        for path in _file_paths(table.get(key), base)
    ]
    named += [
        UserFile(path, f"[score.judge] {key}")
        for key in _SENT
        for table in judge_tables(document)
        for path in _file_paths(table.get(key), base)
    ]
    own = [] if job_file is None else [UserFile(job_file, "the job file")]
    return (*own, *named)


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, through links, hard links or another spelling."""
    return not {*_identities(one)}.isdisjoint(_identities(other))


class ProtectedFiles:
    """The user's files of a job, which nothing may be written to.

    Args:
        files: there may be many thousands of them.
    """

    def __init__(self, files: Iterable[UserFile]) -> None:
        self._by_identity = {key: file for file in files for key in _identities(file.path)}

    def refuse_overwriting(self, path: Path, key: str, way_out: str) -> None:
        """Check that a file to be written is not one of them, under any name.

        Args:
            path: the file to be written.
            key: its key in the job, such as `[output] files`.
            way_out: what to do instead, for the message.

        Raises:
            JobError: if it is one of them.
        """
        for identity in _identities(path):
            if (file := self._by_identity.get(identity)) is not None:
                raise JobError(f"{key}: {path} would overwrite {file}; {way_out}")

    def refuse_moving(self, directory: Path, key: str, way_out: str) -> None:
        """Check that none of them is in a directory, at any depth.

        Raises:
            JobError: if one is.
        """
        home = Path(os.path.realpath(directory))
        for identity, file in self._by_identity.items():
            if isinstance(identity, str) and Path(identity).is_relative_to(home):
                raise JobError(f"{key}: {directory} would be moved, and with it {file}; {way_out}")


def _identities(path: Path) -> list[object]:
    """Return identities that two paths to one file share: the resolved path, and the inode."""
    found: list[object] = [os.path.realpath(path)]
    with suppress(OSError, ValueError):
        facts = path.stat()
        found.append((facts.st_dev, facts.st_ino))
    return found


def flush_directory(directory: Path) -> None:
    """Flush a directory, so that the names in it survive a power failure."""
    with suppress(OSError):  # not every file system can, and the names are there all the same
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tables(section: object) -> list[dict[str, Any]]:
    sections = section if isinstance(section, list) else [section]
    return [table for table in sections if isinstance(table, dict)]


def _file_paths(value: object, base: Path) -> Iterator[Path]:
    """Yield the files that a key names: one or several; of `file.py:function` the file."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text:
            name, colon, _ = text.rpartition(":")
            with suppress(ValueError):
                yield absolute(base, name if colon and name.endswith(".py") else text)


__all__ = [
    "PRIVATE_FILE",
    "ProtectedFiles",
    "UserFile",
    "flush_directory",
    "is_same_file",
    "user_files",
]


def import_file(path: Path, key: str) -> ModuleType:
    """Import a Python file as a module.

    Args:
        path: the file.
        key: where the job names it, for messages: `[tools] module`.

    Raises:
        JobError: if it is not a Python file or cannot be imported; names the line that failed.
    """
    spec = importlib.util.spec_from_file_location(f"batchrun_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise JobError(f"{key}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As for a script, modules beside it can be imported; it comes last, to hide nothing of ours.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(path, error)
        place = f"{path}, line {line}" if line else str(path)
        raise JobError(
            f"{key}: {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _line_in(path: Path, error: BaseException) -> int | None:
    """Return the last line of the file in the traceback of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None


def is_simulated(directory: Path) -> bool:
    """Return whether a run directory, or the one of a matrix cell, is for simulated answers."""
    path = directory.resolve()
    return any(place.name.endswith(SIMULATED_SUFFIX) for place in (path, path.parent))
