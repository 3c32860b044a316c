"""The parts of a job: one frozen record for each section of the job file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from batchrun import formats
from batchrun.formats.credentials import KEY_COMMAND
from batchrun.formats.parameters import is_template
from batchrun.formats.providers import PRESETS, preset_at
from batchrun.job.addresses import provider_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchrun.formats import WireFormat
    from batchrun.formats.model_rules import ModelRules
    from batchrun.formats.providers import ProviderPreset
    from batchrun.formats.schema_rules import SchemaRules
    from batchrun.records import AnswerSchema, FormatName, RejectReason, Tool, ToolChoice

DEFAULT_FILES = ("results.parquet",)

Match = Literal[
    "exact",
    "casefold",
    "contains",
    "regex",
    "number",
    "json",
    "choice",
    "f1",
    "rouge",
    "similarity",
    "set",
    "math",
    "fields",
]


@dataclass(frozen=True, slots=True)
class RunPart:
    """A part of a partitioned run: consecutive rows of the input, with a checkpoint of their own.

    Attributes:
        number: number of the part, from 1.
        first: ordinal of its first row.
        rows: maximum number of its rows; the last part has the remaining ones.
    """

    number: int
    first: int
    rows: int

    @property
    def name(self) -> str:
        """The name of its folder in the run directory, and of its results file."""
        return f"part-{self.number:04d}"


@dataclass(frozen=True, slots=True)
class InputConfig:
    """`[input]`: the rows. `path` is absolute and may be a glob; `id` names a unique column.

    `where` is a SQL condition on the columns of a row, and `limit` counts the rows that satisfy it.
    A path may be a cloud address; `storage_options` are then the options of the connection. `separator`,
    `quote`, `escape` and `encoding` describe a CSV file; None: detected. `sheet` is the sheet of an Excel
    file. `pattern` is the path before its dates were filled in, if it has dates. With a `part`, only its
    rows are read.
    """

    path: str
    id: str | None = None
    limit: int | None = None
    where: str | None = None
    storage_options: Mapping[str, str | int | float] = field(default_factory=dict)
    separator: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    pattern: str | None = None
    part: RunPart | None = None


@dataclass(frozen=True, slots=True)
class RequestConfig:
    """`[request]`: the request for every row. Strings with expressions are templates.

    `system` has (template, marks) pairs, one for each block. `turns` are (role, template) pairs: the whole
    conversation for `messages`, one user turn for a `prompt`, empty with `messages_column`. `stream` None: it
    depends on the maximum length of the answer. `cache_ttl` is how long to cache the system prompt. `images`
    and `documents` are templates; their files must be below `image_dir` and `document_dir`. `from_columns`
    names request keys that a column of the same name replaces in rows where it is not empty. Every row is
    sent `samples` times; with `dedupe`, rows with the same request share one answer. `provider` is None if it
    follows from the base URL. With `keep_raw`, the bodies of answers are stored. Answers that end in one of
    the ways in `reject` become errors. `cached_turns` are the turns with a mark for the cache, from 0. With
    `drops_unsupported`, a parameter that a model does not support is left out.
    """

    format: FormatName
    base_url: str
    api_key_env: str
    model: str
    system: tuple[tuple[str, Mapping[str, Any]], ...]
    turns: tuple[tuple[str, str], ...]
    messages_column: str | None
    parameters: Mapping[str, Any]
    from_columns: tuple[str, ...] = ()
    api_version: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: tuple[tuple[str, str], ...] = ()
    secret_headers: tuple[tuple[str, str], ...] = ()
    stream: bool | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    cache_ttl: str | None = None
    images: tuple[str, ...] = ()
    image_dir: Path | None = None
    documents: tuple[str, ...] = ()
    document_dir: Path | None = None
    answer: AnswerSchema | None = None
    auth: str | None = None
    max_tokens_key: str | None = None
    dedupe: bool = False
    samples: int = 1
    provider: str | None = None
    keep_raw: bool = False
    reject: tuple[RejectReason, ...] = ()
    cached_turns: tuple[tuple[int, str], ...] = ()
    api_key_command: tuple[str, ...] = ()
    drops_unsupported: bool = False

    @property
    def fills_cache(self) -> bool:
        """Whether requests mark a prefix for the provider's cache that other requests may share."""
        turns = self.turns[: max((n for n, _ in self.cached_turns), default=-1) + 1]
        return (
            self.cache_ttl is not None
            or any("cache_control" in marks for _, marks in self.system)
            or any(t.cache_ttl or "cache_control" in (t.vendor or {}) for t in self.tools)
            or (0 < len(turns) < len(self.turns) and not any(is_template(x) for _, x in turns))
        )

    @property
    def wire_format(self) -> WireFormat:
        """The wire format."""
        return formats.of(self.format)

    @property
    def provider_name(self) -> str:
        """The provider's name, which is a part of every fingerprint."""
        return self.provider or provider_of(self.base_url)

    @property
    def preset(self) -> ProviderPreset | None:
        """The preset of the provider, found by its name or else by the address."""
        if self.provider is not None:
            return PRESETS.get(self.provider)
        return preset_at(urlsplit(self.base_url).hostname or "")

    @property
    def schema_rules(self) -> SchemaRules | None:
        """Which JSON schemas are refused; None if no refusal is certain, since gateways may complete them."""
        preset = preset_at(urlsplit(self.base_url).hostname or "")
        is_strict = preset is not None and self.format in preset.strict_schemas
        return self.wire_format.schema_rules if is_strict else None

    def rules(self, model: str, effort: str | None) -> ModelRules:
        """Return the rules of a model: which parameters it accepts."""
        return self.wire_format.model_rules(model, self.preset, effort, self.api_version)

    @property
    def takes_document_urls(self) -> bool:
        """Whether the provider fetches documents by URL."""
        preset = self.preset
        by_provider = preset is not None and preset.document_urls
        return by_provider or self.wire_format.capabilities.document_urls

    @property
    def key_source(self) -> str:
        """The environment variable with the key, or `KEY_COMMAND`; empty if no key is sent."""
        return KEY_COMMAND if self.api_key_command else self.api_key_env

    @property
    def forces_tool(self) -> bool:
        """Whether the model must call a tool."""
        is_forced = self.tool_choice is not None and self.tool_choice.mode in {"any", "tool"}
        return is_forced or (self.answer is not None and self.answer.as_tool)

    @property
    def is_prefilled(self) -> bool:
        """Whether the last turn is the beginning of the answer."""
        return bool(self.turns) and self.turns[-1][0] == "assistant"

    @property
    def endpoint(self) -> str:
        """The URL of its requests."""
        return self.wire_format.endpoint(self.base_url)

    @property
    def optional_columns(self) -> frozenset[str]:
        """The optional columns of results that this job asks for."""
        asks = self.parameters.get("logprobs") or self.extra_body.get("logprobs")
        asked = ("logprobs", bool(asks) or "logprobs" in self.from_columns), ("raw", self.keep_raw)
        return frozenset(name for name, is_asked in asked if is_asked)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: upper bounds, per minute if the name says so. None: no configured bound.

    A `concurrency` of None adapts to the provider. `max_errors` below 1 is a share of the
    finished items, otherwise a count.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    max_errors: float = 0.5
    max_cost_usd: float | None = None


Then = Literal["batch", "live", "stop"]


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """`[batch]`: how requests are divided into batches, and what happens to those without an answer.

    Attributes:
        max_rows: maximum number of requests of one batch.
        max_mb: maximum size of one batch, in millions of bytes.
        enqueued_tokens: maximum input tokens of all open batches of a model; None: no configured bound.
        then: how rows are sent that a batch did not answer.
        poll_s: shortest time between two checks of the batches, in seconds.
        doubt_s: how long to look for a batch whose creation was not confirmed, in seconds.
    """

    max_rows: int = 50_000
    max_mb: float = 100.0
    enqueued_tokens: int | None = None
    then: Then = "batch"
    poll_s: float = 30.0
    doubt_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """`[retry]`: how often and how long to retry. Times in seconds."""

    max_attempts: int = 6
    max_wait_s: float = 600.0
    timeout_s: float = 600.0


# Defaults with `service_tier = "flex"`: such requests are slow, and at times there is no capacity for them.
# OpenAI recommends 15 minutes for one request.
FLEX_RETRY = RetryConfig(max_wait_s=3600.0, timeout_s=900.0)


@dataclass(frozen=True, slots=True)
class ToolsConfig:
    """`[tools]`: the Python file with the functions that carry out calls, and limits.

    `max_turns` is the maximum number of turns in which the model calls tools or the provider pauses;
    `timeout_s` applies to one call.
    """

    module: Path | None = None
    max_turns: int = 10
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PriceConfig:
    """`[price]`: USD per million tokens, and per thousand web searches, in place of the price list.

    By default, cache tokens cost as much as the input, and `cache_write_1h` as much as `cache_write`. Audio
    and web searches have no price unless set. `batch` is the share of these prices that applies to tokens in
    a batch; None for the full price.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    web_search: float | None = None
    batch: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """`[score]` or one of `[[score]]`: the expected value and the method of comparison, or a function.

    `name` is part of the names of its columns; empty for the only scorer, whose columns are `score` and
    `predicted`. `weight` is its weight in the mean over all scorers. An answer passes if its score is at least
    `pass_at`; None means 1, if all scores are from 0 to 1. `labels` are the only labels that an answer can
    have. `tolerance` is the largest difference between numbers; as a text such as `1 %`, a share of the
    expected number. `variant` is the variant of `rouge` and `similarity`. `reduce` combines the scores of
    several answers to a row. `by` are columns by whose values the figures are shown; rows with equal values
    in `cluster` are not independent. `expected` is a template over the row's columns. `answer` is a pattern
    in RE2 syntax that finds the answer in the text. `stop_at` is the half width of the interval at which the
    run ends. `choices` are the labels of `match = "choice"`; empty means the letters. `function` is a Python
    file and the name of a function in it.
    """

    expected: str | None = None
    match: Match = "exact"
    answer: str | None = None
    choices: tuple[str, ...] = ()
    function: tuple[Path, str] | None = None
    judge: JudgeConfig | None = None
    name: str = ""
    weight: float = 1.0
    pass_at: float | None = None
    labels: tuple[str, ...] = ()
    tolerance: float | str | None = None
    variant: str = ""
    reduce: str = "mean"
    by: tuple[str, ...] = ()
    cluster: str | None = None
    stop_at: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """`[score.judge]`: a model that judges answers, and the scores of its verdicts.

    The templates of `request` may use the row's columns, `response`, `expected` and
    `rendered_prompt`. Verdicts are the labels of `choices`, each with its score, or numbers from the
    lowest to the highest of `scale`. `answer` is a pattern in RE2 syntax that finds the verdict; without
    it, the request asks for a certain last line. `human` is a template with the verdict of a person.
    `document` is the request as a `[request]`; None in the judge's own job.
    """

    choices: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    answer: str | None = None
    human: str | None = None
    request: RequestConfig | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers of the scale are verdicts."""
        return self.scale is not None and all(isinstance(bound, int) for bound in self.scale)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a `[matrix]`: its values, and the name of its folder."""

    name: str
    values: Mapping[str, Any]


PARTITION_ROWS = 2_000_000


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """`[output]`: the run directory, the result files in it, and the prefix of our columns.

    `unnest` has the properties of the answer's JSON schema that become columns, by name.
    `escape_formulas` applies to CSV files: spreadsheets cannot execute text cells as formulas. With
    `partition_by`, Parquet files are folders with a part for each value of these columns. A run of more than
    `partition_rows` rows is divided into parts of this size, each with a checkpoint.
    """

    dir: Path
    files: tuple[str, ...] = DEFAULT_FILES
    prefix: str = ""
    unnest: Mapping[str, Any] = field(default_factory=dict)
    escape_formulas: bool = False
    partition_by: tuple[str, ...] = ()
    partition_rows: int = PARTITION_ROWS
