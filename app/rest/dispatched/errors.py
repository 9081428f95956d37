"""How does Dispatched say no? `{"error": CODE, "data": {"message": …}}`, whatever it is that is refused."""

from __future__ import annotations

import math
from typing import Any, Final

from app.limits import Refused
from app.rest.dialect import refusal_of
from app.rest.dispatched.wire import STATUSES
from switchtower.errors import InvalidInput, InvalidTransition, NotFound, RateLimited, SwitchtowerError
from switchtower.states import JobState

__all__ = ["envelope", "refusal"]

CODES: Final = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    414: "URI_TOO_LONG",
    415: "UNSUPPORTED_MEDIA_TYPE",
    421: "MISDIRECTED_REQUEST",
    429: "LIMIT_REACHED",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
WORDS: Final = {401: "Unauthorized"}
"""What is said in all cases, so that nobody learns from it what was wrong with a key."""


def refusal(error: SwitchtowerError) -> Refused:
    """An error in Dispatched's words."""
    if isinstance(error, NotFound):
        return Refused(404, error.code, "Job not found" if error.kind == "Job" else error.message)
    if isinstance(error, InvalidTransition):
        status = STATUSES[JobState(error.state)]
        return Refused(400, error.code, f"Cannot {error.verb} a job that is {status}; only QUEUED jobs can be changed.")
    if isinstance(error, RateLimited):
        wait = str(max(1, math.ceil(error.retry_after_seconds)))
        headers = {"Retry-After": wait, "RateLimit-Remaining": "0", "RateLimit-Reset": wait}
        if error.limit is not None:
            headers["RateLimit-Limit"] = str(error.limit)
        return Refused(429, error.code, error.message, headers)
    if isinstance(error, InvalidInput) and not error.too_large:
        return Refused(400, error.code, error.message)
    return refusal_of(error)


def envelope(refused: Refused) -> dict[str, Any]:
    """`{"error": CODE, "data": {"message": …}}`."""
    code = CODES.get(refused.status, refused.code)
    return {"error": code, "data": {"message": WORDS.get(refused.status, refused.message)}}
