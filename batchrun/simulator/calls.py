"""A request and its answer in neutral terms, and the interface of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.accounting import LimitStanding
    from batchrun.simulator.draws import RandomDraws

    Headers = list[tuple[str, str]]
    Json = dict[str, Any]

THINKING_SUFFIX = "-thinking"  # of models that think without being asked to
_BYTES_PER_TOKEN = 4


def count_tokens(text: str) -> int:
    """Estimate tokens from UTF-8 length: 4 Latin, 2 Cyrillic or 1.3 Chinese characters in each."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // _BYTES_PER_TOKEN)


def cut_to_tokens(text: str, tokens: int) -> str:
    """Return the longest prefix of `text` with at most `tokens` tokens."""
    return text.encode()[: tokens * _BYTES_PER_TOKEN].decode(errors="ignore")


class Fault(Enum):
    """Why a request gets an error instead of an answer. The formats add a status and a type."""

    MISSING = auto()  # a required field
    INVALID = auto()  # a field, or the whole body
    NOT_IMPLEMENTED = auto()  # valid, but the simulator does not have it
    CREDENTIALS = auto()
    NOT_FOUND = auto()
    METHOD = auto()
    TOO_LARGE = auto()
    RATE_LIMIT = auto()
    SERVER_ERROR = auto()
    OVERLOADED = auto()
    NO_CAPACITY = auto()  # for the flex tier, at the moment


@dataclass(eq=False)
class RefusedError(Exception):
    """A request is refused."""

    fault: Fault
    message: str  # for the person who sent the request
    param: str | None = None  # the field at fault, as a dotted path such as "messages.0.role"
    scope: str = "requests"  # of a rate limit: "requests" or "tokens"
    wait_s: float | None = None  # of a rate limit: seconds until the request may work


class ToolDemand(Enum):
    """The meaning of `tool_choice`."""

    AUTO = "auto"
    REQUIRED = "required"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """One tool of a request."""

    name: str
    purpose: str
    schema: Json  # of its arguments


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """The tools of a request: at least one."""

    tools: tuple[ToolDefinition, ...]
    demand: ToolDemand
    only: str | None  # the one to call; None leaves the choice
    parallel: bool  # whether there may be more than one call


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The beginning of a prompt that a cache may know."""

    digest: bytes
    tokens: int
    lifetime: str  # once written: "5m" or "1h"; "" when it was not marked


@dataclass(frozen=True, slots=True)
class PromptText:
    """The conversation of a request."""

    system: str  # all system text
    question: str  # text of the last user message
    prefill: str  # text of a final assistant message, which the answer continues
    results: tuple[str, ...]  # what tools returned, when the conversation ends with that
    images: int
    tokens: int  # what it costs as input, tools included
    prefixes: tuple[CachedPrefix, ...]  # shortest first

    @property
    def subject(self) -> str:
        """The text that the answer is about."""
        return self.question or "\n".join(self.results) or self.system


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCall:
    """A request that will be answered."""

    model: str
    prompt: PromptText
    max_tokens: int | None  # of one choice, thinking included
    stops: tuple[str, ...]  # texts that end the answer before they appear in it
    choices: int = 1
    thinking: int = 0  # limit on tokens of reasoning before the answer
    tools: ToolOffer | None = None
    schema: Json | None = None  # JSON Schema that the text must satisfy
    stream: bool = False
    include_usage: bool = False  # a chat stream ends with its usage
    service_tier: str = ""  # as answers name it
    logprobs: int | None = None  # alternatives for each token; None for no log probabilities

    @property
    def reserved_tokens(self) -> int:
        """The tokens charged at admission: the output is not known yet, so its limit is used."""
        return self.prompt.tokens + self.choices * (self.max_tokens or 0)


@dataclass(frozen=True, slots=True)
class SimulatedToolUse:
    """One call of a tool."""

    number: int  # below 2**96; part of its id
    name: str
    arguments: str  # a JSON object


class FinishCause(Enum):
    """Why an answer ends."""

    COMPLETE = auto()
    MAX_TOKENS = auto()
    STOP = auto()
    TOOL_USE = auto()


@dataclass(frozen=True, slots=True)
class SimulatedChoice:
    """One choice of an answer."""

    text: str  # after the prefill if there was one
    tokens: int  # what it costs, reasoning and calls of tools included
    finish: FinishCause
    stop: str | None  # the stop sequence that ended it
    thoughts: str  # the reasoning before the text
    uses: tuple[SimulatedToolUse, ...]  # after the text


@dataclass(frozen=True, slots=True)
class InputUsage:
    """The usage of a prompt in tokens; the sum of the four is the whole input."""

    uncached: int  # neither read from the cache nor written to it
    read: int = 0
    written_5m: int = 0  # stored for five minutes
    written_1h: int = 0  # stored for an hour

    @property
    def total(self) -> int:
        """All input."""
        return self.uncached + self.read + self.written_5m + self.written_1h


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """The answer to a call."""

    call: SimulatedCall
    choices: tuple[SimulatedChoice, ...]
    number: int  # below 2**96; part of its id
    created: float  # Unix time in seconds
    input: InputUsage

    @property
    def output_tokens(self) -> int:
        """Tokens of all choices, including reasoning."""
        return sum(choice.tokens for choice in self.choices)

    @property
    def thinking_tokens(self) -> int:
        """Reasoning tokens of all choices."""
        return sum(count_tokens(choice.thoughts) for choice in self.choices)

    @property
    def charged_tokens(self) -> int:
        """Tokens that count towards the token limit: cache reads do not."""
        return self.input.total - self.input.read + self.output_tokens


class SimulatedFormat(ABC):
    """One wire format: how its requests are read and its answers and errors are written."""

    request_id_header: str
    retries_in_ms = False  # whether a 429 has `retry-after-ms` beside `retry-after`

    @abstractmethod
    def parse(self, body: Json, headers: Mapping[bytes, bytes]) -> SimulatedCall:
        """Check a request. Raises `RefusedError`."""

    @abstractmethod
    def completion(self, answer: SimulatedAnswer) -> Json:
        """Return the body of a successful answer."""

    @abstractmethod
    def events(self, answer: SimulatedAnswer, draws: RandomDraws) -> list[bytes]:
        """Return the same answer as server-sent events, the last of which marks the end."""

    @abstractmethod
    def error(self, refused: RefusedError, request_id: str) -> tuple[int, Json]:
        """Return the status and the body of an error."""

    @abstractmethod
    def event(self, data: Json) -> bytes:
        """Return one server-sent event."""

    @abstractmethod
    def limit_headers(self, standings: list[LimitStanding], now: float) -> Headers:
        """Return the limits as headers. `now` is Unix time."""
