"""Whose fault a failed attempt is: the decision table, and what refusals before the first answer mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.dispatch.judgement import (
    ALIKE,
    MOST_HELD,
    Action,
    Blame,
    TrackRecord,
    Tries,
    blame,
    judge,
    reason_of,
    stop_for,
)
from batchrun.errors import ProviderFault, Rejection, RunEnd, RunStopped, Stop
from batchrun.limits.retry_delays import BASE_DELAY_S, OVERLOADED_BASE_DELAY_S, Cause
from batchrun.records import Request

NEW, ANSWERED = TrackRecord(), TrackRecord(answered=True)
NO, TRANSIENT, RATE_LIMIT, FATAL = Cause.NO, Cause.TRANSIENT, Cause.RATE_LIMIT, Cause.FATAL
INVALID = Cause.INVALID


def fault(
    status: int | None,
    error_type: str = "x",
    message: str = "message",
    *,
    retry_after_s: float | None = None,
    should_retry: bool | None = None,
) -> ProviderFault:
    return ProviderFault(
        error_type, message, status, retry_after_s=retry_after_s, should_retry=should_retry
    )


@pytest.mark.parametrize(
    ("status", "error_type", "cause"),
    [
        # messages
        (400, "invalid_request_error", NO),
        (413, "request_too_large", NO),
        (422, "invalid_request_error", NO),
        (401, "authentication_error", FATAL),
        (402, "billing_error", FATAL),
        (403, "permission_error", NO),
        (404, "not_found_error", NO),
        (408, "timeout_error", TRANSIENT),
        (409, "conflict_error", TRANSIENT),
        (429, "rate_limit_error", RATE_LIMIT),
        (429, "enforced_spend_limit_reached", FATAL),
        (429, "contract_spend_limit_reached", FATAL),
        (500, "api_error", TRANSIENT),
        (504, "timeout_error", TRANSIENT),
        (529, "overloaded_error", RATE_LIMIT),
        # chat
        (429, "insufficient_quota", FATAL),
        (429, "credit_balance_exhausted", FATAL),
        (429, "organization_spend_limit_exceeded", FATAL),
        (429, "project_spend_limit_exceeded", FATAL),
        (429, "organization_usage_limit_exceeded", FATAL),
        (429, "billing_hard_limit_reached", FATAL),
        (400, "billing_hard_limit_reached", FATAL),
        (429, "exceeded_current_quota_error", FATAL),
        (429, "billing_not_active", FATAL),
        (400, "budget_exceeded", FATAL),
        (400, "Arrearage", FATAL),
        (403, "insufficient_user_quota", FATAL),
        (429, "rate_limit_exceeded", RATE_LIMIT),
        (429, "slow_down", RATE_LIMIT),
        (429, "engine_overloaded_error", RATE_LIMIT),
        (429, "RESOURCE_EXHAUSTED", RATE_LIMIT),
        (429, "http_429", RATE_LIMIT),
        (400, "context_length_exceeded", NO),
        (422, "http_422", NO),
        (401, "invalid_api_key", FATAL),
        (403, "http_403", NO),
        (404, "model_not_found", NO),
        (405, "http_405", NO),
        (307, "redirect", NO),
        # a gateway's own words
        (400, "token_mismatched", NO),
        (400, "api_not_implemented", NO),
        (401, "invalid_token", FATAL),
        (429, "too_many_requests", RATE_LIMIT),
        # what no table lists
        (418, "http_418", NO),
        (599, "http_599", TRANSIENT),
        (204, "http_204", TRANSIENT),
        (None, "connection_error", TRANSIENT),
        (None, "timeout", TRANSIENT),
    ],
)
def test_a_status_and_a_type_once_something_was_answered(
    status: int | None, error_type: str, cause: Cause
) -> None:
    assert judge(fault(status, error_type), ANSWERED).cause is cause


@pytest.mark.parametrize(
    "status",
    [408, 409, 424, 425, 449, 498, 499, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524],
)
def test_what_may_pass(status: int) -> None:
    for record in (NEW, ANSWERED):
        assert judge(fault(status), record).cause is TRANSIENT


@pytest.mark.parametrize(
    ("error_type", "cause"),
    [
        ("invalid_response", TRANSIENT),
        ("invalid_token", FATAL),
        ("authentication_error", FATAL),
        ("billing_error", FATAL),
        ("insufficient_quota", FATAL),
        ("invalid_request_error", NO),
        ("too_many_requests", RATE_LIMIT),
        ("overloaded_error", RATE_LIMIT),
        ("402", FATAL),
        ("http_401", FATAL),
        ("403", NO),
        ("429", RATE_LIMIT),
        ("529", RATE_LIMIT),
        ("503", TRANSIENT),
        ("1402", TRANSIENT),
        ("399", TRANSIENT),
    ],
)
def test_an_error_under_success_is_judged_by_its_own_code(error_type: str, cause: Cause) -> None:
    assert judge(fault(200, error_type), ANSWERED).cause is cause
    assert judge(fault(None, error_type), ANSWERED).cause is cause


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Your credit balance is too low to access the Anthropic API. Please go to Plans"),
        (400, "Budget has been exceeded! Current cost: 5.0, Max budget: 5.0"),
        (400, "ExceededBudget: User=u over budget"),
        (400, "Access denied, please make sure your account is in good standing."),
        (403, "Key limit exceeded (monthly limit). Manage it using the dashboard"),
        (403, "Your team has either used all available credits or reached its monthly spending"),
        (403, "Insufficient account balance"),
        (429, "Insufficient balance"),
        (429, "Quota exceeded: GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    ],
)
def test_exhausted_credit_in_the_words_of_providers(status: int, message: str) -> None:
    judgement = judge(fault(status, f"http_{status}", message), ANSWERED)
    # Words alone stop no run: requests that are sent afterwards decide.
    assert (judgement.action, judgement.end) == (Action.HOLD, RunEnd.EXHAUSTED)


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        (429, "Quota exceeded: GenerateRequestsPerMinutePerProjectPerModel-FreeTier", RATE_LIMIT),
        (429, "You exceeded your current quota, please check your plan and billing", RATE_LIMIT),
        (400, 'Your input was flagged: "insufficient balance"', NO),
        (403, "x" * 2_000 + "insufficient balance", NO),
        (500, "Insufficient balance", TRANSIENT),
        (403, 'Your input was flagged: "I have insufficient credits on my phone"', NO),
        (403, "Flagged: the victim walked kmPerDay = 40", NO),
        (400, 'Invalid content: "My credit balance is too low"', NO),
        (400, "Invalid content: 'My credit balance is too low'", NO),
        (429, "kmPerDay = 40", RATE_LIMIT),
    ],
)
def test_what_only_sounds_like_exhausted_credit(status: int, message: str, cause: Cause) -> None:
    assert judge(fault(status, f"http_{status}", message), ANSWERED).cause is cause


def test_words_of_the_request_itself_say_nothing_about_credit() -> None:
    problem = fault(403, "http_403", "Flagged: I have Insufficient credits on my phone")
    sent = b'{"messages":[{"content":"I have insufficient credits on my phone"}]}'
    assert judge(problem, ANSWERED, sent=sent).action is Action.FAIL
    assert judge(problem, ANSWERED, sent=b"{}").action is Action.HOLD


def test_the_message_of_a_provider_behind_a_router_is_no_quotation() -> None:
    raw = (
        'Provider returned error: {"error":{"message": "Your credit balance is too low to go on"}}'
    )
    assert judge(fault(400, "http_400", raw), ANSWERED).end is RunEnd.EXHAUSTED


@pytest.mark.parametrize(
    ("status", "error_type", "end"),
    [
        (401, "x", RunEnd.REFUSED),
        (402, "x", RunEnd.EXHAUSTED),
        (429, "insufficient_quota", RunEnd.EXHAUSTED),
        (400, "invalid_request_error", None),
        (503, "x", None),
    ],
)
def test_what_ends_the_run(status: int, error_type: str, end: RunEnd | None) -> None:
    assert judge(fault(status, error_type), ANSWERED).end is end


@pytest.mark.parametrize(
    ("status", "should_retry", "cause"),
    [
        (400, True, TRANSIENT),
        (404, True, TRANSIENT),
        (400, False, NO),
        (500, True, TRANSIENT),
        (500, False, NO),
        (200, False, NO),
        (None, False, NO),
        # too fast stays too fast, and a wrong key stays wrong, whatever a gateway says
        (429, True, RATE_LIMIT),
        (429, False, RATE_LIMIT),
        (529, False, RATE_LIMIT),
        (401, True, FATAL),
        (401, False, FATAL),
        (402, True, FATAL),
    ],
)
def test_the_provider_can_say_whether_to_retry(
    status: int | None, should_retry: bool, cause: Cause
) -> None:
    assert judge(fault(status, should_retry=should_retry), ANSWERED).cause is cause


@pytest.mark.parametrize("status", [408, 429, 500, 529])
def test_the_providers_delay_is_handed_on(status: int) -> None:
    assert judge(fault(status, retry_after_s=17.0), NEW).decision.delay_s == 17.0
    assert judge(fault(status), NEW).decision.delay_s is None


def test_an_overloaded_provider_is_given_more_time() -> None:
    overloaded, limited = judge(fault(529), NEW).decision, judge(fault(429), NEW).decision
    assert overloaded.base_delay_s == OVERLOADED_BASE_DELAY_S > BASE_DELAY_S
    assert limited.base_delay_s == BASE_DELAY_S


@pytest.mark.parametrize(
    ("status", "error_type"), [(429, "resource_unavailable"), (498, "capacity_exceeded")]
)
def test_a_flex_tier_without_capacity_is_waited_for_without_using_attempts(
    status: int, error_type: str
) -> None:
    decision = judge(fault(status, error_type), ANSWERED).decision
    assert (decision.cause, decision.base_delay_s) == (RATE_LIMIT, OVERLOADED_BASE_DELAY_S)


@pytest.mark.parametrize("status", [301, 400, 403, 404, 405, 413, 422])
def test_before_the_first_answer_it_is_open_whose_fault_a_refusal_is(status: int) -> None:
    assert judge(fault(status), NEW).cause is Cause.UNDECIDED
    assert judge(fault(status), ANSWERED).cause is NO


@pytest.mark.parametrize(
    ("record", "found", "at_the_end"),
    [
        (TrackRecord(answered=True, held=3, refused=3, alike=3), Blame.ROWS, Blame.ROWS),
        (TrackRecord(held=1, refused=1, alike=1), Blame.UNKNOWN, Blame.RUN),
        (TrackRecord(held=1, alike=1), Blame.UNKNOWN, Blame.ROWS),
        (TrackRecord(held=ALIKE, alike=ALIKE), Blame.RUN, Blame.RUN),
        # an answer may still come
        (TrackRecord(in_flight=1, held=ALIKE, alike=ALIKE), Blame.UNKNOWN, Blame.RUN),
        (TrackRecord(held=MOST_HELD, refused=MOST_HELD, alike=2), Blame.RUN, Blame.RUN),
        (TrackRecord(held=MOST_HELD, refused=0, alike=2), Blame.ROWS, Blame.ROWS),
        (TrackRecord(held=MOST_HELD - 1, refused=9, alike=2), Blame.UNKNOWN, Blame.RUN),
    ],
)
def test_whose_fault_refusals_before_the_first_answer_are(
    record: TrackRecord, found: Blame, at_the_end: Blame
) -> None:
    assert blame(record) is found
    assert blame(record, is_over=True) is at_the_end


@given(
    in_flight=st.integers(0, 100),
    held=st.integers(0, 100),
    share=st.floats(0, 1),
)
def test_at_most_60_requests_decide(in_flight: int, held: int, share: float) -> None:
    alike = max(int(held * share), min(held, 1))
    record = TrackRecord(in_flight=in_flight, held=held, alike=alike, refused=held)
    if record.has_room:
        assert in_flight + held < 60
    elif not in_flight:
        assert blame(record) is not Blame.UNKNOWN, "nothing may be sent, and nothing decides"


@pytest.mark.parametrize(
    ("problem", "record", "tries", "action", "cause"),
    [
        # faults, once something was answered
        (fault(401), ANSWERED, None, Action.STOP, FATAL),
        (fault(402), ANSWERED, None, Action.STOP, FATAL),
        (fault(429, "insufficient_quota"), ANSWERED, None, Action.STOP, FATAL),
        (fault(429), ANSWERED, None, Action.RETRY, RATE_LIMIT),
        (fault(529), ANSWERED, None, Action.RETRY, RATE_LIMIT),
        (fault(500), ANSWERED, None, Action.RETRY, TRANSIENT),
        (fault(None), ANSWERED, None, Action.RETRY, TRANSIENT),
        (fault(400), ANSWERED, None, Action.FAIL, NO),
        (fault(500, should_retry=False), ANSWERED, None, Action.FAIL, NO),
        # before that
        (fault(400), NEW, None, Action.HOLD, Cause.UNDECIDED),
        (fault(404), NEW, None, Action.HOLD, Cause.UNDECIDED),
        (fault(500, should_retry=False), NEW, None, Action.FAIL, NO),
        (fault(401), NEW, None, Action.STOP, FATAL),
        # rejected answers: as often as [retry] allows
        (Rejection("invalid", "m"), ANSWERED, Tries(1, 3, 1), Action.RETRY, INVALID),
        (Rejection("invalid", "m"), ANSWERED, Tries(2, 3, 2), Action.RETRY, INVALID),
        (Rejection("invalid", "m"), ANSWERED, Tries(3, 3, 3), Action.REJECT, INVALID),
        (Rejection("invalid", "m"), ANSWERED, Tries(3, 3, 1), Action.REJECT, INVALID),
        (Rejection("invalid", "m"), ANSWERED, None, Action.RETRY, INVALID),
        # or as often as the reason allows, if that is less
        (Rejection("cut", "m", 1), ANSWERED, Tries(1, 6, 1), Action.RETRY, INVALID),
        (Rejection("cut", "m", 1), ANSWERED, Tries(2, 6, 2), Action.REJECT, INVALID),
        (Rejection("cut", "m", 1), ANSWERED, Tries(2, 6, 1), Action.RETRY, INVALID),
        (Rejection("refused", "m", 0), ANSWERED, Tries(1, 6, 1), Action.REJECT, INVALID),
    ],
)
def test_what_follows_from_a_fault_or_a_rejected_answer(
    problem: ProviderFault | Rejection,
    record: TrackRecord,
    tries: Tries | None,
    action: Action,
    cause: Cause,
) -> None:
    judgement = judge(problem, record, tries)
    assert (judgement.action, judgement.cause) == (action, cause)
    assert (judgement.end is not None) is (action is Action.STOP)
    # Pure: the same question has the same answer.
    assert judge(problem, record, tries) == judgement


def test_messages_for_one_reason_differ_in_ids_alone() -> None:
    first = fault(400, message="no such field (request id: req_011CSHoEeqs5C35K2UUqR7Fy)")
    second = fault(400, message="no such field (request id: req_99AAbbEeqs5C35K2UUqR7Fy)")
    assert reason_of(first) == reason_of(second)
    assert reason_of(first) != reason_of(fault(422, message=first.message))
    assert reason_of(fault(400, message="9000 tokens")) != reason_of(
        fault(400, message="9001 tokens")
    )


REQUEST = Request("chat", "https://api.example.com", "gpt-rendered", ())


@pytest.mark.parametrize(
    ("status", "end", "variable", "said"),
    [
        (401, RunEnd.REFUSED, "MY_KEY", "check the key in the environment variable MY_KEY"),
        (
            401,
            RunEnd.REFUSED,
            "",
            "no key was sent: name its environment variable in [request] api",
        ),
        (403, RunEnd.REFUSED, "MY_KEY", "variable MY_KEY may use the model (gpt-rendered)"),
        (403, RunEnd.REFUSED, "", "check the model (gpt-rendered) and base_url"),
        (
            404,
            RunEnd.REFUSED,
            "",
            "the model (gpt-rendered) and base_url (https://api.example.com)",
        ),
        (307, RunEnd.REFUSED, "MY_KEY", "; check base_url (https://api.example.com)"),
        (405, RunEnd.REFUSED, "MY_KEY", "; check base_url (https://api.example.com)"),
        (402, RunEnd.EXHAUSTED, "MY_KEY", "credit, quota or spend limit is used up"),
        (400, RunEnd.REJECTED, "MY_KEY", "batchrun preview"),
    ],
)
def test_the_reason_of_a_stop_names_the_way_out(
    status: int, end: RunEnd, variable: str, said: str
) -> None:
    stop = stop_for(fault(status, "their_word", "no\x1b[31m"), end, REQUEST, variable)
    assert stop.end is end
    assert said in stop.reason
    assert f"HTTP {status} their_word: no" in stop.reason
    assert "\x1b" not in stop.reason
    assert ("MY_KEY" in stop.reason) == (variable != "" and status in {401, 403})


@pytest.mark.parametrize(
    ("error_type", "said"),
    [
        ("certificate_error", "its certificate is not valid (no�[31m); check base_url and"),
        ("tls_error", "no TLS connection can be made (no�[31m); check the port in base_url"),
        ("unknown_host", "there is no host with this name (no�[31m); check base_url and"),
    ],
)
def test_a_connection_that_cannot_come_about_stops_a_run_that_has_no_answer(
    error_type: str, said: str
) -> None:
    one = ProviderFault(error_type, "no\x1b[31m")
    judgement = judge(one, NEW)
    assert (judgement.action, judgement.end) == (Action.STOP, RunEnd.UNAVAILABLE)
    stop = stop_for(one, RunEnd.UNAVAILABLE, REQUEST, "MY_KEY")
    assert f"https://api.example.com/v1/chat/completions cannot be reached: {said}" in stop.reason
    # Once it was answered, it may pass: one of several servers, or a network that comes back.
    assert judge(one, ANSWERED).action is Action.RETRY
    # A provider's word for something else.
    assert judge(replace(one, http_status=503), NEW).action is Action.RETRY


@pytest.mark.parametrize(
    ("message", "joined"),
    [
        ("Go to Plans.", "their_word: Go to Plans. The account's credit"),
        ("Pay now!", "their_word: Pay now! The account's credit"),
        ("no credit", "their_word: no credit; the account's credit"),
    ],
)
def test_what_a_provider_says_and_what_follows_read_as_one_text(message: str, joined: str) -> None:
    stop = stop_for(fault(402, "their_word", message), RunEnd.EXHAUSTED, REQUEST, "MY_KEY")
    assert joined in str(RunStopped(stop))
    assert str(RunStopped(stop)).endswith("then run again. All answers are saved")


def test_an_error_at_the_end_of_a_reason_brings_one_full_stop() -> None:
    stop = Stop(RunEnd.MAX_ERRORS, "3 of 3 rows failed; the last error: Too long.")
    assert str(RunStopped(stop)).endswith("the last error: Too long. All answers are saved")
