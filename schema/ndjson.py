"""How does a job look as one line of JSON, and which jobs does a filter in JSON mean?

The names are those of the GraphQL schema, on both sides; a filter is checked by the schema's own input type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any

import orjson
import strawberry
from graphql import GraphQLError, GraphQLInputObjectType, coerce_input_value
from graphql.utilities import validate_input_value
from strawberry.types.arguments import convert_argument

from schema import inputs
from switchtower.errors import InvalidInput
from switchtower.jobs import Job, JobFilter

__all__ = ["job_filter", "job_line"]

VALUES = ("payload", "result", "progress")
"""JSON of the caller's own, in which no key is a name of ours."""
UNSHOWN = ("org", "app", "event_seq", "parked", "retry_pending", "pending", "claims", "deduplication", "traceparent")


def job_line(job: Job) -> bytes:
    """The job as one object and a newline, with the fields of the schema's `Job` that are its own."""
    line = {_camel(name): _plain(getattr(job, name)) for name in _shown() if name not in VALUES}
    line |= {name: getattr(job, name) for name in VALUES}
    line |= {"pendingChildren": len(job.pending), "scope": {"org": job.org or None, "app": job.app or None}}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@cache
def _shown() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Job) if field.name not in UNSHOWN)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {_NAMES.get(f.name, _camel(f.name)): _plain(getattr(value, f.name)) for f in fields(value)}
    return value


_NAMES = {"from_state": "from", "to_state": "to"}


@cache
def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def job_filter(schema: strawberry.Schema, given: Mapping[str, Any]) -> JobFilter:
    """The filter that a JSON object of the form of `JobFilter` means. Raises InvalidInput, naming the field."""
    type_ = schema._schema.type_map["JobFilter"]
    assert isinstance(type_, GraphQLInputObjectType)

    def refuse(error: GraphQLError, path: Sequence[str | int]) -> None:
        raise InvalidInput(".".join(("filter", *map(str, path))), error.message)

    validate_input_value(dict(given), type_, refuse)
    coerced = coerce_input_value(dict(given), type_)
    registry = schema.schema_converter.scalar_registry
    converted = convert_argument(coerced, inputs.JobFilter, registry, schema.config)
    return inputs.job_filter(converted)  # type: ignore[arg-type]
