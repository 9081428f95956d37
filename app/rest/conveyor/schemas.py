"""What are the shapes of Conveyor's bodies and answers, as JSON schemas?"""

from __future__ import annotations

from typing import Any, Final

from app.rest.conveyor.wire import STATES

__all__ = [
    "ADDITION",
    "CHANGE",
    "CLEANING",
    "ENDED",
    "PAUSING",
    "SCHEMAS",
    "SEARCHES",
    "STREAM",
    "WHOLE",
    "data",
    "page",
]

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
FLAG: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "number"}
PERHAPS_TEXT: Final[Schema] = {"type": ["string", "null"]}
PERHAPS_WHOLE: Final[Schema] = {"type": ["integer", "null"]}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
PERHAPS: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
ANYTHING: Final[Schema] = {"description": "Any JSON value."}
STATE: Final[Schema] = {"type": "string", "enum": list(STATES)}
DURATION: Final[Schema] = {
    "oneOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": "^[0-9]{1,9} ?(ms|s|seconds?|m|minutes?|h|hours?|d|days?)$"},
    ],
    "description": "Milliseconds, or a text such as 5s, 10 minutes or 2h.",
}
NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 256}

STREAM: Final[Schema] = {"type": "string", "description": "An event stream: see the events in docs/rest/conveyor.md."}
SEARCHES: Final[Schema] = {"type": "string", "enum": ["job", "queue", "payload", "name"]}
ENDED: Final[Schema] = {
    "type": "object",
    "properties": {"state": {"type": "string", "enum": ["failed", "completed"]}},
    "required": ["state"],
}
PAUSING: Final[Schema] = {"type": "object", "properties": {"jobName": {"type": ["string", "null"], "maxLength": 256}}}
CLEANING: Final[Schema] = {
    "type": "object",
    "properties": {"state": STATE, "grace": {"type": "number", "minimum": 0, "description": "Milliseconds."}},
    "required": ["state", "grace"],
}
_OPTS: Final[Schema] = {
    "type": ["object", "null"],
    "properties": {
        "attempts": {"type": "integer", "minimum": 1, "maximum": 10_000, "description": "Runs in all; 1 unless given."},
        "backoff": {
            "type": "object",
            "properties": {"type": {"type": "string", "enum": ["fixed", "exponential"]}, "delay": DURATION},
            "required": ["type"],
        },
        "deduplication": {
            "type": "object",
            "properties": {"hash": FLAG, "key": NAME, "ttl": DURATION},
            "description": "Equal jobs, by their data or by a key, are one as long as it is not finished.",
        },
        "delay": DURATION,
        "failParentOnChildFailure": {"type": "string", "enum": ["fail", "ignore", "remove"]},
        "group": {
            "type": "object",
            "properties": {"id": NAME, "maxSize": {"type": "integer", "minimum": 1}},
            "required": ["id"],
        },
        "jobId": NAME,
        "lifo": FLAG,
        "priority": {"type": "number", "description": "Lower numbers run first; 0 unless given."},
        "removeOnComplete": {"type": ["boolean", "integer", "object"]},
        "removeOnFail": {"type": ["boolean", "integer", "object"]},
        "repeat": {
            "type": "object",
            "properties": {
                "cron": TEXT,
                "every": DURATION,
                "limit": {"type": "integer", "minimum": 1},
                "startDate": TIME,
                "endDate": TIME,
                "tz": TEXT,
            },
        },
        "timeout": DURATION,
    },
}
ADDITION: Final[Schema] = {
    "type": "object",
    "properties": {"name": NAME, "data": ANYTHING, "opts": _OPTS},
    "required": ["name"],
}
CHANGE: Final[Schema] = {
    "type": "object",
    "properties": {
        "data": ANYTHING,
        "opts": {"type": ["object", "null"], "properties": {"priority": {"type": ["number", "null"]}}},
    },
    "anyOf": [{"required": ["data"]}, {"required": ["opts"]}],
}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def data(*names: str) -> Schema:
    """`{"data": …}` with one of these schemas; of a list of one where its name is in brackets."""
    shapes = [_array(_ref(name[1:-1])) if name.startswith("[") else _ref(name) for name in names]
    return _object(data=shapes[0] if len(shapes) == 1 else {"anyOf": shapes})


def page(name: str) -> Schema:
    """`{"data": […], "meta": …}` with a list of one of these schemas."""
    return _object(data=_array(_ref(name)), meta=_ref("Meta"))


_COUNTS: Final = _object(**dict.fromkeys(STATES, WHOLE))

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object(error=_object(code=TEXT, message=TEXT)),
    "Meta": _object(total=WHOLE, start=WHOLE, end=WHOLE),
    "Nothing": {"type": "null"},
    "Config": _object(readOnly=FLAG, authRequired=FLAG),
    "Queue": _object(name=TEXT, counts=_COUNTS, isPaused=FLAG, latestActivity=PERHAPS, scheduledCount=WHOLE),
    "QueueDetail": _object(name=TEXT, counts=_COUNTS, pausedNames=_array(TEXT)),
    "Paused": _object(paused=TEXT),
    "Resumed": _object(resumed=TEXT),
    "Drained": _object(drained=FLAG),
    "Obliterated": _object(obliterated=FLAG),
    "RemovedJobs": _object(removed=WHOLE),
    "RetriedJobs": _object(retried=WHOLE),
    "PromotedJobs": _object(promoted=WHOLE),
    "Removed": _object(removed=FLAG),
    "Retried": _object(retried=FLAG),
    "Promoted": _object(promoted=FLAG),
    "Cancelled": _object(cancelled=FLAG),
    "Group": _object(groupId=TEXT, activeCount=WHOLE, waitingCount=WHOLE),
    "AttemptLog": _object(
        attempt=WHOLE,
        startedAt=PERHAPS,
        endedAt=PERHAPS,
        status=TEXT,
        error=PERHAPS_TEXT,
        stacktrace=PERHAPS_TEXT,
        logs=_array(TEXT),
    ),
    "Job": _object(
        id=TEXT,
        name=TEXT,
        queueName=TEXT,
        data=ANYTHING,
        state=STATE,
        attemptsMade=WHOLE,
        progress=ANYTHING,
        returnvalue=ANYTHING,
        failedReason=PERHAPS_TEXT,
        opts={"type": "object", "description": "The options as they were given."},
        deduplicationKey=PERHAPS_TEXT,
        logs=_array(TEXT),
        stacktrace=_array(TEXT),
        createdAt=TIME,
        processedAt=PERHAPS,
        completedAt=PERHAPS,
        failedAt=PERHAPS,
        delayUntil=PERHAPS,
        lockUntil=PERHAPS,
        lockedBy=PERHAPS_TEXT,
        parentId=PERHAPS_TEXT,
        parentQueueName=PERHAPS_TEXT,
        pendingChildrenCount=WHOLE,
        cancelledAt=PERHAPS,
        groupId=PERHAPS_TEXT,
        discarded=FLAG,
        childrenIds=_array(TEXT),
        attemptLogs=_array(_ref("AttemptLog")),
    ),
    "Bucket": _object(
        queueName=TEXT,
        jobName=TEXT,
        periodStart=TIME,
        granularity={"type": "string", "enum": ["minute", "hour"]},
        completedCount=WHOLE,
        failedCount=WHOLE,
        totalProcessMs=NUMBER,
        minProcessMs=PERHAPS_WHOLE,
        maxProcessMs=PERHAPS_WHOLE,
    ),
    "Sparklines": {"type": "object", "additionalProperties": _array(WHOLE)},
    "MetricsStatus": _object(enabled=FLAG),
}
