"""Typed reading of TOML: every key is asked for once, and what is left over is an error.

Problems are gathered, not raised one at a time, so that a job file is mended in one go.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from batchrun.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")

_TOML_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def toml_name(kind: type) -> str:
    """Return how messages call a TOML type, such as `a whole number`."""
    return _TOML_NAMES.get(kind, kind.__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` for a near miss, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def read_text(path: Path) -> str:
    """Read a UTF-8 text file; a byte order mark, as Windows editors write it, is not text.

    Raises:
        ValueError: saying why it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except ValueError as error:  # a path with a null character
        raise ValueError(f"cannot be read ({error})") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        JobError: naming the file.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise JobError(f"{path}: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise JobError(f"{path}: is not valid TOML: {error}") from None


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as TOML, and as plain text when it is not TOML.

    Raises:
        JobError: when there is no `=`.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise JobError(f"--set {setting}: write it as key=value, such as --set temperature=0.2")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return key.strip(), text
    # Text of several lines can look like more TOML than the one value.
    return key.strip(), parsed["value"] if len(parsed) == 1 else text


class Section:
    """One table of a job file, such as `[limits]`.

    Args:
        name: the table's name, for messages; empty for the top level.
        values: the table as parsed.
        problems: a list that is shared by all sections of a file and collects messages.
        later: keys that belong to a feature this version does not have; using one is an error.
    """

    def __init__(
        self,
        name: str,
        values: Mapping[str, Any],
        problems: list[str],
        later: Iterable[str] = (),
    ) -> None:
        self.name = name
        self._values = values
        self._problems = problems
        self._later = frozenset(later)
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def known(self) -> frozenset[str]:
        """The keys that this section can hold, as far as they have been asked for."""
        return self._later | self._asked

    def label(self, key: str) -> str:
        """The key as the user would look for it: `[limits] concurrency`."""
        return f"[{self.name}] {key}" if self.name else key

    def problem(self, key: str, message: str) -> None:
        """Record what is wrong with a key."""
        self._problems.append(f"{self.label(key)}: {message}")

    def check(self, key: str, examine: Callable[[], T], default: T) -> T:
        """Return what `examine` returns; when it raises ValueError, record that of the key."""
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
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return _as_float(value)  # type: ignore[return-value]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.problem(key, f"must be {toml_name(kind)}, not {value!r:.80}")
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
            self.problem(key, f"must be a finite number {bound}, not {value!r:.80}")
            return default
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return an array of strings; a single string counts as an array of one."""
        value = self.raw(key)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            self.problem(key, f"must be a string or an array of strings, not {value!r:.80}")
            return None
        return tuple(values)

    def table(self, key: str) -> dict[str, Any]:
        """Return a sub-table, empty when it is not there."""
        return self.get(key, dict) or {}

    def finish(self, homes: Mapping[str, str]) -> None:
        """Report the keys that nobody asked for.

        Args:
            homes: the keys of all sections, with the section that each belongs in.
        """
        for key in self._values:
            if key in self._later:
                self.problem(key, "this version of batchrun does not support it yet; remove it")
            elif key not in self._asked:
                home = homes.get(key)
                hint = f" (it belongs in [{home}])" if home else did_you_mean(key, self.known)
                self.problem(key, f"unknown key{hint}")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
