"""What an answer or a fault means: pure decisions, without clock and I/O, for every way to dispatch.

`judge` decides about one attempt. One refusal does not show whether the row or the whole run is at fault:
that depends on what the provider has done so far, which is a `TrackRecord`. `blame` decides it once enough
is known. The tables follow the error references of both APIs, and public reports of what gateways send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchrun import formats
from batchrun.errors import ProviderFault, RunEnd, Stop, printable, sentences, short
from batchrun.formats.credentials import KEY_COMMAND
from batchrun.limits.retry_delays import BASE_DELAY_S, OVERLOADED_BASE_DELAY_S, Cause, RetryDecision

if TYPE_CHECKING:
    from batchrun.errors import Rejection
    from batchrun.records import Request

# After this many refusals of the first rows, without an answer, rows from elsewhere are tried before more
# of these: a table may be sorted, with everything that is wrong at its top.
FIRST = 12
# This many refusals of the first requests for one reason mean that the request is wrong.
ALIKE = 20
# This many refusals for different reasons mean it, too, where key, model or address can be the reason.
# With the requests that are still in flight then, fewer than 60 are sent.
MOST_HELD = 50

_RATE_LIMITED = 429
_OVERLOADED = 529
_TRANSIENT = frozenset({408, 409, 424, 425, 449, 498, 499})
# Key, model or address may be wrong, or only this row: moderation, a firewall, one wrong model.
_ACCESS = frozenset({403, 404, 405, 407, 410})

# The status of error types that arrive without one: in a stream, or under a successful status.
_STATUS_OF_TYPE = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "invalid_token": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "overloaded_error": _OVERLOADED,
    "slow_down": _OVERLOADED,
}
# Why no connection comes about, and what to do. Before the first answer, waiting does not help.
_UNREACHABLE = {
    "certificate_error": (
        "its certificate is not valid",
        "check base_url and the clock of this machine; for a private certificate authority, set SSL_CERT_FILE",
    ),
    "tls_error": (
        "no TLS connection can be made",
        "check the port in base_url, and write http:// there if the server does not speak https",
    ),
    "unknown_host": ("there is no host with this name", "check base_url and the network"),
}
# The flex tier has no capacity at the moment: nothing is billed, and it may take minutes.
# https://platform.openai.com/docs/guides/flex-processing (429), https://console.groq.com/docs/flex-processing (498)
_NO_CAPACITY = frozenset({"resource_unavailable", "capacity_exceeded"})
_A_STATUS = re.compile(r"(?:http_)?([45]\d\d)")

# Credit, quota or a spend limit is used up, whatever the status: waiting does not help.
_EXHAUSTED_TYPES = frozenset(
    {
        "access_terminated_error",
        "accountoverdueerror",  # Volcengine
        "arrearage",  # Alibaba
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",  # LiteLLM
        "credit_balance_exhausted",
        "exceeded_current_quota_error",  # Moonshot
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_quota",
        "insufficient_user_quota",  # One API, New API
        "payment_required",
    }
)
_EXHAUSTED_NAME = re.compile(r"spend(?:ing)?_limit|usage_limit_(?:exceeded|reached)")
# A message may quote the row, so these are whole phrases that providers use, of short messages. They
# stop a run only if no request succeeds that is sent afterwards.
_EXHAUSTED_MESSAGE_OF_400 = re.compile(
    r"credit balance is too low"  # Anthropic
    r"|budget has been exceeded|exceededbudget"  # LiteLLM
    r"|make sure your account is in good standing",  # Alibaba
    re.IGNORECASE,
)
_EXHAUSTED_MESSAGE = re.compile(
    r"key limit exceeded"  # OpenRouter, 403
    r"|used all available credits|reached (?:its|your) monthly spending limit"  # xAI, 403
    r"|insufficient (?:account )?(?:balance|credits?\b)"  # DeepSeek, OpenRouter
    r"|account (?:is in arrears|balance is insufficient)",
    re.IGNORECASE,
)
# Gemini's QuotaFailure names the quota. Only refusals that depend on the rate name one.
_DAILY_QUOTA = re.compile(r"\b[A-Z]\w*PerDay\w*")
# What a moderation quotes. A quoted value of JSON is the message of a provider behind a router.
_QUOTED = re.compile(r"""(?<!":)(?<!": )"[^"]*"|(?<!\w)'[^']*'(?!\w)|“[^”]*”|«[^»]*»|`[^`]*`""")
_LONGEST_MESSAGE = 1_000
# Ids that providers put into messages: without them, messages for one reason are the same.
_AN_ID = re.compile(r"\b(?=\w*\d)[\w-]{12,}\b")


class Action(StrEnum):
    """What follows from an attempt."""

    RETRY = "retry"  # send the request again
    REJECT = "reject"  # keep the answer, and why it is rejected: the row has failed
    FAIL = "fail"  # the row has failed
    HOLD = "hold"  # refused before anything was answered: `blame` decides later
    STOP = "stop"  # no request of this run can succeed


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from an attempt, and why.

    Attributes:
        action: what follows.
        decision: the kind of failure, and how long to wait before the next attempt.
        end: how the run ends if it stops now, or later because no request succeeds.
    """

    action: Action
    decision: RetryDecision
    end: RunEnd | None = None

    @property
    def cause(self) -> Cause:
        """The kind of failure."""
        return self.decision.cause


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a request has failed so far, this time included.

    Attributes:
        failures: attempts that count towards `max_attempts`.
        max_attempts: the key of `[retry]`.
        alike: answers that were rejected for the same reason.
    """

    failures: int
    max_attempts: int
    alike: int = 0


class Blame(StrEnum):
    """Whose fault refusals are that came before the first answer."""

    UNKNOWN = "unknown"  # the provider may still answer one of the others
    ROWS = "rows"  # each is the fault of its own row
    RUN = "run"  # no request can succeed: key, model, address or the request itself is wrong


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """What a provider has done so far in this execution, with this key and model.

    Attributes:
        answered: it has answered a request, or rows were found at fault in another way.
        in_flight: requests that were sent or are about to be, without an outcome.
        held: requests that it refused for whatever reason.
        refused: held requests that it may have refused because of key, model or address.
        alike: held requests with the most frequent reason.
        is_spread: rows from all over the input were tried, or cannot be.
    """

    answered: bool = False
    in_flight: int = 0
    held: int = 0
    refused: int = 0
    alike: int = 0
    is_spread: bool = True

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent before the first is answered."""
        if not self.answered and not self.is_spread:
            return self.in_flight + self.held < FIRST
        few = self.in_flight + self.alike < ALIKE
        return self.answered or (few and self.in_flight + self.held < MOST_HELD)


def judge(
    problem: ProviderFault | Rejection,
    record: TrackRecord,
    tries: Tries | None = None,
    sent: bytes = b"",
) -> Judgement:
    """Judge a failed attempt, or an answer that is rejected.

    A fault is judged by its status, error type and message, and by what the provider asks for.

    Args:
        problem: how the attempt failed, or why its answer is rejected.
        record: what the provider has done so far.
        tries: failures of the request so far; None if it may be sent again in any case.
        sent: the body of the request, which a message may quote.
    """
    if isinstance(problem, ProviderFault):
        return _judge_fault(problem, record, sent)
    return _judge_rejection(problem, tries)


def _judge_fault(fault: ProviderFault, record: TrackRecord, sent: bytes) -> Judgement:
    status = _status(fault)
    if fault.error_type in _UNREACHABLE and status is None and not record.answered:
        return Judgement(Action.STOP, RetryDecision(Cause.TRANSIENT), RunEnd.UNAVAILABLE)
    if status == 401:
        return Judgement(Action.STOP, RetryDecision(Cause.FATAL), RunEnd.REFUSED)
    if status == 402 or _is_exhausted(fault):
        return Judgement(Action.STOP, RetryDecision(Cause.FATAL), RunEnd.EXHAUSTED)
    if _sounds_exhausted(fault, status, sent):
        return Judgement(Action.HOLD, RetryDecision(Cause.UNDECIDED), RunEnd.EXHAUSTED)
    if fault.error_type in _NO_CAPACITY:
        status = _OVERLOADED
    if status in {_RATE_LIMITED, _OVERLOADED}:
        base_s = BASE_DELAY_S if status == _RATE_LIMITED else OVERLOADED_BASE_DELAY_S
        decision = RetryDecision(Cause.RATE_LIMIT, fault.retry_after_s, base_s)
        return Judgement(Action.RETRY, decision)
    return _judge_other(fault, status, record)


def _judge_other(fault: ProviderFault, status: int | None, record: TrackRecord) -> Judgement:
    may_pass = _may_pass(status) if fault.should_retry is None else fault.should_retry
    if may_pass:
        return Judgement(Action.RETRY, RetryDecision(Cause.TRANSIENT, fault.retry_after_s))
    is_refused = status is not None and 300 <= status < 500
    if is_refused and not record.answered:
        return Judgement(Action.HOLD, RetryDecision(Cause.UNDECIDED))
    return Judgement(Action.FAIL, RetryDecision(Cause.NO))


def _judge_rejection(rejection: Rejection, tries: Tries | None) -> Judgement:
    most = rejection.most_retries
    is_enough = tries is not None and (
        tries.failures >= tries.max_attempts or (most is not None and tries.alike > most)
    )
    action = Action.REJECT if is_enough else Action.RETRY
    return Judgement(action, RetryDecision(Cause.INVALID))


def blame(record: TrackRecord, *, is_over: bool = False) -> Blame:
    """Decide whose fault the refusals are that came before the first answer.

    Args:
        record: what the provider has done.
        is_over: nothing more will be sent, so decide by what is known now.
    """
    if record.answered:
        return Blame.ROWS
    if record.in_flight and not is_over:
        return Blame.UNKNOWN
    if record.alike >= ALIKE:
        return Blame.RUN
    if is_over or record.held >= MOST_HELD:
        is_run = record.refused > 0 if is_over else 2 * record.refused > record.held
        return Blame.RUN if is_run else Blame.ROWS
    return Blame.UNKNOWN


def is_about_access(fault: ProviderFault) -> bool:
    """Whether key, model or address may be the reason of a refusal, rather than the request."""
    status = _status(fault)
    return status in _ACCESS or (status is not None and 300 <= status < 400)


def reason_of(fault: ProviderFault) -> tuple[int | None, str]:
    """Return a key for refusals with the same reason: the status, and the message without ids."""
    return _status(fault), _AN_ID.sub("…", fault.message)


def stop_for(fault: ProviderFault, end: RunEnd, request: Request, variable: str) -> Stop:
    """Return why a run stops whose requests a provider refused, and what to do about it.

    Args:
        fault: what the provider said.
        end: how the run ends.
        request: the refused one.
        variable: the environment variable with the key, or `KEY_COMMAND`; empty when no key is sent.
    """
    if end is RunEnd.UNAVAILABLE and fault.error_type in _UNREACHABLE:
        cause, remedy = _UNREACHABLE[fault.error_type]
        problem = f"{_endpoint(request)} cannot be reached: {cause} ({printable(fault.message)})"
        return Stop(end, sentences(problem, remedy))
    status = f"HTTP {fault.http_status} " if fault.http_status else ""
    said = f"{status}{printable(fault.error_type)}: {printable(fault.message)}"
    way_out = _way_out(fault, end, request, variable)
    endpoint = printable(fault.address) if fault.address else _endpoint(request)
    return Stop(end, sentences(f"{endpoint} refused the request: {said}", way_out))


def _way_out(fault: ProviderFault, end: RunEnd, request: Request, variable: str) -> str:
    where = "from" if variable == KEY_COMMAND else "in the environment variable"
    key = f"the key {where} {variable}" if variable else "the address"
    model = f"the model ({printable(request.model)})"
    status = _status(fault)
    if end is RunEnd.EXHAUSTED:
        return "the account's credit, quota or spend limit is used up: raise it, then run again"
    if end is RunEnd.REJECTED:
        return (
            "every request was rejected for this reason, so the job file is wrong rather than the "
            "rows: look at a request with batchrun preview"
        )
    if status == 401:
        nothing = "no key was sent: name its environment variable in [request] api_key_env"
        return f"check {key}" if variable else nothing
    if status == 403 and fault.address:
        return f"check that {key} may use batches and their files" if variable else "check base_url"
    if status == 403:
        return (
            f"check that {key} may use {short(model)}"
            if variable
            else f"check {short(model)} and base_url"
        )
    what = "" if status == 405 or (status or 0) < 400 else f"{short(model)} and "
    return f"check {what}base_url ({request.base_url})"


def _endpoint(request: Request) -> str:
    return formats.of(request.format).endpoint(request.base_url)


def _status(fault: ProviderFault) -> int | None:
    """Return the status that a fault stands for: with a successful status, that of its error type."""
    status = fault.http_status
    if status is not None and not 200 <= status < 300:
        return status
    if (named := _A_STATUS.fullmatch(fault.error_type)) is not None:
        return int(named[1])
    return _STATUS_OF_TYPE.get(fault.error_type, status)


def _is_exhausted(fault: ProviderFault) -> bool:
    name = fault.error_type.lower()
    return name in _EXHAUSTED_TYPES or _EXHAUSTED_NAME.search(name) is not None


def _sounds_exhausted(fault: ProviderFault, status: int | None, sent: bytes) -> bool:
    """Whether the message of a refusal mentions used-up credit in words that are not from the row."""
    if status not in {400, 403, _RATE_LIMITED}:
        return False
    text = fault.message[:_LONGEST_MESSAGE]
    if status == _RATE_LIMITED and _DAILY_QUOTA.search(text):
        return True
    text = _QUOTED.sub("…", text)
    found = _EXHAUSTED_MESSAGE_OF_400.search(text)
    if found is None and status != 400:
        found = _EXHAUSTED_MESSAGE.search(text)
    return found is not None and found[0].lower().encode() not in sent.lower()


def _may_pass(status: int | None) -> bool:
    # No status, or a success whose body was no completion: the exchange broke, the request did not.
    return status is None or 200 <= status < 300 or status >= 500 or status in _TRANSIENT


__all__ = [
    "ALIKE",
    "FIRST",
    "MOST_HELD",
    "Action",
    "Blame",
    "Judgement",
    "TrackRecord",
    "Tries",
    "blame",
    "is_about_access",
    "judge",
    "reason_of",
    "stop_for",
]
