"""What does a caller read when an operation goes wrong, and what do we write down?

Errors of the request (syntax, validation, variables, limits) are shown with what the caller sent shortened to 100
characters. Our own errors keep their code and message. Everything else is masked: the caller gets a request id, the log
one line with the same id.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.execution import PreExecutionError

from switchtower.errors import StoreUnavailable, SwitchtowerError

__all__ = ["INTERNAL", "UNAVAILABLE", "RenderErrors", "ShownError", "render", "shortened"]

UNAVAILABLE = StoreUnavailable.code
INTERNAL = SwitchtowerError.code
MAX_MESSAGE = 500
MAX_ECHO = 100
MAX_LOGGED = 1_200

_DOUBLE = re.compile(r'("(?:[^"\\]|\\.){100})(?:[^"\\]|\\.)+"')
_SINGLE = re.compile(r"('(?:[^'\\]|\\.){100})(?:[^'\\]|\\.)+'")
_RUN = re.compile(r"(\S{100})\S+")
_SUGGESTION = re.compile(r" Did you mean .*\?$", re.DOTALL)

log = structlog.get_logger("switchtower.graphql")
# It prints the whole query with every error, however large and however often; what is worth a line is logged here.
logging.getLogger("strawberry.execution").disabled = True


class ShownError(GraphQLError):
    """An error in the form in which callers see it: masked, shortened, with its code."""


class RenderErrors(SchemaExtension):
    """Turns every error of every transport into the form that callers see.

    Without `suggestions`, messages do not name what the caller may have meant.
    """

    def __init__(self, *, suggestions: bool = True) -> None:
        self._suggestions = suggestions
        self._streamed = False

    def on_operation(self) -> Iterator[None]:
        yield
        if not self._streamed:
            self._render(self.execution_context.result)

    def on_stream_result(self, result: Any) -> Iterator[None]:
        self._streamed = True
        self._render(result)
        yield

    def _render(self, result: Any) -> None:
        errors = getattr(result, "errors", None)
        if errors:
            request_id = getattr(self.execution_context.context, "request_id", "")
            early = isinstance(result, PreExecutionError)
            result.errors = render(errors, request_id, early=early, suggestions=self._suggestions)


def render(
    errors: Sequence[GraphQLError], request_id: str, *, early: bool = False, suggestions: bool = True
) -> list[GraphQLError]:
    """The errors as callers see them; what is masked is logged. `early` errors are those of parsing and validation."""
    return [
        error if isinstance(error, ShownError) else _shown(error, request_id, early, suggestions) for error in errors
    ]


def _shown(error: GraphQLError, request_id: str, early: bool, suggestions: bool) -> ShownError:
    code, message = _code_and_message(error, early)
    if code in (INTERNAL, UNAVAILABLE):
        _log(error, code, request_id)
    elif not suggestions:
        message = _SUGGESTION.sub("", message)
    extensions = {**(error.extensions or {}), "code": code}
    if request_id:
        extensions["requestId"] = request_id
    return ShownError(
        shortened(message),
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )


def _code_and_message(error: GraphQLError, early: bool) -> tuple[str, str]:
    original = error.original_error
    while isinstance(original, GraphQLError) and original.original_error is not None:
        original = original.original_error
    if isinstance(original, StoreUnavailable):
        return UNAVAILABLE, "The database cannot be reached at the moment; try again shortly."
    if isinstance(original, SwitchtowerError) and original.code != INTERNAL:
        return original.code, original.message
    if isinstance(original, MissingQueryError | CannotGetOperationTypeError | InvalidOperationTypeError):
        return "BAD_REQUEST", error.message or "The request holds no operation."
    # Coercion wraps what a scalar raised and points at a place in the request; a failing resolver has a path.
    of_request = error.path is None and bool(error.nodes)
    if original is not None and not isinstance(original, GraphQLError) and not of_request:
        return INTERNAL, "Something failed on our side; it was logged under this request id."
    code = (error.extensions or {}).get("code")
    if isinstance(code, str):
        return code, error.message
    if isinstance(error, GraphQLSyntaxError):
        return "GRAPHQL_PARSE_FAILED", error.message
    return "GRAPHQL_VALIDATION_FAILED" if early else "BAD_USER_INPUT", error.message


def shortened(message: str) -> str:
    """The message with every echoed value cut to 100 characters, and itself to 500."""
    if len(message) <= MAX_ECHO:
        return message
    message = _RUN.sub(r"\1…", _SINGLE.sub(r"\1…'", _DOUBLE.sub(r'\1…"', message)))
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"


def _log(error: GraphQLError, code: str, request_id: str) -> None:
    original = error.original_error or error
    frames = "".join(traceback.format_exception(original)) if code == INTERNAL else ""
    log.error(
        "operation failed",
        code=code,
        request_id=request_id,
        path=".".join(map(str, error.path or ()))[:200],
        error=f"{type(original).__name__}: {original}"[:400],
        trace=frames[-MAX_LOGGED:],
    )
