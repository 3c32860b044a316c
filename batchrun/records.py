"""The records that travel between the stages. All are frozen; none does I/O.

A row is read as an `Item`, rendered into a `Request`, encoded as a `WireRequest`, given its place
in the checkpoint as a `PlannedRequest`, sent in one or more `Attempt`s, and ends as a `Result`. Records that
are made for each row are `Struct`s: to make a frozen dataclass takes ten times as long.
"""

from __future__ import annotations

# `workers` reads the types of the fields at run time.
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeVar

from msgspec import Struct, field, structs

# The name of a wire format in `batchrun.formats.FORMATS`.
FormatName = str

# Answers that a job can reject: by their ending, or because they are empty.
RejectReason = Literal["length", "refusal", "filtered", "empty"]

# Types of output columns. In the checkpoint, `texts` are a JSON list, `money` is pico-dollars, `time`
# is microseconds since 1970 UTC, and a `flag` is 0 or 1.
Kind = Literal["text", "texts", "integer", "number", "money", "time", "flag"]

# Money is counted in whole pico-dollars, so that sums are exact.
PICO_PER_USD = 10**12
# Characters of a provider's message in one line.
LONGEST_ERROR = 500
# Our own types of errors whose message says everything.
_SAID = frozenset({"certificate_error", "connection_error", "timeout", "tls_error", "unknown_host"})
# Upper bound of the cost of an answer, one million USD: sums must fit in 64 bits, and no cap is
# higher.
MOST_COST = 10**6 * PICO_PER_USD


class Status(StrEnum):
    """The state of an item."""

    SUCCEEDED = "succeeded"  # the provider answered; never sent again
    ERRORED = "errored"  # no usable answer; sent again by the next run only if that may help
    PENDING = "pending"  # the run stopped before this item had a result


class Ending(StrEnum):
    """How an answer ended, in neutral words."""

    STOP = "stop"  # the model finished, or reached a stop sequence
    LENGTH = "length"  # cut at max_tokens or at the end of the context window
    TOOL_CALLS = "tool_calls"  # the model calls tools and waits for their results
    REFUSAL = "refusal"  # the model, or the provider in its place, declined to answer
    FILTERED = "filtered"  # a content filter removed the answer or a part of it
    PAUSED = "paused"  # the provider interrupted its own tools; the turn can be continued
    ERROR = "error"  # the provider failed while it was answering: not an answer
    UNKNOWN = "unknown"  # no reason, or an unknown one


def unusual_endings(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of the endings that a person should know about."""
    usual = {Ending.STOP, Ending.TOOL_CALLS}
    return {ending: count for ending, count in counts.items() if ending not in usual}


Record = TypeVar("Record", bound=Struct)


def changed(record: Record, **values: Any) -> Record:  # noqa: ANN401 - those of its fields
    """Return a record with these values of fields in place of its own."""
    return structs.replace(record, **values)


class Item(Struct, frozen=True, gc=False):
    """One input record.

    Attributes:
        ordinal: 0-based position in the input.
        custom_id: joins item, request, result and output.
        values: the columns that the templates use, as Python values.
    """

    ordinal: int
    custom_id: str
    values: Mapping[str, Any]


class Message(Struct, frozen=True, gc=False):
    """One turn, in the shape of the request's format.

    `content` is text or a list of content blocks. `extra` has the other keys of a chat message:
    `tool_calls` of the assistant (without content), or `tool_call_id` of a tool.
    """

    role: Literal["user", "assistant", "tool", "system", "developer"]
    content: str | list[dict[str, Any]] | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_tool_result(self) -> bool:
        """Whether this is the result of a tool, not text by a person."""
        blocks = self.content if isinstance(self.content, list) else []
        has_results = any(block.get("type") == "tool_result" for block in blocks)
        return self.role == "tool" or (self.role == "user" and has_results)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request, by neutral name. None means: not sent.

    Rows whose parameters do not depend on a column share one instance.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] | None = None
    n: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    service_tier: str | None = None
    thinking_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or a document: its URL, or base64 `data` with its media type; for a text, the text.

    `size` is the length of the base64, which is dropped once it is part of the request's body. `pages`
    is the approximate number of pages of a PDF. `name` is the file name of a document. `pixels` is the
    width and height of an image; None if unknown.
    """

    url: str | None = None
    media_type: str | None = None
    data: str | None = None
    size: int = 0
    is_document: bool = False
    name: str | None = None
    pages: int = 0
    pixels: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call: with a JSON schema, or a vendor's tool as in the job file."""

    name: str
    description: str | None = None
    input_schema: Mapping[str, Any] | None = None
    vendor: Mapping[str, Any] | None = None
    strict: bool | None = None
    cache_ttl: str | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tool the model should call: mode `auto`, `any`, `none`, or `tool` with a name."""

    mode: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """The answer must be JSON that matches `schema`, or any JSON object if it is None.

    With `as_tool`, the request has a tool that the model must call, for servers without structured
    output. `strict` is sent in the chat format: whether the server must enforce the schema.
    """

    schema: Mapping[str, Any] | None
    as_tool: bool = False
    strict: bool = True


class Request(Struct, frozen=True, gc=False):
    """A rendered call, independent of the wire format.

    Attributes:
        format: name of the wire format.
        provider: name of the provider, a part of the request's identity.
        system: text or text blocks.
        attachments: images, then documents; placed before the text of the last user turn.
        cache_ttl: how long to cache the system prompt: `5m` or `1h`.
    """

    format: FormatName
    base_url: str
    model: str
    messages: tuple[Message, ...]
    system: str | tuple[Mapping[str, Any], ...] | None = None
    parameters: Parameters = field(default_factory=Parameters)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: tuple[tuple[str, str], ...] = ()
    api_version: str | None = None
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    cache_ttl: str | None = None
    attachments: tuple[Attachment, ...] = ()
    answer: AnswerSchema | None = None
    max_tokens_key: str = "max_tokens"
    provider: str = ""


class WireRequest(Struct, frozen=True, gc=False):
    """One HTTP request without credentials, which only the client adds.

    `stream`: whether the body asks for a streamed answer.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    stream: bool = False


class RenderedItem(Struct, frozen=True, gc=False):
    """An item with its request, or with the reason why it has none.

    `fingerprint` (16 bytes) identifies the request by format, provider and body.
    """

    ordinal: int
    custom_id: str
    request: Request | None = None
    wire: WireRequest | None = None
    fingerprint: bytes | None = None
    error_type: str | None = None
    error_message: str | None = None


class Turn(Struct, frozen=True, gc=False):
    """A turn of the model that calls tools, and the results of the calls.

    Attributes:
        key: the key of the request.
        number: number of the attempt whose answer is the turn.
        said: the assistant's message as JSON, as it must be sent back.
        calls: JSON list of `{id, name, input}`.
        results: the calls with their `output`, and `is_error` where one failed; None until the
            tools have run.
    """

    key: int
    number: int
    said: str
    calls: str
    results: str | None = None


class PlannedRequest(Struct, frozen=True, gc=False):
    """A request with its row in the checkpoint.

    Attributes:
        key: the checkpoint's number for this request.
        attempts_made: attempts by earlier executions; the next one is numbered after them.
        turns: the turns so far of a conversation with tools.
        batch_error: error type of its last attempt, if that was in a batch.
    """

    key: int
    custom_id: str
    request: Request
    wire: WireRequest
    attempts_made: int = 0
    turns: tuple[Turn, ...] = ()
    batch_error: str | None = None


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one exchange, in inclusive counts.

    `input_tokens` counts all input; the cache counts are parts of it, and the 5-minute and 1-hour
    writes are parts of `cache_write_tokens`. `reasoning_tokens` is part of `output_tokens`. The
    audio counts are parts of the input, the cache reads and the output.
    None: the provider did not say.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_cache_read_tokens: int | None = None
    audio_output_tokens: int | None = None


class Billing(Struct, frozen=True, gc=False):
    """What an answer says about its price, apart from its tokens. None: the provider did not say.

    Attributes:
        service_tier: the tier that served the request, as sent (`flex`, `priority`, `batch`,
            `default`, `standard` …).
        speed: `fast` or `standard`, as sent.
        inference_geo: where it was computed, as sent (`us`, `global` …).
        web_search_requests: searches by the provider's own tool, billed individually.
        stated_cost: the cost that the provider states, in pico-dollars (OpenRouter, xAI …).
    """

    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    web_search_requests: int | None = None
    stated_cost: int | None = None


class Completion(Struct, frozen=True, gc=False):
    """What the model returned: one text per choice, in order of their index.

    Fields are those of the first choice unless stated otherwise.

    Attributes:
        stop_reason: as the provider sent it; `ending` is its neutral form.
        tool_calls: JSON list of `{id, name, input}`.
        turn: the assistant's message (JSON value) to send back, if tools are called or the turn is
            paused.
        refusal: the text of a refusal, if the provider has a field for it.
        citations: JSON list of citations (messages) or annotations (chat), as received.
        logprobs: JSON, as received.
        stop_sequence: the stop sequence that ended the answer.
        choices: with several choices, a JSON list of `{response, reasoning, tool_calls, ending,
            stop_reason, refusal}`, one for each.
        server_tools: JSON list of the blocks of tools that the provider ran, as received.
        raw: the body as received, assembled if it was a stream; kept on request only.
    """

    texts: tuple[str, ...]
    stop_reason: str | None
    model: str | None
    response_id: str | None
    usage: Usage
    reasoning: str | None = None
    tool_calls: str | None = None
    turn: Mapping[str, Any] | None = None
    ending: Ending = Ending.UNKNOWN
    refusal: str | None = None
    citations: str | None = None
    logprobs: str | None = None
    stop_sequence: str | None = None
    choices: str | None = None
    server_tools: str | None = None
    billing: Billing = field(default_factory=Billing)
    raw: bytes | None = None


class CostSource(StrEnum):
    """How a cost was determined."""

    PRICE_LIST = "price_list"  # from tokens and genai-prices' list
    JOB = "job"  # from tokens and `[price]` of the job file
    STATED = "stated"  # stated by the provider


class Cost(Struct, frozen=True, gc=False):
    """An amount of money in whole pico-dollars (1e-12 USD), so that sums are exact.

    The parts are the input (uncached, cache read, cache write), the output, and the rest: web
    searches, fees per request, and a total that the provider states.
    """

    uncached_input: int
    cache_read: int
    cache_write: int
    output: int
    cache_saved: int = 0
    other: int = 0
    source: CostSource = CostSource.PRICE_LIST
    batch_saved: int = 0  # how much less than outside of a batch

    @property
    def total(self) -> int:
        """The whole amount in pico-dollars."""
        tokens = self.uncached_input + self.cache_read + self.cache_write + self.output
        return tokens + self.other


class Allowance(Struct, frozen=True, gc=False):
    """One limit as reported by a provider's headers.

    Attributes:
        limit: the amount allowed in its period, usually one minute.
        remaining: the amount that was left when the answer was written.
        reset_s: seconds until all of it is available again; None if unknown.
    """

    limit: float
    remaining: float
    reset_s: float | None = None


class LimitState(Struct, frozen=True, gc=False):
    """The limits that the headers of one answer report. None: not reported."""

    requests: Allowance | None = None
    tokens: Allowance | None = None
    input_tokens: Allowance | None = None
    output_tokens: Allowance | None = None


# The key of a request, and the number of one of its attempts.
AttemptId = tuple[int, int]


class AttemptStart(Struct, frozen=True, gc=False):
    """An attempt that is about to be sent. It is committed before its first byte is sent.

    `reserved` is its maximum cost in pico-dollars; None if the job has no cost limit.
    """

    key: int
    number: int
    started_at: datetime
    reserved: int | None = None


class UnfinishedAttempt(Struct, frozen=True, gc=False):
    """An attempt of an earlier execution without an outcome.

    `dispatcher` is the name of the way in which that execution dispatched it, such as `live`.
    """

    key: int
    number: int
    execution: int
    dispatcher: str


class Attempt(Struct, frozen=True, gc=False):
    """One finished HTTP exchange, numbered from 1 within its request.

    `cause` is the kind of failure (`transient`, `rate_limit`, `fatal`, `no`), None for a success.
    `latency_s` is from the first byte sent to the last byte received. `model` is the model named in
    the answer, `asked_model` the requested one. `dropped`: the parameter that later attempts leave out.
    """

    key: int
    number: int
    latency_s: float
    http_status: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    cause: str | None = None
    maybe_billed: bool = False
    request_id: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: Cost | None = None
    asked_model: str | None = None
    billing: Billing = field(default_factory=Billing)
    dropped: str | None = None

    @property
    def error(self) -> str | None:
        """The error on one line; None for a success."""
        if self.error_type is None:
            return None
        message = " ".join((self.error_message or "").split())[:LONGEST_ERROR]
        is_said = self.error_type in _SAID and message
        return message if is_said else f"{self.error_type}: {message}".removesuffix(": ")


class Result(Struct, frozen=True, gc=False):
    """The final outcome of one request, with its last attempt.

    `retryable`: a later execution should try this errored result again, because the network or the
    server failed, not the request.
    """

    key: int
    status: Status
    last: Attempt
    finished_at: datetime
    completion: Completion | None = None
    retryable: bool = False
