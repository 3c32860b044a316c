"""`[request]`: the request for every row, checked against the capabilities of the wire format."""

from __future__ import annotations

import json
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import orjson

from batchrun import formats
from batchrun.errors import quoted, short
from batchrun.formats.conflicts import Combination
from batchrun.formats.credentials import check_body_values
from batchrun.formats.extra_body import overlap
from batchrun.formats.parameters import (
    PARAMETERS,
    check,
    is_template,
    unsupported,
)
from batchrun.formats.tool_calls import CACHE_TTLS
from batchrun.formats.tool_definitions import read_choice, read_tool
from batchrun.job.addresses import check_headers
from batchrun.job.configs import RequestConfig
from batchrun.job.connection import read_connection, read_headers, read_secret_headers
from batchrun.job.paths import absolute
from batchrun.job.reader import Section, did_you_mean
from batchrun.job.texts import read_system, read_turns
from batchrun.records import AnswerSchema, Message, Parameters, RejectReason, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.formats import WireFormat
    from batchrun.records import Tool, ToolChoice


# Keys of `[request]` that are the same for all rows.
JOB_WIDE_KEYS = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "json_schema",
    "cache_system",
    "stream",
    "dedupe",
    "samples",
)
MOST_SAMPLES = 100
MOST_SCHEMA_PROBLEMS = 5
REJECT_REASONS: tuple[RejectReason, ...] = get_args(RejectReason)
MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")
ROW_KEYS = ("model", "system", *PARAMETERS)


def request_keys() -> frozenset[str]:
    """Return every key that the section can hold."""
    section = Section("request", {}, [])
    read_request(section, Path())
    return section.known | {"prompt_file", "system_file"}


def read_request(section: Section, base: Path) -> RequestConfig:
    """Read the section and add its problems. Relative paths start from `base`."""
    connection = read_connection(section)
    wire_format = connection.wire_format
    from_columns = _read_from_columns(section)
    config = RequestConfig(
        format=wire_format.name,
        base_url=connection.base_url,
        api_key_env=connection.api_key_env,
        model=_read_model(section, from_columns),
        system=read_system(section, wire_format),
        turns=(turns := read_turns(section, wire_format)).texts,
        cached_turns=turns.cached,
        messages_column=section.get("messages_column", str),
        parameters=_read_parameters(section, wire_format, from_columns),
        from_columns=from_columns,
        api_version=_read_api_version(section, wire_format),
        extra_body=_read_extra_body(section),
        extra_headers=read_headers(section),
        secret_headers=read_secret_headers(section),
        stream=_read_stream(section),
        tools=(tools := _read_tools(section, wire_format)),
        tool_choice=(choice := _read_tool_choice(section, tools)),
        parallel_tool_calls=_read_parallel(section, tools, choice),
        cache_ttl=_read_cache(section, wire_format),
        images=section.strings("images") or (),
        answer=_read_answer(section, wire_format),
        auth=connection.auth,
        api_key_command=connection.api_key_command,
        max_tokens_key=_read_max_tokens_key(section, wire_format),
        image_dir=_read_folder(section, "image_dir", base),
        documents=section.strings("documents") or (),
        document_dir=_read_folder(section, "document_dir", base),
        dedupe=section.get("dedupe", bool) or False,
        samples=_read_samples(section),
        provider=connection.provider,
        keep_raw=section.get("keep_raw", bool) or False,
        reject=_read_reject(section),
        drops_unsupported=_read_on_unsupported(section),
    )
    _check_combination(section, config)
    _check_schemas(section, config)
    section.check("extra_body", partial(_check_extra_body, config), None)
    return config


def _check_extra_body(config: RequestConfig) -> None:
    """Check that extra_body sets nothing that other keys set."""
    if not config.extra_body:
        return
    names = {*config.parameters, *(name for name in config.from_columns if name in PARAMETERS)}
    example = Request(
        format=config.format,
        base_url=config.base_url,
        model=config.model,
        messages=(Message("user", "text"),),
        system="text" if config.system or "system" in config.from_columns else None,
        parameters=Parameters(**{name: PARAMETERS[name].example for name in names}),
        tools=config.tools,
        tool_choice=config.tool_choice,
        parallel_tool_calls=config.parallel_tool_calls,
        answer=config.answer,
        max_tokens_key=config.rules(config.model, None).max_tokens_key or "max_tokens",
    )
    body = orjson.loads(config.wire_format.encode(example).body)
    if (key := overlap(body, config.extra_body)) is not None:
        raise ValueError(
            f"{short(key)} is also set by another key of [request]; remove one of them"
        )


def _check_combination(section: Section, config: RequestConfig) -> None:
    """Report combinations that are certain to be refused for every row."""
    fixed = {key: value for key, value in config.parameters.items() if not is_template(value)}
    model = "" if is_template(config.model) else config.model
    rules = config.rules(model, fixed.get("effort"))
    sent = Parameters(**{key: value for key, value in fixed.items() if key not in rules.refused})
    asked = Combination(model, sent, config.forces_tool, config.is_prefilled)
    if (conflict := config.wire_format.conflict(asked)) is not None:
        section.problem(*conflict)
    if config.is_prefilled and not config.wire_format.capabilities.blank_stops:
        number, (_, text) = len(config.turns), config.turns[-1]
        if text != text.rstrip():
            section.problem(
                "messages",
                f"turn {number}, the beginning of the answer, ends in white space, which the "
                f"{config.format} format refuses; remove it",
            )


def _check_schemas(section: Section, config: RequestConfig) -> None:
    """Report schemas that the provider refuses because it cannot enforce them."""
    rules, answer = config.schema_rules, config.answer
    if rules is None:
        return
    is_enforced = answer is not None and (answer.strict or not rules.is_optional)
    if answer is not None and answer.schema is not None and is_enforced and not answer.as_tool:
        for problem in _some(rules.problems(answer.schema)):
            section.problem("json_schema", f"{problem} (or set {rules.otherwise})")
    for tool in config.tools:
        if tool.strict and tool.input_schema is not None:
            for problem in _some(rules.problems(tool.input_schema)):
                section.problem("tools", f"{short(tool.name)}: {problem} (or remove strict)")


def _some(problems: Iterator[str]) -> list[str]:
    """Return the first problems, and the number of further ones."""
    shown, rest = list(islice(problems, MOST_SCHEMA_PROBLEMS)), sum(1 for _ in problems)
    return [*shown, f"{rest:,} more like these"] if rest else shown


def _read_folder(section: Section, key: str, base: Path) -> Path:
    given = section.text(key, ".")
    return section.check(key, partial(absolute, base, given), base)


def _read_tools(section: Section, wire_format: WireFormat) -> tuple[Tool, ...]:
    given = section.get("tools", list) or []
    read = [section.check("tools", partial(read_tool, one, wire_format), None) for one in given]
    tools = tuple(tool for tool in read if tool is not None)
    names = [tool.name for tool in tools]
    for name in sorted({name for name in names if names.count(name) > 1}):
        section.problem("tools", f"two tools have the name {short(name)}; rename one")
    return tools


def _read_tool_choice(section: Section, tools: Sequence[Tool]) -> ToolChoice | None:
    given = section.raw("tool_choice")
    if given is None:
        return None
    return section.check("tool_choice", partial(read_choice, given, tools), None)


def _read_parallel(
    section: Section, tools: Sequence[Tool], choice: ToolChoice | None
) -> bool | None:
    wanted = section.get("parallel_tool_calls", bool)
    if wanted is not None and not tools:
        section.problem("parallel_tool_calls", "needs tools; add them, or remove this key")
    elif wanted is not None and choice is not None and choice.mode == "none":
        section.problem(
            "parallel_tool_calls", 'has no effect with tool_choice = "none"; remove one of them'
        )
    return wanted


def _read_max_tokens_key(section: Section, wire_format: WireFormat) -> str | None:
    key = section.get("max_tokens_key", str)
    if key is None:
        return None
    if key not in MAX_TOKENS_KEYS:
        section.problem(
            "max_tokens_key", f'must be "max_tokens" or "max_completion_tokens", not {quoted(key)}'
        )
    elif key not in wire_format.capabilities.max_tokens_keys:
        other = formats.use_another(lambda each: key in each.capabilities.max_tokens_keys)
        section.problem("max_tokens_key", f"the {wire_format.name} format has no {key}; {other}")
    return key


def _read_answer(section: Section, wire_format: WireFormat) -> AnswerSchema | None:
    given, way = section.raw("json_schema"), section.text("json_schema_as", "native")
    strict = section.get("strict", bool)
    if strict is not None and (given in {None, False} if not isinstance(given, dict) else False):
        section.problem("strict", "needs a json_schema; for a tool, write strict in the tool")
    if given is None or given is False:
        return None
    if given is not True and not isinstance(given, dict):
        section.problem(
            "json_schema", f"must be a JSON schema as a table, or true, not {quoted(given)}"
        )
        return None
    if way not in {"native", "tool"}:
        section.problem("json_schema_as", f'must be "native" or "tool", not {quoted(way)}')
    if given is True and (way == "tool" or not wire_format.capabilities.json_without_schema):
        section.problem(
            "json_schema",
            "true (any JSON object) is not possible here; write a schema, such as "
            'json_schema = { type = "object" }, or '
            + formats.use_another(lambda each: each.capabilities.json_without_schema),
        )
    if way == "tool":
        clashes = [key for key in ("tools", "tool_choice", "thinking_tokens") if key in section]
        if clashes:
            section.problem(
                "json_schema_as", f'"tool" cannot be combined with {" and ".join(clashes)}'
            )
        elif isinstance(given, dict) and given.get("type") != "object":
            section.problem("json_schema_as", '"tool" needs a schema of type "object"')
    schema = None if given is True else given
    return AnswerSchema(schema, as_tool=way == "tool", strict=strict is not False)


def _read_cache(section: Section, wire_format: WireFormat) -> str | None:
    given = section.raw("cache_system")
    if given is None or given is False:
        return None
    if given is not True and given not in CACHE_TTLS:
        section.problem("cache_system", f'must be true, false, "5m" or "1h", not {quoted(given)}')
    elif not wire_format.capabilities.cache_marks:
        other = formats.use_another(lambda each: each.capabilities.cache_marks)
        section.problem(
            "cache_system",
            f"the {wire_format.name} format cannot mark what to cache, and its servers cache "
            f"automatically; remove it, or {other}",
        )
    elif isinstance(section.raw("system"), str) and not section.raw("system").strip():
        section.problem("cache_system", "the system prompt is empty, and cannot be cached")
    elif "system" not in section and "system" not in (section.raw("from_columns") or ()):
        section.problem("cache_system", "there is no system prompt to cache; set system")
    return "5m" if given is True else str(given)


def _read_stream(section: Section) -> bool | None:
    value = section.raw("stream")
    if isinstance(value, bool):
        return value
    if value is not None and value != "auto":
        section.problem("stream", f'must be true, false or "auto", not {quoted(value)}')
    return None


def _read_from_columns(section: Section) -> tuple[str, ...]:
    names = section.strings("from_columns") or ()
    for name in names:
        if name not in ROW_KEYS:
            hint = did_you_mean(name, ROW_KEYS)
            section.problem(
                "from_columns", f"{quoted(name)} is not a key that can be set per row{hint}"
            )
    return tuple(name for name in names if name in ROW_KEYS)


def _read_model(section: Section, from_columns: Sequence[str]) -> str:
    model = section.text("model")
    if not model.strip() and "model" not in from_columns:
        section.problem("model", "is missing; set it in the job file or with --model")
    return model


def _read_parameters(
    section: Section, wire_format: WireFormat, from_columns: Sequence[str]
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
            parameters[name] = section.check(name, partial(check, name, value, wire_format), None)
    needs_max_tokens = wire_format.capabilities.needs_max_tokens
    if needs_max_tokens and "max_tokens" not in {*parameters, *from_columns}:
        section.problem(
            "max_tokens",
            f"is required by the {wire_format.name} format; for example max_tokens = 1000 in the job file, or "
            "--set max_tokens=1000",
        )
    if parameters.get("top_logprobs") is not None and not (
        parameters.get("logprobs") or "logprobs" in from_columns
    ):
        section.problem("top_logprobs", "needs logprobs = true; set it, or remove this")
    return parameters


def _read_api_version(section: Section, wire_format: WireFormat) -> str | None:
    version = section.get("api_version", str)
    if version is None:
        return None
    if not wire_format.capabilities.api_version:
        section.problem(
            "api_version", f"the {wire_format.name} format has no api_version; remove it"
        )
    section.check("api_version", partial(check_headers, {"anthropic-version": version}), None)
    return version


def _read_extra_body(section: Section) -> dict[str, Any]:
    extra = section.table("extra_body")
    for key in ("stream", "stream_options"):
        if key in extra:
            section.problem("extra_body", f"{key}: set [request] stream instead; it sends both")
    section.check("extra_body", partial(check_body_values, extra), None)
    return section.check("extra_body", partial(_as_json, extra), extra)


def _as_json(extra: dict[str, Any]) -> dict[str, Any]:
    """Convert the table to JSON values: TOML's dates become text."""
    try:
        json.dumps(extra, allow_nan=False, default=str)
        plain: dict[str, Any] = orjson.loads(orjson.dumps(extra))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None
    return plain


def _read_samples(section: Section) -> int:
    samples = section.number("samples", int, 1, most=MOST_SAMPLES)
    if samples > 1 and section.raw("n") not in {None, 1}:
        section.problem("samples", "cannot be combined with n; remove one of them")
    if samples > 1 and section.raw("dedupe") is True:
        section.problem(
            "samples", "cannot be combined with dedupe, which shares one answer; remove one of them"
        )
    return samples


def _read_on_unsupported(section: Section) -> bool:
    given = section.text("on_unsupported", "error")
    if given not in {"error", "drop"}:
        section.problem("on_unsupported", f'must be "error" or "drop", not {quoted(given)}')
    return given == "drop"


def _read_reject(section: Section) -> tuple[RejectReason, ...]:
    """Return the reasons in the order of their declaration, each once."""
    given = section.strings("reject") or ()
    for name in given:
        if name not in REJECT_REASONS:
            allowed = ", ".join(f'"{reason}"' for reason in REJECT_REASONS)
            hint = did_you_mean(name, REJECT_REASONS)
            section.problem("reject", f"must be a list of {allowed}, not {quoted(name)}{hint}")
    return tuple(reason for reason in REJECT_REASONS if reason in given)
