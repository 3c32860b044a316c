"""Typed reading of a TOML table: every key is asked for once, and what is left over is an error.

Problems are gathered, not raised one at a time, so that a job file is mended in one go.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        self._name = name
        self._values = values
        self._problems = problems
        self._later = frozenset(later)
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def label(self, key: str) -> str:
        """The key as the user would look for it: `[limits] concurrency`."""
        return f"[{self._name}] {key}" if self._name else key

    def problem(self, key: str, message: str) -> None:
        """Record what is wrong with a key."""
        self._problems.append(f"{self.label(key)}: {message}")

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of `key` if it is there and of the given type."""
        self._asked.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # type: ignore[return-value]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.problem(key, f"must be {toml_name(kind)}, not {value!r}")
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
        """Return a number greater than `above` and not greater than `most`."""
        value = self.get(key, kind)
        if value is None:
            return default
        if not above < value <= most:  # type: ignore[operator]
            bound = f"above {above:g}" + (f" and at most {most:g}" if most != float("inf") else "")
            self.problem(key, f"must be {bound}, not {value!r}")
            return default
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return an array of strings; a single string counts as an array of one."""
        value = self.raw(key)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            self.problem(key, f"must be a string or an array of strings, not {value!r}")
            return None
        return tuple(values)

    def table(self, key: str) -> dict[str, Any]:
        """Return a sub-table, empty when it is not there."""
        return self.get(key, dict) or {}

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        known = self._asked | self._later
        for key in self._values:
            if key in self._later:
                self.problem(key, "this version of batchrun does not support it yet; remove it")
            elif key not in self._asked:
                self.problem(key, f"unknown key{did_you_mean(key, known)}")
