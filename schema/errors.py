"""How does an error of the engine look to a GraphQL client?

A mutation answers with a union of what it changed and the errors that it may meet; each error is a type that implements
`Error`. Whatever is not in a field's union (a fault, a database that cannot answer) stays a top-level error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import or_
from typing import Annotated, Any

import strawberry

from schema.enums import described
from switchtower import errors
from switchtower.states import JobState

__all__ = [
    "HANDLERS",
    "Conflict",
    "Error",
    "Forbidden",
    "InvalidTransition",
    "LeaseLost",
    "NotFound",
    "RateLimited",
    "Unauthorized",
    "ValidationError",
    "rendered",
    "result",
]


class ErrorCode(StrEnum):
    """The stable code of each error that a mutation can answer with."""

    NOT_FOUND = errors.NotFound.code
    INVALID_TRANSITION = errors.InvalidTransition.code
    VALIDATION = errors.InvalidInput.code
    UNAUTHORIZED = errors.Unauthorized.code
    FORBIDDEN = errors.Forbidden.code
    CONFLICT = errors.Conflict.code
    RATE_LIMITED = errors.RateLimited.code
    LEASE_LOST = errors.LeaseLost.code


described(
    ErrorCode,
    "The stable code of an error; it never changes, while messages may be reworded.",
    {
        "NOT_FOUND": "The thing does not exist, or is not visible to you.",
        "INVALID_TRANSITION": "The job's state does not allow it.",
        "VALIDATION": "A value was refused before anything was written.",
        "UNAUTHORIZED": "No valid credentials were sent.",
        "FORBIDDEN": "You may not do this.",
        "CONFLICT": "Something else holds the id, name or key.",
        "RATE_LIMITED": "Too many requests.",
        "LEASE_LOST": "The lease token is not the job's current one; nothing was written.",
    },
)

CODE = "The stable code."
MESSAGE = "What happened, why, and what to do about it."


@strawberry.interface(description="An error that a mutation answers with.")
class Error:
    """Fields that every error has."""

    code: ErrorCode = strawberry.field(description=CODE)
    message: str = strawberry.field(description=MESSAGE)


@strawberry.type(description="Nothing with this id is visible to you.")
class NotFound(Error):
    """`switchtower.errors.NotFound`."""

    kind: str = strawberry.field(description="What was looked for, such as `job` or `queue`.")
    # Not `id`, for the same reason as `current_state` below: some things that a mutation answers with have no id yet.
    missing_id: strawberry.ID = strawberry.field(description="The id that was looked for.")


@strawberry.type(description="The job is in a state that this mutation does not start from; it was left as it was.")
class InvalidTransition(Error):
    """`switchtower.errors.InvalidTransition`."""

    verb: str = strawberry.field(description="The transition that was asked for.")
    # Not `state`: selected together with the state of the job, it would be one field of two types.
    current_state: JobState | None = strawberry.field(description="The state of the job; null when it was removed.")
    allowed: list[JobState] = strawberry.field(description="The states that allow it.")


@strawberry.type(description="A value was refused before anything was written.")
class ValidationError(Error):
    """`switchtower.errors.InvalidInput`."""

    field: str = strawberry.field(description="The field or argument that was refused.")
    too_large: bool = strawberry.field(description="Whether it was refused for its size.")


@strawberry.type(description="No valid credentials were sent.")
class Unauthorized(Error):
    """`switchtower.errors.Unauthorized`."""


@strawberry.type(description="You are known, and may not do this.")
class Forbidden(Error):
    """`switchtower.errors.Forbidden`."""


@strawberry.type(description="Something else holds the id, name or unique key.")
class Conflict(Error):
    """`switchtower.errors.Conflict`."""

    holder: strawberry.ID | None = strawberry.field(description="The id of what holds it, where that is known.")


@strawberry.type(description="Too many requests; this one changed nothing.")
class RateLimited(Error):
    """`switchtower.errors.RateLimited`."""

    retry_after_ms: int = strawberry.field(description="When to try again, in milliseconds from now.")


@strawberry.type(
    description="The lease token is not the job's current one: nothing was written. Stop working on the job."
)
class LeaseLost(Error):
    """`switchtower.errors.LeaseLost`."""

    job_id: strawberry.ID = strawberry.field(description="The job that you no longer hold.")


_STATES = frozenset(JobState)


def _not_found(error: errors.NotFound) -> NotFound:
    return NotFound(
        code=ErrorCode.NOT_FOUND, message=error.message, kind=error.kind, missing_id=strawberry.ID(error.id)
    )


def _invalid_transition(error: errors.InvalidTransition) -> InvalidTransition:
    return InvalidTransition(
        code=ErrorCode.INVALID_TRANSITION,
        message=error.message,
        verb=error.verb,
        current_state=JobState(error.state) if error.state in _STATES else None,
        allowed=[JobState(state) for state in error.allowed if state in _STATES],
    )


def _validation(error: errors.InvalidInput) -> ValidationError:
    return ValidationError(
        code=ErrorCode.VALIDATION, message=error.message, field=error.field, too_large=error.too_large
    )


def _conflict(error: errors.Conflict) -> Conflict:
    holder = None if error.holder is None else strawberry.ID(error.holder)
    return Conflict(code=ErrorCode.CONFLICT, message=error.message, holder=holder)


def _rate_limited(error: errors.RateLimited) -> RateLimited:
    wait_ms = max(1, round(error.retry_after_seconds * 1000))
    return RateLimited(code=ErrorCode.RATE_LIMITED, message=error.message, retry_after_ms=wait_ms)


@dataclass(frozen=True)
class _Handler:
    """Answers with `error_type` where a resolver raised `exception_type` and the field's union has it.

    The attributes are those of Strawberry's `ExceptionHandler` protocol.
    """

    exception_type: type[errors.SwitchtowerError]
    error_type: type[Error]
    render: Callable[[Any], Error]

    def handle(self, exception: errors.SwitchtowerError, *, field: object, info: object) -> Error:
        return self.render(exception)


HANDLERS: tuple[_Handler, ...] = (
    _Handler(errors.NotFound, NotFound, _not_found),
    _Handler(errors.InvalidTransition, InvalidTransition, _invalid_transition),
    _Handler(errors.InvalidInput, ValidationError, _validation),
    _Handler(errors.Unauthorized, Unauthorized, lambda e: Unauthorized(code=ErrorCode.UNAUTHORIZED, message=e.message)),
    _Handler(errors.Forbidden, Forbidden, lambda e: Forbidden(code=ErrorCode.FORBIDDEN, message=e.message)),
    _Handler(errors.Conflict, Conflict, _conflict),
    _Handler(errors.RateLimited, RateLimited, _rate_limited),
    _Handler(
        errors.LeaseLost,
        LeaseLost,
        lambda e: LeaseLost(code=ErrorCode.LEASE_LOST, message=e.message, job_id=strawberry.ID(e.job_id)),
    ),
)
"""One for each error of `switchtower.errors` that can be an answer."""

_RENDER = {handler.exception_type: handler.render for handler in HANDLERS}

ANYWHERE: tuple[type[Error], ...] = (ValidationError, Unauthorized, Forbidden, RateLimited)
"""What every mutation may answer with."""


def rendered(error: errors.SwitchtowerError) -> Error:
    """The error as an answer of a list of answers; raises it again when it can only be a top-level error."""
    render = _RENDER.get(type(error))
    if render is None:
        raise error
    return render(error)


def result(name: str, success: Any, *members: type[Error]) -> Any:
    """The union that a mutation answers with: `success`, these errors, and those that any mutation may meet."""
    union = reduce(or_, (*members, *ANYWHERE), success)
    return Annotated[
        union,
        strawberry.union(name, description=f"What `{name[0].lower()}{name[1:].removesuffix('Result')}` answers with."),
    ]
