"""Which ways can a request go wrong, and what does each one tell its caller?

    SwitchtowerError
    ├── NotFound             the thing does not exist, or is not visible to this caller
    ├── InvalidTransition    the job's state does not allow the verb (names the state and the allowed ones)
    ├── InvalidInput         a field is malformed, too large or contradicts another (names the field)
    ├── Unauthorized         no caller could be established
    ├── Forbidden            the caller is known and may not do this
    ├── Conflict             an id, name or unique key is held by something else
    ├── RateLimited          too many requests (says when to come back)
    ├── LeaseLost            the lease token is not the job's current one: nothing was written
    ├── ConfigurationError   the process cannot run as configured (says what to change)
    └── StoreUnavailable     the database cannot answer; the outcome of a write may be unknown

Every message says what happened, why, and what to do about it. A surface renders these errors, it never invents others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "ConfigurationError",
    "Conflict",
    "Forbidden",
    "InvalidInput",
    "InvalidTransition",
    "LeaseLost",
    "NotFound",
    "RateLimited",
    "StoreUnavailable",
    "SwitchtowerError",
    "Unauthorized",
]


class SwitchtowerError(Exception):
    """Base of every error that Switchtower raises on purpose; `code` is stable and public."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(SwitchtowerError):
    """Nothing with this id is visible to the caller; another tenant's thing is indistinguishable from none."""

    code = "NOT_FOUND"

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"{kind} {_shown(id)} does not exist, or is not visible to you.")
        self.kind = kind
        self.id = id


class InvalidTransition(SwitchtowerError):
    """The job is in a state that the verb does not start from; it was left as it was. `retry_pending` says that it
    failed before and was not claimed since."""

    code = "INVALID_TRANSITION"

    def __init__(
        self, verb: str, state: str, allowed: Sequence[str], *, hint: str = "", retry_pending: bool = False
    ) -> None:
        message = f"Cannot {verb} a job that is {state}; it must be {_either(allowed)}."
        super().__init__(f"{message} {hint}".rstrip())
        self.verb = verb
        self.state = state
        self.allowed = tuple(allowed)
        self.retry_pending = retry_pending


class InvalidInput(SwitchtowerError):
    """A value was refused before anything was written."""

    code = "VALIDATION"

    def __init__(self, field: str, reason: str, *, too_large: bool = False) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.too_large = too_large


class Unauthorized(SwitchtowerError):
    """The request carries no valid credentials."""

    code = "UNAUTHORIZED"

    def __init__(self, message: str = "Credentials are missing, unknown or revoked; send a valid API key.") -> None:
        super().__init__(message)


class Forbidden(SwitchtowerError):
    """The caller is known and lacks the right to do this."""

    code = "FORBIDDEN"


class Conflict(SwitchtowerError):
    """Something else holds the id, name or unique key; `holder` is its id when known."""

    code = "CONFLICT"

    def __init__(self, message: str, *, holder: str | None = None) -> None:
        super().__init__(message)
        self.holder = holder


class RateLimited(SwitchtowerError):
    """The caller may try again after `retry_after_seconds`; the refused call changed nothing. `limit` is how much
    there is in all, where that is a number."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, *, retry_after_seconds: float, limit: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.limit = limit


class LeaseLost(SwitchtowerError):
    """The lease token is not the one that the job was last claimed with; nothing was written."""

    code = "LEASE_LOST"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"The lease on job {_shown(job_id)} is no longer yours: it expired, was rescued, or the job ended. "
            "Nothing was written; stop working on it."
        )
        self.job_id = job_id


class ConfigurationError(SwitchtowerError):
    """The process cannot run as it is configured."""

    code = "CONFIGURATION"


class StoreUnavailable(SwitchtowerError):
    """The database could not answer in time. A write may or may not have happened; repeat it with the same key."""

    code = "UNAVAILABLE"

    def __init__(self, message: str = "The database cannot be reached at the moment; try again shortly.") -> None:
        super().__init__(message)


def _either(names: Sequence[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def _shown(id: str) -> str:
    """An id as echoed in a message: at most 100 characters, control characters escaped."""
    text = id if len(id) <= 100 else f"{id[:100]}…"
    return repr(text)
