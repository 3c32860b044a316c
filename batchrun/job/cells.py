"""`[matrix]`: lists of values for keys of `[request]`. A cell has one value of each list, and is a job."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted, short, truncated
from batchrun.job.configs import Cell
from batchrun.job.reader import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


MOST_CELLS = 100
# Of the value in a cell's name, and of the name: file systems allow 255 bytes.
MOST_LETTERS = 48
MOST_NAME = 160
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Axes = dict[str, list[Any]]


def read_axes(given: object, known: Collection[str], problems: list[str]) -> Axes:
    """Return the valid lists by key.

    Args:
        given: the table as parsed.
        known: the keys of `[request]`.
        problems: collects messages.
    """
    if not isinstance(given, dict) or not given:
        problems.append('[matrix]: must be a table of lists, such as model = ["a", "b"]')
        return {}
    axes: Axes = {}
    for key, values in given.items():
        problem = _problem(key, values, known)
        if problem is None:
            axes[key] = values
        else:
            problems.append(f"[matrix] {short(key)}: {problem}")
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_CELLS:
        sizes = " × ".join(f"{len(values)} of {key}" for key, values in axes.items())
        problems.append(f"[matrix]: has {count:,} cells ({sizes}); the maximum is {MOST_CELLS}")
    return axes


def _problem(key: str, values: object, known: Collection[str]) -> str | None:
    if key not in known:
        return f"is not a key of [request]{did_you_mean(key, known)}"
    if not isinstance(values, list):
        return f"must be a list of values, such as {key} = [{truncated(_text(values))}], not {quoted(values)}"
    if not values:
        return "is empty; give at least one value, or remove it"
    twice = [text for text, count in Counter(map(_text, values)).items() if count > 1]
    if twice:
        return f"contains {short(twice[0])} twice; remove one"
    return None


def cells_of(axes: Axes) -> list[Cell]:
    """Return the combinations of one value of each key; the last key changes fastest."""
    chosen = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [Cell(_name(values), values) for values in chosen]


def _name(values: Mapping[str, Any]) -> str:
    """Return a name for a cell's folder: readable, safe, and the same for the same values."""
    keys = sorted(values, key=lambda key: (key != "model", key))
    name = ",".join(f"{key}={_readable(values[key])}" for key in keys)
    return name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}-{_digest(name)}"


def _readable(value: object) -> str:
    # 0.0 and 0 ask the same.
    number = f"{value:g}" if isinstance(value, float) else _text(value)
    text = value if isinstance(value, str) else number
    plain = _UNSAFE.sub("-", text)[:MOST_LETTERS].strip("-")
    # What two values have in common after the change must not make them one folder.
    return plain if plain == text else f"{plain}-{_digest(_text(value))}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def same_cells(cells: Sequence[Cell], requests: Sequence[object]) -> list[str]:
    """Return messages about cells with the same requests, or the same folder."""
    every = list(zip([cell.name for cell in cells], requests, strict=True))
    return [
        f"[matrix]: the cells {one} and {other} have the same requests or the same folder; remove one"
        for (one, asked), (other, request) in combinations(every, 2)
        if asked == request or one.casefold() == other.casefold()
    ]
