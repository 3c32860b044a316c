"""`[score]`: what the answers are compared with, and how."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from batchrun.job.configs import Match, ScoreConfig
from batchrun.sections import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.sections import Section

MATCHES: tuple[str, ...] = get_args(Match)
KEYS = ("expected", "match", "answer", "choices", "function")


def read_score(section: Section, base: Path) -> ScoreConfig | None:
    """Read the section, None when there is none; what is wrong goes to its problems."""
    function = section.get("function", str)
    config = ScoreConfig(
        expected=section.get("expected", str),
        match=_read_match(section),
        answer=section.get("answer", str),
        choices=_read_choices(section),
        function=section.check("function", partial(_function, base, function), None),
    )
    if not any(key in section for key in KEYS):
        return None
    if not (config.expected or "").strip() and function is None:
        section.problem(
            "expected",
            'is missing; give the right answer, such as expected = "{{ label }}", or '
            'function = "my_scores.py:score"',
        )
    if function is not None and "match" in section:
        section.problem("function", "match has no effect with a function; remove one of them")
    return config


def _read_match(section: Section) -> Match:
    name = section.text("match", "exact")
    if name not in MATCHES:
        known = ", ".join(f'"{match}"' for match in MATCHES)
        hint = did_you_mean(name, MATCHES)
        section.problem("match", f"must be one of {known}, not {name!r:.80}{hint}")
        name = "exact"
    return cast("Match", name)


def _read_choices(section: Section) -> tuple[str, ...]:
    choices = section.strings("choices") or ()
    if "choices" not in section:
        return ()
    if section.raw("match") != "choice":
        section.problem("choices", 'are for match = "choice"; set that, or remove them')
    section.check("choices", partial(_check_choices, choices), None)
    return tuple(choice.strip() for choice in choices)


def _check_choices(choices: Sequence[str]) -> None:
    folded = [choice.strip().casefold() for choice in choices]
    if len(folded) < 2 or not all(folded):
        raise ValueError("needs two labels or more, and none of them empty")
    if len(set(folded)) != len(folded):
        raise ValueError("names a label twice; upper and lower case are the same here")


def _function(base: Path, given: str | None) -> tuple[Path, str] | None:
    """Return the file and the name of `file.py:name`."""
    if given is None:
        return None
    file, _, name = given.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier() or "\0" in file:
        raise ValueError(
            f'must be a Python file and a function in it, as "my_scores.py:score", '
            f"not {given!r:.80}"
        )
    path = base / Path(file)
    if not path.is_file():
        raise ValueError(f"{file!r:.80} is not a Python file; expected at {path}")
    return path, name
