"""Do these arguments fit this handler?

A payload is a JSON object of the handler's keyword arguments. Annotations are checked by pydantic in its lax mode, as
FastAPI does for requests: a `datetime` travels as text and arrives as a `datetime`. An annotation that pydantic does
not know, or that cannot be evaluated, is not checked.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from switchtower.errors import ConfigurationError, InvalidInput

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Arguments"]

_UNTYPED = (inspect.Parameter.empty, Any, object)


class Arguments:
    """The arguments that one handler takes, read once from its signature. One that takes a `batch` takes the contexts
    of its jobs, whose payloads may be any objects.

    `takes_context` says that its first parameter is the JobContext: it is annotated so, or is called `ctx`.
    """

    def __init__(self, function: Callable[..., Any], task: str, *, batch: bool = False) -> None:
        self.task = task
        try:
            signature = inspect.signature(function, eval_str=True)
        except Exception:
            signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if batch and (len(parameters) != 1 or parameters[0].kind is inspect.Parameter.VAR_KEYWORD):
            raise ConfigurationError(
                f"Task {task!r} takes batches, so its one parameter is the list of its jobs' contexts."
            )
        self.takes_context = batch or (bool(parameters) and _is_context(parameters[0]))
        if self.takes_context:
            parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise ConfigurationError(
                    f"Task {task!r}: the parameter {parameter.name!r} is positional only, but a payload is an object "
                    "of named arguments. Remove the '/' or the '*args'."
                )
        self.any_name = batch or any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        self.names = tuple(p.name for p in named)
        self.required = tuple(p.name for p in named if p.default is p.empty)
        self._annotations = {p.name: p.annotation for p in named if not _untyped(p.annotation)}
        self._adapters: dict[str, TypeAdapter[Any]] | None = None if self._annotations else {}

    def check(self, payload: Any) -> dict[str, Any]:
        """The keyword arguments to call the handler with.

        Raises:
            InvalidInput: naming the argument that is missing, unknown or of the wrong type.
        """
        if payload is None:
            payload = {}
        if type(payload) is not dict:
            raise InvalidInput(
                "payload", f"must be an object with the arguments of {self.task!r}, not {_kind(payload)}."
            )
        for name in self.required:
            if name not in payload:
                raise InvalidInput(f"payload.{name}", f"is required by {self.task!r}.")
        if not self.any_name:
            for name in payload:
                if name not in self.names:
                    raise InvalidInput(f"payload.{name}", self._unknown(name))
        adapters = self._adapters if self._adapters is not None else self._build()
        if not adapters:
            return payload
        checked = dict(payload)
        for name, adapter in adapters.items():
            if name in payload:
                checked[name] = self._converted(name, adapter, payload[name])
        return checked

    def dump(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The payload that stores these arguments: what is not JSON (a datetime, a model, an enum) becomes JSON.

        Raises:
            InvalidInput: an argument does not fit the handler, or has no JSON form.
        """
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        self.check(dict(arguments))
        payload = {}
        for name, value in arguments.items():
            try:
                payload[name] = to_jsonable_python(value, inf_nan_mode="constants")
            except (PydanticSerializationError, ValueError) as error:
                raise InvalidInput(f"payload.{name}", f"has no JSON form: {error}.") from None
        return payload

    def _build(self) -> dict[str, TypeAdapter[Any]]:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

        adapters = {}
        for name, annotation in self._annotations.items():
            try:
                adapters[name] = TypeAdapter(annotation)
            except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, TypeError):
                continue
        self._adapters = adapters
        return adapters

    def _converted(self, name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
        from pydantic import ValidationError

        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(("payload", name, *map(str, first["loc"])))
            raise InvalidInput(place, f"{first['msg']} (argument of {self.task!r}).") from None

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        takes = f"it takes {', '.join(self.names)}" if self.names else "it takes none"
        return f"is not an argument of {self.task!r}; {takes}.{meant}"


def _is_context(parameter: inspect.Parameter) -> bool:
    from switchtower.context import JobContext

    annotation = parameter.annotation
    if annotation is JobContext:
        return True
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "JobContext"
    return parameter.name == "ctx"


def _untyped(annotation: Any) -> bool:
    # Text is an annotation that could not be evaluated, as of a name imported for type checkers only.
    return isinstance(annotation, str) or any(annotation is free for free in _UNTYPED)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
