"""What are the shapes of Dispatched's requests and answers, as JSON schemas?"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DISPATCH", "RESCHEDULE", "SCHEMAS"]

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
WHEN: Final[Schema] = {
    "type": ["string", "null"],
    "format": "date-time",
    "description": "When to run it, up to a year from now; a time that has passed, or null, is now.",
}
STATUSES: Final = ("QUEUED", "DISPATCHED", "STARTED", "COMPLETED", "FAILED", "CANCELLED")

DISPATCH: Final[Schema] = {
    "type": "object",
    "properties": {
        "payload": {"type": "object", "description": "What is delivered: at most 10 KB of JSON."},
        "scheduleFor": WHEN,
        "scheduledFor": {**WHEN, "description": "As `scheduleFor`, which goes before it; clients send this spelling."},
        "maxRetries": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "How often a failed delivery is repeated; at most as often as the team may, and by default.",
        },
    },
    "required": ["payload"],
}
RESCHEDULE: Final[Schema] = {
    "type": "object",
    "properties": {"scheduledFor": WHEN},
    "required": ["scheduledFor"],
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": {"type": "string", "pattern": "^[A-Z_]+$"},
            "data": {
                "type": "object",
                "properties": {"message": TEXT},
                "required": ["message"],
                "additionalProperties": False,
            },
        },
        "required": ["error", "data"],
        "additionalProperties": False,
    },
    "Job": {
        "type": "object",
        "properties": {
            "jobId": TEXT,
            "scheduledFor": {**TIME, "description": "Only where it was asked to run later."},
            "status": {"type": "string", "enum": list(STATUSES)},
        },
        "required": ["jobId", "status"],
        "additionalProperties": False,
    },
}
