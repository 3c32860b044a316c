"""Where a job's requests go and with which credentials: `provider`, `base_url`, keys and headers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchrun import formats
from batchrun.errors import quoted, short
from batchrun.formats.credentials import (
    check_body_values,
    check_header_values,
    check_url,
    is_credential,
)
from batchrun.formats.providers import PRESETS, meant_provider, preset_at
from batchrun.job.addresses import (
    check_address,
    check_auth,
    check_headers,
    check_key_variable,
    usual_address,
)
from batchrun.job.reader import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.formats import WireFormat
    from batchrun.formats.providers import ProviderPreset
    from batchrun.job.reader import Section

MOST_PROVIDER_LETTERS = 100


@dataclass(frozen=True, slots=True)
class Connection:
    """Where requests go, and how the key is sent. `auth` None: as the format does."""

    wire_format: WireFormat
    provider: str | None
    base_url: str
    api_key_env: str
    auth: str | None
    api_key_command: tuple[str, ...] = ()


def read_connection(section: Section) -> Connection:
    """Read the keys of a section about the provider. Missing ones follow from its preset.

    A preset's key variable and header apply only to the preset's own addresses: a key is never sent to
    another host because of a name.
    """
    provider = _read_provider(section)
    named = PRESETS.get(provider or "")
    wire_format = _read_format(section, named)
    base_url = _read_base_url(section, wire_format, provider)
    preset = preset_at(urlsplit(base_url).hostname or "")
    if preset is None and named is not None and named.is_local:
        preset = named
    usual_key = wire_format.key_env if preset is None else preset.key_env
    command = _read_command(section)
    key_env = section.text("api_key_env", "" if command else usual_key)
    section.check("api_key_env", partial(check_key_variable, key_env), None)
    auth = _read_auth(section)
    if auth is None and preset is not None:
        auth = preset.auth
    return Connection(wire_format, provider, base_url, key_env, auth, command)


def _read_command(section: Section) -> tuple[str, ...]:
    """Read the program that prints the key, and its arguments."""
    given = section.raw("api_key_command")
    if given is None:
        return ()
    words = given if isinstance(given, list) else []
    if not words or not all(isinstance(word, str) and word for word in words):
        section.problem(
            "api_key_command",
            'must be a list of a program and its arguments, such as ["gcloud", "auth", '
            f'"print-access-token"], not {quoted(given)}',
        )
        return ()
    if any(is_credential(word) for word in words):
        section.problem("api_key_command", "contains a key, which would be stored with the run")
    if section.raw("api_key_env"):
        section.problem("api_key_command", "api_key_env is also set; remove one of them")
    return tuple(words)


def _read_provider(section: Section) -> str | None:
    given = section.get("provider", str)
    if given is None:
        return None
    name = given.strip().lower()
    if not name or not name.isprintable() or len(name) > MOST_PROVIDER_LETTERS:
        section.problem(
            "provider",
            f'must be the name of the provider, such as "openrouter", not {quoted(given)}; remove '
            "it to use the host of base_url",
        )
    return name


def _read_format(section: Section, preset: ProviderPreset | None) -> WireFormat:
    usual = formats.DEFAULT if preset is None else preset.format
    name = section.text("format", usual)
    if name not in formats.FORMATS:
        hint = did_you_mean(name, formats.FORMATS)
        known = " or ".join(f'"{known}"' for known in formats.FORMATS)
        section.problem("format", f"must be {known}, not {quoted(name)}{hint}")
        name = usual
    return formats.of(name)


def _read_base_url(section: Section, wire_format: WireFormat, provider: str | None) -> str:
    allow_http = section.get("allow_http", bool) or False
    given = section.get("base_url", str)
    if given is not None:
        examine = partial(check_address, given, wire_format, allow_http=allow_http)
        return section.check("base_url", examine, wire_format.base_url)
    preset = PRESETS.get(provider or "")
    if preset is not None:
        examine = partial(usual_address, preset, wire_format)
        return section.check("base_url", examine, wire_format.base_url)
    if provider is not None and (meant := meant_provider(provider)) is not None:
        section.problem(
            "provider",
            f'{quoted(provider)} is not a provider whose address is known (did you mean "{meant}"?); '
            "use that name, or set base_url",
        )
    return wire_format.base_url


def _read_auth(section: Section) -> str | None:
    given = section.get("auth", str)
    return None if given is None else section.check("auth", partial(check_auth, given), None)


def read_headers(section: Section) -> tuple[tuple[str, str], ...]:
    """Return the literal headers of a job, by lower-case names."""
    headers = section.table("extra_headers")
    section.check("extra_headers", partial(_check_extra_headers, headers), None)
    return tuple((name.lower(), str(value)) for name, value in headers.items())


def _check_extra_headers(headers: dict[str, Any]) -> None:
    check_headers(headers)
    check_header_values(headers)


def read_secret_headers(section: Section) -> tuple[tuple[str, str], ...]:
    """Return headers with the environment variables of their values."""
    given = section.table("secret_headers")
    section.check("secret_headers", partial(_check_secret_headers, given), None)
    literal = {name.lower() for name in section.table("extra_headers")}
    if both := sorted(literal & {name.lower() for name in given}):
        section.problem(
            "secret_headers", f"{short(both[0])} is also in extra_headers; remove one of them"
        )
    return tuple((name.lower(), str(variable)) for name, variable in given.items())


def literal_credentials(matrix: object) -> list[str]:
    """Return messages about lists of a `[matrix]` that contain credentials."""
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
            raise ValueError(f"{short(name)} needs the name of an environment variable")
        try:
            check_key_variable(variable)
        except ValueError as error:
            raise ValueError(f"{short(name)} {error}") from None
