"""Which error does a server's answer stand for?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchtower import errors
from switchtower.errors import ConfigurationError, InvalidInput, StoreUnavailable, SwitchtowerError

__all__ = ["data_of", "error_of", "status_error", "success"]


def success(member: dict[str, Any]) -> dict[str, Any]:
    """The member itself, unless it is one of the schema's errors: then that error is raised."""
    if "code" in member and "message" in member:
        raise error_of(member["code"], member["message"], member.get("field") or "")
    return member


def data_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """`data` of a GraphQL result. Raises its first error: InvalidInput where it was refused and nothing ran."""
    problems = payload.get("errors")
    if not problems:
        data: dict[str, Any] = payload["data"]
        return data
    first = problems[0]
    extensions = first.get("extensions") or {}
    code = extensions.get("code")
    message = first.get("message") or "The server reported an error without a message."
    if "data" not in payload and code not in _KINDS:
        code = InvalidInput.code
    elif code == SwitchtowerError.code and "requestId" in extensions:
        message = f"{message} Request id: {extensions['requestId']}"
    raise error_of(code, message, "query")


_KINDS: dict[str, type[SwitchtowerError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SwitchtowerError)
}


def error_of(code: str | None, message: str, field: str = "") -> SwitchtowerError:
    """The error of our tree with this code and exactly the server's message."""
    kind = _KINDS.get(code or "", SwitchtowerError)
    if kind is InvalidInput:
        reason = message.removeprefix(f"{field}: ")
        error: SwitchtowerError = InvalidInput(field, reason)
    else:
        error = kind.__new__(kind)
        SwitchtowerError.__init__(error, message)
    error.args = (message,)
    error.message = message
    return error


def status_error(url: str, status: int, text: str, retry_after: str = "") -> SwitchtowerError:
    """The error for an HTTP answer that is no GraphQL result."""
    text = text.strip()[:200]
    match status:
        case 401:
            return errors.Unauthorized()
        case 403:
            return errors.Forbidden(f"{url} refuses this caller (403): {text}")
        case 413:
            return InvalidInput("request", "is larger than the server accepts.", too_large=True)
        case 429:
            seconds = float(retry_after) if retry_after.isdigit() else 1.0
            return errors.RateLimited(f"Too many requests; come back in {seconds:.0f} s.", retry_after_seconds=seconds)
        case 400 | 415 | 422:
            return InvalidInput("request", f"was refused with status {status}: {text}")
        case _ if status >= 500:
            return StoreUnavailable(f"{url} answered with status {status}: {text}")
        case _:
            return ConfigurationError(
                f"{url} answered with status {status} and no GraphQL; is it a Switchtower server?"
            )
