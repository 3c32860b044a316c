"""Checks of the parts of a request other than its body: address, key variable, headers.

Error messages do not contain values that may be secret.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from batchrun import formats
from batchrun.errors import quoted, short
from batchrun.formats.credentials import check_url, is_credential
from batchrun.formats.providers import blanks, preset_at
from batchrun.formats.urls import endpoint_of, has_version, is_endpoint, without_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.formats import WireFormat
    from batchrun.formats.providers import ProviderPreset


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# As long as keys, without the words of a name, and with digits.
_KEY_LIKE = re.compile(r"(?=.*\d)[A-Za-z0-9]{32,}\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# Of other APIs, such as Ollama's and llama.cpp's own, and an address with its version twice.
_OTHER_ENDPOINTS = (
    *("/completions", "/responses", "/embeddings", "/models", "/batches"),
    *("/api/chat", "/api/generate", "/completion", "/v1/v1"),
)
# Gemini's path with a second version; at Google's own host the message names the right address.
_TWO_VERSIONS = "/v1beta/openai/v1"
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LIKE_A_HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d+)?(?:/.*)?\Z")
# Azure's older addresses, which are complete only with a query.
_DEPLOYMENTS = "/openai/deployments/"
# These describe the transfer of a request; a wrong one breaks every request.
_TRANSPORT_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})


def check_address(given: str, wire_format: WireFormat, *, allow_http: bool) -> str:
    """Return a base URL or whole endpoint in its normal form, without the path that all addresses share.

    Raises:
        ValueError: if it is neither, would send the key unencrypted, or is certainly not an address of
            its provider.
    """
    check_url(given)
    written = _with_scheme(given)
    parts = _split(written)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"must start with https:// and contain a host{_hint(given)}")
    if "#" in written:
        raise ValueError("must not have a fragment")
    if parts.scheme == "http" and not (allow_http or is_loopback(parts.hostname)):
        raise ValueError(
            f"plain http to {short(parts.hostname)} would send the key and the data unencrypted; use "
            "https, or allow it with allow_http = true"
        )
    if is_endpoint(written, wire_format.path):
        address = written.rstrip("/?")
    else:
        address = _base_url(written, parts, wire_format)
    _check_provider(address, parts.hostname, wire_format)
    return address


def _with_scheme(given: str) -> str:
    """Add `http://` to an address that is only the host of a server on this machine."""
    if _HAS_SCHEME.match(given) or not given:
        return given
    try:
        host = urlsplit(f"//{given}").hostname
    except ValueError:
        return given
    return f"http://{given}" if host is not None and is_loopback(host) else given


def _hint(given: str) -> str:
    if _LIKE_A_HOST.match(given):
        return f'; write "https://{given}"'
    return ', such as "https://host"'


def _base_url(written: str, parts: SplitResult, wire_format: WireFormat) -> str:
    end = endpoint_of(wire_format.path)
    if "?" in written:
        raise ValueError(
            f"a query is possible only in a whole endpoint, such as https://host{end}?…"
        )
    path = parts.path.rstrip("/")
    for other in formats.FORMATS.values():
        if other is not wire_format and path.endswith(endpoint_of(other.path)):
            raise ValueError(
                f'is an endpoint of the {other.name} format; use format = "{other.name}", or write '
                f"the address of the {wire_format.name} format, which ends in {end}"
            )
    is_doubled = path.endswith(_TWO_VERSIONS) and preset_at(parts.hostname or "") is None
    if is_doubled or path.endswith(_OTHER_ENDPOINTS) or ":" in path.rpartition("/")[2]:
        raise ValueError(
            f"is not an address of the {wire_format.name} format: write the part before {end}, or the "
            f"whole endpoint ending in {end}"
        )
    return without_version(_of_provider(written.rstrip("/"), parts.hostname or "", wire_format))


def _of_provider(address: str, host: str, wire_format: WireFormat) -> str:
    """Return a base URL, completed with the known path of its provider."""
    preset = preset_at(host)
    usual = None if preset is None else preset.addresses.get(wire_format.name)
    if usual is None:
        return address
    if not urlsplit(without_version(address)).path:
        # Only the host was given.
        full = urlsplit(address)._replace(path=urlsplit(usual).path).geturl()
        return _filled(full)
    if is_endpoint(usual, wire_format.path) and "/v1" not in usual:
        return address + endpoint_of(wire_format.path)
    return address


def _check_provider(address: str, host: str, wire_format: WireFormat) -> None:
    """Check that an address is possible for a known provider."""
    preset = preset_at(host)
    if preset is None:
        return
    usual = preset.addresses.get(wire_format.name, "")
    if unfilled := [word for word in blanks(usual) if re.search(rf"\b{word}\b", address)]:
        raise ValueError(f"replace {' and '.join(unfilled)} with your own")
    url = wire_format.endpoint(address)
    path = urlsplit(url).path
    is_known = not preset.path or any(part in path for part in preset.path.split("|"))
    if not is_known or _repeats_version(path, usual):
        raise ValueError(
            f"requests would go to {url}, which is not an address of {preset.title}; write "
            f"{_examples(preset, wire_format)}"
        )
    if _DEPLOYMENTS in path and not urlsplit(url).query:
        raise ValueError(
            "write the whole endpoint of the deployment with its version, such as "
            f"https://{host}{_DEPLOYMENTS}NAME{endpoint_of(wire_format.path)}?api-version=2024-10-21"
        )


def _repeats_version(path: str, usual: str) -> bool:
    """Whether a path adds a version to the usual address, which has one."""
    known = urlsplit(usual).path
    added = path.removeprefix(known)
    return has_version(known) and added != path and re.match(r"/v\d", added) is not None


def _examples(preset: ProviderPreset, wire_format: WireFormat) -> str:
    usual = preset.addresses.get(wire_format.name)
    if usual is not None:
        return usual
    name = preset.format
    return f'{preset.addresses[name]} with format = "{name}"'


def usual_address(preset: ProviderPreset, wire_format: WireFormat) -> str:
    """Return the address of a provider.

    Raises:
        ValueError: if the provider does not have the format, or the user must fill in a part of it.
    """
    address = preset.addresses.get(wire_format.name)
    if address is None:
        others = " or ".join(f'"{name}"' for name in preset.addresses)
        raise ValueError(
            f"is missing: no address of {preset.title} is known for the {wire_format.name} format; "
            f"use format = {others}, or set base_url"
        )
    return _filled(address)


def _filled(address: str) -> str:
    if missing := blanks(address):
        raise ValueError(
            f'is incomplete: write base_url = "{address}" with your own {" and ".join(missing)}'
        )
    return address


def _split(url: str) -> SplitResult:
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("must be a URL without spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL ({error})") from None
    return parts


def provider_of(base_url: str) -> str:
    """Return the provider of a base URL: its host, with the port if it is not the default.

    A server on this machine is `localhost` without its port, which can change at each start.
    """
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port
    if is_loopback(host):
        return "localhost"
    usual = port in {None, 443 if parts.scheme == "https" else 80}
    return host if usual else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_key_variable(name: str) -> None:
    """Check the name of an environment variable; empty means: no key.

    Raises:
        ValueError: if it is not a valid name, or may be the key itself.
    """
    if name and (not _VARIABLE.match(name) or is_credential(name) or _KEY_LIKE.match(name)):
        raise ValueError(
            "must be the name of an environment variable, such as ANTHROPIC_API_KEY, not the key "
            "itself"
        )


def check_auth(given: str) -> str:
    """Return how the key is sent: `bearer`, or the name of a header in lower case.

    Raises:
        ValueError: if it is neither, or may be the key itself.
    """
    name = given.strip().lower()
    if not _HEADER_NAME.match(name) or is_credential(given) or _KEY_LIKE.match(given):
        raise ValueError('must be "bearer" or the name of a header, such as "x-api-key"')
    if name in _TRANSPORT_HEADERS | {"content-type", "accept", "host"}:
        raise ValueError(f"{name} is set by batchrun and cannot carry the key")
    if name in {"none", "basic"}:
        advice = {
            "none": 'to send no key, write api_key_env = ""',
            "basic": 'write secret_headers = { "authorization" = "VARIABLE" } with the whole value '
            'in the variable, and api_key_env = ""',
        }
        raise ValueError(f'"{name}" is not the name of a header; {advice[name]}')
    return name


def check_headers(headers: Mapping[str, object]) -> None:
    """Check that headers can be sent.

    Raises:
        ValueError: names the header, never its value.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            raise ValueError(f"{quoted(name)} is not a valid header name")
        if name.lower() in _TRANSPORT_HEADERS:
            raise ValueError(f"{short(name)} is set by batchrun; remove it")
        if name.lower() in seen:
            raise ValueError(f"{short(name)} appears twice (case is ignored); remove one")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(f"{short(name)} must be one line of printable ASCII text")
        seen.add(name.lower())
