"""Paths of a job file, and which files a job file may have read.

A job file may come from a stranger, and what it names is sent away. Its texts and images come from
its own project only; whoever runs it can allow others, on the command line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchrun.sections import as_text, read_small_file

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys of `[request]` whose files are sent away.
_SENT = ("prompt_file", "system_file", "image_dir")
JOBS_FOLDER = "jobs"
_REMOTE = re.compile(r"(?:s3a?|gs|gcs|az|azure|adl|abfss?|hf|https?)://", re.IGNORECASE)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def absolute(base: Path, text: str) -> Path:
    """Return a path of the job file as an absolute one.

    Raises:
        ValueError: when there can be no such path.
    """
    if "\0" in text:
        raise ValueError("holds a null character")
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r:.80} begins with a user who is not known here") from None


def is_remote(path: str) -> bool:
    """Say whether a path is an address that polars fetches from."""
    return _REMOTE.match(path) is not None


def check_remote(address: str) -> str:
    """Return an address that may be fetched from.

    Raises:
        ValueError: saying why it may not.
    """
    parts = urlsplit(address)
    if parts.query or parts.username is not None or parts.fragment:
        # It is kept with the run, and printed.
        raise ValueError(
            "an address must not hold a password, a query or a fragment; credentials come from the "
            "environment"
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("plain http is for this machine only; use https")
    return address


def project_of(base: Path) -> Path:
    """Return the folder of the job's project: jobs/x.toml belongs to what is beside `jobs`."""
    return base.parent if base.name == JOBS_FOLDER else base


def strays(document: Mapping[str, Any], base: Path, allowed: Mapping[str, Any]) -> list[str]:
    """Say which files a job file wants to have sent from outside of its project.

    Args:
        document: the job file as parsed.
        base: its folder.
        allowed: what the command line says, by dotted key; it may name any file.
    """
    return [
        f"[{section}] {key}: {value!r:.200} is outside of {project_of(base)}; a job file can have "
        "files sent only from its own folder, or from beside its jobs folder. Move the file there, "
        f"or allow it yourself: --set request.{key}=…"
        for section in ("request", "matrix")
        for key in _SENT
        if not {key, f"request.{key}", f"matrix.{key}"} & allowed.keys()
        for value in _paths(document.get(section), key)
        if _is_outside(base, value)
    ]


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
        return False  # no such path at all, which is told where it is used


def read_beside(base: Path, file: str) -> str:
    """Read a text that a job file names.

    Raises:
        ValueError: saying which one cannot be read, and why.
    """
    try:
        return as_text(read_small_file(absolute(base, file)))
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"{file} {error}") from None
