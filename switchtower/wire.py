"""How does a job to be enqueued travel to a server?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypedDict

import orjson

from switchtower.deduplication import DeduplicationOptions
from switchtower.errors import InvalidInput
from switchtower.retry import Backoff

__all__ = ["EnqueueOptions", "enqueue_input"]


class EnqueueOptions(TypedDict, total=False):
    """The options of an enqueue, as in `EnqueueJobInput` of the schema; durations are milliseconds."""

    queue: str
    priority: int
    delay_ms: int
    run_at: datetime
    max_attempts: int
    backoff: Backoff | Mapping[str, Any]
    timeout_ms: int
    ttl_ms: int
    group: str
    unique_key: str
    unique_for_ms: int
    deduplication: DeduplicationOptions | Mapping[str, Any]
    tags: Sequence[str]
    lifo: bool
    parent_id: str
    depends_on: Sequence[str]
    remove_on_complete: bool
    remove_on_fail: bool
    webhook: bool
    job_id: str
    idempotency_key: str


def enqueue_input(job: Mapping[str, Any]) -> bytes:
    """The JSON of an `EnqueueJobInput` for `name`, `payload` and options. Raises InvalidInput."""
    names = EnqueueOptions.__annotations__.keys() | {"name", "payload"}
    unknown = job.keys() - names
    if unknown:
        raise InvalidInput(min(unknown), f"is not an option of enqueue; there are {', '.join(sorted(names))}.")
    fields = {_camel(key): value for key, value in job.items()}
    if isinstance(backoff := job.get("backoff"), Backoff):
        fields["backoff"] = {_camel(key): value for key, value in asdict(backoff).items()} | {"kind": backoff.kind.name}
    if isinstance(options := job.get("deduplication"), DeduplicationOptions):
        given = {_camel(key): value for key, value in asdict(options).items()}
        fields["deduplication"] = given | {"mode": options.mode.name}
    try:
        return orjson.dumps(fields, option=orjson.OPT_UTC_Z)
    except TypeError as error:
        raise InvalidInput("payload", f"is not JSON: {error}.") from None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
