"""What are the shapes of AsyncMQ's answers and forms, as JSON schemas?"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["SCHEMAS", "array", "form", "listed", "ref"]

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
FLAG: Final[Schema] = {"type": "boolean"}
SECONDS: Final[Schema] = {"type": ["number", "null"], "description": "Seconds since 1970."}
PERHAPS: Final[Schema] = {"type": ["string", "null"]}
ANYTHING: Final[Schema] = {"description": "Any JSON value."}
OBJECT: Final[Schema] = {"type": "object"}
LIST: Final[Schema] = {"type": "array"}
STATUSES: Final = (
    *("waiting", "active", "delayed", "completed", "failed"),
    *("expired", "cancelled", "waiting-children"),
)
COUNTS: Final = ("waiting", "active", "delayed", "completed", "failed")


def ref(name: str) -> Schema:
    """One of these schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(name: str) -> Schema:
    """An array of one of these schemas."""
    return {"type": "array", "items": ref(name)}


def _object(*, optional: Schema | None = None, **fields: Schema) -> Schema:
    properties = fields | (optional or {})
    return {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}


def listed(**fields: Schema) -> Schema:
    """One object with these fields, such as a page of a list and which page it is."""
    return _object(**fields)


def form(**fields: Schema) -> Schema:
    """The fields of a form; which it needs depends on the others."""
    return {"type": "object", "properties": fields}


METRICS: Final = {
    "throughput": WHOLE,
    "avg_duration": {"type": ["number", "null"]},
    "retries": WHOLE,
    "failures": WHOLE,
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object(ok={"const": False}, error=TEXT),
    "Done": _object(ok={"const": True}),
    "Overview": _object(total_queues=WHOLE, total_jobs=WHOLE, total_workers=WHOLE),
    "Counts": _object(**dict.fromkeys(COUNTS, WHOLE)),
    "Metrics": _object(**METRICS),
    "Queue": _object(name=TEXT, paused=FLAG, **dict.fromkeys(COUNTS, WHOLE)),
    "Worker": _object(id=TEXT, queue=TEXT, concurrency=WHOLE, heartbeat=SECONDS),
    "LatestJob": _object(id=TEXT, queue=TEXT, state={"enum": list(STATUSES)}, time=TEXT),
    "LatestQueue": _object(name=TEXT, time=TEXT),
    "Job": _object(
        id=TEXT,
        task=TEXT,
        args=LIST,
        kwargs=OBJECT,
        retries=WHOLE,
        max_retries=WHOLE,
        backoff={"type": ["number", "null"], "description": "Seconds; null: at once."},
        ttl=SECONDS | {"description": "Seconds from `created_at`."},
        created_at=SECONDS,
        last_attempt=SECONDS,
        status={"enum": list(STATUSES)},
        result=ANYTHING,
        last_error=PERHAPS,
        error_traceback=PERHAPS,
        delay_until=SECONDS,
        priority=NUMBER,
        depends_on={"type": "array", "items": TEXT},
        repeat_every={"type": "null"},
        deduplication={"type": ["object", "null"]},
        updated_at=SECONDS,
        optional={
            **dict.fromkeys(("active_since", "completed_at", "failed_at", "finished_at"), SECONDS),
            "progress": ANYTHING,
        },
    ),
    "JobDefinition": _object(
        id=TEXT,
        task_id=TEXT,
        args=LIST,
        kwargs=OBJECT,
        retries=WHOLE,
        ttl={"type": ["number", "null"]},
        priority=NUMBER,
        backoff={"type": ["number", "null"]},
        optional={"every": NUMBER, "cron": TEXT},
    ),
    "Repeatable": _object(id=TEXT, job_def=ref("JobDefinition"), next_run=SECONDS, paused=FLAG),
    "Snapshot": _object(
        timestamp=NUMBER, time=TEXT, **METRICS, **dict.fromkeys(COUNTS, WHOLE), total_queues=WHOLE, total_workers=WHOLE
    ),
    "RuntimeEvent": _object(
        timestamp=NUMBER,
        event=TEXT,
        data=_object(
            queue=TEXT,
            job_id=TEXT,
            task_id=TEXT,
            attempt=WHOLE,
            state=PERHAPS,
            actor=PERHAPS,
            optional={"ms": NUMBER, "wait_ms": NUMBER, "error": TEXT},
        ),
    ),
    "AuditEvent": _object(
        timestamp=NUMBER,
        action=TEXT,
        source=TEXT,
        status={"enum": ["success", "failed"]},
        queue=PERHAPS,
        job_id=PERHAPS,
        actor=PERHAPS,
        details=OBJECT,
        error=PERHAPS,
    ),
}
