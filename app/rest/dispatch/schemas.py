"""What are the shapes of Dispatch's answers, as JSON schemas?"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["SCHEMAS", "array", "ref"]

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
FLAG: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
PERHAPS: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
ANYTHING: Final[Schema] = {"description": "Any JSON value, as it was enqueued."}


def ref(name: str) -> Schema:
    """One of these schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(name: str) -> Schema:
    """A bare array of one of these schemas."""
    return {"type": "array", "items": ref(name)}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


STATES: Final = ("pending", "running", "completed", "failed", "retrying", "cancelled")
RUN_STATES: Final = ("running", "completed", "failed")

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object(error=TEXT),
    "Job": _object(
        id=TEXT,
        name=TEXT,
        queue=TEXT,
        state=_enum(*STATES),
        payload=ANYTHING,
        attempt=WHOLE,
        max_attempts=WHOLE,
        run_at=TIME,
        started_at=PERHAPS,
        completed_at=PERHAPS,
        scope_app_id=TEXT,
        scope_org_id=TEXT,
        priority=WHOLE,
        max_retries=WHOLE,
        retry_count=WHOLE,
        last_error=TEXT,
        worker_id=TEXT,
        heartbeat_at=PERHAPS,
        timeout={"type": "integer", "description": "Nanoseconds; 0 for none."},
        created_at=TIME,
        updated_at=TIME,
    ),
    "Counts": _object(**dict.fromkeys(STATES, WHOLE)),
    "Workflows": _object(names={"type": "array", "items": TEXT}),
    "Run": _object(
        id=TEXT,
        name=TEXT,
        state=_enum(*RUN_STATES),
        current_step=TEXT,
        started_at=PERHAPS,
        completed_at=PERHAPS,
        scope_app_id=TEXT,
        scope_org_id=TEXT,
        input=ANYTHING,
        output=ANYTHING,
        error=TEXT,
        version=WHOLE,
        parent_run_id={"type": ["string", "null"]},
        created_at=TIME,
        updated_at=TIME,
    ),
    "DeadLetter": _object(
        id=TEXT,
        job_id=TEXT,
        job_name=TEXT,
        queue=TEXT,
        error=TEXT,
        payload=ANYTHING,
        failed_at=TIME,
        scope_app_id=TEXT,
        scope_org_id=TEXT,
        retry_count=WHOLE,
        max_retries=WHOLE,
        replayed_at=PERHAPS,
        created_at=TIME,
    ),
    "Count": _object(count=WHOLE),
    "Replayed": _object(replayed=WHOLE, errors=WHOLE),
    "Purged": _object(purged=WHOLE),
    "Cron": _object(
        id=TEXT,
        name=TEXT,
        schedule=TEXT,
        enabled=FLAG,
        last_fired_at=PERHAPS,
        next_run_at=PERHAPS,
        scope_app_id=TEXT,
        scope_org_id=TEXT,
        last_run_at=PERHAPS,
        job_name=TEXT,
        queue=TEXT,
        payload=ANYTHING,
        locked_by=TEXT,
        locked_until=PERHAPS,
        created_at=TIME,
        updated_at=TIME,
    ),
    "Stats": _object(jobs=ref("Counts"), dlq_count=WHOLE, workflows=_object(**dict.fromkeys(RUN_STATES, WHOLE))),
}
