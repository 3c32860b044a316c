"""The job file: TOML → a validated, frozen `Job`.

A `Job` says what to do and never holds a row. It can be rebuilt from its `document` (the TOML as
data, with command line overrides applied) and the folder that its relative paths start from;
that is how a run directory can write its outputs again without the job file.
"""

from __future__ import annotations

import copy
import ipaddress
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from batchrun.errors import JobError
from batchrun.formats.parameters import PARAMETERS, coerce, unsupported
from batchrun.sections import Section, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.records import FormatName

DEFAULT_BASE_URL = {"messages": "https://api.anthropic.com", "chat": "https://api.openai.com"}
DEFAULT_KEY_ENV = {"messages": "ANTHROPIC_API_KEY", "chat": "OPENAI_API_KEY"}
DEFAULT_FILES = ("results.parquet",)
OUTPUT_SUFFIXES = (".parquet", ".csv", ".jsonl")

# Keys of features that this version does not have: refused by name, never ignored.
LATER_REQUEST_KEYS = (
    "stream",
    "thinking_tokens",
    "images",
    "tools",
    "tool_choice",
    "json_schema",
    "cache_system",
    "dedupe",
)
LATER_SECTIONS = ("price", "score", "matrix", "tools")
SECTIONS = ("input", "request", "limits", "retry", "output")
RATE_KEYS = (
    "requests_per_minute",
    "tokens_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
)
TEXT_SOURCES = ("prompt", "messages", "messages_column")


@dataclass(frozen=True, slots=True)
class InputConfig:
    """`[input]`: which rows. `path` is absolute and may be a glob; `id` names a unique column."""

    path: str
    id: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class RequestConfig:
    """`[request]`: what every row becomes. Strings are templates unless they hold no expression.

    `turns` are (role, template) pairs: the whole conversation when `messages` was given, one user
    turn for a `prompt`, empty with `messages_column`. `from_columns` names request keys whose
    column, where it is not empty, takes the place of the key for its row.
    """

    format: FormatName
    base_url: str
    api_key_env: str
    model: str
    system: str | None
    turns: tuple[tuple[str, str], ...]
    messages_column: str | None
    parameters: Mapping[str, Any]
    from_columns: tuple[str, ...] = ()
    api_version: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: upper bounds, per minute where named so. None means: no bound of ours.

    `max_errors` below 1 is a share of the finished items, otherwise a count.
    """

    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    max_errors: float = 0.5


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """`[retry]`: how long to insist. Times in seconds."""

    max_attempts: int = 6
    max_wait_s: float = 600.0
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """`[output]`: the run directory, the result files in it, and the prefix of our columns."""

    dir: Path
    files: tuple[str, ...] = DEFAULT_FILES
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The definition of a batch: rows, requests, limits, outputs."""

    name: str
    input: InputConfig
    request: RequestConfig
    limits: LimitsConfig
    retry: RetryConfig
    output: OutputConfig
    document: Mapping[str, Any] = field(repr=False)
    base: Path = field(repr=False)

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Job:
        """Read and check a job file.

        Args:
            path: the TOML file; relative paths in it start from its folder.
            overrides: dotted keys and their values, such as `{"request.model": "m"}`.

        Raises:
            JobError: naming the file, the key, the value and the way out, for every problem.
        """
        document = apply_overrides({"name": path.stem, **_read_toml(path)}, overrides or {})
        base = path.resolve().parent
        return cls.from_document(_with_texts(document, base, path), base, origin=str(path))

    @classmethod
    def for_table(
        cls, table: Path, columns: Sequence[str], overrides: Mapping[str, Any] | None = None
    ) -> Job:
        """Make the job that a table with a `prompt` or `messages` column is by itself.

        Raises:
            JobError: when it has neither column, or the options do not fit.
        """
        request = _request_from_columns(table, columns)
        document = {
            "name": table.name.split(".")[0],
            "input": {"path": str(table.resolve())},
            "request": request,
        }
        return cls.from_document(
            apply_overrides(document, overrides or {}), table.resolve().parent, origin=str(table)
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any], base: Path, *, origin: str = "job") -> Job:
        """Check a parsed job and freeze it.

        Raises:
            JobError: listing every problem found.
        """
        problems: list[str] = []
        top = Section("", document, problems, later=LATER_SECTIONS)
        name = top.text("name") or "job"
        sections = {key: Section(key, top.table(key), problems, _later(key)) for key in SECTIONS}
        job = cls(
            name=name,
            input=_read_input(sections["input"], base),
            request=_read_request(sections["request"]),
            limits=_read_limits(sections["limits"]),
            retry=_read_retry(sections["retry"]),
            output=_read_output(sections["output"], base, name),
            document=document,
            base=base,
        )
        for section in (top, *sections.values()):
            section.finish()
        if problems:
            raise JobError("\n".join(f"{origin}: {problem}" for problem in problems))
        return job


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with dotted keys replaced.

    A key without a section (`temperature`) is looked up in `[request]` unless it is a section's
    own.

    Raises:
        JobError: when a dotted key names no section.
    """
    changed = copy.deepcopy(dict(document))
    for dotted, value in overrides.items():
        section, _, key = dotted.rpartition(".")
        if not section:
            section = _section_of(key)
        if section not in SECTIONS:
            hint = did_you_mean(section, SECTIONS)
            raise JobError(f"--set {dotted}: there is no section [{section}]{hint}")
        changed.setdefault(section, {})[key] = value
    return changed


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as TOML, and as plain text when it is not TOML.

    Raises:
        JobError: when there is no `=`.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise JobError(f"--set {setting}: write it as key=value, such as --set temperature=0.2")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def _section_of(key: str) -> str:
    homes: dict[str, type[Any]] = {
        "input": InputConfig,
        "limits": LimitsConfig,
        "retry": RetryConfig,
        "output": OutputConfig,
    }
    for section, config in homes.items():
        if key in {field.name for field in fields(config)}:
            return section
    return "request"


def _later(section: str) -> Sequence[str]:
    return {"request": LATER_REQUEST_KEYS, "limits": ("max_cost_usd",)}.get(section, ())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"{path}: there is no such file") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: is not UTF-8 text; a job file is TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: is not valid TOML: {error}") from None


def _with_texts(document: dict[str, Any], base: Path, origin: Path) -> dict[str, Any]:
    """Put the content of `prompt_file` and `system_file` in their place.

    A run keeps what it was asked with, also when those files change later.
    """
    request = document.get("request")
    if not isinstance(request, dict):
        return document
    for key in ("prompt", "system"):
        file = request.pop(f"{key}_file", None)
        if file is None:
            continue
        if key in request:
            raise JobError(f"{origin}: [request] {key} and {key}_file are both set; keep one")
        try:
            request[key] = (base / str(file)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{origin}: [request] {key}_file cannot be read: {error}") from None
    return document


def _request_from_columns(table: Path, columns: Sequence[str]) -> dict[str, Any]:
    if "messages" in columns:
        request: dict[str, Any] = {"messages_column": "messages"}
    elif "prompt" in columns:
        request = {"prompt": "{{ prompt }}"}
    else:
        raise JobError(
            f'{table}: a table is a job of its own when it has a "prompt" or "messages" column; '
            f"this one has {', '.join(columns)}. Rename a column, or write a job file with a "
            "[request] prompt template"
        )
    for column in columns:
        if column in LATER_REQUEST_KEYS:
            raise JobError(
                f'{table}: the column "{column}" is named like a request key that this version '
                "does not support yet; rename the column"
            )
    keys = ("model", "system", *PARAMETERS)
    request["from_columns"] = [column for column in columns if column in keys]
    return request


def _read_input(section: Section, base: Path) -> InputConfig:
    path = section.text("path")
    if not path:
        section.problem("path", 'is missing; name the table, such as path = "../data.csv"')
    limit = section.number("limit", int, 0)
    return InputConfig(
        path=str(base / Path(path).expanduser()),
        id=section.get("id", str),
        limit=limit or None,
    )


def _read_request(section: Section) -> RequestConfig:
    wire_format = section.text("format", "messages")
    if wire_format not in DEFAULT_BASE_URL:
        section.problem("format", f'must be "messages" or "chat", not "{wire_format}"')
        wire_format = "messages"
    name = cast("FormatName", wire_format)
    from_columns = section.strings("from_columns") or ()
    return RequestConfig(
        format=name,
        base_url=_read_base_url(section, name),
        api_key_env=section.text("api_key_env", DEFAULT_KEY_ENV[name]),
        model=_read_model(section, from_columns),
        system=section.get("system", str),
        turns=_read_turns(section),
        messages_column=section.get("messages_column", str),
        parameters=_read_parameters(section, name, from_columns),
        from_columns=from_columns,
        api_version=section.get("api_version", str),
        extra_body=section.table("extra_body"),
        extra_headers=_read_headers(section),
    )


def _read_base_url(section: Section, wire_format: FormatName) -> str:
    url = section.text("base_url", DEFAULT_BASE_URL[wire_format]).rstrip("/")
    allow_http = section.get("allow_http", bool) or False
    url = url.removesuffix("/v1").rstrip("/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        section.problem("base_url", f'"{url}" is not a URL ({error})')
        return url
    if parts.scheme not in {"http", "https"} or not host:
        section.problem("base_url", f'must begin with https:// and name a host, not "{url}"')
    elif parts.username or parts.password:
        section.problem("base_url", "must not hold credentials; use api_key_env")
    elif parts.query or parts.fragment:
        section.problem("base_url", f'must not have a query or fragment: "{url}"')
    elif parts.scheme == "http" and not (allow_http or _is_loopback(host)):
        section.problem(
            "base_url",
            f"plain http to {host} would send the key and the data unencrypted; use https, "
            "or allow it with allow_http = true",
        )
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_model(section: Section, from_columns: Sequence[str]) -> str:
    model = section.text("model")
    if not model and "model" not in from_columns:
        section.problem("model", "is missing; set it in the job file or with --model")
    return model


def _read_turns(section: Section) -> tuple[tuple[str, str], ...]:
    given = [key for key in TEXT_SOURCES if key in section]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        section.problem(
            "prompt",
            f"give exactly one of prompt, prompt_file, messages, messages_column; found {found}",
        )
    prompt = section.get("prompt", str)
    turns = section.get("messages", list) or []
    if prompt is not None:
        return (("user", prompt),)
    checked = [_read_turn(section, number, turn) for number, turn in enumerate(turns, 1)]
    return tuple(turn for turn in checked if turn is not None)


def _read_turn(section: Section, number: int, turn: object) -> tuple[str, str] | None:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        section.problem("messages", f"turn {number} must be {{ role = …, content = … }}: {turn!r}")
        return None
    role, content = turn["role"], turn["content"]
    if role not in {"user", "assistant", "system"}:
        section.problem(
            "messages", f"turn {number}: role must be user, assistant or system, not {role!r}"
        )
        return None
    if not isinstance(content, str):
        section.problem("messages", f"turn {number}: content must be a string, not {content!r}")
        return None
    return role, content


def _read_parameters(
    section: Section, wire_format: FormatName, from_columns: Sequence[str]
) -> dict[str, Any]:
    """Return the parameters by neutral name; strings with an expression stay templates."""
    parameters: dict[str, Any] = {}
    for name in PARAMETERS:
        value = section.raw(name)
        if value is None and name not in from_columns:
            continue
        reason = unsupported(name, wire_format)
        if reason is not None:
            section.problem(name, reason)
        elif value is not None:
            parameters[name] = _check_parameter(section, name, value, wire_format)
    if wire_format == "messages" and not {*parameters, *from_columns} & {"max_tokens"}:
        section.problem(
            "max_tokens", "is required by the messages format; for example max_tokens = 1000"
        )
    return parameters


def _check_parameter(section: Section, name: str, value: object, wire_format: FormatName) -> object:
    if isinstance(value, str) and "{" in value:
        return value
    # TOML has types: a quoted number in the job file is a mistake worth naming.
    if isinstance(value, str) and PARAMETERS[name].kind in {int, float}:
        section.problem(name, f"must be a number or a template, not {value!r}")
        return None
    try:
        return coerce(name, value, wire_format)
    except ValueError as error:
        section.problem(name, str(error))
        return None


def _read_headers(section: Section) -> tuple[tuple[str, str], ...]:
    headers = section.table("extra_headers")
    for name, value in headers.items():
        if not isinstance(value, str) or not value.isprintable() or not name.isascii():
            section.problem(
                "extra_headers", f"{name} must be one line of printable text, not {value!r}"
            )
    return tuple((name.lower(), str(value)) for name, value in headers.items())


def _read_limits(section: Section) -> LimitsConfig:
    default = LimitsConfig()
    rates = {key: section.number(key, float, 0.0) or None for key in RATE_KEYS}
    return LimitsConfig(
        concurrency=section.number("concurrency", int, default.concurrency, most=100_000),
        max_errors=section.number("max_errors", float, default.max_errors),
        **rates,
    )


def _read_retry(section: Section) -> RetryConfig:
    default = RetryConfig()
    return RetryConfig(
        max_attempts=section.number("max_attempts", int, default.max_attempts),
        max_wait_s=section.number("max_wait_s", float, default.max_wait_s),
        timeout_s=section.number("timeout_s", float, default.timeout_s, most=86_400),
    )


def _read_output(section: Section, base: Path, name: str) -> OutputConfig:
    files = section.strings("files") or DEFAULT_FILES
    for file in files:
        if Path(file).name != file or not file.endswith(OUTPUT_SUFFIXES):
            section.problem(
                "files",
                f'"{file}" must be a plain file name ending in {", ".join(OUTPUT_SUFFIXES)}',
            )
        if file == "usage.parquet":
            section.problem(
                "files", '"usage.parquet" is the name of the usage table; choose another'
            )
    if len(set(files)) != len(files):
        section.problem("files", f"names a file twice: {', '.join(files)}")
    directory = section.get("dir", str)
    # jobs/x.toml leaves its run beside the jobs folder; a job file elsewhere beside itself.
    home = base.parent if base.name == "jobs" else base
    return OutputConfig(
        dir=base / Path(directory).expanduser() if directory else home / "runs" / name,
        files=tuple(files),
        prefix=section.text("prefix"),
    )
