"""What is kept of a job's runs: how each ended, what it logged, and the transitions between them?"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from switchtower.webhooks import Delivery

__all__ = ["Attempt", "ErrorKind", "JobError", "LogLine", "TimelineEntry", "fingerprint"]


class ErrorKind(StrEnum):
    """Why an attempt or a job failed."""

    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    FATAL = "fatal"
    WORKER_LOST = "worker_lost"
    BLOCKED_ADDRESS = "blocked_address"
    EXPIRED = "expired"
    DEPENDENCY = "dependency"


@dataclass(frozen=True, slots=True)
class JobError:
    """One failure: `stack` is the traceback where there is one; equal `fingerprint`s are the same fault."""

    kind: ErrorKind
    type: str
    message: str
    stack: str | None = None
    fingerprint: str = ""


_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+|'[^']*'|\"[^\"]*\"")


def fingerprint(type: str, message: str, frame: str = "") -> str:
    """Sixteen hex digits that are equal for the same fault: the type, the failing place, and the message with numbers,
    ids and quoted values taken out."""
    shape = _VARIABLE.sub("?", message.splitlines()[0][:500] if message else "")
    return hashlib.sha256(f"{type}\0{frame}\0{shape}".encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a handler logged."""

    at: datetime
    line: str
    level: str = "info"
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job: `number` counts within `generation`, which an operator's retry raises. `delivery` is what came
    of it where the courier ran it."""

    id: str
    number: int
    generation: int
    worker_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str
    error: JobError | None = None
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One transition in a job's kept history (the last 50)."""

    type: str
    at: datetime
    from_state: str | None
    to_state: str | None
    actor: str | None
    attempt: int
