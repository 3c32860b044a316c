"""Finds literal credentials in job files, by their names or by their values.

A job is stored with its run and may be shared, so a literal key in it is refused. To avoid false alarms,
only names count that have no other use, and the prefixes that vendors give to their keys.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from batchrun.errors import short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MASK = "***"
# The key of a job file that names a program instead of an environment variable.
KEY_COMMAND = "api_key_command"
_MARKED = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        sk-(?=[\w-]*\d)[\w-]{16,}                       # OpenAI, Anthropic, OpenRouter, DeepSeek …
        | (?:gsk_|xai-|hf_|r8_|fw_|pplx-|nvapi-|glpat-|github_pat_|gh[opsu]_|xox[abpr]-)[\w-]{20,}
        | AIza[\w-]{30,} | ya29\.[\w-]{20,}             # Google
        | (?:AKIA|ASIA)[0-9A-Z]{16}                     # AWS
        | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}         # a JSON web token
    )""",
    re.VERBOSE,
)
_SCHEME = re.compile(r"\s*(?:bearer|basic|token|apikey|api-key)\s+[^\s{}]{8,}\s*", re.IGNORECASE)
_BEHIND_SCHEME = re.compile(
    r"\b(Bearer|Basic)\s+(?=[\w.~+/-]*[\d=])[\w.~+/-]{12,}=*", re.IGNORECASE
)

_HEADER = re.compile(
    r"""(?:.*[-_])?(?:authori[sz]ation|auth|cookie2?|token|key|api-?key|signature|credentials?)
        | .*(?:secret|passw(?:or)?d|passphrase|apikey).*""",
    re.VERBOSE | re.IGNORECASE,
)
# These look like names of credentials but are not.
_HARMLESS = re.compile(r"idempotency-key|(?:.*-)?cache-key|x-partition-key", re.IGNORECASE)
_BODY_KEY = re.compile(
    r"""(?:x[-_]?)?api[-_]?key | (?:access|secret|private|subscription|auth|virtual|gateway|signing)[-_]?key
        | (?:access|auth|refresh|id|bearer|session|security|api|private|gateway)[-_]?token | token
        | (?:aws|azure|vertex|google)[-_]\w*(?:secret|key|token|credentials)\w*
        | (?:proxy-)?authori[sz]ation | (?:\w+[-_])?passw(?:or)?d | (?:\w+[-_])?(?:client)?secret
        | credentials? | cookie""",
    re.VERBOSE | re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"""(?:.*[-_])?(?:key|apikey|token|sig|signature|secret|passw(?:or)?d|pwd|auth|credentials?
        | authori[sz]ation | jwt | code)""",
    re.VERBOSE | re.IGNORECASE,
)
_FEWEST_LETTERS = 4  # a shorter value is not a credential


def without_credentials(text: str) -> str:
    """Return a text in which everything that looks like a credential is masked."""
    return _BEHIND_SCHEME.sub(rf"\1 {MASK}", _MARKED.sub(MASK, text))


def is_credential(value: str) -> bool:
    """Whether a text contains a vendor's key, or consists of a scheme such as `Bearer` and a value."""
    return _MARKED.search(value) is not None or _SCHEME.fullmatch(value) is not None


def check_header_values(headers: Mapping[str, object]) -> None:
    """Check that no header is a literal credential.

    Raises:
        ValueError: names the header and the alternative, never the value.
    """
    for name, value in headers.items():
        if isinstance(value, str) and (_is_secret_header(name, value) or is_credential(value)):
            raise ValueError(
                f"{short(name)} is a credential and would be stored with the run; take it from an "
                f"environment variable instead: {secret_header_example(name)}"
            )


def _is_secret_header(name: str, value: str) -> bool:
    if _HARMLESS.fullmatch(name) or not _HEADER.fullmatch(name):
        return False
    return _may_be_secret(value)


def _may_be_secret(value: str) -> bool:
    """Whether a value can be a credential: not if it is very short or only a template."""
    text = value.strip()
    is_template = text.startswith("{{") and text.endswith("}}")
    return len(text) >= _FEWEST_LETTERS and text.lower() != "false" and not is_template


def secret_header_example(name: str) -> str:
    """Return an example for a job file: a key that reads a header from the environment."""
    variable = re.sub(r"\W", "_", name).upper().lstrip("0123456789_") or "GATEWAY_KEY"
    return f'secret_headers = {{ "{name}" = "{variable}" }}'


def check_body_values(body: Mapping[str, object]) -> None:
    """Check that no value in a body is a literal credential.

    Raises:
        ValueError: names its place and the alternative, never the value.
    """
    for place, name, text in _texts(body, ""):
        is_named = _BODY_KEY.fullmatch(name) is not None and _may_be_secret(text)
        if is_named or is_credential(text):
            raise ValueError(
                f"{without_credentials(place)} is a credential and would be stored with the run; "
                "bodies cannot carry one. Send it as a header, from an environment variable: "
                f"api_key_env, or {secret_header_example('x-gateway-key')}"
            )


def _texts(value: object, place: str, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the texts in a value with their places and keys."""
    if isinstance(value, dict):
        for key, part in value.items():
            if is_credential(str(key)):
                yield place or "a key", "", str(key)
            yield from _texts(part, f"{place}.{key}" if place else str(key), str(key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts(part, f"{place}[{number}]", name)
    elif isinstance(value, str):
        yield place, name, value


def check_url(url: str) -> None:
    """Check that a URL contains no credential: as user, parameter, or part of the path.

    Raises:
        ValueError: names the place and the alternative, never the value.
    """
    found = _in_url(url)
    if found is not None:
        raise ValueError(
            f"must not contain credentials, and {without_credentials(found)} is one, which would "
            "be stored with the run; send it as a header, from an environment variable: "
            f"api_key_env, or {secret_header_example('x-gateway-key')}"
        )


def _in_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a part of it" if is_credential(unquote(url)) else None
    if "@" in parts.netloc:
        return "the part before @"
    for name, value in parse_qsl(parts.query, keep_blank_values=False):
        if is_credential(value) or (_PARAMETER.fullmatch(name) and _may_be_secret(value)):
            return f"its parameter {name}"
    if any(is_credential(unquote(part)) for part in parts.path.split("/")):
        return "a part of its path"
    # Other parts, such as the host.
    return "a part of it" if _MARKED.search(unquote(url)) else None
