"""Reads TOML with types. Keys that nothing reads are errors.

Problems are collected, not raised one by one, so that all of them can be corrected at once.
"""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from batchrun.errors import JobError, quoted, short, truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


T = TypeVar("T")

# Of a job file, or of a text that it names.
MAX_FILE_BYTES = 16 * 1024 * 1024
MOST_NAMES = 30

# Names by which other tools call keys of a section.
OTHER_NAMES: dict[str, dict[str, str]] = {
    "request": {
        "reasoning_effort": "effort",
        "reasoning": "effort, or extra_body",
        "thinking": "effort or thinking_tokens",
        "budget_tokens": "thinking_tokens",
        "output_config": "effort or json_schema",
        "response_format": "json_schema",
        "schema": "json_schema",
        "response_model": "json_schema",
        "metadata": "user, or extra_body",
        "user_id": "user",
        "stop_sequences": "stop",
        "max_completion_tokens": "max_tokens, and max_tokens_key if needed",
        "max_output_tokens": "max_tokens",
        "api_key": "api_key_env with the name of an environment variable",
        "url": "base_url",
        "api_base": "base_url",
        "endpoint": "base_url",
        "headers": "extra_headers",
        "api": "format",
        "functions": "tools",
        "cache_control": "cache_system, or cache in a turn",
    }
}
_TOML_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def toml_name(kind: type) -> str:
    """Return the name of a TOML type in messages, such as `a whole number`."""
    return _TOML_NAMES.get(kind, kind.__name__)


def _parsed(text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - `status` of a run reads no TOML

    return tomllib.loads(text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` for a near miss, or nothing."""
    import difflib  # noqa: PLC0415 - only a wrong key needs it

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{short(close[0])}"?)' if close else ""


def listed(names: Iterable[str]) -> str:
    """Return names for a message: only the first few if there are many, and long ones truncated."""
    every = list(names)
    shown = ", ".join(truncated(name) for name in every[:MOST_NAMES])
    return shown if len(every) <= MOST_NAMES else f"{shown} and {len(every) - MOST_NAMES:,} more"


class TooLargeError(ValueError):
    """A file is larger than it may be."""


def read_small_file(path: Path, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file; a pipe or a device, which could block forever, is refused.

    Raises:
        TooLargeError: when it is larger than `most_bytes`.
        ValueError: says why it cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("cannot be read (not a regular file)")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return _bounded(file, most_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ValueError("file not found") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def _bounded(file: BinaryIO, most_bytes: int) -> bytes:
    content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TooLargeError(f"is larger than {most_bytes // 2**20} MiB")
    return content


def as_text(content: bytes) -> str:
    """Return UTF-8 as text with plain line ends; a byte order mark, as on Windows, is not text.

    Raises:
        UnicodeDecodeError: when it is not UTF-8.
    """
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, which may also be a pipe such as `<(make-job)`.

    Raises:
        JobError: names the file.
    """
    try:
        with path.open("rb") as file:
            text = as_text(_bounded(file, MAX_FILE_BYTES))
        return _parsed(text)
    except FileNotFoundError:
        raise JobError(f"{path}: file not found") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: is not UTF-8 text") from None
    except TooLargeError as error:
        raise JobError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise JobError(f"{path}: is not valid TOML: {error}") from None


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as TOML, and as plain text when it is not TOML.

    Raises:
        JobError: if there is no `=`.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise JobError("--set: write it as key=value, such as --set temperature=0.2")
    try:
        parsed = _parsed(f"value = {text}")
    except (ValueError, RecursionError):
        return key.strip(), text
    # Text of several lines can look like more TOML than the one value.
    return key.strip(), parsed["value"] if len(parsed) == 1 else text


class Section:
    """One table of a job file, such as `[limits]`.

    Args:
        name: name of the table, for messages; empty for the top level.
        values: the table as parsed.
        problems: a list that is shared by all sections of a file and collects messages.
    """

    def __init__(self, name: str, values: Mapping[str, Any], problems: list[str]) -> None:
        self.name = name
        self._values = values
        self._problems = problems
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def known(self) -> frozenset[str]:
        """The keys of this section that have been read so far."""
        return frozenset(self._asked)

    def label(self, key: str) -> str:
        """Return the key in the form for messages: `[limits] concurrency`."""
        return f"[{short(self.name)}] {short(key)}" if self.name else short(key)

    def problem(self, key: str, message: str) -> None:
        """Record a problem of a key."""
        self._problems.append(f"{self.label(key)}: {message}")

    def add(self, problems: Iterable[str]) -> None:
        """Record a problem of a table inside this one."""
        self._problems += problems

    def has_problem(self, key: str) -> bool:
        """Return whether a problem of a key is recorded."""
        return any(problem.startswith(f"{self.label(key)}: ") for problem in self._problems)

    def check(self, key: str, examine: Callable[[], T], default: T) -> T:
        """Return the value of `examine`; if it raises ValueError, record that as a problem of the key."""
        try:
            return examine()
        except ValueError as error:
            self.problem(key, str(error))
            return default

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of `key` if it is there and of the given type."""
        self._asked.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        # In Python a bool is an int; in a job file, `true` is not a number.
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return _as_float(value)  # type: ignore[return-value]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.problem(key, f"must be {toml_name(kind)}, not {quoted(value)}")
            return None
        return value

    def raw(self, key: str) -> Any:  # noqa: ANN401 - the caller checks the type
        """Return the value of `key` as parsed, whatever its type."""
        self._asked.add(key)
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        """Return a string."""
        value = self.get(key, str)
        return default if value is None else value

    def number(
        self, key: str, kind: type[T], default: T, *, above: float = 0, most: float = float("inf")
    ) -> T:
        """Return a finite number greater than `above` and not greater than `most`."""
        value = self.get(key, kind)
        if value is None:
            return default
        if not above < value <= most or value == math.inf:  # type: ignore[operator]
            bound = f"above {above:g}" + (f" and at most {most:g}" if most != math.inf else "")
            self.problem(key, f"must be a finite number {bound}, not {quoted(value)}")
            return default
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return an array of strings; a single string counts as an array of one."""
        value = self.raw(key)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            self.problem(key, f"must be a string or an array of strings, not {quoted(value)}")
            return None
        return tuple(values)

    def table(self, key: str) -> dict[str, Any]:
        """Return a sub-table, empty when it is not there."""
        return self.get(key, dict) or {}

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the sub-tables under keys that have not been read, by their key."""
        names = self._values.keys() - self._asked
        found = {key: self._values[key] for key in self._values if key in names}
        tables = {key: value for key, value in found.items() if isinstance(value, dict)}
        self._asked |= tables.keys()
        return tables

    def _hint(self, key: str) -> str:
        """Return a suggestion for an unknown key."""
        names = OTHER_NAMES.get(self.name, {})
        if (name := names.get(key)) is not None:
            return f" (write {name})"
        near = did_you_mean(key, self.known)
        return near or (" (to send it as it is, write it in extra_body)" if names else "")

    def finish(self, homes: Mapping[str, str]) -> None:
        """Report the keys that were not read, before missing ones: a misspelt key may be the cause.

        Args:
            homes: the keys of all sections, with the section that each belongs in.
        """
        others = len(self._problems)
        for key in self._values:
            if key not in self._asked:
                home = homes.get(key)
                hint = f" (it belongs in [{home}])" if home else self._hint(key)
                self.problem(key, f"unknown key{hint}")
        self._problems[:] = [*self._problems[others:], *self._problems[:others]]


def _as_float(value: int) -> float:
    # Integers of TOML may be larger than any float.
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
