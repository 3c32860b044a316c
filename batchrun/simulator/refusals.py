"""Why a request gets an error instead of an answer. The dialects give it its status and body."""

from __future__ import annotations

from enum import Enum, auto


class Fault(Enum):
    """What went wrong, before a vendor's words for it."""

    MISSING = auto()  # a required field is not there
    INVALID = auto()  # a field, or the whole body, is not what it must be
    NOT_IMPLEMENTED = auto()  # valid, but the simulator does not do it yet
    CREDENTIALS = auto()
    NOT_FOUND = auto()
    METHOD = auto()
    TOO_LARGE = auto()
    RATE_LIMIT = auto()
    SERVER_ERROR = auto()
    OVERLOADED = auto()


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        fault: the kind.
        message: for the person who sent the request.
        param: the field at fault, as a dotted path such as "messages.0.role".
        scope: of a rate limit: "requests" or "tokens".
        wait_s: of a rate limit: seconds until it may work.
    """

    def __init__(
        self,
        fault: Fault,
        message: str,
        *,
        param: str | None = None,
        scope: str = "requests",
        wait_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.param = param
        self.scope = scope
        self.wait_s = wait_s
