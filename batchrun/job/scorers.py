"""The section `[score]` of a job file, or several `[[score]]` with a name each."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast, get_args

from batchrun.errors import quoted
from batchrun.job.configs import Match, ScoreConfig
from batchrun.job.judge import read_judge
from batchrun.job.overrides import SCORE
from batchrun.job.paths import absolute
from batchrun.job.reader import Section, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from batchrun.job.configs import JudgeConfig


MATCHES: tuple[str, ...] = get_args(Match)
MOST_SCORERS = 20
MOST_WEIGHT = 1e6
LABEL_MATCHES = ("exact", "casefold")
TOLERANT = ("number", "json", "fields")
VARIANTS: dict[str, tuple[str, ...]] = {
    "rouge": ("rougeL", "rouge1", "rouge2"),
    "similarity": (
        "ratio",
        "partial_ratio",
        "token_sort_ratio",
        "token_set_ratio",
        "levenshtein",
        "jaro_winkler",
    ),
}
REDUCERS = ("mean", "majority", "max")
_COUNTED = re.compile(r"(?:at_least_|pass@|pass\^)[1-9]\d{0,3}\Z")
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*\Z")
_HALF_WIDTH = re.compile(r"\s*(?:±|\+-|\+/-)?\s*(\d+(?:\.\d+)?)\s*%\s*\Z")
LEAST_STOP_AT, MOST_STOP_AT = 0.001, 0.25
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,49}\Z")


def score_sections(top: Section, problems: list[str]) -> list[Section]:
    """Return a section for each scorer of a job: none, one, or several with names."""
    given = top.raw(SCORE)
    if given is None or given == {}:
        return []
    tables = given if isinstance(given, list) else [given]
    if not all(isinstance(table, dict) for table in tables):
        top.problem(SCORE, f"must be a table, or an array of tables, not {quoted(given)}")
        return []
    if len(tables) > MOST_SCORERS:
        top.problem(SCORE, f"has {len(tables)} scorers; at most {MOST_SCORERS} are allowed")
        return []
    if isinstance(given, dict):
        return [Section(SCORE, given, problems)]
    labels = (table.get("name") or number for number, table in enumerate(tables, 1))
    return [
        Section(f"{SCORE}.{label}", table, problems)
        for label, table in zip(labels, tables, strict=True)
    ]


def read_scores(
    sections: Sequence[Section], base: Path, request: Mapping[str, Any]
) -> tuple[ScoreConfig, ...]:
    """Read the scorers and add the problems to their sections.

    `request` is the job's `[request]` as parsed: a judge uses its provider unless it has another one.
    """
    configs = (_read_score(section, base, request) for section in sections)
    return tuple(_checked(sections, configs))


def _checked(sections: Sequence[Section], configs: Iterator[ScoreConfig]) -> Iterator[ScoreConfig]:
    """Yield the scorers, and check that their names are unique."""
    seen: set[str] = set()
    for section, config in zip(sections, configs, strict=True):
        name = config.name.casefold()
        if not name and len(sections) > 1:
            section.problem("name", 'is missing; each [[score]] needs one, such as name = "exact"')
        elif name in seen:
            section.problem("name", f"{quoted(config.name)} is the name of another [[score]]")
        seen.add(name)
        yield config


def _read_score(section: Section, base: Path, request: Mapping[str, Any]) -> ScoreConfig:
    function = section.get("function", str)
    config = ScoreConfig(
        expected=section.get("expected", str),
        match=_read_match(section),
        answer=section.get("answer", str),
        choices=_read_choices(section),
        function=section.check("function", partial(_function, base, function), None),
        name=section.check("name", partial(_name, section.text("name")), ""),
        weight=section.number("weight", float, 1.0, most=MOST_WEIGHT),
        pass_at=section.get("pass_at", float),
        judge=_read_judge(section, base, request),
        labels=_read_labels(section),
        tolerance=section.check("tolerance", partial(_tolerance, section), None),
        variant=section.check("variant", partial(_variant, section), ""),
        by=section.strings("by") or (),
        cluster=section.get("cluster", str),
        stop_at=section.check("stop_at", partial(_stop_at, section), None),
        reduce=section.check("reduce", partial(_reducer, section.text("reduce", "mean")), "mean"),
    )
    if not (config.expected or "").strip() and function is None and config.judge is None:
        section.problem(
            "expected",
            'is missing; write the correct answer, such as expected = "{{ label }}", or '
            'function = "my_scores.py:score"',
        )
    if function is not None and "match" in section:
        section.problem("function", "match has no effect with a function; remove one of them")
    for key in ("match", "answer", "choices", "function"):
        if config.judge is not None and key in section:
            section.problem(key, "has no effect with a judge; remove one of them")
    if config.judge is not None and config.pass_at is None and _COUNTED.match(config.reduce):
        worths = config.judge.scale or tuple(config.judge.choices.values())
        if not all(0 <= worth <= 1 for worth in worths):
            section.problem(
                "reduce", "needs pass_at, because the judge's scores are not from 0 to 1"
            )
    return replace(
        config, pass_at=section.check("pass_at", partial(_pass_at, section, config), None)
    )


def _read_judge(section: Section, base: Path, request: Mapping[str, Any]) -> JudgeConfig | None:
    given = section.get("judge", dict)
    if given is None:
        return None
    config, problems = read_judge(given, request, base, f"{section.name}.judge")
    section.add(problems)
    return config


def _name(given: str) -> str:
    if given and _NAME.match(given) is None:
        raise ValueError(
            "must be letters, digits and underscores, at most 50, because it is part of column "
            f"names; not {quoted(given)}"
        )
    return given


def _pass_at(section: Section, config: ScoreConfig) -> float | None:
    number = config.pass_at
    if number is None:
        return None
    if not -1e300 < number < 1e300:
        raise ValueError(f"must be a finite number, not {quoted(number)}")
    bounds = None if "function" in section else _score_bounds(config)
    if bounds is not None and not bounds[0] <= number <= bounds[1]:
        scorer = f'match = "{config.match}"' if config.judge is None else "the judge"
        raise ValueError(
            f"must be from {bounds[0]:g} to {bounds[1]:g}, as the scores of {scorer} are, not "
            f"{number:g}; {'no' if number > bounds[1] else 'every'} answer would pass"
        )
    return number


def _score_bounds(config: ScoreConfig) -> tuple[float, float] | None:
    """Return the lowest and the highest score of a scorer without a function; None if the judge's are unknown."""
    if config.judge is None:
        return 0, 1
    worths = config.judge.scale or tuple(config.judge.choices.values())
    return (min(worths), max(worths)) if worths else None


def _read_match(section: Section) -> Match:
    name = section.text("match", "exact")
    if name not in MATCHES:
        known = ", ".join(f'"{match}"' for match in MATCHES)
        hint = did_you_mean(name, MATCHES)
        section.problem("match", f"must be one of {known}, not {quoted(name)}{hint}")
        name = "exact"
    return cast("Match", name)


def _read_choices(section: Section) -> tuple[str, ...]:
    choices = section.strings("choices") or ()
    if "choices" not in section:
        return ()
    if section.raw("match") not in {"choice", "set"}:
        section.problem("choices", 'needs match = "choice" or "set"; set it, or remove choices')
    section.check("choices", partial(_check_choices, choices), None)
    return tuple(choice.strip() for choice in choices)


def _read_labels(section: Section) -> tuple[str, ...]:
    labels = section.strings("labels") or ()
    if "labels" not in section:
        return ()
    if section.text("match", "exact") not in LABEL_MATCHES:
        section.problem("labels", 'needs match = "exact" or "casefold", or a function')
    section.check("labels", partial(_check_choices, labels), None)
    return tuple(label.strip() for label in labels)


def _tolerance(section: Section) -> float | str | None:
    given = section.raw("tolerance")
    if given is None:
        return None
    if section.text("match", "exact") not in TOLERANT:
        raise ValueError(f"needs match = {_either(TOLERANT)}")
    amount = float(found[1]) if (found := _PERCENT.match(str(given))) else given
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1e300:
        raise ValueError(
            f'must be a number of at least 0, or a share such as "1 %", not {quoted(given)}'
        )
    return given if isinstance(given, str) else float(given)


def _stop_at(section: Section) -> float | None:
    given = section.raw("stop_at")
    if given is None:
        return None
    for key, why in (
        ("judge", "a judge is asked when all answers are there"),
        ("function", "a function may be slow, and its scores may be of any size"),
        ("cluster", "it counts rows as independent"),
    ):
        if key in section:
            raise ValueError(f"does not work with {key}: {why}; remove one of them")
    if section.text("match", "exact") == "math":
        raise ValueError('does not work with match = "math", which is slow; use match = "number"')
    width = float(found[1]) / 100 if (found := _HALF_WIDTH.match(str(given))) else given
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if not is_number or not LEAST_STOP_AT <= width <= MOST_STOP_AT:
        raise ValueError(f'must be from "±0.1 %" to "±25 %", such as "±2 %", not {quoted(given)}')
    return float(width)


def _variant(section: Section) -> str:
    given, known = section.get("variant", str), VARIANTS.get(section.text("match", "exact"), ())
    if given is None:
        return ""
    if not known:
        raise ValueError(f"needs match = {_either(VARIANTS)}")
    if given not in known:
        raise ValueError(
            f"must be {_either(known)}, not {quoted(given)}{did_you_mean(given, known)}"
        )
    return given


def _reducer(given: str) -> str:
    if given not in REDUCERS and _COUNTED.match(given) is None:
        raise ValueError(
            f'must be {_either(REDUCERS)}, "at_least_2", "pass@2" or "pass^2" with any number, '
            f"not {quoted(given)}"
        )
    return given


def _either(names: Iterable[str]) -> str:
    *most, last = (f'"{name}"' for name in names)
    return f"{', '.join(most)} or {last}" if most else last


def _check_choices(choices: Sequence[str]) -> None:
    folded = [choice.strip().casefold() for choice in choices]
    if len(folded) < 2 or not all(folded):
        raise ValueError("needs at least two labels, none of them empty")
    if len(set(folded)) != len(folded):
        raise ValueError("contains a label twice; case is ignored")


def _function(base: Path, given: str | None) -> tuple[Path, str] | None:
    """Return the file and the name of `file.py:name`."""
    if given is None:
        return None
    file, _, name = given.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier() or "\0" in file:
        raise ValueError(
            f'must be a Python file and a function in it, as "my_scores.py:score", '
            f"not {quoted(given)}"
        )
    path = absolute(base, file)
    if not path.is_file():
        raise ValueError(f"{quoted(file)} is not a Python file; expected at {path}")
    return path, name
