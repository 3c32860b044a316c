"""The messages between the owner of a run and its workers, and how they are encoded.

A worker sends `WorkerReport`s, the owner sends `Order`s. Both are lists of events, in the order in which they
happened. Each is one MessagePack message; records are encoded as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from batchrun.client import KeyRenewal
from batchrun.errors import RunEnd, Stop
from batchrun.limits import Demand, RetryDecision
from batchrun.records import (
    Attempt,
    AttemptStart,
    LimitState,
    PlannedRequest,
    Request,
    Result,
    Turn,
    WireRequest,
    changed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


# Where no two rows share parts (images), only the latest are remembered.
MOST_PARTS = 1_000


class WorkerMessage(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Something that happened; the name of its class is its tag."""


# What a worker reports.


class AskLease(WorkerMessage, frozen=True):
    """A request waits for admission; `lease` numbers this and everything about its permit."""

    lease: int
    key: int
    number: int
    rank: int
    asked: Demand


class Withdraw(WorkerMessage, frozen=True):
    """A request is not sent after all: it does not wait any more, or gives back its permit."""

    lease: int


class Settle(WorkerMessage, frozen=True):
    """The attempt of a permit has its outcome; it is recorded later."""

    lease: int
    attempt: Attempt
    reported: LimitState | None


class Begin(WorkerMessage, frozen=True):
    """An attempt without a permit begins. To be recorded, like the next three."""

    start: AttemptStart


class Fail(WorkerMessage, frozen=True):
    """An attempt failed. `lease` settles its permit, if that was not done yet."""

    attempt: Attempt
    lease: int | None = None
    reported: LimitState | None = None


class TakeTurn(WorkerMessage, frozen=True):
    """A conversation has a turn."""

    turn: Turn
    attempt: Attempt | None
    lease: int | None = None
    reported: LimitState | None = None


class Finish(WorkerMessage, frozen=True):
    """A request has its result."""

    result: Result
    lease: int | None = None
    reported: LimitState | None = None


class CoolDown(WorkerMessage, frozen=True):
    """An attempt failed and may be repeated: what does it wait for?"""

    question: int
    lease: int
    error_type: str
    message: str
    http_status: int | None
    decision: RetryDecision
    is_suspect: bool


class IsOwnFault(WorkerMessage, frozen=True):
    """Did an attempt fail while others succeeded?"""

    question: int
    lease: int
    is_suspect: bool
    is_last: bool


class AboveReported(WorkerMessage, frozen=True):
    """Will the provider always refuse this?"""

    question: int
    asked: Demand


class SucceededSince(WorkerMessage, frozen=True):
    """Was any request answered since then, in seconds of the owner's clock?"""

    question: int
    since: float


class HasInFlight(WorkerMessage, frozen=True):
    """Is anything in flight to the endpoint of this request?"""

    question: int
    asked: Demand


class Sample(WorkerMessage, frozen=True):
    """Which requests are from all over the input?"""

    question: int


class Count(WorkerMessage, frozen=True):
    """A row has failed, for `max_errors`."""

    error: str | None
    timed_out: bool


class Ready(WorkerMessage, frozen=True):
    """The worker has everything that the job needs, and waits for requests."""


class Renewed(WorkerMessage, frozen=True):
    """`api_key_command` was run for another key."""

    renewal: KeyRenewal


class ChunkTaken(WorkerMessage, frozen=True):
    """A chunk of requests was taken: there is room for another."""


class Ended(WorkerMessage, frozen=True):
    """Every request has its result, or the worker has drained."""


class Failed(WorkerMessage, frozen=True):
    """The worker cannot work, because of the job (then `is_job`) or of a mistake."""

    message: str
    is_job: bool


Reported: TypeAlias = (
    AskLease
    | Withdraw
    | Settle
    | Begin
    | Fail
    | TakeTurn
    | Finish
    | CoolDown
    | IsOwnFault
    | AboveReported
    | SucceededSince
    | HasInFlight
    | Sample
    | Count
    | Ready
    | ChunkTaken
    | Renewed
    | Ended
    | Failed
)


class WorkerReport(msgspec.Struct, array_like=True):
    """The events of a worker since its last report, and its present state.

    Attributes:
        events: the events in order.
        succeeded, last_error, stop: see `dispatch.Tally`.
        is_answered: the provider has answered it.
        waits: seconds that its requests paused so far, by cause.
        waiting: number of requests that pause now, by cause.
        cpu_s: processor time that it has used, in seconds.
    """

    events: list[Reported]
    succeeded: int
    last_error: str | None
    stop: Stop | None
    is_answered: bool
    waits: dict[str, float]
    waiting: dict[str, int]
    cpu_s: float


# What the owner orders.


class Setup(WorkerMessage, frozen=True):
    """Everything that a worker needs to know before the first request. Always the first order.

    Attributes:
        version: version of batchrun; the worker must have the same one.
        module: a digest of `[tools] module`; the worker must have the same file.
        job: the document of the job; `base` is the folder of its relative paths.
        key, headers: the credentials. They are stored in memory only.
        variable: the environment variable that the key came from.
        simulator: the address that replaces the base URL.
        provider: the provider whose prices apply.
        caps_cost: whether there is a cost cap.
        workers: number of workers that share the memory for answers.
        is_answered: the provider has answered this run before.
        dropped: pairs of a model and a parameter that it does not support.
    """

    version: str
    module: bytes | None
    job: dict[str, Any]
    base: str
    key: str | None
    headers: tuple[tuple[str, str], ...]
    variable: str
    simulator: str | None
    provider: str | None
    caps_cost: bool
    workers: int
    is_answered: bool
    dropped: tuple[tuple[str, str], ...] = ()


class RequestRow(msgspec.Struct, array_like=True, frozen=True):
    """A request; `shared` is the number of the parts that it shares with others."""

    key: int
    custom_id: str
    shared: int
    body: bytes
    attempts_made: int = 0
    turns: tuple[Turn, ...] = ()


class SharedParts(msgspec.Struct, array_like=True, frozen=True):
    """The parts that many requests share."""

    request: Request
    wire: WireRequest


class Requests(WorkerMessage, frozen=True):
    """Requests to send; an answer to `Sample` if it has a question. `parts` are new ones."""

    rows: list[RequestRow]
    parts: dict[int, SharedParts]
    question: int | None = None


class Grant(WorkerMessage, frozen=True):
    """A request is admitted, and its attempt is recorded as begun."""

    lease: int
    sent_at: float
    cost: int | None


class Refuse(WorkerMessage, frozen=True):
    """The rest of the cost cap cannot cover a request."""

    lease: int
    reason: str
    end: RunEnd


class Recorded(WorkerMessage, frozen=True):
    """This many of the events to be recorded are on disk."""

    count: int


class Answer(WorkerMessage, frozen=True):
    """The answer to a question."""

    question: int
    answer: bool | str | None


class BackoffAnswer(WorkerMessage, frozen=True):
    """The answer to `CoolDown`."""

    question: int
    is_shared: bool
    pause_s: float


class SetConcurrency(WorkerMessage, frozen=True):
    """How many requests to work on at a time."""

    count: int


class ProviderAnswered(WorkerMessage, frozen=True):
    """The provider has answered a request of the run: from now on a refusal is its row's fault."""


class DropParameter(WorkerMessage, frozen=True):
    """A model does not support a parameter, as another worker has learned: leave it out."""

    model: str
    parameter: str


class NoMoreRequests(WorkerMessage, frozen=True):
    """There are no more requests."""


class Drain(WorkerMessage, frozen=True):
    """Send nothing more, and finish what is in flight."""


class Cancel(WorkerMessage, frozen=True):
    """Cancel what is in flight."""


Ordered: TypeAlias = (
    Setup
    | Requests
    | Grant
    | Refuse
    | Recorded
    | Answer
    | BackoffAnswer
    | SetConcurrency
    | ProviderAnswered
    | DropParameter
    | NoMoreRequests
    | Drain
    | Cancel
)

_ENCODER = msgspec.msgpack.Encoder()
_REPORTS = msgspec.msgpack.Decoder(WorkerReport)
_ORDERS = msgspec.msgpack.Decoder(list[Ordered])


def encode(message: WorkerReport | Sequence[Ordered]) -> bytes:
    """Encode a report or orders."""
    return _ENCODER.encode(message)


def decode_report(data: bytes) -> WorkerReport:
    """Decode a report."""
    return _REPORTS.decode(data)


def decode_orders(data: bytes) -> list[Ordered]:
    """Decode orders."""
    return _ORDERS.decode(data)


class RowEncoder:
    """Encodes requests as rows for one worker, and remembers which shared parts it has.

    Messages and texts of a request are only in its body: dispatch does not read them elsewhere.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        # Keeps alive what the keys of `_numbers` identify by their address.
        self._seen: list[Request] = []
        self._next = 0

    def encode(self, requests: Sequence[PlannedRequest], question: int | None = None) -> Requests:
        """Return the order to send requests."""
        parts: dict[int, SharedParts] = {}
        rows = [self._row(request, parts) for request in requests]
        return Requests(rows, parts, question)

    def _row(self, planned: PlannedRequest, parts: dict[int, SharedParts]) -> RequestRow:
        request, wire = planned.request, planned.wire
        attachments = tuple(replace(one, data=None) for one in request.attachments)
        identity = (
            request.model,
            request.base_url,
            request.parameters,
            attachments,
            id(request.tools),
            id(request.answer),
            wire.url,
            wire.headers,
            wire.stream,
        )
        number = self._numbers.get(identity)
        if number is None:
            number = self._new(identity, request)
            slim = changed(
                request,
                messages=(),
                system=None,
                extra_body={},
                extra_headers=(),
                attachments=attachments,
            )
            parts[number] = SharedParts(slim, changed(wire, body=b""))
        return RequestRow(
            planned.key, planned.custom_id, number, wire.body, planned.attempts_made, planned.turns
        )

    def _new(self, identity: tuple[object, ...], request: Request) -> int:
        if len(self._seen) >= MOST_PARTS:
            self._numbers.clear()
            self._seen.clear()
        number = self._numbers[identity] = self._next
        self._seen.append(request)
        self._next += 1
        return number


class RowDecoder:
    """Decodes rows to requests; see `RowEncoder`."""

    def __init__(self) -> None:
        self._parts: dict[int, SharedParts] = {}

    def decode(self, order: Requests) -> list[PlannedRequest]:
        """Return the requests of an order."""
        self._parts.update(order.parts)
        found = [self._planned(row) for row in order.rows]
        for number in order.parts:
            self._parts.pop(number - MOST_PARTS, None)
        return found

    def _planned(self, row: RequestRow) -> PlannedRequest:
        shared = self._parts[row.shared]
        wire = WireRequest(shared.wire.url, shared.wire.headers, row.body, shared.wire.stream)
        return PlannedRequest(
            row.key, row.custom_id, shared.request, wire, row.attempts_made, row.turns
        )
