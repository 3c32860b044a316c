"""Headers of a job: those that it gives, and those that come from the environment.

A job is kept with its run, so it holds no credential.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from batchrun.formats.credentials import check_body_values, check_header_values, check_url
from batchrun.formats.endpoint import check_headers, check_key_variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.sections import Section


def read_headers(section: Section) -> tuple[tuple[str, str], ...]:
    """Return the headers that a job gives as they are, by lower-case names."""
    headers = section.table("extra_headers")
    section.check("extra_headers", partial(_check_extra_headers, headers), None)
    return tuple((name.lower(), str(value)) for name, value in headers.items())


def _check_extra_headers(headers: dict[str, Any]) -> None:
    check_headers(headers)
    check_header_values(headers)


def read_secret_headers(section: Section) -> tuple[tuple[str, str], ...]:
    """Return headers and the environment variables that hold their values."""
    given = section.table("secret_headers")
    section.check("secret_headers", partial(_check_secret_headers, given), None)
    literal = {name.lower() for name in section.table("extra_headers")}
    if both := sorted(literal & {name.lower() for name in given}):
        section.problem("secret_headers", f"{both[0]} is in extra_headers, too; remove one of them")
    return tuple((name.lower(), str(variable)) for name, variable in given.items())


def literal_credentials(matrix: object) -> list[str]:
    """Say which lists of a `[matrix]` hold credentials."""
    checks: dict[str, Callable[[Any], None]] = {
        "base_url": check_url,
        "extra_headers": check_header_values,
        "extra_body": check_body_values,
        "api_key_env": check_key_variable,
        "secret_headers": _check_secret_headers,
    }
    problems: list[str] = []
    for key, check_value in checks.items():
        values = matrix.get(key) if isinstance(matrix, dict) else None
        for value in values if isinstance(values, list) else ():
            if isinstance(value, str if key in {"base_url", "api_key_env"} else dict):
                try:
                    check_value(value)
                except ValueError as error:
                    problems.append(f"{key}: {error}")
    return problems


def _check_secret_headers(given: dict[str, Any]) -> None:
    check_headers(given)
    for name, variable in given.items():
        if not variable:
            raise ValueError(f"{name} needs the name of an environment variable")
        try:
            check_key_variable(variable)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
