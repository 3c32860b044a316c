"""`WireFormat`: everything that differs between two APIs, in one record for each.

Only this folder knows the form of requests and answers. All other code asks the record, which
`batchrun.formats.of(name)` returns. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import ProviderFault
from batchrun.formats.batches import BatchAnswer, BatchFormat, BatchLine, BatchOutcome, BatchService
from batchrun.formats.limit_headers import limit_state
from batchrun.formats.model_rules import NO_RULES, ModelRules
from batchrun.formats.parsing import (
    ErrorBody,
    InvalidResponse,
    as_dict,
    describe_error,
    dumps,
    loads,
    read_error,
    read_json,
    reported,
    reports_error,
)
from batchrun.formats.streaming import StreamAssembler, StreamReader, read_whole_answer
from batchrun.formats.tool_calls import SCHEMA_TOOL, answer_tool
from batchrun.formats.urls import request_url, root_of
from batchrun.records import (
    Completion,
    LimitState,
    Message,
    Request,
    ToolChoice,
    Turn,
    Usage,
    WireRequest,
    changed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.formats.conflicts import Combination, Conflict
    from batchrun.formats.providers import ProviderPreset
    from batchrun.formats.schema_rules import SchemaRules

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
POSITIVE: Range = (1, math.inf)
# The value of `auth` that is not the name of a header.
BEARER = "bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a format can express. The defaults are those of the smallest format.

    Attributes:
        parameters: the request parameters that the format has, each with its range (both ends
            included); `ANY` for those that are not numbers.
        needs_max_tokens: whether a request without `max_tokens` is refused.
        max_tokens_keys: the format's names for `max_tokens`.
        thinking_within_max_tokens: whether `thinking_tokens` is a part of `max_tokens`; otherwise
            it is added to it.
        api_version: whether requests name a version of the API.
        cache_marks: whether a request can mark what to cache.
        vendor_tools: whether a tool can be one of the vendor, named by its `type`.
        json_without_schema: whether a request can ask for any JSON object.
        efforts: the values of `effort`.
        system_turns: whether a system turn can follow other turns.
        document_urls: whether a document can be given by its URL at every provider.
        blank_stops: whether a stop sequence can consist of white space only.
        system_beside_messages: whether the system prompt is a separate key, not one of the messages.
        limits_count_cache_reads: whether tokens read from a cache count against the rate limits.
    """

    parameters: Mapping[str, Range]
    needs_max_tokens: bool = False
    max_tokens_keys: tuple[str, ...] = ("max_tokens",)
    thinking_within_max_tokens: bool = False
    api_version: bool = False
    cache_marks: bool = False
    vendor_tools: bool = False
    json_without_schema: bool = False
    system_beside_messages: bool = False
    limits_count_cache_reads: bool = False
    efforts: tuple[str, ...] = ()
    blank_stops: bool = True
    system_turns: bool = False
    document_urls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """One API: its addresses, its capabilities, and the functions that write and read it.

    Attributes:
        name: the value of `[request] format`; a part of every fingerprint.
        title: name of the API, for people.
        path: path after the base URL.
        base_url: the default of `[request] base_url`.
        key_env: the default of `[request] api_key_env`.
        auth: the default of `[request] auth`: `bearer` or the name of a header.
        model_rules: returns what a model accepts, by model, provider, effort and version of the API.
        conflict: returns which parameters are refused together.
        schema_rules: which JSON schemas its vendor enforces; None: any.
        sdk_adds_version: whether the vendor's SDK adds the version to every base URL.
        example_model: the model in a job file that `batchrun init` writes.
        request_id_headers: response headers with the provider's id of an exchange, best first.
        stream_members: JSON members that ask for a stream; they end the body, with the brace.
        headers: returns the format's own headers for a request, without credentials.
        body: returns the JSON body. Its key order is fixed, because the fingerprint covers it. Texts
            that are not blank appear in it unchanged, and do not affect other parts of it.
        read_answer: reads the JSON of an answer; raises `InvalidResponse` if it is not one.
        read_usage: reads the usage object of an answer.
        assembler: returns a new assembler for the events of a stream.
        write_turns: writes a conversation (without system turns) in the format's own shape;
            raises `ValueError` if the format cannot express a turn.
        continue_body: returns a body followed by an assistant's message and the results of its
            tools.
        limit_state: reads the limit headers of a response; names are in lower case.
        describe_error: reads the body of an error.
        batches: how it writes and reads batches; None if it has no batches.
    """

    name: str
    title: str
    path: str
    base_url: str
    key_env: str
    auth: str
    example_model: str
    capabilities: Capabilities
    request_id_headers: tuple[str, ...]
    stream_members: bytes
    headers: Callable[[Request], tuple[tuple[str, str], ...]]
    body: Callable[[Request], dict[str, Any]]
    read_answer: Callable[[Mapping[str, Any]], Completion]
    read_usage: Callable[[object], Usage]
    assembler: Callable[[], StreamAssembler]
    write_turns: Callable[[Sequence[Mapping[str, Any]]], tuple[Message, ...]]
    continue_body: Callable[
        [dict[str, Any], Mapping[str, Any], Sequence[Mapping[str, Any]]], dict[str, Any]
    ]
    limit_state: Callable[[Mapping[str, str]], LimitState | None] = limit_state
    describe_error: Callable[[bytes], ErrorBody] = describe_error
    sdk_adds_version: bool = False
    model_rules: Callable[[str, ProviderPreset | None, str | None, str | None], ModelRules] = (
        lambda *_: NO_RULES
    )
    conflict: Callable[[Combination], Conflict | None] = lambda _: None
    schema_rules: SchemaRules | None = None
    batches: BatchFormat | None = None

    def encode(self, request: Request) -> WireRequest:
        """Encode a request as URL, headers (without credentials) and body.

        An extra header of the job replaces the format's header with the same name.
        """
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **dict(self.headers(request)),
            **dict(request.extra_headers),
        }
        if request.answer is not None and request.answer.as_tool:
            choice = ToolChoice("tool", SCHEMA_TOOL)
            request = changed(request, tools=(answer_tool(request.answer),), tool_choice=choice)
        body = orjson.dumps(self.body(request))
        # At the end, so that `whole_body` can remove them: streaming does not change the fingerprint.
        if request.stream:
            body = body.removesuffix(b"}") + self.stream_members
        return WireRequest(
            self.endpoint(request.base_url), tuple(headers.items()), body, request.stream
        )

    def endpoint(self, address: str) -> str:
        """Return the URL of requests at an address, which may be such a URL itself."""
        return request_url(address, self.path, sdk_adds_version=self.sdk_adds_version)

    def root(self, address: str) -> str:
        """Return the common start of all URLs of the API at an address."""
        return root_of(self.endpoint(address), self.path)

    def fingerprint(self, request: Request, wire: WireRequest) -> bytes:
        """Return 16 bytes that identify a request by format, provider and body.

        Values that cannot change the answer are left out: the port of a server on this machine,
        credentials, extra headers, streaming, limits, outputs.
        """
        digest = self.digest(request)
        digest.update(self.whole_body(wire))
        return digest.digest()

    def digest(self, request: Request) -> hashlib.blake2b:
        """Return the fingerprint of a request before its body has been added."""
        # Any change here changes all fingerprints: every stored answer would be asked and paid for again.
        prefix = f"{self.name}\n{request.provider}\n".encode()
        return hashlib.blake2b(prefix, digest_size=16)

    def whole_body(self, wire: WireRequest) -> bytes:
        """Return the body of a request that asks for a whole answer."""
        if not wire.stream:
            return wire.body
        return wire.body.removesuffix(self.stream_members) + b"}"

    def batch_line(self, custom_id: str, wire: WireRequest, service: BatchService) -> bytes:
        """Return the line of a request in a batch. Its answer is never streamed.

        Args:
            custom_id: unique in the batch, as `service.limits` allows.
            wire: the request.
            service: where the batch is sent.
        """
        if self.batches is None:
            raise ValueError(f"the format {self.name} has no batches")
        return self.batches.line(custom_id, self.whole_body(wire), service)

    def read_batch_line(self, content: bytes, *, keep_raw: bool = False) -> BatchAnswer:
        """Read one line of the results of a batch.

        Raises:
            InvalidResponse: if it is not such a line. An unusable answer in it is a fault of its row.
        """
        if self.batches is None:
            raise ValueError(f"the format {self.name} has no batches")
        line = self.batches.read_line(as_dict(read_json(content)))
        if line.outcome is not BatchOutcome.ANSWERED:
            return _batch_answer(line, fault=_batch_fault(line))
        try:
            if reports_error(line.body):
                raise reported(read_error(line.body, dumps(line.body)))
            completion = self.read_answer(line.body)
        except InvalidResponse as error:
            return _batch_answer(line, fault=error.fault)
        if keep_raw:
            completion = changed(completion, raw=dumps(line.body))
        return _batch_answer(line, completion)

    def parse(self, content: bytes, *, keep_raw: bool = False) -> Completion:
        """Read the body of an answer with a status of success.

        Raises:
            InvalidResponse: if it is not JSON, not a completion, or reports an error.
        """
        return read_whole_answer(self.read_answer, content, keep_raw=keep_raw)

    def stream_reader(
        self, wire: WireRequest | None = None, *, keep_raw: bool = False
    ) -> StreamReader:
        """Return a reader for one streamed answer to a request."""
        choices = 1 if wire is None else _choices_asked(wire)
        return StreamReader(
            self.assembler(), self.read_answer, self.read_usage, keep_raw=keep_raw, choices=choices
        )

    def key_header(self, key: str, auth: str | None = None) -> tuple[str, str]:
        """Return the header that carries the API key: the format's own, or that of `auth`."""
        name = auth or self.auth
        return ("authorization", f"Bearer {key}") if name == BEARER else (name, key)

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Return the provider's id of an exchange from the response headers."""
        return next((headers[name] for name in self.request_id_headers if name in headers), None)

    def continued(self, wire: WireRequest, turn: Turn) -> WireRequest:
        """Return the request that follows a turn whose tools have run, or that was paused."""
        body = self.continue_body(loads(wire.body), loads(turn.said), loads(turn.results or "[]"))
        return changed(wire, body=dumps(body))


_NOT_SENT = {
    BatchOutcome.CANCELED: "the batch was canceled before this request was answered",
    BatchOutcome.EXPIRED: "the batch expired before this request was answered",
}


def _batch_answer(
    line: BatchLine, completion: Completion | None = None, *, fault: ProviderFault | None = None
) -> BatchAnswer:
    return BatchAnswer(
        line.custom_id, line.outcome, completion, fault, line.http_status, line.request_id
    )


def _batch_fault(line: BatchLine) -> ProviderFault:
    """Return why a request of a batch has no answer. Such requests are not billed."""
    if (reason := _NOT_SENT.get(line.outcome)) is not None:
        return ProviderFault(f"batch_{line.outcome}", reason, request_id=line.request_id)
    error = read_error(line.body, dumps(line.body))
    status = line.http_status or error.status
    return ProviderFault(
        error.error_type or (f"http_{status}" if status else "batch_error"),
        error.message,
        status,
        request_id=line.request_id or error.request_id,
        retry_after_s=error.retry_after_s,
    )


def _choices_asked(wire: WireRequest) -> int:
    """Return how many choices a request asks for (`n`)."""
    if b'"n":' not in wire.body:
        return 1
    asked = orjson.loads(wire.body).get("n")
    return asked if isinstance(asked, int) else 1
